"""The command ``python -m utilities.compare``: two models by name, a data set by name, a result and its heatmap.

Under torchrun each process takes its share of the batches; the result is that of a single process:

    torchrun --nproc_per_node=2 -m utilities.compare --model1 resnet18 --model2 lambda_resnet26 \
        --weights1 checkpoints/r18.pth --weights2 checkpoints/l26.pth --dataset cifar100 --out runs/r18_l26.npz
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn

from utilities.cli.options import PICTURES, add_figure_options, figure_options
from utilities.cli.user_errors import reporting
from utilities.compare.measures.table import SIMILARITY_MEASURES
from utilities.compare.two_models import compare
from utilities.datasets.class_order import HELP, from_options
from utilities.datasets.factory import SPLITS, load_dataset
from utilities.datasets.loaders import Loader, make_loader, same_input
from utilities.hooks.precision import PRECISIONS
from utilities.hooks.recorder import select_layers
from utilities.plots.layer_ticks import chosen
from utilities.plots.style import save_figures, split_picture
from utilities.utils import check_writable, evaluate, resolve_device
from utilities.zoo.factory import NAMES, create_model
from utilities.zoo.inputs import input_options
from utilities.zoo.layers import comparison_layers
from utilities.zoo.trained_on import other_classes


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Command line; None takes that of the process.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    with reporting(parser), process_group(given.device) as (rank, device):
        path = run(given, rank, device)
        if rank == 0:
            print(f"wrote {path}, {path.with_suffix('.json').name} and {path.stem}{split_picture(given.out)[1]}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m utilities.compare",
        description="Compare the layers of two models over the images of a data set. Run it under torchrun to share "
        "the batches among processes. A run that was killed goes on where it stopped when called again.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--model1",
        required=True,
        help=f"rows: {NAMES}",
    )
    add("--model2", help="columns; model1 itself if left out")
    for k in "12":
        add(f"--weights{k}", default="random", help=f"of model{k}: random, pretrained, or a checkpoint's path")
        add(f"--seed{k}", type=int, default=0, help=f"of the random weights of model{k}")
        add(
            f"--layers{k}",
            nargs="+",
            metavar="NAME",
            help="names, globs, or !GLOB to leave out; default: the main ones",
        )
        add(f"--image-size{k}", type=int, help="pixels; default: what the model asks for, else the data set's own")
    add("--dataset", required=True, help="see utilities.datasets.load_dataset")
    add("--classes", nargs="+", metavar="NAME", help=HELP)
    add("--split", choices=SPLITS, default="test", help="which part of it")
    add("--n-images", type=int, help="as many of each class as there are; default: all")
    add("--batch-size", type=int, default=256, help="images in a batch")
    add("--measure", choices=["cka", *SIMILARITY_MEASURES], default="cka", help="what is computed")
    add("--kernel", choices=["linear", "rbf"], default="linear", help="of CKA")
    add("--estimator", choices=["debiased", "biased"], default="debiased", help="of CKA")
    add("--bandwidth", type=float, default=1.0, help="of the RBF kernel: sigma over the median distance")
    add("--view", default="flatten", help="flatten, gap, cls, spatial or token:i; gap:NCL names the axes")
    add("--forward", metavar="METHOD", help="how the models are run: forward_features, encode_image, ...")
    add("--batch-axis", type=int, metavar="AXIS", help="dimension of outputs that counts images; default: found out")
    add("--precision", choices=PRECISIONS, default="auto", help="exact, or faster")
    add("--repeats", type=int, default=1, help="passes, each shuffled anew")
    add("--permutations", type=int, default=0, help="for a null distribution; 100 is usual")
    add("--confounder", choices=["input"], help="regress the input images' own similarity out")
    add("--remove-top-pc", type=int, default=0, metavar="K", help="leave out K leading components")
    add("--per-batch", action="store_true", help="keep each batch's own value")
    add("--seed", type=int, default=0, help="of the order of the images and of permutations")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    add("--workers", type=int, default=0, help="processes that load images, for each process")
    add("--out", required=True, type=Path, help=f"RESULT.npz; RESULT.json and the heatmap RESULT.png; {PICTURES}")
    add("--ticks", nargs="+", metavar="LAYER", help="names or globs of layers to label; default: as many as fit")
    add_figure_options(parser)
    return parser


@contextmanager
def process_group(device: str) -> Iterator[tuple[int, torch.device]]:
    """Join the group that torchrun started, if it did, and leave it on exit.

    Args:
        device: Asked for; under torchrun ``auto`` and ``cuda`` give each process a GPU of its own.

    Yields:
        This process's number and its device.

    Example:
        >>> with process_group("cpu") as (rank, device):
        ...     rank, device
        (0, device(type='cpu'))
    """
    if "RANK" not in os.environ:
        yield 0, resolve_device(device)
        return
    local, own = int(os.environ.get("LOCAL_RANK", 0)), resolve_device(device)
    if own.type == "cuda" and own.index is None:
        own = torch.device("cuda", local % torch.cuda.device_count())
        torch.cuda.set_device(own)
    distributed.init_process_group("gloo")  # small sums in main memory travel once, at the end
    try:
        yield distributed.get_rank(), own
    finally:
        distributed.destroy_process_group()


def run(given: argparse.Namespace, rank: int, device: torch.device) -> Path:
    """Compare as the command line says, and write the result and its heatmap in the first process.

    Returns:
        The path of the npz file.
    """
    base, _ = split_picture(given.out)
    path = base.with_name(f"{base.name}.npz")
    check_writable(path)
    names = [given.model1, given.model2 or given.model1]
    same = given.model2 is None
    sides = "11" if same else "12"
    loaders = [_loader(given, name, getattr(given, f"image_size{k}")) for name, k in zip(names, sides, strict=True)]
    classes = loaders[0].dataset.num_classes
    models = [_model(given, name, k, classes) for name, k in zip(names, sides, strict=True)]
    if same:
        models[1] = models[0]
    layers = [getattr(given, f"layers{k}") or comparison_layers(model) for k, model in zip(sides, models, strict=True)]
    # A repeated call's name, such as relu#2, is known only once the model has run.
    chosen(given.ticks and [tick.partition("#")[0] for tick in given.ticks], *map(select_layers, models, layers))
    result = compare(
        *models,
        loaders[0],
        None if same_input(*loaders) else loaders[1],
        layers1=layers[0],
        layers2=layers[1],
        strict=None if given.layers1 or given.layers2 else False,
        device=device,
        sharded=distributed.is_initialized(),
        resume=path.with_suffix(""),
        provenance=_facts(given, names, models, loaders, device if rank == 0 else None),
        **{name: getattr(given, name) for name in (
            "measure", "kernel", "estimator", "bandwidth", "view", "precision", "repeats", "permutations",
            "confounder", "remove_top_pc", "per_batch", "seed", "forward", "batch_axis",
        )},
    )  # fmt: skip
    if rank == 0:
        result.save(path)
        save_figures({"": result.plot(ticks=given.ticks)}, base, **figure_options(given))
    return path


def _loader(given: argparse.Namespace, name: str, size: int | None) -> Loader:
    options: dict[str, Any] = input_options(name)
    options |= {} if size is None else {"image_size": size}
    options |= {"classes": from_options(given.classes)}
    data = load_dataset(given.dataset, given.split, n_images=given.n_images, seed=given.seed, **options)
    return make_loader(data, given.batch_size, seed=given.seed, workers=given.workers)


def _model(given: argparse.Namespace, name: str, k: str, classes: int) -> nn.Module:
    weights = getattr(given, f"weights{k}")
    own = classes if weights == "random" else None  # else the classifier that the weights bring
    return create_model(name, own, weights=weights, seed=getattr(given, f"seed{k}"))


def _facts(
    given: argparse.Namespace,
    names: Sequence[str],
    models: Sequence[nn.Module],
    loaders: Sequence[Loader],
    device: torch.device | None,
) -> dict[str, Any]:
    """Say what is compared; accuracies are measured in the first process, where weights are no random ones."""
    facts: dict[str, Any] = {"dataset": f"{loaders[0].dataset.name} ({loaders[0].dataset.part})", "seed": given.seed}
    for k, name, model, loader in zip("12", names, models, loaders, strict=True):
        if k == "2" and model is models[0]:
            return {**{key.rstrip("1"): value for key, value in facts.items()}}
        weights = getattr(given, f"weights{k}")
        seed = f", seed {getattr(given, f'seed{k}')}" if weights == "random" else ""
        facts |= {f"model{k}": name, f"weights{k}": f"{'untrained' if seed else Path(weights).name}{seed}"}
        if device is not None and weights not in ("random", "pretrained"):
            if fault := other_classes(model, loader.dataset):
                warnings.warn(f"{fault}; the accuracy is left out", stacklevel=2)
                continue
            facts[f"accuracy{k}"] = evaluate(model, loader, device=device)["top1"]
    return facts
