"""The verb ``layers``: the layers of a model, with their types, shapes and parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated

from utilities.cli.arguments import options_of, parse, position
from utilities.cli.user_errors import reporting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layers:
    """What is listed.

    Attributes:
        model: NAME, NAME=WEIGHTS, package.module:FUNCTION or FILE.py:FUNCTION; see python -m utilities models.
        layers: Names, globs, or !GLOB to leave out; default: all.
        main: Only those that compare takes by default.
        num_classes: Outputs of a model without weights of its own; default: as many as its function makes by itself.
        image_size: Pixels of the images; default: what the model asks for, else 32.
        forward: How the model is run: forward_features, encode_image, ...
    """

    model: Annotated[str, position(metavar="MODEL")]
    layers: Annotated[tuple[str, ...], position(metavar="GLOB ...")] = ()
    main: bool = False
    num_classes: int | None = None
    image_size: int | None = None
    forward: str | None = None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Command line, less the verb.
    """
    about = "List the layers of a model: name, type, shape of the output for one image, parameters."
    given = parse(options_of(Layers), arguments or [], "python -m utilities layers", about)
    with reporting():
        import pandas as pd
        import torch

        from utilities.cli.opening import named_models, open_model
        from utilities.hooks.description import describe
        from utilities.hooks.selection import select_layers
        from utilities.zoo.inputs import input_options
        from utilities.zoo.layers import comparison_layers

        (named,) = named_models([given.model])
        model, _ = open_model(named, given.num_classes)
        wanted = list(given.layers) or ["*"]
        if given.main:
            wanted = [name for name in comparison_layers(model) if name in select_layers(model, wanted)]
        select_layers(model, wanted)
        size = given.image_size or input_options(named.name, named.weights).get("image_size", 32)
        table = describe(model, torch.zeros(2, 3, size, size), wanted, forward=given.forward)
        with pd.option_context("display.max_rows", None, "display.width", 160, "display.max_colwidth", 60):
            print(table.to_string())
