"""The verb ``contributions``: on which images two layers agree, and what their similarity is without some of them.

python -m utilities contributions resnet18 vit_tiny_patch2_16 --pairs layer3.1 blocks.5 --dataset digits --out runs/i
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

ABOUT = "Give each image's share in the CKA of pairs of layers, and show the images on which they agree most and least."


@dataclasses.dataclass(frozen=True, kw_only=True)
class How:
    """Which layers, and what of them.

    Attributes:
        pairs: Pairs of layers: a name in the first model and one in the second; the first pair is drawn.
        estimator: Estimator of CKA.
        view: What stands for an image: flatten, gap, cls, spatial or token:i; gap:NCL names the axes.
        view2: View of the second model; default: as --view.
        removed: Numbers of dominant images without which the similarity is computed again.
        n_shown: Images shown of each kind.
    """

    pairs: tuple[str, ...]
    estimator: Literal["debiased", "biased"] = "debiased"
    view: str = "flatten"
    view2: str | None = None
    removed: tuple[int, ...] = (0, 1, 2, 5, 10, 20, 50)
    n_shown: int = 8


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Command line, less the verb.
    """
    run_on_models("contributions", ABOUT, shared(most=2) + options_of(How), arguments, run)


def run(given: SimpleNamespace) -> list[Path]:
    """Compute the shares, and write them and the figures.

    Returns:
        The files.
    """
    from utilities.cli.files import Files
    from utilities.cli.two_models import facts_of_two, open_two
    from utilities.compare.image_shares import image_contributions
    from utilities.plots.similarity import plot_extremes, plot_without
    from utilities.study.image_contributions import extremes
    from utilities.utils import resolve_device

    files, device = Files.of(given), resolve_device(given.device)
    if len(given.pairs) % 2:
        raise ValueError(
            f"--pairs names an odd number of layers, {len(given.pairs)}; a pair is one of each model: "
            "--pairs LAYER1 LAYER2"
        )
    if given.n_shown < 1:
        raise ValueError(f"--n-shown {given.n_shown} should be 1 or more")
    two = open_two(given)
    result = image_contributions(
        *two.models,
        *two.images,
        pairs=list(zip(given.pairs[::2], given.pairs[1::2], strict=True)),
        provenance=facts_of_two(two, given.seed, device),
        device=device,
        **{name: getattr(given, name) for name in ("estimator", "view", "view2", "removed")},
    )
    paths = files.save(result) + files.save_table(result.to_frame())
    if not files.formats:
        return paths
    data, count = two.loaders[0].dataset, min(given.n_shown, result.n)
    drawn = {
        ending: plot_extremes(result, **extremes(result, data, count, by=by), by=by, classes=data.classes)
        for ending, by in (("", "shares"), ("_agreement", "agreement"))
    }
    return paths + files.save_figures(drawn | {"_without": plot_without(result)})
