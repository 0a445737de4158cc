"""The command ``python -m utilities.cli.landscape``: the loss landscape of a model by name, shared among processes.

    python -m utilities.cli.landscape --model resnet18 --weights checkpoints/r18.pth --dataset cifar100 \
        --points 21 --weight-decay 5e-4 --mixup 0.8 --cutmix 1.0 --smoothing 0.1 --jobs 4 --out runs/r18_landscape

On several machines with a common disk, give each a ``--part``, and call the command once more without it when all are
done: it finds their points and puts them together.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from timm.data import Mixup
from torch import nn

from utilities.analysis.loss.directions import random_directions
from utilities.analysis.loss.grid_losses import BATCH_NORMS
from utilities.analysis.loss.landscape import Landscape, loss_landscape
from utilities.analysis.loss.unfinished_landscape import unfinished_files
from utilities.cli.options import PICTURES, add_figure_options, figure_options
from utilities.cli.user_errors import reporting
from utilities.datasets.class_order import HELP, from_options
from utilities.datasets.factory import SPLITS, load_dataset
from utilities.datasets.loaders import Loader, make_loader
from utilities.plots.loss.landscape import plot_contours, plot_cuts, plot_surfaces
from utilities.plots.style import save_figures, split_picture
from utilities.utils import PROJECT_ROOT, check_writable
from utilities.zoo.factory import NAMES, create_model
from utilities.zoo.inputs import input_options
from utilities.zoo.trained_on import refuse_other_classes


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Command line; None takes that of the process.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    given = parser.parse_args(arguments)
    with reporting(parser):
        run(given, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m utilities.cli.landscape",
        description="Measure the loss of a model on a grid of points around its weights, along two random "
        "filter-normalised directions, on the same images at every point.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add, switch = parser.add_argument, argparse.BooleanOptionalAction
    add(
        "--model",
        required=True,
        help=NAMES,
    )
    add("--weights", default="random", help="random, pretrained, or a checkpoint's path")
    add("--model-seed", type=int, default=0, help="of random weights")
    add("--dataset", required=True, help="see utilities.datasets.load_dataset")
    add("--split", choices=SPLITS, default="train", help="which part of it")
    add("--classes", nargs="+", metavar="NAME", help=HELP)
    add("--image-size", type=int, help="pixels; default: what the model asks for, else the data set's own")
    add("--n-images", type=int, help="as many of each class as there are; default: all")
    add("--batch-size", type=int, default=256, help="images in a batch")
    add("--augment", action=switch, default=True, help="shift and mirror the images, as in training")
    add("--mixup", type=float, default=0.0, metavar="ALPHA", help="of timm's Mixup; 0 is none")
    add("--cutmix", type=float, default=0.0, metavar="ALPHA", help="of timm's CutMix; 0 is none")
    add("--smoothing", type=float, default=0.0, help="of labels")
    add("--data-seed", type=int, default=0, help="of order and augmentation")
    add("--points", type=int, default=21, help="along an axis, odd")
    add("--extent", type=float, default=1.0, help="where the axes end, in filter norms")
    add("--one-dimensional", action="store_true", help="along the first direction alone")
    add("--weight-decay", type=float, default=0.0, help="lambda of the L2 penalty, lambda/2 times the squared norm")
    add("--decay-vectors", action=switch, default=True, help="count biases and norms in the penalty")
    add("--seed", type=int, default=0, help="of the directions, and of mixing")
    add("--orthogonal", action="store_true", help="make the second direction orthogonal to the first, filter by filter")
    add("--directions", action=switch, default=True, help="save both directions, 8 bytes for each parameter")
    add("--batch-norm", choices=BATCH_NORMS, default="trained", help="whose statistics batch norms use")
    add("--memory", type=float, default=4.0, help="GiB that the images may take")
    add("--jobs", type=int, default=1, help="processes that share the points; each holds model and images")
    add("--part", type=int, nargs=2, metavar=("I", "COUNT"), help="measure points I, I + COUNT, ... alone")
    add("--resume", action=switch, default=True, help="go on with the points that a killed run left")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    add("--workers", type=int, default=0, help="processes that load images, for each process")
    add("--out", required=True, type=Path, help=f"RESULT.npz; pictures and all else lie beside it; {PICTURES}")
    add_figure_options(parser)
    return parser


def run(given: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Measure as the command line says; write the result, its directions and its pictures, unless it is a part."""
    if given.jobs < 1 or (given.part and given.jobs > 1):
        raise ValueError(f"--jobs {given.jobs} should be 1 or more, and 1 beside --part")
    base, _ = split_picture(given.out)
    check_writable(base)
    loader = _loader(given)
    classes = loader.dataset.num_classes if given.weights == "random" else None  # else that of the weights
    model = create_model(given.model, classes, weights=given.weights, seed=given.model_seed)
    refuse_other_classes(model, loader.dataset)
    if not given.resume:
        for path in unfinished_files(base, given.model):
            path.unlink()
    if given.jobs > 1:
        share(given, arguments)
    result = _measure(given, model, loader, base)
    if given.part:
        print(f"part {given.part[0]} of {given.part[1]} is done; call the command without --part once all are")
        return
    result.save(base)
    written = [f"{base.name}.npz", f"{base.name}.json", *_draw(result, base, given)]
    if given.directions:
        path = random_directions(model, given.seed, orthogonal=given.orthogonal).save(_beside(base, "_directions"))
        written.append(path.name)
    print(f"wrote {', '.join(written)} to {base.absolute().parent}")


