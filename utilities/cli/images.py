"""The verb ``images``: redraw the pictures of the README from the results of the notebooks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from utilities.cli.arguments import options_of, parse, position
from utilities.cli.user_errors import fail, reporting

PROJECT_ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pictures:
    """What is drawn.

    Attributes:
        runs: A folder of results of notebooks.
        out: The folder of the pictures.
    """

    runs: Annotated[Path, position(metavar="RUNS")] = PROJECT_ROOT / "runs" / "quick"
    out: Path = PROJECT_ROOT / "images"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Command line, less the verb.
    """
    about = "Redraw the pictures of the README from the results of the notebooks."
    given = parse(options_of(Pictures), arguments or [], "python -m utilities images", about)
    with reporting():
        import matplotlib.pyplot as plt

        from utilities.plots.similarity.panels import PANELS, SCREEN, plot_panels
        from utilities.plots.style import save_figure
        from utilities.results.similarity import Similarity

        try:
            columns = {
                name: [[Similarity.load(given.runs / notebook) for notebook in column] for column in notebooks]
                for name, notebooks in PANELS.items()
            }
        except FileNotFoundError as error:
            fail(f"{error}; run the notebooks first, with: make figures")
        for name, results in columns.items():
            figure = plot_panels(results)
            print(save_figure(figure, given.out / f"{name}.png", dpi=SCREEN))
            plt.close(figure)
