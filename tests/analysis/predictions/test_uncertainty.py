"""Monte Carlo dropout and ensembles."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from utilities.analysis.predictions.classification import classify
from utilities.analysis.predictions.uncertainty import (
    Ensemble,
    dropout_layers,
    dropout_log_probabilities,
    log_mean_probability,
    sampling_dropout,
    with_dropout,
)
from utilities.resnet import BasicBlock, Bottleneck, ResNet
from utilities.zoo.plain_cnn import PlainCNN
from utilities.zoo.preact_resnet import PreActBlock, PreActBottleneck
from utilities.zoo.vit import vit_tiny_patch2_16

FLOAT32 = 1e-6  # rounding of a sum of a few numbers of order one
BLOCKS = [(BasicBlock, "relu1", "conv2"), (Bottleneck, "relu2", "conv3"),
          (PreActBlock, "relu2", "conv2"), (PreActBottleneck, "relu3", "conv3")]  # fmt: skip


def network(seed=0, rate=0.5):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Dropout(rate), nn.Linear(16, 4)).eval()


def data(n=30, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, 2, 2, generator=random), torch.randint(4, (n,), generator=random)


def batches(size, n=30):
    return list(zip(*(x.split(size) for x in data(n)), strict=True))


def test_mean_is_taken_of_probabilities(generator):
    logits = torch.randn(5, 8, 4, generator=generator, dtype=torch.float64)
    mean = log_mean_probability(list(logits))
    torch.testing.assert_close(mean.exp(), logits.softmax(-1).mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(mean.exp().sum(1), torch.ones(8, dtype=torch.float64), rtol=1e-12, atol=0)
    torch.testing.assert_close(mean.softmax(1), mean.exp(), rtol=1e-12, atol=0)


def test_mean_of_extreme_logits_is_finite():
    mean = log_mean_probability([torch.tensor([[0.0, 1e4]]), torch.tensor([[0.0, 1e4 - 1]])])
    assert mean.isfinite().all()
    assert mean[0, 0] < -9e3
    assert log_mean_probability([torch.ones(1, 2, dtype=torch.bfloat16)]).dtype == torch.float32


@pytest.mark.parametrize("seed", range(5))
def test_jensen_the_mean_probability_is_never_worse_than_the_mean_model(seed):
    members = [network(5 * seed + i) for i in range(4)]
    nll = [classify(member, batches(30), device="cpu").nll for member in members]
    together = classify(Ensemble(members), batches(30), device="cpu")
    assert together.nll < np.mean(nll)  # strictly, since the members differ
    assert together.confidences.mean() < np.mean([classify(m, batches(30), device="cpu").confidences for m in members])


def test_identical_members_are_one_member():
    one = network()
    images = data()[0]
    together = Ensemble([one, copy.deepcopy(one), one])(images)
    torch.testing.assert_close(together, one(images).log_softmax(1), rtol=FLOAT32, atol=FLOAT32)
    torch.testing.assert_close(Ensemble([one])(images), one(images).log_softmax(1), rtol=FLOAT32, atol=FLOAT32)


def test_the_order_of_members_does_not_matter():
    one, two, images = network(1), network(2), data()[0]
    torch.testing.assert_close(Ensemble([one, two])(images), Ensemble([two, one])(images), rtol=FLOAT32, atol=FLOAT32)


def test_ensembles_of_nothing_or_of_other_classes_are_refused():
    with pytest.raises(ValueError, match="one member or more"):
        Ensemble([])
    with pytest.raises(ValueError, match=r"one shape .* \[\(2, 3\), \(2, 4\)\]"):
        Ensemble([nn.Linear(5, 3), nn.Linear(5, 4)])(torch.zeros(2, 5))


@pytest.mark.parametrize(("block", "activation", "last"), BLOCKS, ids=[kind.__name__ for kind, *_ in BLOCKS])
def test_dropout_is_before_the_last_convolution_of_a_block(block, activation, last):
    """At a rate near 1 what reaches the last convolution is zero, and what went before is not."""
    model = with_dropout(nn.Sequential(block(8, 4)).eval(), 1 - 1e-7)
    seen = []
    getattr(model[0], last).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = torch.rand(2, 8, 8, 8)
    with torch.no_grad(), sampling_dropout(model) as layers:
        model(images)
    assert layers == [f"0.{activation}.1"]
    with torch.no_grad():
        model(images)
    assert (seen[0] == 0).all()
    assert (seen[1] != 0).any()


def test_inserted_dropout_keeps_parameters_and_at_rate_0_changes_nothing():
    plain = ResNet(BasicBlock, (1, 1, 1, 1), num_classes=4).eval()
    images = torch.randn(6, 3, 8, 8)
    for rate in (0.0, 0.3):
        model = with_dropout(plain, rate)
        model.load_state_dict(plain.state_dict(), strict=True)
        with torch.no_grad():
            assert torch.equal(model(images), plain(images))  # off in eval mode
    still = with_dropout(plain, 0.0)
    with torch.no_grad(), sampling_dropout(still) as layers:
        assert torch.equal(still(images), plain(images))
    assert len(layers) == 4
    loader = [(images, torch.tensor([0, 1, 2, 3, 0, 1]))]
    once = classify(plain, loader, device="cpu")
    often = classify(with_dropout(plain, 0.0), loader, passes=3, device="cpu")
    np.testing.assert_allclose(often.losses, once.losses, rtol=FLOAT32, atol=FLOAT32)
    assert isinstance(plain.layer1[0].relu1, nn.ReLU), "the model itself is left alone"


def test_a_second_call_replaces_the_rate():
    model = with_dropout(with_dropout(ResNet(BasicBlock, (1, 1, 1, 1)), 0.1), 0.4)
    assert [module.p for module in model.modules() if isinstance(module, nn.Dropout)] == [0.4] * 4


def test_dropout_cannot_be_put_in_everywhere():
    with pytest.raises(ValueError, match="PlainCNN has no residual block"):
        with_dropout(PlainCNN(4), 0.1)
    with pytest.raises(ValueError, match="rate=1 should be a number of 0 or more and below 1"):
        with_dropout(PlainCNN(4), 1)


def test_passes_average_to_the_mean_of_single_passes():
    model, (images, _) = network(), data()
    with torch.no_grad(), sampling_dropout(model):
        mean = dropout_log_probabilities(model, images, 3, (7,))
        assert not torch.equal(mean, dropout_log_probabilities(model, images, 3, (8,)))
        first = dropout_log_probabilities(model, images, 1, (7,))
        again = dropout_log_probabilities(model, images, 1, (7,))
    torch.testing.assert_close(mean.exp().sum(1), torch.ones(30), rtol=FLOAT32, atol=FLOAT32)
    assert torch.equal(first, again)
    assert not torch.equal(first, mean)


def test_many_passes_come_near_the_expectation_over_masks():
    """Two inputs, dropped with probability 1/2 and doubled if kept: four masks, whose mean is known."""
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 2, bias=False)).eval()
    nn.init.constant_(model[1].weight, 0)
    model[1].weight.data[0] = torch.tensor([1.0, -2.0])
    values = torch.tensor([0.0, 2.0, -4.0, -2.0])  # logit of class 0 against 0 of class 1
    with torch.no_grad(), sampling_dropout(model):
        p = dropout_log_probabilities(model, torch.ones(1, 2), 4000).exp()
    spread = values.sigmoid().std(correction=0) / 4000**0.5
    assert abs(p[0, 0] - values.sigmoid().mean()) < 4 * spread


def test_masks_depend_on_seed_and_batch_and_leave_the_global_generator_alone():
    model = network()
    before = torch.get_rng_state()
    runs = [classify(model, batches(10), passes=2, seed=seed, device="cpu").losses for seed in (0, 0, 1)]
    assert torch.equal(before, torch.get_rng_state())
    assert (runs[0] == runs[1]).all()
    assert (runs[0] != runs[2]).any()
    same = [(torch.ones(5, 3, 2, 2), torch.zeros(5, dtype=torch.long))] * 2
    losses = classify(model, same, passes=1, device="cpu").losses
    assert (losses[:5] != losses[5:]).any(), "the second batch has masks of its own"


def test_passes_are_told_in_the_result():
    result = classify(network(), batches(10), passes=2, seed=3, device="cpu")
    assert {key: result.provenance[key] for key in ("passes", "dropout", "seed_of_dropout")} == {
        "passes": 2,
        "dropout": ["3"],
        "seed_of_dropout": 3,
    }


def test_only_dropout_is_turned_on_and_modes_are_put_back_even_after_an_error():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Dropout(0.1)).eval()
    model[2].train()

    def fail():
        with sampling_dropout(model, ["1"]):
            assert [module.training for module in model] == [False, True, True]
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert [module.training for module in model] == [False, False, True]


@pytest.mark.parametrize("option", ["attn_drop_rate", "proj_drop_rate", "pos_drop_rate"])
def test_each_dropout_of_a_vit_is_turned_on(option):
    """Also that of the attention weights, which timm leaves to a fused kernel."""
    model = vit_tiny_patch2_16(4, **{option: 0.5}).eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad(), sampling_dropout(model):
        assert not torch.equal(model(images), model(images))
    with torch.no_grad():
        assert torch.equal(model(images), model(images))


def test_dropout_of_pytorchs_own_encoder_is_turned_on():
    """Its fast path in eval mode would leave dropout out."""
    model = nn.TransformerEncoderLayer(8, 2, 8, dropout=0.5, batch_first=True).eval()
    tokens = torch.randn(2, 3, 8)
    with torch.no_grad(), sampling_dropout(model):
        assert not torch.equal(model(tokens), model(tokens))
    assert torch.backends.mha.get_fastpath_enabled()


def test_stochastic_depth_is_sampled_only_by_name():
    model = vit_tiny_patch2_16(4, drop_path_rate=0.5, proj_drop_rate=0.1)
    assert not [name for name in dropout_layers(model) if "drop_path" in name]
    assert dropout_layers(model, ["blocks.5.drop_path*"]) == ["blocks.5.drop_path1", "blocks.5.drop_path2"]


def test_models_without_dropout_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"VisionTransformer has no dropout .* proj_drop_rate"):
        dropout_layers(vit_tiny_patch2_16(4))  # timm's layers are there, with a rate of 0
    with pytest.raises(ValueError, match="layer '1' is a Linear, not dropout; dropout layers: 3"):
        dropout_layers(network(), ["1"])
    with pytest.raises(ValueError, match="layer '9' is not in Sequential"):
        dropout_layers(network(), ["9"])
