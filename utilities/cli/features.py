"""The verb ``features``: keep the features of a model's layers on disk, for ``compare`` later and elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from utilities.cli.arguments import options_of, parse, position
from utilities.cli.options import Images
from utilities.cli.user_errors import reporting

ABOUT = (
    "Keep the features of a model's layers in a folder, which compare takes in place of the model. The disk that it "
)
ABOUT += "takes is said before. A run that was killed goes on where it stopped when called again."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kept:
    """What is kept, and where.

    Attributes:
        model: NAME, NAME=WEIGHTS, package.module:FUNCTION or FILE.py:FUNCTION; see python -m utilities models.
        model_seed: Seed of random weights; default: --seed.
        out: Folder to make.
        layers: Names, globs, or !GLOB to leave out; default: the main ones, which layers --main lists; '*' takes all
            that change something.
        view: What is kept of each output: flatten, which is all, gap, cls, spatial or token:i.
        forward: How the model is run: forward_features, encode_image, ...
        batch_axis: Dimension of outputs that counts images, or LAYER DIMENSION pairs; default: found out.
        dtype: Type on disk; float16 takes half as much and rounds to 3 digits.
    """

    model: Annotated[str, position(metavar="MODEL")]
    model_seed: int | None = None
    out: Path
    layers: tuple[str, ...] = ()
    view: str = "flatten"
    forward: str | None = None
    batch_axis: int | dict[str, int] | None = None
    dtype: Literal["float16", "float32", "float64"] = "float32"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Command line, less the verb.
    """
    options = options_of(Images) + options_of(Kept)
    given = parse(options, arguments or [], "python -m utilities features", ABOUT)
    with reporting():
        from utilities.cli.opening import named_models, open_loader, open_model
        from utilities.cli.user_errors import refuse_torchrun
        from utilities.compare.features.saving import save_features
        from utilities.zoo.layers import comparison_layers

        refuse_torchrun("features are kept by one process")
        seeds = () if given.model_seed is None else (given.model_seed,)
        (named,) = named_models([given.model], seeds, given.seed)
        loader = open_loader(given, named)
        model, facts = open_model(named, loader.dataset.num_classes)
        data = f"{loader.dataset.name} ({loader.dataset.part})"
        every = given.layers == ("*",)
        kept = save_features(
            model,
            loader,
            given.out,
            layers=None if every else list(given.layers or comparison_layers(model)),
            strict=None if given.layers and not every else False,
            provenance=facts | {"dataset": data, "seed": given.seed},
            **{name: getattr(given, name) for name in ("view", "forward", "batch_axis", "dtype", "device")},
        )
        print(f"wrote {kept.path}: {len(kept.layers)} layers of {len(kept.ids)} images")
