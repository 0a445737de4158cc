"""Directions in the space of a model's parameters, and the L2 penalty along them.

Li et al. 2018 (https://arxiv.org/abs/1712.09913) scale each filter of a random direction to the norm of the model's
filter. Networks whose filters can be rescaled without changing the function are then drawn at one scale. A filter is
the set of weights that makes one output: ``weight[i]`` of a convolution, or row i of a linear layer. Norms over
dimension 0, one for each input weight over all outputs, look similar but are something else.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from utilities.datasets.loaders import seeded_generator
from utilities.hooks.calls.weights import check_weights
from utilities.results.result import Result
from utilities.utils import versions

# Parameters with two or more dimensions that hold no filters: position embeddings, tables of biases, learned tokens.
UNTOUCHED = (
    r"pos(ition|itional)?_?embed",
    r"absolute_pos",
    r"relative_position",
    r"rel_pos",
    r"(cls|class|reg|register|dist|distillation|mask|storage)_?tokens?$",
)
Tensors = dict[str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Directions(Result):
    """Two directions in the space of a model's parameters, buffers excluded.

    Attributes:
        first: First direction, with all parameters flattened and concatenated.
        second: Second direction, laid out likewise.
        names: Names of the parameters, in this order.
        shapes: Shapes of the parameters.
        seed: Seed that the directions were drawn from.
        orthogonal: Whether each filter of the second direction is orthogonal to that of the first.
        untouched: Names of the parameters for which both directions are zero.
        provenance: Software versions. The same seed gives the same directions under the same version of torch.

    Example:
        >>> directions = random_directions(nn.Linear(3, 2), seed=0)
        >>> {name: tuple(tensor.shape) for name, tensor in directions.tensors("first").items()}
        {'weight': (2, 3), 'bias': (2,)}
        >>> directions.untouched
        ['bias']
    """

    first: np.ndarray
    second: np.ndarray
    names: list[str]
    shapes: list[list[int]]
    seed: int
    orthogonal: bool
    untouched: list[str]
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)

    def tensors(self, which: str) -> Tensors:
        """Return one direction as tensors: name of the parameter -> direction, in the parameter's shape.

        Args:
            which: ``first`` or ``second``.
        """
        flat = torch.from_numpy({"first": self.first, "second": self.second}[which])
        parts = flat.split([int(np.prod(shape)) for shape in self.shapes])
        return {name: part.view(shape) for name, part, shape in zip(self.names, parts, self.shapes, strict=True)}

    def check(self, model: nn.Module) -> None:
        """Refuse a model whose parameters differ from those of the directions.

        Raises:
            ValueError: If a parameter differs; the message names the first.
        """
        own = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
        given = dict(zip(self.names, self.shapes, strict=True))
        for name in [*own, *given]:
            if own.get(name) != given.get(name):
                raise ValueError(
                    f"the directions are of another model: parameter {name!r} has the shape {own.get(name)} in the "
                    f"model and {given.get(name)} in the directions; make them with random_directions(model)"
                )

    def to_frame(self) -> Any:
        """Tabulate the norms, one row per parameter, with columns ``parameter, norm1, norm2``."""
        import pandas as pd

        norms = [{name: d.double().norm().item() for name, d in self.tensors(w).items()} for w in ("first", "second")]
        return pd.DataFrame(
            [{"parameter": name, "norm1": norms[0][name], "norm2": norms[1][name]} for name in norms[0]]
        )


def random_directions(
    model: nn.Module, seed: int = 0, *, orthogonal: bool = False, untouched: Sequence[str] = UNTOUCHED
) -> Directions:
    """Draw two filter-normalised directions, in which each filter d_i has the norm of the model's filter w_i.

    Some parameters do not move, and both directions are zero there. These are vectors in any shape (biases, norms,
    layer scales) and parameters whose names match a pattern. A filter that is zero has a zero direction too.

    Args:
        model: The trained model; its weights set the norms.
        seed: Seed of the generators, on which alone the entries depend. Entries are standard normal before they are
            normalised.
        orthogonal: Make each filter of the second direction orthogonal to that of the first, then restore its norm.
            Both properties hold exactly for each filter. Nothing is orthogonal to a filter of a single weight, so such
            filters are zero in the second direction. Without this option, two random directions in many dimensions are
            nearly orthogonal anyway.
        untouched: Regular expressions, searched for in the parameters' names.

    Returns:
        The directions.

    Raises:
        ValueError: If nothing is left to move, weights are not finite, or the model has a transposed convolution,
            whose outputs are not dimension 0.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> d = random_directions(model, seed=0).tensors("first")["weight"]
        >>> bool(torch.allclose(d.norm(dim=1), model.weight.norm(dim=1)))
        True
    """
    check_weights(model)
    parameters = {name: parameter.detach().cpu() for name, parameter in model.named_parameters()}
    still = [name for name, parameter in parameters.items() if _is_untouched(name, parameter, untouched)]
    if len(still) == len(parameters):
        raise ValueError(f"no parameter of {type(model).__name__} has filters that a direction could move")
    _refuse_transposed(model, still)
    generators = seeded_generator(seed, 0), seeded_generator(seed, 1)
    flat: list[list[torch.Tensor]] = [[], []]
    for name, weights in parameters.items():
        if name in still:
            pair = torch.zeros((2, *weights.shape))
        else:
            pair = [normalise_filters(torch.randn(weights.shape, generator=g, dtype=torch.float64), weights)
                    for g in generators]  # fmt: skip
            if orthogonal:
                pair[1] = orthogonalise_filters(pair[1], pair[0], weights)
        wide = torch.float64 if weights.dtype == torch.float64 else torch.float32
        for parts, direction in zip(flat, pair, strict=True):
            parts.append(direction.to(wide).flatten())
    first, second = (torch.cat(parts).numpy() for parts in flat)
    shapes = [list(weights.shape) for weights in parameters.values()]
    facts = {"versions": versions(), "patterns": list(untouched)}
    return Directions(first, second, list(parameters), shapes, seed, orthogonal, still, facts)


def normalise_filters(direction: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Scale each filter of a direction to the norm of the weights' filter, ``d_i * |w_i| / |d_i|``.

    Args:
        direction: Direction, (outputs, ...), float64.
        weights: Weights, in the same shape.

    Returns:
        The scaled direction, float64. It is zero where a filter of either is zero.

    Example:
        >>> normalise_filters(torch.ones(2, 4), torch.tensor([[3.0, 0, 0, 4], [0, 0, 0, 0]])).tolist()
        [[2.5, 2.5, 2.5, 2.5], [0.0, 0.0, 0.0, 0.0]]
    """
    own, target = filter_norms(direction), filter_norms(weights)
    scale = torch.where(own > 0, target / own, 0.0)
    return direction.double() * scale.view(-1, *[1] * (direction.ndim - 1))


