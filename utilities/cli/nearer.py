"""The verb ``nearer``: is a model more like one model than like another, layer by layer and as a whole?

python -m utilities nearer alternet18 resnet18 vit_tiny_patch2_16 --dataset digits --out runs/nearer
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

from utilities.cli.arguments import options_of
from utilities.cli.on_models import run_on_models
from utilities.cli.options import shared

ABOUT = "Tell whether the first model is more like the second than like the third, with intervals, p-values and the "
ABOUT += "largest difference beside what chance gives. --counts names several seeds of each."


@dataclasses.dataclass(frozen=True, kw_only=True)
class How:
    """How the three are compared, as `utilities.compare.compare_similarities` takes it.

    Attributes:
        counts: Numbers of models of each of the three, which are several seeds: 1 3 3 takes one, three and three of the
            seven that are named.
        layers: Names, globs, or !GLOB to leave out, of the first model; default: the main ones, which layers --main
            lists.
        layers1: The same of the second.
        layers2: The same of the third.
        match: Layer that each is compared with: at the same relative depth, the most similar one, or all, where the
            second and the third model have equally many.
        kernel: Kernel of CKA.
        bandwidth: Bandwidth of the RBF kernel: sigma over the median distance.
        sigma: Width of the RBF kernel itself, in place of the bandwidth.
        view: What stands for an image: flatten, gap, cls, spatial or token:i; gap:NCL names the axes.
        view1: View of the second model; default: as --view.
        view2: View of the third model; default: as --view.
        resamples: Number of resamples of the images.
        confidence: Level of intervals.
    """

    counts: tuple[int, ...] = (1, 1, 1)
    layers: tuple[str, ...] | None = None
    layers1: tuple[str, ...] | None = None
    layers2: tuple[str, ...] | None = None
    match: Literal["depth", "best", "all"] = "depth"
    kernel: Literal["linear", "rbf"] = "linear"
    bandwidth: float = 1.0
    sigma: float | None = None
    view: str = "flatten"
    view1: str | None = None
    view2: str | None = None
    resamples: int = 1000
    confidence: float = 0.95


PASSED = ("match", "kernel", "bandwidth", "sigma", "view", "view1", "view2", "resamples", "confidence", "seed")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Command line, less the verb.
    """
    run_on_models("nearer", ABOUT, shared() + options_of(How), arguments, run)


def run(given: SimpleNamespace) -> list[Path]:
    """Compare the similarities, say what was found, and write the result and its figure.

    Returns:
        The files.
    """
    from utilities.cli.files import Files
    from utilities.cli.three_models import facts_of_three, open_three
    from utilities.compare.nearness import compare_similarities
    from utilities.plots.similarity import plot_nearness, plot_nearness_matrix
    from utilities.study.nearness import describe_nearness
    from utilities.utils import resolve_device

    files, device = Files.of(given), resolve_device(given.device)
    sides = open_three(given)
    named = {name: None if value is None else list(value) for name in ("layers", "layers1", "layers2")
             for value in [getattr(given, name)]}  # fmt: skip
    result = compare_similarities(
        *(side.models if len(side.models) > 1 else side.models[0] for side in sides),
        *(side.loader for side in sides),
        **named,
        device=device,
        provenance=facts_of_three(sides, given.seed, device),
        **{name: getattr(given, name) for name in PASSED},
    )
    print(describe_nearness(result))
    paths = files.save(result) + files.save_table(result.to_frame().reset_index())
    plot = plot_nearness_matrix if given.match == "all" else plot_nearness
    return paths + (files.save_figures({"": plot(result)}) if files.formats else [])
