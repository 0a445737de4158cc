"""Where a class stands among all classes in a token's logits."""

from __future__ import annotations

import torch


def target_logit(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Take the logit of each image's class: (batch, tokens, classes), (batch,) -> (batch, tokens).

    Example:
        >>> target_logit(torch.tensor([[[0.1, 0.7, 0.2]]]), torch.tensor([1]))
        tensor([[0.7000]])
    """
    return logits.gather(2, target[:, None, None].expand(-1, logits.shape[1], 1)).squeeze(2)


def rank(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Count the classes with a logit above that of each image's class; ties take the best rank, NaN the worst.

    Args:
        logits: (batch, tokens, classes).
        target: (batch,).

    Returns:
        int16 (batch, tokens), 0 where the class comes first.

    Example:
        >>> rank(torch.tensor([[[0.1, 0.7, 0.2], [0.5, 0.1, 0.5]]]), torch.tensor([2]))
        tensor([[1, 0]], dtype=torch.int16)
    """
    below = logits <= target_logit(logits, target)[..., None]  # counted off, so that NaN is never first
    return (logits.shape[2] - below.sum(2, dtype=torch.int32)).to(torch.int16)


def score(rank: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Turn ranks into class identifiability scores, 1 - rank / classes: 1 where the class comes first.

    A class at a uniformly random rank scores 0.5 + 1 / (2 classes) on average, see `chance_score`.

    Example:
        >>> score(torch.tensor([0, 5]), 10)
        tensor([1.0000, 0.5000])
    """
    return 1 - rank.float() / num_classes


def chance_score(num_classes: int) -> float:
    """Give the mean score of a class at a uniformly random rank.

    Example:
        >>> chance_score(10)
        0.55
    """
    return 0.5 + 1 / (2 * num_classes)
