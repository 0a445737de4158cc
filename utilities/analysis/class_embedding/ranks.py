"""Rank of a class among all classes in a token's logits."""

from __future__ import annotations

import torch

from utilities.hooks.calls.labels import standing


def target_logit(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Take the logit of each image's class: (batch, tokens, classes), (batch,) -> (batch, tokens).

    Example:
        >>> target_logit(torch.tensor([[[0.1, 0.7, 0.2]]]), torch.tensor([1]))
        tensor([[0.7000]])
    """
    return logits.gather(2, target[:, None, None].expand(-1, logits.shape[1], 1)).squeeze(2)


def rank(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Count the classes with a logit above that of each image's class; ties take the mean rank, NaN the worst.

    Args:
        logits: Logits of each token, (batch, tokens, classes).
        target: Class of each image, (batch,).

    Returns:
        Ranks, float32 (batch, tokens); 0 where the class alone comes first.

    Example:
        >>> rank(torch.tensor([[[0.1, 0.7, 0.2], [0.5, 0.1, 0.5]]]), torch.tensor([2]))
        tensor([[1.0000, 0.5000]])
    """
    return ranks_and_firsts(logits, target)[0]


def ranks_and_firsts(logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rank each image's class, and tell whether it comes first; ties take the expectation over random orders.

    Args:
        logits: Logits of each token, (batch, tokens, classes).
        target: Class of each image, (batch,).

    Returns:
        Ranks, see `rank`; and whether the class comes first: 1 if it does, 1/m if m classes tie for first, 0 if it does
        not. Both are float32 (batch, tokens).

    Example:
        >>> ranks_and_firsts(torch.tensor([[[0.1, 0.7, 0.2], [0.5, 0.1, 0.5]]]), torch.tensor([2]))
        (tensor([[1.0000, 0.5000]]), tensor([[0.0000, 0.5000]]))
    """
    above, tied = places(logits, target)
    return above + tied / 2, (above == 0) / (tied + 1)


def places(logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Count the classes above each image's class, and the others tied with it, see `utilities.hooks.calls.labels`.

    Example:
        >>> places(torch.tensor([[[0.1, 0.7, 0.2], [0.5, 0.1, 0.5]]]), torch.tensor([2]))
        (tensor([[1, 0]], dtype=torch.int32), tensor([[0, 1]], dtype=torch.int32))
    """
    return standing(logits, target[:, None].expand(-1, logits.shape[1]))


def score(rank: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Turn ranks into class identifiability scores, 1 - rank / classes: 1 where the class comes first.

    A class at a uniformly random rank scores 0.5 + 1 / (2 classes) on average, see `chance_score`.

    Example:
        >>> score(torch.tensor([0, 5]), 10)
        tensor([1.0000, 0.5000])
    """
    return 1 - rank.float() / num_classes


def chance_score(num_classes: int) -> float:
    """Compute the mean score of a class at a uniformly random rank.

    Example:
        >>> chance_score(10)
        0.55
    """
    return 0.5 + 1 / (2 * num_classes)
