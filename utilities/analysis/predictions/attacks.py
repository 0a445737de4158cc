"""Attacks on images: perturbations within a radius that raise a classifier's loss, on tensors alone.

FGSM is a single step (Goodfellow et al. 2015, https://arxiv.org/abs/1412.6572), PGD many small ones from a random start
(Madry et al. 2018, https://arxiv.org/abs/1706.06083). Here perturbations are in pixel units, of images in 0..1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from utilities.datasets.loaders import seeded_generator

NORMS = ("linf", "l2")


def norm_of(delta: torch.Tensor, norm: str) -> torch.Tensor:
    """Return the norm of each image's perturbation, (batch, 1, 1, 1).

    Example:
        >>> delta = torch.tensor([3.0, -4.0]).view(1, 1, 1, 2)
        >>> norm_of(delta, "linf").item(), norm_of(delta, "l2").item()
        (4.0, 5.0)
    """
    flat = delta.flatten(1)
    found = flat.abs().amax(1) if norm == "linf" else flat.norm(dim=1)
    return found.view(-1, *(1,) * (delta.ndim - 1))


def steepest(gradient: torch.Tensor, norm: str) -> torch.Tensor:
    r"""Return the perturbation of norm 1 that raises a linear function most: :math:`\mathrm{sign}(g)` or g / ||g||.

    Args:
        gradient: Gradient of the function by the images, (batch, ...). Where it is 0, so is the result.
        norm: ``"linf"`` or ``"l2"``.

    Example:
        >>> gradient = torch.tensor([[[[3e-30, -4e-30]]]])
        >>> steepest(gradient, "linf").flatten().tolist(), steepest(gradient, "l2").flatten().tolist()
        ([1.0, -1.0], [0.6000000238418579, -0.800000011920929])
    """
    if norm == "linf":
        return gradient.sign()
    largest = norm_of(gradient, "linf")  # squares of small gradients would vanish
    scaled = gradient / largest.where(largest > 0, 1.0)
    length = norm_of(scaled, "l2")
    return scaled / length.where(length > 0, 1.0)


def project(delta: torch.Tensor, pixels: torch.Tensor, radius: float, norm: str) -> torch.Tensor:
    """Bring perturbations into the ball of a radius, and perturbed images into 0..1.

    The second step moves each entry towards 0, so that the result stays in the ball.

    Args:
        delta: Perturbations, (batch, ...).
        pixels: Images in 0..1. Where they lie outside by rounding, they may stay as they are.
        radius: Radius of the ball.
        norm: ``"linf"`` or ``"l2"``.

    Example:
        >>> project(torch.tensor([[[[-0.5, 0.5]]]]), torch.tensor([[[[0.1, 0.1]]]]), 0.2, "linf").flatten().tolist()
        [-0.10000000149011612, 0.20000000298023224]
    """
    if norm == "linf":
        delta = delta.clamp(-radius, radius)
    else:
        length = norm_of(delta, norm)
        delta = delta * (radius / length.where(length > radius, 1.0)).where(length > radius, 1.0)
    return delta.clamp((-pixels).clamp(max=0), (1 - pixels).clamp(min=0))


def random_start(shape: torch.Size, radius: float, norm: str, seed: int, first: int) -> torch.Tensor:
    """Draw perturbations uniformly from the ball, by the seed and the image's number alone.

    Args:
        shape: Shape of the batch, (batch, ...).
        radius: Radius of the ball.
        norm: ``"linf"`` or ``"l2"``.
        seed: Seed, 0 or more.
        first: Number of the first image.

    Example:
        >>> both = random_start(torch.Size([2, 3, 4, 4]), 0.1, "l2", 0, 0)
        >>> bool((both[1:] == random_start(torch.Size([1, 3, 4, 4]), 0.1, "l2", 0, 1)).all())
        True
    """
    count, *rest = shape
    starts = []
    for i in range(count):
        generator = seeded_generator(seed, first + i)
        if norm == "linf":
            starts.append(radius * (2 * torch.rand(rest, generator=generator) - 1))
        else:
            way = torch.randn(rest, generator=generator)
            share = torch.rand((), generator=generator) ** (1 / way.numel())
            starts.append(radius * share * way / way.norm())
    return torch.stack(starts)


def climb(
    gradient: Callable[[torch.Tensor], torch.Tensor],
    pixels: torch.Tensor,
    radius: float,
    norm: str,
    steps: int,
    step_size: float,
    start: torch.Tensor | None = None,
) -> torch.Tensor:
    """Climb the loss by projected gradient steps; one step of the radius' size from no start is FGSM.

    Args:
        gradient: Maps perturbations to the loss's gradient by them, both (batch, ...). It may note what it sees.
        pixels: Images in 0..1.
        radius: Radius of the ball that perturbations stay in.
        norm: ``"linf"`` or ``"l2"``.
        steps: Number of steps.
        step_size: Norm of a step.
        start: Perturbations to start from; None starts at none.

    Returns:
        The perturbations after the last step.

    Example:
        >>> pixels, slope = torch.full((1, 1, 1, 2), 0.5), torch.tensor([[[[2.0, -1.0]]]])
        >>> climb(lambda delta: slope, pixels, 0.25, "linf", 1, 0.25).flatten().tolist()
        [0.25, -0.25]
    """
    delta = torch.zeros_like(pixels) if start is None else project(start.to(pixels), pixels, radius, norm)
    for _ in range(steps):
        delta = project(delta + step_size * steepest(gradient(delta), norm), pixels, radius, norm)
    return delta
