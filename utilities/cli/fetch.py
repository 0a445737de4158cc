"""The verb ``fetch``: download data sets ahead of time, and see that they are whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from utilities.cli.arguments import options_of, parse, position
from utilities.cli.user_errors import fail, reporting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sets:
    """What is fetched.

    Attributes:
        datasets: Such as cifar100; see python -m utilities datasets.
        root: Folder of downloaded sets; default: data in the project.
    """

    datasets: Annotated[tuple[str, ...], position(metavar="DATASET ...")] = ()
    root: Path | None = None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Command line, less the verb.
    """
    about = "Download data sets that are missing, and read them."
    given = parse(options_of(Sets), arguments or [], "python -m utilities fetch", about)
    if not given.datasets:
        fail("no data set is named; see python -m utilities datasets")
    with reporting():
        from utilities.datasets.factory import load_dataset

        for name in given.datasets:
            data = load_dataset(name, root=given.root)
            print(f"{data}: {data.num_classes} classes, {data.image_size} px")
