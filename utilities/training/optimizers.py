"""Make the optimiser that a recipe asks for."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from utilities.training.muon import MuonAdamW
from utilities.training.recipes import Recipe


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Make a recipe's optimiser for the parameters of a model.

    Args:
        model: The model.
        recipe: The recipe, resolved.

    Example:
        >>> recipe = Recipe(decay_vectors=False).resolved("resnet18")
        >>> [group["weight_decay"] for group in make_optimizer(nn.Linear(2, 2), recipe).param_groups]
        [0.0005, 0.0]
    """
    if recipe.optimizer == "muon":
        return MuonAdamW(model, recipe.learning_rate, recipe.weight_decay, recipe.decay_vectors)
    groups: Any = model.parameters()
    if not recipe.decay_vectors:
        axes = {True: [], False: []}
        for parameter in model.parameters():
            axes[parameter.ndim < 2].append(parameter)
        groups = [{"params": axes[False]}, {"params": axes[True], "weight_decay": 0.0}]
    if recipe.optimizer == "sgd":
        options = {"momentum": 0.9, "weight_decay": recipe.weight_decay, "nesterov": recipe.nesterov}
        return torch.optim.SGD(groups, recipe.learning_rate, **options)
    on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())  # where it is not the default
    options = {"weight_decay": recipe.weight_decay, "fused": True if on_cpu else None}
    return torch.optim.AdamW(groups, recipe.learning_rate, **options)
