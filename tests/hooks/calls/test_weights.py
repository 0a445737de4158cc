"""Weights that are no numbers are found before any image is looked at, and named."""

import re
from collections.abc import Iterator

import pytest
import timm
import torch
from torch import nn

from utilities.analysis.attention.attention_distance import attention_distance
from utilities.analysis.attention.attention_maps import attention_diversity
from utilities.analysis.blocks.fourier import fourier
from utilities.analysis.blocks.lesion import lesions
from utilities.analysis.blocks.variance import feature_variance
from utilities.analysis.class_embedding.agreement import class_value_agreement
from utilities.analysis.class_embedding.gradient_map import gradient_maps
from utilities.analysis.class_embedding.importance import importance
from utilities.analysis.class_embedding.inspection import inspect_memories
from utilities.analysis.class_embedding.lens import lens
from utilities.analysis.class_embedding.relevance import relevance_maps
from utilities.analysis.class_embedding.removal import removal_curves
from utilities.analysis.class_embedding.tuned_fit import fit_tuned_lens
from utilities.analysis.loss.directions import random_directions
from utilities.analysis.loss.hessian import hessian_spectra, over_training
from utilities.analysis.loss.landscape import loss_landscape
from utilities.analysis.loss.spectral_density import spectral_density
from utilities.analysis.loss.trajectory import trajectory
from utilities.analysis.predictions.adversarial import adversarial
from utilities.analysis.predictions.classification import classify
from utilities.analysis.predictions.consistency import consistency
from utilities.analysis.predictions.noise_frequency import noise_frequency
from utilities.analysis.predictions.robustness import robustness
from utilities.analysis.stream import stream
from utilities.hooks.calls.weights import check_weights


def _net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["0.weight", "3.bias", "1.running_var", "1.running_mean"])
def test_a_bad_parameter_or_statistic_is_named(name: str, bad: float) -> None:
    model = _net()
    check_weights(model)
    model.state_dict()[name].view(-1)[0] = bad
    with pytest.raises(ValueError, match=rf"'{name}' of Sequential holds (NaN|infinity) \(1 of"):
        check_weights(model)


def test_the_first_is_named_and_the_others_are_counted() -> None:
    model = _net()
    for name in ("0.bias", "3.weight", "1.running_var"):
        model.state_dict()[name].fill_(float("nan"))
    with pytest.raises(ValueError, match=r"parameter '0.bias' .* and 2 more"):
        check_weights(model)


def test_masks_may_be_infinite_but_hold_no_nan() -> None:
    model = _net()
    model.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1), persistent=False)
    model.register_buffer("count", torch.tensor(3))
    check_weights(model)
    model.mask[0, 0] = torch.nan
    with pytest.raises(ValueError, match="buffer 'mask'"):
        check_weights(model)


def test_models_of_the_field_pass() -> None:
    check_weights(timm.create_model("swin_tiny_patch4_window7_224", img_size=56, window_size=7, depths=(2, 2, 2, 2)))
    check_weights(nn.Sequential(nn.Identity()))
    check_weights(nn.Sequential(nn.LazyLinear(3)))  # has no values before its first pass


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64, torch.float8_e4m3fn])
def test_every_type_is_looked_at(dtype: torch.dtype) -> None:
    model = nn.Module()
    model.register_parameter("w", nn.Parameter(torch.full((70_000,), 0.5).to(dtype), requires_grad=False))
    check_weights(model)
    model.w.data[-1:] = torch.tensor([torch.nan]).to(dtype)
    with pytest.raises(ValueError, match="parameter 'w' of Module holds NaN"):
        check_weights(model)


