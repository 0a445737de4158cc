"""Models by name: one word gives a model, its weights, its preprocessing and the layers worth comparing.

`factory` finds it, `checkpoints` reads files of weights, `own_models` calls a user's function, `families` tells what
it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from utilities import hand_on

if TYPE_CHECKING:
    from utilities.zoo.factory import create_model, list_models
    from utilities.zoo.families import family
    from utilities.zoo.inputs import input_options, preprocessing
    from utilities.zoo.layers import comparison_layers

__all__ = ["comparison_layers", "create_model", "family", "input_options", "list_models", "preprocessing"]
__getattr__ = hand_on(
    __name__,
    {
        "factory": ["create_model", "list_models"],
        "families": ["family"],
        "inputs": ["input_options", "preprocessing"],
        "layers": ["comparison_layers"],
    },
)
