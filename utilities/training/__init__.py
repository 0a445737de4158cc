"""How a model is trained: recipes as plain numbers, augmentation, the loop, what a run may resume from.

`recipes` holds the numbers, `augmentation` what is done to images, `trainer` the loop, `distillation` a teacher's loss,
`resumption` what a killed run goes on from. `utilities.train` is the command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from utilities import hand_on

if TYPE_CHECKING:
    from utilities.training.recipes import RECIPES, Recipe, describe_recipe
    from utilities.training.trainer import Trainer

__all__ = ["RECIPES", "Recipe", "Trainer", "describe_recipe"]
__getattr__ = hand_on(__name__, {"recipes": ["RECIPES", "Recipe", "describe_recipe"], "trainer": ["Trainer"]})
