"""Windows slide from local to global heads, and are compared as their outputs by themselves would be."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

from tests import vit_twins
from utilities.analysis.attention.attention_distance import AttentionDistance, attention_distance
from utilities.compare.head_windows import HeadWindows, compare_head_windows, windows_of_heads
from utilities.compare.two_models import compare
from utilities.resnet import resnet18
from utilities.results.head_windows import HeadWindowSimilarity
from utilities.zoo import create_model
from utilities.zoo.huggingface import HuggingFaceModel

CPU = {"device": "cpu", "progress": False}


def batches(count=3, size=16):
    return list(torch.randn(count, 8, 3, size, size, generator=torch.Generator().manual_seed(0)))


def vit():
    torch.manual_seed(0)
    options = {"embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 3, "reg_tokens": 2}
    model = timm.models.VisionTransformer(16, 4, **options)
    for block in model.blocks:
        nn.init.normal_(block.attn.qkv.weight)
    return model


class Alone(nn.Module):
    """The outputs of some heads of a block, from its own weights."""

    def __init__(self, model, block, heads):
        super().__init__()
        self.model, self.block, self.heads, self.out = model, block, heads, nn.Identity()

    def forward(self, images):
        x = self.model._pos_embed(self.model.patch_embed(images))
        for block in self.model.blocks[: self.block]:
            x = block(x)
        block = self.model.blocks[self.block]
        q, k, v = block.attn.qkv(block.norm1(x)).unflatten(2, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        out = (q @ k.mT * 8**-0.5).softmax(-1) @ v
        self.out(torch.cat([out[:, head, 3:] for head in self.heads], -1))


@pytest.mark.parametrize("block", [0, 1])
def test_windows_are_compared_as_their_outputs_alone(block):
    model, cnn, images = vit(), resnet18(5), batches()
    distances = attention_distance(model, images, **CPU)
    options = {"layers": ["conv1", "layer1.0"], **CPU}
    result = compare_head_windows(model, cnn, images, distances=distances, block=block, width=2, **options)
    assert result.matrix.shape == (3, 2)
    order = np.argsort(distances.distance[block])
    for row in range(3):
        alone = Alone(model, block, order[row : row + 2].tolist())
        expected = compare(alone, cnn, images, layers1="out", layers2=["conv1", "layer1.0"], **CPU)
        np.testing.assert_allclose(result.matrix[row], expected.matrix[0], atol=1e-5)
        assert result.distance[row] == pytest.approx(distances.distance[block, order[row : row + 2]].mean())
    assert result.layers1[0] == f"heads {order[0]}, {order[1]}"
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_a_quarter_of_the_heads_is_the_default_and_results_come_back(tmp_path):
    model, images = vit(), batches()
    distances = attention_distance(model, images, **CPU)
    result = compare_head_windows(model, resnet18(5), images, distances=distances, layers="conv1", **CPU)
    assert len(result.layers1) == 4
    loaded = HeadWindowSimilarity.load(result.save(tmp_path / "a"))
    assert np.array_equal(loaded.distance, result.distance)
    assert loaded.provenance["block"] == "blocks.0.attn"
    assert (np.diff(result.distance) >= 0).all()


def test_windows_leave_out_what_is_not_there():
    table = np.array([[3.0, 1.0, np.nan], [1.0, 2.0, 3.0]])
    found = AttentionDistance(["a", "b"], table, table, table, table, table[:, 0], table[:, 0])
    assert [w.tolist() for w in windows_of_heads(found, 0, 1)] == [[1], [0]]
    assert [w.tolist() for w in windows_of_heads(found, 1, 3)] == [[0, 1, 2]]
    with pytest.raises(ValueError, match="width=3 should be 1 to 2"):
        windows_of_heads(found, 0, 3)
    with pytest.raises(ValueError, match="no block 2"):
        windows_of_heads(found, 2)


def test_other_models_and_windows_of_the_image_are_refused():
    images = batches(1)
    swin = create_model("swin_tiny_patch2_16", 5, seed=0)
    distances = attention_distance(swin, images, **CPU)
    with pytest.raises(ValueError, match="another model"):
        compare_head_windows(vit(), resnet18(5), images, distances=distances, layers="conv1", **CPU)
    with pytest.raises(ValueError, match="within windows"):
        compare_head_windows(swin, resnet18(5), images, distances=distances, layers="conv1", **CPU)
    parallel = timm.create_model("vit_base_patch16_224", block_fn=timm.models.vision_transformer.ParallelScalingBlock,
                                 embed_dim=16, depth=1, num_heads=2, img_size=16, patch_size=8)  # fmt: skip
    distances = attention_distance(parallel, images, **CPU)
    with pytest.raises(ValueError, match="without proj"):
        compare_head_windows(parallel, resnet18(5), images, distances=distances, layers="conv1", **CPU)


def test_unknown_options_are_refused_by_their_names():
    given = vit(), resnet18(3), batches(1)
    distances = attention_distance(given[0], given[2], **CPU)
    for option, hint in {"window": "", "widht": "; close: width", "estimater": "; close: estimator"}.items():
        with pytest.raises(
            TypeError, match=rf"compare_head_windows\(\) has no option '{option}'{hint}.*; its .*width, .*view"
        ):
            compare_head_windows(*given, distances=distances, layers="conv1", **{option: 9}, **CPU)
    with pytest.raises(TypeError, match="no option 'layers2'"):
        compare_head_windows(*given, distances=distances, layers="conv1", layers2="conv1", **CPU)


def test_the_wrapped_model_keeps_its_own_layers_once():
    from utilities.analysis.attention.layers import attention_layers

    model = vit()
    wrapped = HeadWindows(model, attention_layers(model)[1], [[0, 1], [1, 2]])
    assert [name for name, _ in wrapped.named_children()] == ["vit", "windows"]
    assert len(list(wrapped.parameters())) == len(list(model.parameters()))


def test_heads_of_a_hugging_face_model_are_timms():
    transformers = pytest.importorskip("transformers")
    one, two = vit_twins.vit(transformers)
    two, images = HuggingFaceModel(two).eval(), vit_twins.images(16).split(8)
    cnn = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    found = []
    for model in (one, two):
        distances = attention_distance(model, images, device="cpu", progress=False)
        found.append(compare_head_windows(model, cnn, images, distances=distances, layers=["0", "1"], **CPU))
    np.testing.assert_allclose(found[0].matrix, found[1].matrix, atol=1e-5)
    assert found[0].provenance["heads"] == found[1].provenance["heads"]