def share(given: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Start a process for each part, and wait for all; if one fails, the others are ended.

    Raises:
        ChildProcessError: Naming the part that failed.
    """
    command = [sys.executable, "-m", "utilities.cli.landscape", *arguments, "--jobs", "1", "--resume"]
    threads = str(max(1, (os.cpu_count() or 1) // given.jobs))
    paths = os.pathsep.join(filter(None, [str(PROJECT_ROOT), os.environ.get("PYTHONPATH")]))
    environment = {"OMP_NUM_THREADS": threads, **os.environ, "PYTHONPATH": paths}
    gpus = torch.cuda.device_count() if given.device in ("auto", "cuda") else 0
    started: list[subprocess.Popen] = []
    try:
        for part in range(given.jobs):
            device = ["--device", f"cuda:{part % gpus}"] if gpus else []
            own = [*command, *device, "--part", str(part), str(given.jobs)]
            started.append(subprocess.Popen(own, env=environment))
        while any(process.poll() is None for process in started):
            _refuse_failure(started)
            time.sleep(0.1)
        _refuse_failure(started)
    finally:
        for process in started:
            if process.poll() is None:
                process.terminate()
            process.wait()


def _refuse_failure(started: Sequence[subprocess.Popen]) -> None:
    for part, process in enumerate(started):
        if process.returncode:
            raise ChildProcessError(
                f"part {part} of {len(started)} ended with status {process.returncode}; what is done is kept, and the "
                "same command goes on with it"
            )


def _loader(given: argparse.Namespace) -> Loader:
    options: dict[str, Any] = input_options(given.model)
    options |= {} if given.image_size is None else {"image_size": given.image_size}
    options |= {"classes": from_options(given.classes)}
    data = load_dataset(
        given.dataset, given.split, n_images=given.n_images, seed=given.data_seed, augment=given.augment, **options
    )
    if (given.mixup or given.cutmix or given.smoothing) and (len(data) % 2 or given.batch_size % 2):
        raise ValueError(
            f"mixing takes images in pairs, but there are {len(data)} in batches of {given.batch_size}; make both even "
            "with --n-images and --batch-size"
        )
    return make_loader(data, given.batch_size, seed=given.data_seed, workers=given.workers)


def _mix(given: argparse.Namespace, classes: int) -> Mixup | None:
    if not (given.mixup or given.cutmix or given.smoothing):
        return None
    mixes = float(given.mixup > 0 or given.cutmix > 0)
    return Mixup(given.mixup, given.cutmix, prob=mixes, label_smoothing=given.smoothing, num_classes=classes)


def _measure(given: argparse.Namespace, model: nn.Module, loader: Loader, base: Path) -> Landscape:
    """Measure the points of this process; those that others have measured are read."""
    first = not given.part or given.part[0] == 0  # one of several processes reports
    seed = f"untrained, seed {given.model_seed}" if given.weights == "random" else Path(given.weights).name
    augmented = ", augmented" if given.augment else ""
    facts = {
        "model": given.model,
        "weights": seed,
        "dataset": f"{loader.dataset.name} ({loader.dataset.part}{augmented})",
    }
    return loss_landscape(
        model,
        loader,
        mix=_mix(given, loader.dataset.num_classes),
        part=tuple(given.part or (0, 1)),
        resume=base,
        report=print if first else None,
        progress=first,
        device=given.device,
        provenance=facts | {"data_seed": given.data_seed},
        **{name: getattr(given, name) for name in (
            "points", "extent", "one_dimensional", "weight_decay", "decay_vectors", "seed", "orthogonal", "batch_norm",
            "memory",
        )},
    )  # fmt: skip


def _draw(result: Landscape, base: Path, given: argparse.Namespace) -> list[str]:
    """Draw contours and surface, or a line, and name the pictures."""
    if len(result.y) == 1:
        figures = {"": plot_cuts(result)}
    else:
        figures = {"": plot_contours(result), "_surface": plot_surfaces(result), "_cut": plot_cuts(result)}
    return [path.name for path in save_figures(figures, base, **figure_options(given))]


def _beside(base: Path, ending: str) -> Path:
    return base.with_name(base.name + ending)


if __name__ == "__main__":
    main()