def orthogonalise_filters(second: torch.Tensor, first: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Remove from each filter of ``second`` its part along that of ``first``, then restore the weights' norm."""
    if first[0].numel() == 1:
        return torch.zeros_like(second)
    one, two = first.flatten(1), second.flatten(1)
    for _ in range(2):  # the second time removes what rounding left
        share = (one * two).sum(1, keepdim=True) / (one * one).sum(1, keepdim=True)
        two = two - torch.where(share.isfinite(), share, 0.0) * one
    return normalise_filters(two.view_as(second), weights)


def filter_norms(weights: torch.Tensor) -> torch.Tensor:
    """Compute each filter's Euclidean norm over all dimensions but the first, in float64: (outputs,)."""
    return weights.double().flatten(1).norm(dim=1)


def inner_products(
    model: nn.Module, first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor], vectors: bool = True
) -> dict[str, float]:
    """Compute the inner products of weights w and directions d and e that the L2 penalty depends on.

    Args:
        model: The model whose parameters are w.
        first: The direction d, see `Directions.tensors`.
        second: The direction e.
        vectors: Whether weight decay also applies to parameters of fewer than two dimensions.

    Returns:
        The products ``ww, wd, we, dd, de, ee``, summed in float64.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 3.0)
        >>> inner_products(model, {"weight": torch.ones(1, 1)}, {"weight": torch.zeros(1, 1)})
        {'ww': 9.0, 'wd': 3.0, 'we': 0.0, 'dd': 1.0, 'de': 0.0, 'ee': 0.0}
    """
    sums = dict.fromkeys(("ww", "wd", "we", "dd", "de", "ee"), 0.0)
    for name, parameter in model.named_parameters():
        if not vectors and parameter.ndim < 2:
            continue
        parts = {"w": parameter.detach(), "d": first[name], "e": second[name]}
        parts = {key: tensor.cpu().double().flatten() for key, tensor in parts.items()}
        for pair in sums:
            sums[pair] += torch.dot(parts[pair[0]], parts[pair[1]]).item()
    return sums