class Packed(torch.Tensor):
    """Weights of a kind that few operations take."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.aminmax:
            raise NotImplementedError
        return super().__torch_function__(function, types, args, kwargs or {})


def test_weights_that_cannot_be_looked_at_are_left_alone() -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("packed", torch.ones(2).as_subclass(Packed))
    check_weights(model)


def test_large_finite_weights_pass() -> None:
    model = nn.Linear(2, 300, bias=False).half()  # whose sum would overflow
    model.weight.data.fill_(6e4)
    check_weights(model)


def test_weights_without_values_are_refused() -> None:
    with pytest.raises(ValueError, match="'weight' of Linear has no values"):
        check_weights(nn.Linear(2, 2, device="meta"))


class Unread:
    """A loader that nobody should read."""

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        raise AssertionError("no image should be read")


def _vit() -> nn.Module:
    return timm.models.VisionTransformer(img_size=8, patch_size=4, embed_dim=8, depth=2, num_heads=2, num_classes=3)


RUN = {"device": "cpu"}
OF_CONVNETS = {
    "evaluating a loader": lambda m: stream(m, Unread(), **RUN).__enter__(),
    "fourier": lambda m: fourier(m, Unread(), layers={"0": "conv"}, **RUN),
    "variance": lambda m: feature_variance(m, Unread(), layers={"0": "conv"}, **RUN),
    "lesions": lambda m: lesions(m, Unread(), layers={"1": "conv"}, **RUN),
    "landscape": lambda m: loss_landscape(m, Unread(), points=3, **RUN),
    "directions": random_directions,
    "hessian": lambda m: hessian_spectra(m, Unread(), **RUN),
    "density": lambda m: spectral_density(m, Unread(), **RUN),
    "snapshots": lambda m: over_training({0: m}, Unread(), **RUN),
    "classify": lambda m: classify(m, Unread(), **RUN),
    "robustness": lambda m: robustness(m, Unread(), mean=(0,) * 3, std=(1,) * 3, **RUN),
    "noise": lambda m: noise_frequency(m, Unread(), **RUN),
    "attack": lambda m: adversarial(m, Unread(), mean=(0,) * 3, std=(1,) * 3, **RUN),
    "perturbed": lambda m: consistency(m, Unread(), mean=(0,) * 3, std=(1,) * 3, **RUN),
}
OF_TRANSFORMERS = {
    "values": class_value_agreement,
    "values of a twin": lambda m: class_value_agreement(_vit(), random=m),
    "memories": lambda m: inspect_memories(m, 0, part="mlp"),
    "gradients": lambda m: gradient_maps(m, torch.zeros(1, 3, 8, 8), 0),
    "relevance": lambda m: relevance_maps(m, torch.zeros(1, 3, 8, 8), 0),
    "importance": lambda m: importance(m, Unread(), **RUN),
    "removal": lambda m: removal_curves(m, Unread(), {}, random=1, **RUN),
    "lens": lambda m: lens(m, Unread(), top=1, **RUN),
    "tuned lens": lambda m: fit_tuned_lens(m, Unread(), **RUN),
    "diversity": lambda m: attention_diversity(m, Unread(), **RUN),
    "distance": lambda m: attention_distance(m, Unread(), **RUN),
}


@pytest.mark.parametrize(
    ("make", "name", "run"),
    [(_net, "3.weight", run) for run in OF_CONVNETS.values()]
    + [(_vit, "blocks.1.norm1.weight", run) for run in OF_TRANSFORMERS.values()],
    ids=[*OF_CONVNETS, *OF_TRANSFORMERS],
)
def test_every_analysis_begins_with_it(make, name: str, run) -> None:
    model = make()
    model.state_dict()[name].view(-1)[0] = torch.nan
    with pytest.raises(ValueError, match=f"parameter '{re.escape(name)}' of .* holds NaN"):
        run(model)


def test_snapshots_that_diverged_are_named() -> None:
    states = {epoch: {"w": torch.tensor([float(epoch), 1.0])} for epoch in range(3)}
    states[1]["w"][0] = torch.nan
    with pytest.raises(ValueError, match="'w' holds NaN or infinity in epoch 1"):
        trajectory(states)
