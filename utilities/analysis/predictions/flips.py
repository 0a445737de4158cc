"""How much a classifier's answers change along a sequence of images: flips of the answer, and moves of the first five.

Hendrycks and Dietterich 2019, https://arxiv.org/abs/1903.12261, section 4.2.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from utilities.hooks.calls.labels import check_logits

TOP = 5  # first answers that the distance is about


def rank_classes(logits: torch.Tensor) -> torch.Tensor:
    """Rank the classes of each image, from 1 for the largest logit; of equal logits the first class comes first.

    Args:
        logits: Logits, (batch, classes).

    Returns:
        Ranks, int64, (batch, classes).

    Example:
        >>> rank_classes(torch.tensor([[0.1, 0.9, 0.1]])).tolist()
        [[2, 1, 3]]
    """
    order = logits.argsort(dim=-1, descending=True, stable=True)
    places = torch.arange(1, logits.shape[-1] + 1, device=logits.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, places)


def top5_distance(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    r"""Measure how far the first five answers have moved.

    With :math:`\sigma(i)` the rank after of the class that was at rank i before, it is
    :math:`\sum_{i=1}^{5} \sum_{j = \min(i, \sigma(i)) + 1}^{\max(i, \sigma(i))} 1(1 \le j - 1 \le 5)`. A class pays one
    for each of the five places that it crosses, so that this is
    :math:`\sum_{i=1}^{5} |i - \min(\sigma(i), 6)|`: 0 where the five stay in order, 15 where all leave.

    Args:
        before: Ranks from `rank_classes`, (batch, classes).
        after: Ranks of the same classes, (batch, classes).

    Returns:
        Distances, int64, (batch,). Where there are fewer than five classes, all count.

    Example:
        >>> one, two = torch.tensor([[1, 2, 3, 4, 5, 6]]), torch.tensor([[2, 1, 3, 4, 6, 5]])
        >>> top5_distance(one, two).tolist(), top5_distance(one, one).tolist()
        ([3], [0])
    """
    moved = (before - after.clamp(max=TOP + 1)).abs()
    return (moved * (before <= TOP)).sum(-1)


def compare_frames(frames: Iterable[torch.Tensor], with_first: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Average flips and distances over the frames of sequences.

    Args:
        frames: Logits of each frame, (batch, classes), two frames or more.
        with_first: Whether each frame is compared with the first, rather than with the one before.

    Returns:
        Two tensors, float64, (batch,): the share of comparisons in which the answer differs, and the mean top-5
        distance.

    Raises:
        ValueError: If there are fewer than two frames, or frames do not yield finite logits of two classes or more.

    Example:
        >>> frames = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 1.0]])]
        >>> compare_frames(frames, True)[0].tolist(), compare_frames(frames, False)[0].tolist()
        ([1.0], [0.5])
    """
    reference, count, flips, distance = None, 0, 0, 0
    for logits in frames:
        check_logits(logits)
        if not logits.isfinite().all():
            raise ValueError("the model gives logits that are not finite for a frame")
        ranks = rank_classes(logits)
        if reference is not None:
            count += 1
            flips = flips + (ranks.argmin(-1) != reference.argmin(-1)).double()
            distance = distance + top5_distance(reference, ranks).double()
        if reference is None or not with_first:
            reference = ranks
    if not count:
        raise ValueError("a sequence has two frames or more")
    return flips / count, distance / count
