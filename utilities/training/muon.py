"""Train by Muon: steps of matrices are made orthogonal, and AdamW trains all else.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) replaces the momentum of a weight matrix by the
nearest matrix with equal singular values. torch's ``torch.optim.Muon`` takes matrices alone, so a filter
(out, in, height, width) is given to it as the view (out, in · height · width).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

MOMENTUM = 0.9
BETAS = (0.9, 0.95)


class MuonAdamW(torch.optim.Optimizer):
    """Train the weights of linear layers and convolutions, but the last one, by Muon, and the rest by AdamW.

    The last one is taken for the classifier. A step of Muon is scaled to AdamW's usual length, 0.2 in root mean square
    (Liu et al. 2025, https://arxiv.org/abs/2502.16982, section 2.2), so that one learning rate and one weight decay,
    decoupled, serve both.

    Args:
        model: The model.
        lr: Learning rate.
        weight_decay: Weight decay.
        decay_vectors: Whether parameters with one axis decay too.

    Raises:
        ValueError: If torch has no Muon.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))
        >>> optimizer = MuonAdamW(model, lr=0.01, weight_decay=0.1)
        >>> [[tuple(p.shape) for p in group["params"]] for group in optimizer.param_groups]
        [[(4, 3, 3, 3)], [(2, 4)], [(4,), (2,)]]
    """

    def __init__(self, model: nn.Module, lr: float, weight_decay: float, decay_vectors: bool = True) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise ValueError(
                f"the optimizer muon needs torch 2.9 or newer, this is {torch.__version__}; choose sgd or adamw"
            )
        layers = [m for m in model.modules() if isinstance(m, (nn.Linear, _ConvNd))][:-1]
        own = {id(layer.weight) for layer in layers if layer.weight.requires_grad}
        filters = [p for p in model.parameters() if id(p) in own]
        others = [p for p in model.parameters() if id(p) not in own]
        groups = [{"params": filters}] + [{"params": [p for p in others if (p.ndim < 2) == v]} for v in (False, True)]
        super().__init__([group for group in groups if group["params"]], {"lr": lr})
        self._matrices = [(p, nn.Parameter(_ordered(p.detach(), p).view(len(p), -1))) for p in filters]
        decays = {"weight_decay": weight_decay}, {"weight_decay": weight_decay * decay_vectors}
        rest = [group | decay for group, decay in zip(groups[1:], decays, strict=True) if group["params"]]
        self._parts: dict[str, torch.optim.Optimizer] = {}
        if filters:
            options = {"momentum": MOMENTUM, "weight_decay": weight_decay, "adjust_lr_fn": "match_rms_adamw"}
            self._parts["muon"] = torch.optim.Muon([matrix for _, matrix in self._matrices], lr, **options)
        if rest:
            self._parts["adamw"] = torch.optim.AdamW(rest, lr, betas=BETAS)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        """Take one step, with the learning rates that ``param_groups`` hold."""
        if closure is not None:
            raise ValueError("MuonAdamW takes no closure; compute the gradients before the step")
        inner = (group for part in self._parts.values() for group in part.param_groups)
        for own, group in zip(self.param_groups, inner, strict=True):
            group["lr"] = own["lr"]
        for parameter, matrix in self._matrices:
            matrix.grad = None if parameter.grad is None else _ordered(parameter.grad, parameter).flatten(1)
        for part in self._parts.values():
            part.step()
        for _, matrix in self._matrices:
            matrix.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both optimisers, and the learning rates."""
        return super().state_dict() | {name: part.state_dict() for name, part in self._parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        super().load_state_dict({name: state_dict[name] for name in ("state", "param_groups")})
        for name, part in self._parts.items():
            part.load_state_dict(state_dict[name])


def _ordered(values: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Permute axes but the first to the order in which a parameter lies in memory, so that a matrix can view it."""
    return values.permute(0, *sorted(range(1, parameter.ndim), key=parameter.stride, reverse=True))
