"""The verb ``calibrate``: similarities of two models, and what is left of them beyond what permuted images reach.

python -m utilities calibrate resnet18 vit_tiny_patch2_16 --dataset digits --measure mutual_knn --out runs/c
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

ABOUT = "Compare the layers of two models, and set each similarity, and the largest ones, against permuted images."


@dataclasses.dataclass(frozen=True, kw_only=True)
class How:
    """How two models are compared and calibrated.

    Attributes:
        layers1: Names, globs, or !GLOB to leave out, of the first model; default: the main ones, which layers --main
            lists.
        layers2: The same of the second model.
        measure: cka, procrustes, cca, svcca, pwcca, rsa, ...
        kernel: Kernel of CKA.
        estimator: Estimator of CKA.
        bandwidth: Bandwidth of the RBF kernel: sigma over the median distance.
        view: What stands for an image: flatten, gap, cls, spatial or token:i; gap:NCL names the axes.
        view2: View of the second model; default: as --view.
        permutations: Number of orders of the images.
        level: Chance that unrelated features get a calibrated value above 0.
    """

    layers1: tuple[str, ...] | None = None
    layers2: tuple[str, ...] | None = None
    measure: str = "cka"
    kernel: Literal["linear", "rbf"] = "linear"
    estimator: Literal["debiased", "biased"] = "debiased"
    bandwidth: float = 1.0
    view: str = "flatten"
    view2: str | None = None
    permutations: int = 200
    level: float = 0.05


PASSED = ("measure", "kernel", "estimator", "bandwidth", "view", "view2", "permutations", "level", "seed")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Command line, less the verb.
    """
    run_on_models("calibrate", ABOUT, shared(most=2) + options_of(How), arguments, run)


def run(given: SimpleNamespace) -> list[Path]:
    """Calibrate, print the largest similarity, and write the result and its figures.

    Returns:
        The files.
    """
    from utilities.cli.files import Files
    from utilities.cli.two_models import default_layers, facts_of_two, open_two
    from utilities.compare.calibration import calibrate
    from utilities.plots.similarity import plot_calibration
    from utilities.utils import resolve_device

    files, device = Files.of(given), resolve_device(given.device)
    two = open_two(given)
    wanted = [given.layers1, given.layers1 if two.models[0] is two.models[1] else given.layers2]
    wanted[1] = given.layers2 or wanted[1]
    layers = [list(own or default_layers(model)) for own, model in zip(wanted, two.models, strict=True)]
    result = calibrate(
        *two.models,
        *two.images,
        layers1=layers[0],
        layers2=layers[1],
        device=device,
        provenance=facts_of_two(two, given.seed, device),
        **{name: getattr(given, name) for name in PASSED},
    )
    best = result.maximum()
    print(
        f"the largest similarity is {best['similarity']:.3f}, of {best['layer1']} and {best['layer2']}; permuted "
        f"images reach {best['threshold']:.3f}; calibrated {best['calibrated']:.3f}, p = {best['p_value']:.3g}"
        + ("; of a model with itself this says nothing" if two.models[0] is two.models[1] else "")
    )
    paths = files.save(result) + files.save_table(result.to_frame())
    if not files.formats:
        return paths
    return paths + files.save_figures({"": plot_calibration(result), "_heatmap": result.to_similarity().plot()})
