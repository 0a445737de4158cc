"""Predictions averaged over dropout masks or over models, in probability space.

Monte Carlo dropout (Gal and Ghahramani 2016, https://arxiv.org/abs/1506.02142) keeps dropout on at test time and
averages the probabilities of several passes. An ensemble (Lakshminarayanan et al. 2017,
https://arxiv.org/abs/1612.01474) averages those of several models. Both return log p = log mean_k p_k.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torchvision.ops import StochasticDepth

from utilities.datasets.loaders import seeded_generator
from utilities.hooks.calls.copies import copied, own_inputs
from utilities.hooks.calls.options import check_number
from utilities.hooks.calls.seeding import seeded_torch
from utilities.hooks.calls.weights import check_module
from utilities.hooks.recorder import select_layers
from utilities.resnet import BasicBlock, Bottleneck
from utilities.zoo.preact_resnet import PreActBlock, PreActBottleneck

# The activation before the last convolution of each kind of residual block.
_BEFORE_LAST_CONV = {BasicBlock: "relu1", Bottleneck: "relu2", PreActBlock: "relu2", PreActBottleneck: "relu3"}


def log_mean_probability(logits: Sequence[torch.Tensor]) -> torch.Tensor:
    """Average predictions in probability space: log (1/m) sum_k softmax(logits_k).

    The computation stays in the log domain throughout.

    Args:
        logits: Logits of m passes or members, each (batch, classes).

    Returns:
        Log-probabilities, (batch, classes), in float32 or better. The probabilities sum to one.

    Raises:
        ValueError: If there are no logits, or their shapes differ.

    Example:
        >>> sure, unsure = torch.tensor([[0.0, -1000.0]]), torch.tensor([[0.0, 0.0]])
        >>> log_mean_probability([sure, unsure]).exp()
        tensor([[0.7500, 0.2500]])
    """
    shapes = [tuple(x.shape) for x in logits]
    if not shapes or len(set(shapes)) > 1:
        raise ValueError(f"logits of all members should have one shape (batch, classes), got {shapes or 'none'}")
    stacked = torch.stack(list(logits))
    dtype = torch.promote_types(stacked.dtype, torch.float32)
    shares = torch.full((), len(shapes), dtype=dtype, device=stacked.device).log()
    return stacked.log_softmax(-1, dtype=dtype).logsumexp(0) - shares


class Ensemble(nn.Module):
    """Several classifiers combined into one, whose output is the logarithm of their mean probability.

    The softmax of the output is that mean, so an ensemble can be used wherever a model can. By Jensen's inequality its
    negative log-likelihood is never above the mean of its members'.

    Args:
        members: Models with the same classes and the same input.

    Raises:
        ValueError: If there are no members. ``forward`` raises it if their outputs differ in shape.

    Example:
        >>> one, two = nn.Linear(4, 3), nn.Linear(4, 3)
        >>> probabilities = Ensemble([one, two])(torch.ones(2, 4)).exp()
        >>> torch.allclose(probabilities, (one(torch.ones(2, 4)).softmax(1) + two(torch.ones(2, 4)).softmax(1)) / 2)
        True
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if not len(members):
            raise ValueError("an ensemble needs one member or more, got none")
        self.members = nn.ModuleList(members)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (batch, ...) to logarithms of mean probabilities (batch, classes)."""
        return log_mean_probability([member(copied(images)) for member in self.members])


class InsertedDropout(nn.Dropout):
    """Dropout inserted by `with_dropout`. It is wanted there, so Monte Carlo dropout uses it even at rate 0."""


def with_dropout(model: nn.Module, rate: float) -> nn.Module:
    """Copy a ResNet, adding dropout before the last convolution of each residual block.

    Dropout goes between the two 3x3 convolutions of a basic block, or before the last 1x1 convolution of a bottleneck.
    The networks of Park and Kim 2022 (Blurs Behave Like Ensembles, https://arxiv.org/abs/2105.12639) have it there too.
    Parameter names do not change, so state dictionaries fit both networks. Train the copy, because a network that was
    trained without dropout does not cope with it.

    Args:
        model: Any network with the blocks of `utilities.resnet` or `utilities.zoo.preact_resnet`: plain, wide, Lambda
            and pre-activation ResNets, and the convolutional blocks of AlterNets.
        rate: Share of activations dropped, 0 <= rate < 1. It replaces the rate of an earlier call.

    Raises:
        ValueError: If the rate is out of range, or there is no such block.

    Example:
        >>> from utilities.resnet import resnet18
        >>> with_dropout(resnet18(10), 0.3).layer1[0].relu1
        Sequential(
          (0): ReLU()
          (1): InsertedDropout(p=0.3, inplace=False)
        )
    """
    check_number("rate", rate, least=0, below=1)
    check_module(model)
    model = copy.deepcopy(model)
    found = [(m, name) for m in model.modules() for kind, name in _BEFORE_LAST_CONV.items() if isinstance(m, kind)]
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no residual block of utilities.resnet or preact_resnet; build it with dropout "
            "of its own, such as create_model(..., proj_drop_rate=0.1) for a ViT"
        )
    for block, name in found:
        setattr(block, name, nn.Sequential(nn.ReLU(), InsertedDropout(rate)).train(block.training))
    return model


def _rate(module: nn.Module) -> float | None:
    """Return the rate of the dropout that a module's own ``training`` flag switches; None if there is none."""
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p
    if isinstance(module, nn.MultiheadAttention):
        return module.dropout
    if getattr(module, "fused_attn", False) and hasattr(module, "attn_drop"):
        return module.attn_drop.p  # timm passes it to the fused kernel and never calls the layer
    return module.p if isinstance(module, StochasticDepth) else getattr(module, "drop_prob", None)


def _drops_paths(module: nn.Module) -> bool:
    """Tell whether a module is stochastic depth rather than dropout."""
    return isinstance(module, StochasticDepth) or hasattr(module, "drop_prob")


def dropout_layers(model: nn.Module, layers: Sequence[str] | None = None) -> list[str]:
    """List the layers whose dropout can be turned on at test time.

    Args:
        model: Any model.
        layers: Names or globs of the layers to choose, including stochastic depth. None is all dropout with a rate
            above 0 and the layers that `with_dropout` inserted, but no stochastic depth.

    Returns:
        Names of the layers.

    Raises:
        ValueError: If there is no such layer, or a chosen layer is not dropout.

    Example:
        >>> dropout_layers(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1), nn.Linear(4, 2)))
        ['1']
    """
    check_module(model)
    modules = dict(model.named_modules())
    if layers is not None:
        chosen = select_layers(model, layers)
        for name in chosen:
            if _rate(modules[name]) is None:
                kind = type(modules[name]).__name__
                there = ", ".join(other for other, module in modules.items() if _rate(module) is not None) or "none"
                raise ValueError(f"layer {name!r} is a {kind}, not dropout; dropout layers: {there}")
        return chosen
    found = [
        name
        for name, module in modules.items()
        if isinstance(module, InsertedDropout) or (not _drops_paths(module) and (_rate(module) or 0) > 0)
    ]
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no dropout of a rate above 0, so that all passes would be alike; use "
            "with_dropout(model, rate) for a ResNet, or create_model(..., proj_drop_rate=0.1) for a ViT, and train it"
        )
    return found


