"""Models by name: one word gives a model, its weights, its preprocessing and the layers worth comparing.

`factory` finds it, `checkpoints` reads files of weights, `own_models` calls a user's function.
"""

from utilities.zoo.factory import comparison_layers, create_model, input_options, list_models, preprocessing

__all__ = ["comparison_layers", "create_model", "input_options", "list_models", "preprocessing"]
