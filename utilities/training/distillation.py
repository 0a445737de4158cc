"""Learn from a teacher: Hinton, Vinyals & Dean 2015, https://arxiv.org/abs/1503.02531."""

from __future__ import annotations

import torch
from torch.nn import functional as F

TEMPERATURE = 4.0
WEIGHT = 0.9


def distillation_loss(
    logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    labels: torch.Tensor,
    temperature: float = TEMPERATURE,
    weight: float = WEIGHT,
) -> torch.Tensor:
    """Mix the divergence from a teacher's softened answers with the cross-entropy of the labels.

    The loss is w T² KL(softmax(t/T) ‖ softmax(s/T)) + (1 - w) CE(s, labels), the mean over images, in nats. The factor
    T² keeps the size of the gradients the same at any temperature.

    Args:
        logits: The student's logits s, (batch, classes).
        teacher_logits: The teacher's logits t, (batch, classes).
        labels: Classes (batch,), or probabilities (batch, classes).
        temperature: Temperature T.
        weight: Weight w of the teacher.

    Raises:
        ValueError: If student and teacher differ in their classes.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> distillation_loss(logits, logits, torch.tensor([0]), weight=1.0).abs() < 1e-6
        tensor(True)
    """
    if logits.shape != teacher_logits.shape:
        shapes = tuple(logits.shape), tuple(teacher_logits.shape)
        raise ValueError(f"the student's logits have shape {shapes[0]}, the teacher's {shapes[1]}: the classes differ")
    softened = (F.log_softmax(x / temperature, dim=1) for x in (logits, teacher_logits))
    divergence = F.kl_div(*softened, reduction="batchmean", log_target=True)
    return weight * temperature**2 * divergence + (1 - weight) * F.cross_entropy(logits, labels)
