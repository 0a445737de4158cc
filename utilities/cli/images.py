"""The verb ``images``: redraw the pictures of README and docs from results of notebooks."""

from __future__ import annotations

import dataclasses
import sys
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
        runs: Folder of results of notebooks on small models; without it, the others alone are drawn.
        real: Folder of results on real weights; in its folders ``natural`` and ``ten_thousand``, of models trained on
            all natural images and on some of them.
        keep: Folder of notebooks run on real weights, whose results are first copied to --real as small files.
        keep_natural: Folder of notebooks run in the natural profile, whose results are first copied likewise.
        keep_ten_thousand: Folder of results of models trained on 10,000 natural images, likewise.
        out: The folder of the pictures.
    """

    runs: Annotated[Path, position(metavar="RUNS")] = PROJECT_ROOT / "runs" / "quick"
    real: Path = PROJECT_ROOT / "results"
    keep: Path | None = None
    keep_natural: Path | None = None
    keep_ten_thousand: Path | None = None
    out: Path = PROJECT_ROOT / "images"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Command line, less the verb.
    """
    about = "Redraw the pictures of README and docs from the results of the notebooks."
    given = parse(options_of(Pictures), arguments or [], "python -m utilities images", about)
    with reporting():
        import matplotlib.pyplot as plt

        from utilities.plots.similarity.panels import SCREEN
        from utilities.plots.style import save_figure
        from utilities.study.pictures import NATURAL, REAL, SMALL, TEN_THOUSAND, keep

        if given.keep is not None:
            print(*keep(given.keep, given.real, REAL, "real"), sep="\n")
        natural = given.real / "natural"
        if given.keep_natural is not None:
            print(*keep(given.keep_natural, natural, NATURAL), sep="\n")
        fewer = given.real / "ten_thousand"
        if given.keep_ten_thousand is not None:
            print(*keep(given.keep_ten_thousand, fewer, TEN_THOUSAND), sep="\n")
        if not given.runs.is_dir():
            left = ", ".join(f"{name}.png" for name in SMALL)
            print(f"{given.runs} is not there, so {left} stay as they are; make figures makes it", file=sys.stderr)
        small = SMALL if given.runs.is_dir() else {}
        drawn = ((given.real, REAL), (natural, NATURAL), (fewer, TEN_THOUSAND), (given.runs, small))
        for folder, pictures in drawn:
            for name, picture in pictures.items():
                if missing := picture.missing(folder):
                    lacking = f"{folder} lacks {', '.join(missing)}, of which {name}.png is made"
                    fail(f"{lacking}; run the notebooks first, with: make figures")
                figure = picture.draw(picture.load(folder))
                print(save_figure(figure, given.out / f"{name}.png", dpi=SCREEN))
                plt.close(figure)
