"""Inside a model: what each layer puts out while it runs, and the model as a sequence of blocks.

`recorder` takes activations, `selection` names layers, `description` tabulates them, `views` say what represents an
image, `calls` checks one call.
"""

from utilities.hooks.block_sequence import BlockSequence, blocks
from utilities.hooks.description import describe
from utilities.hooks.recorder import Recorder
from utilities.hooks.selection import select_layers

__all__ = ["BlockSequence", "Recorder", "blocks", "describe", "select_layers"]
