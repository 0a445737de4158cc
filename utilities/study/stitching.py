"""Shared parts of the notebook on stitching: who feeds whom, a rotated copy, and the untrained control."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import nn

from utilities.compare.all_pairs import pair_facts
from utilities.compare.stitching.shapes import shape_of
from utilities.compare.stitching.stitches import stitch
from utilities.datasets.loaders import Loader, make_loader, same_input
from utilities.hooks.calls.nested import map_tensors
from utilities.hooks.layout import Layout
from utilities.hooks.trial import first_tensor
from utilities.results.stitching import Stitching
from utilities.study.group import Group
from utilities.study.study import Study
from utilities.utils import evaluating
from utilities.zoo.layers import known_blocks

SELF, ROTATED, INTO = "{} into itself", "rotated {} into {}", "{} into {}"
CLOSE = 1e-3  # logits of a rotated copy differ by rounding, relative to the largest


def rotation(width: int, seed: int) -> torch.Tensor:
    """Draw an orthogonal matrix (width, width), uniformly, in float64.

    Example:
        >>> q = rotation(3, 0)
        >>> bool(torch.allclose(q @ q.T, torch.eye(3).double()))
        True
    """
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))
    return q * r.diagonal().sign()


def rotated_copy(model: nn.Module, images: torch.Tensor, seed: int = 0) -> nn.Module:
    """Copy a model and rotate the channels of what each block but the last puts out; the next block turns them back.

    The copy computes the same function from other features: an affine map undoes each rotation.

    Args:
        model: A model whose blocks are known, each of which takes what the one before it puts out.
        images: A few images.
        seed: Seed of the rotations.

    Returns:
        The copy, in eval mode.

    Raises:
        ValueError: If the copy does not give the same logits, for something else reads what a block puts out.

    Example:
        >>> from utilities.zoo import create_model
        >>> model, images = create_model("plain_cnn8", 10, seed=0).eval(), torch.randn(2, 3, 16, 16)
        >>> bool(torch.allclose(rotated_copy(model, images)(images), model(images), atol=1e-4))
        True
    """
    twin = copy.deepcopy(model).eval()
    names, layout = known_blocks(twin), Layout(model)
    for number, (name, after) in enumerate(pairwise(names)):
        turn = _Turn(layout, images.shape[-2:], seed + number)
        twin.get_submodule(name).register_forward_hook(turn.forth)
        twin.get_submodule(after).register_forward_pre_hook(turn.back)
    with evaluating(model) as device, torch.no_grad():
        own, found = model(images.to(device)), twin(images.to(device))
    if (own - found).abs().max() > CLOSE * own.abs().max():
        raise ValueError(
            f"a rotated copy of {type(model).__name__} gives other logits: not only the next block reads a block"
        )
    return twin


class _Turn:
    """Rotate a block's output, and turn the next block's input back."""

    def __init__(self, layout: Layout, size: torch.Size, seed: int) -> None:
        self.layout, self.size, self.seed = layout, size, seed
        self.matrix: torch.Tensor | None = None

    def forth(self, module: nn.Module, args: Any, output: Any) -> Any:
        found = first_tensor(output)
        self.axis = shape_of(found, module, self.layout, self.size).axis
        if self.matrix is None:
            self.matrix = rotation(found.shape[self.axis], self.seed)
        return map_tensors(lambda tensor: self._turned(tensor, self.matrix) if tensor is found else tensor, output)

    def back(self, module: nn.Module, args: tuple) -> tuple:
        return (self._turned(args[0], self.matrix.T), *args[1:])

    def _turned(self, tensor: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        turned = tensor.double().movedim(self.axis, -1) @ matrix.to(tensor.device)
        return turned.movedim(-1, self.axis).to(tensor).contiguous()


class _Opened(NamedTuple):
    """A model with its images to fit to and to test on, and its facts."""

    model: nn.Module
    train: Loader
    test: Loader
    facts: dict[str, Any]


def stitch_group(
    group: Group, n_train: int | None = None, n_test: int | None = None, **options: Any
) -> dict[str, dict[str, Stitching]]:
    """Stitch a group's models: the first one to itself and to its rotated copy, the others as below.

    All models feed the last one, and the last one feeds the first.

    Args:
        group: Group of two models or more.
        n_train: Number of training images to fit to; None is all.
        n_test: Number of test images; None is the group's.
        **options: Options of `utilities.compare.stitch`.

    Returns:
        ``known`` (the first model with itself, and from its rotated copy), ``pairs`` (one model into another, by
        label), and ``control`` (the same labels, from untrained first models).
    """
    opened = {study.model: _open(study, n_train, n_test) for study in group.studies}
    *others, last = opened
    own = opened[others[0]]
    images = next(iter(own.test))[0][:4]
    turned = own._replace(model=rotated_copy(own.model, images, group.seed))
    names = [(one, last) for one in others] + [(last, others[0])]
    twins = {study.model: _untrained(study, opened[study.model]) for study in group.studies}
    known = {SELF.format(others[0]): (own, own), ROTATED.format(others[0], others[0]): (turned, own)}
    pairs = {INTO.format(one, two): (opened[one], opened[two]) for one, two in names}
    control = {INTO.format(one, two): (twins[one], opened[two]) for one, two in names}
    routes = {"known": known, "pairs": pairs, "control": control}
    return {
        kind: {label: _stitched(one, two, **options) for label, (one, two) in several.items()}
        for kind, several in routes.items()
    }


def _open(study: Study, n_train: int | None, n_test: int | None) -> _Opened:
    model, facts = study.finished_model()
    test = study.loader(n_images=study.n_images if n_test is None else n_test)
    data = study.training_loader(n_images=n_train, augment=False).dataset
    train = make_loader(data, study.batch_size, seed=study.seed)  # in one order, which two models share
    return _Opened(model, train, test, study.shared_facts(test) | facts)


def _untrained(study: Study, opened: _Opened) -> _Opened:
    weights = {"weights": f"untrained, seed {study.seed}", "accuracy": None}
    return opened._replace(model=study.random_model(study.seed), facts=opened.facts | weights)


def _stitched(one: _Opened, two: _Opened, **options: Any) -> Stitching:
    own = ("model", "weights", "accuracy")
    sides = [{key: side.facts[key] for key in own} for side in (one, two)]
    facts = {key: value for key, value in two.facts.items() if key not in own} | pair_facts(*sides)
    alike = same_input(one.test, two.test)
    seconds = (None, None) if alike else (two.train, two.test)
    return stitch(one.model, two.model, one.train, one.test, *seconds, provenance=facts, **options)
