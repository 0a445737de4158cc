"""The networks of the layer-matching test and the small hybrid: shapes of maps, and what mixes places."""

import pytest
import torch

from utilities.hooks.recorder import Recorder
from utilities.zoo import create_model, family
from utilities.zoo.alternet import MSABlock
from utilities.zoo.layers import block_layers
from utilities.zoo.plain_cnn import AllCNN


def test_maps_of_all_cnn_c():
    """On 32 pixels: 32, 32, 16, 16, 16, 8, 6 and 6 across, and 6,912 to 98,304 features at the width of the paper."""
    network = AllCNN(10, width=6).eval()
    with Recorder(network, ["block?", "pool"]) as recorder:
        network(torch.zeros(2, 3, 32, 32))
    maps = [tuple(value.shape[1:]) for value in recorder.activations.values()]
    assert maps == [
        *[(6, 32, 32)] * 2, (6, 16, 16), *[(12, 16, 16)] * 2, (12, 8, 8), *[(12, 6, 6)] * 2, (12, 1, 1)
    ]  # fmt: skip
    features = [16 * c * h * w for c, h, w in maps]
    assert (max(features), features[-2], features[-1]) == (98304, 6912, 192)
    assert sum(one > 10000 for one in features) == 6
    with pytest.raises(ValueError, match="number of channels"):
        AllCNN(10, width=0)


def test_the_small_hybrid_alternates_and_counts_as_one():
    network = create_model("alternet_tiny", 10, seed=0).eval()
    assert [isinstance(network.get_submodule(name), MSABlock) for name in block_layers(network)] == [
        *(False, False, True, False, True)
    ]
    assert family("alternet_tiny") == "hybrid"
    with Recorder(network, "block?") as recorder:
        network(torch.zeros(1, 3, 16, 16))
    assert [value.shape[-1] for value in recorder.activations.values()] == [16, 8, 8, 4, 4]