@contextmanager
def sampling_dropout(model: nn.Module, layers: Sequence[str] | None = None) -> Iterator[list[str]]:
    """Turn on dropout and nothing else: batch norms and all other layers keep their mode. Restore modes on exit.

    Args:
        model: The model, usually in eval mode.
        layers: See `dropout_layers`.

    Yields:
        The layers turned on.

    Raises:
        ValueError: See `dropout_layers`.

    Example:
        >>> model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5)).eval()
        >>> with sampling_dropout(model) as layers:
        ...     layers, model[0].training, model[1].training
        (['1'], False, True)
        >>> model[1].training
        False
    """
    names = dropout_layers(model, layers)
    modules = dict(model.named_modules())
    modes = [(modules[name], modules[name].training) for name in names]
    fast = torch.backends.mha.get_fastpath_enabled()  # on the fast path, PyTorch's encoder layers skip dropout
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        for module, _ in modes:
            module.training = True  # not .train(): that reaches into the module's children
        yield names
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, mode in modes:
            module.training = mode


def dropout_log_probabilities(
    model: nn.Module, images: torch.Tensor, passes: int, keys: Sequence[int] = (0,)
) -> torch.Tensor:
    """Average several passes with dropout in probability space.

    Masks are drawn for one batch at a time, so they depend on how images are cut into batches. The same batches and
    keys give the same masks. Torch's global generators of CPU and CUDA are left unchanged.

    Args:
        model: The model, with dropout on, see `sampling_dropout`.
        images: Batch of images, (batch, ...).
        passes: Number of passes, 1 or more.
        keys: Seed of the masks, one or more integers, such as a seed and the number of the batch.

    Returns:
        Log-probabilities, (batch, classes).

    Example:
        >>> model = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 2)).eval()
        >>> with torch.no_grad(), sampling_dropout(model):
        ...     runs = [dropout_log_probabilities(model, torch.ones(3, 4), 8, (seed,)) for seed in (0, 0, 1)]
        >>> torch.equal(runs[0], runs[1]), torch.equal(runs[0], runs[2])
        (True, False)
    """
    logits = []
    with own_inputs(model):
        for number in range(passes):
            with seeded_torch(seeded_generator(*keys, number).initial_seed(), images.device):
                logits.append(model(images))
    return log_mean_probability(logits)
