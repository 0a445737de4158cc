"""The verb ``compare``: two models by name, a data set by name, a result and its heatmap.

Under torchrun each process takes its share of the batches; the result is that of a single process:

    torchrun --nproc_per_node=2 -m utilities compare resnet18=checkpoints/r18.pth lambda_resnet26=checkpoints/l26.pth \
        --dataset cifar100 --out runs/r18_l26
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Literal

from utilities.cli.arguments import options_of, parse
from utilities.cli.options import shared
from utilities.cli.user_errors import reporting

if TYPE_CHECKING:
    import torch

EVERY = ("*",)  # as compare() in Python by default
EXACT_NAMES = {"float32": "exact", "bfloat16": "half"}  # train's words for the same
ABOUT = (
    "Compare the layers of two models, or of one with itself, over the images of a data set. A folder that features "
)
ABOUT += "wrote stands for a model; two of them need no --dataset. A run that was killed goes on where it stopped when "
ABOUT += "called again. Under torchrun the batches are shared among processes."


@dataclasses.dataclass(frozen=True, kw_only=True)
class How:
    """How two models are compared, as `utilities.compare.compare` takes it.

    Attributes:
        dataset2: Another data set for the second model, image by image beside the first.
        image_size2: Pixels, of the second model; default: as --image-size.
        layers1: Names, globs, or !GLOB to leave out, of the first model; default: the main ones, which layers --main
            lists; '*' takes all that change something, as compare() in Python does.
        layers2: The same of the second model.
        measure: cka, procrustes, cca, svcca, pwcca, rsa, ...
        kernel: Kernel of CKA.
        estimator: Estimator of CKA.
        bandwidth: Bandwidth of the RBF kernel: sigma over the median distance.
        sigma: Width of the RBF kernel itself, in place of the bandwidth.
        view: What stands for an image: flatten, gap, cls, spatial or token:i; gap:NCL names the axes.
        view2: View of the second model; default: as --view.
        forward: How the models are run: forward_features, encode_image, ...
        forward2: How the second model is run; default: as --forward.
        batch_axis: Dimension of outputs that counts images, or LAYER DIMENSION pairs; default: found out.
        precision: exact or float32: float32 throughout; fast: sums in bfloat16 where hardware has it; centred: linear
            layers too, around the batch's mean; half or bfloat16: the models; auto: the fastest that is close enough
            on the first 32 images.
        tolerance: Largest difference from the exact similarity that auto accepts; 0 is always exact.
        repeats: Passes, each shuffled anew.
        permutations: For a null distribution; 100 is usual.
        confounder: input: regress the input images' own similarity out.
        remove_top_pc: Leave out so many leading components.
        per_batch: Whether to keep each batch's own value.
        ticks: Names or globs of layers to label; default: as many as fit.
    """

    dataset2: str | None = None
    image_size2: int | None = None
    layers1: tuple[str, ...] | None = None
    layers2: tuple[str, ...] | None = None
    measure: str = "cka"
    kernel: Literal["linear", "rbf"] = "linear"
    estimator: Literal["debiased", "biased"] = "debiased"
    bandwidth: float = 1.0
    sigma: float | None = None
    view: str = "flatten"
    view2: str | None = None
    forward: str | None = None
    forward2: str | None = None
    batch_axis: int | dict[str, int] | None = None
    precision: Literal["auto", "exact", "float32", "fast", "centred", "half", "bfloat16"] = "auto"
    tolerance: float = 0.002
    repeats: int = 1
    permutations: int = 0
    confounder: Literal["input"] | None = None
    remove_top_pc: int = 0
    per_batch: bool = False
    ticks: tuple[str, ...] | None = None


PASSED = (
    "measure", "kernel", "estimator", "bandwidth", "sigma", "view", "view2", "forward", "forward2", "batch_axis",
    "tolerance", "repeats", "permutations", "confounder", "remove_top_pc", "per_batch", "seed",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Command line, less the verb.
    """
    # Two folders of kept features need no images.
    options = [replace(one, default=None) if one.name == "dataset" else one for one in shared(most=2)]
    options += options_of(How)
    given = parse(options, arguments or [], "python -m utilities compare", ABOUT, many="models")
    from utilities.hooks.calls.processes import Processes, process_group

    with reporting(), process_group(given.device) as device:
        rank = Processes.now().rank
        paths = run(given, rank, device)
        if rank == 0:
            from utilities.cli.files import say_written

            say_written(paths)


def run(given: SimpleNamespace, rank: int, device: torch.device) -> list[Path]:
    """Compare as the command line says, and write the result and its heatmap in the first process.

    Returns:
        The files.
    """
    from torch import distributed

    from utilities.cli.files import Files
    from utilities.cli.two_models import default_layers, facts_of_two, open_kept, open_two
    from utilities.compare.features.folder import is_kept
    from utilities.compare.two_models import compare
    from utilities.hooks.recorder import select_layers
    from utilities.plots.layer_ticks import chosen

    kept = [Path(word).is_dir() and is_kept(word) for word in given.models]
    if given.dataset is None and not any(kept):  # with one, the model beside it is named
        raise ValueError("--dataset is missing: digits, cifar10, folder:PATH, ...: see python -m utilities datasets")
    files = Files.of(given)
    two = open_kept(given) if any(kept) else open_two(given)
    models, same = two.models, two.models[0] is two.models[1]
    wanted = [given.layers1, given.layers1 if same and not given.layers2 else given.layers2]
    named_layers = any(own and tuple(own) != EVERY for own in wanted)
    layers = [
        None if own and tuple(own) == EVERY else list(own or default_layers(model))
        for own, model in zip(wanted, models, strict=True)
    ]
    # A repeated call's name, such as relu#2, is known only once the model has run.
    recorded = [select_layers(model, own or "*") for model, own in zip(models, layers, strict=True)]
    chosen(given.ticks and [tick.partition("#")[0] for tick in given.ticks], *recorded)
    result = compare(
        *models,
        *two.images,
        layers1=layers[0],
        layers2=layers[1],
        strict=None if named_layers else False,
        device=device,
        sharded=distributed.is_initialized(),
        resume=files.base,
        provenance=facts_of_two(two, given.seed, device if rank == 0 else None),
        precision=EXACT_NAMES.get(given.precision, given.precision),
        **{name: getattr(given, name) for name in PASSED},
    )
    if rank:
        return []
    paths = files.save(result)
    if files.formats:
        paths += files.save_figures({"": result.plot(ticks=given.ticks and list(given.ticks))})
    return paths + ([result.to_csv(files.base.with_name(f"{files.base.name}.csv"))] if files.table else [])