def l2_surface(products: Mapping[str, float], x: np.ndarray, y: np.ndarray, weight_decay: float) -> np.ndarray:
    r"""Compute the L2 penalty lambda/2 |w + a d + b e|^2 at all points of a grid, in closed form.

    .. math:: \frac{\lambda}{2} (|w|^2 + 2a\,w{\cdot}d + 2b\,w{\cdot}e + a^2|d|^2 + 2ab\,d{\cdot}e + b^2|e|^2)

    This is the penalty whose gradient plain SGD adds as weight decay. Decoupled weight decay, as in AdamW, is not the
    gradient of any penalty.

    Args:
        products: See `inner_products`.
        x: Values of a.
        y: Values of b.
        weight_decay: The factor lambda.

    Returns:
        The penalty in nats, shape (y, x).

    Example:
        >>> products = {"ww": 4.0, "wd": 0.0, "we": 0.0, "dd": 4.0, "de": 0.0, "ee": 4.0}
        >>> l2_surface(products, np.array([0.0, 1.0]), np.array([0.0, 1.0]), weight_decay=0.5).tolist()
        [[1.0, 2.0], [2.0, 3.0]]
    """
    a, b, p = x[None, :], y[:, None], products
    crossed = 2 * (a * p["wd"] + b * p["we"] + a * b * p["de"])
    return weight_decay / 2 * (p["ww"] + crossed + a**2 * p["dd"] + b**2 * p["ee"])


class Moved:
    """The parameters of a model, moved in place to w + a d + b e; see `moving`."""

    def __init__(self, model: nn.Module, directions: Directions) -> None:
        first, second, still = directions.tensors("first"), directions.tensors("second"), set(directions.untouched)
        chosen = [(name, p) for name, p in model.named_parameters() if name not in still]
        self._parts = [(p, p.detach().clone(), first[name].to(p), second[name].to(p)) for name, p in chosen]

    @torch.no_grad()
    def to(self, a: float, b: float) -> None:
        """Move to a point. The move starts from the saved weights, so the model's previous position does not matter."""
        for parameter, weights, first, second in self._parts:
            parameter.copy_(weights)
            if a:
                parameter.add_(first, alpha=a)
            if b:
                parameter.add_(second, alpha=b)


@contextmanager
def moving(model: nn.Module, directions: Directions) -> Iterator[Moved]:
    """Allow a model's parameters to be moved along two directions, and restore them bit for bit on exit.

    Args:
        model: The model, which is moved in place.
        directions: Directions made for this model.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> before = model.weight.clone()
        >>> with moving(model, random_directions(model)) as moved:
        ...     moved.to(1.0, 0.5)
        ...     bool((model.weight == before).any())
        False
        >>> bool((model.weight == before).all())
        True
    """
    moved = Moved(model, directions)
    try:
        yield moved
    finally:
        moved.to(0.0, 0.0)


def _is_untouched(name: str, parameter: torch.Tensor, patterns: Sequence[str]) -> bool:
    matched = any(re.search(pattern, name) for pattern in patterns)
    # A row of a linear layer is a filter even if it is the only one. (1, 1, C) and (C, 1, 1) are vectors in disguise.
    vector = parameter.ndim < 2 or (parameter.ndim > 2 and sum(size > 1 for size in parameter.shape) < 2)
    return matched or vector or not parameter.is_floating_point()


def _refuse_transposed(model: nn.Module, still: Sequence[str]) -> None:
    for name, module in model.named_modules():
        weight = f"{name}.weight".lstrip(".")
        if isinstance(module, nn.modules.conv._ConvTransposeNd) and weight not in still:
            raise ValueError(
                f"{weight} is a transposed convolution's, whose outputs are not its first dimension; leave it out "
                f"with untouched=(*UNTOUCHED, {weight!r})"
            )
