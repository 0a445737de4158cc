"""The command ``python -m utilities.cli.hessian``: Hessian spectra of models by name, in two papers' settings.

    python -m utilities.cli.hessian --model1 resnet18 --weights1 checkpoints/r18.pth \
        --model2 vit_tiny_patch2_32 --weights2 checkpoints/vit.pth --dataset cifar100 \
        --weight-decay 0.05 --mixup 1.0 --cutmix 0.8 --n-batches 300 --out runs/hessian

Park & Kim 2022 (https://arxiv.org/abs/2202.06709) find ViTs flatter than ResNets: smaller eigenvalues on mini-batches
of augmented training images, the L2 penalty included. Chen et al. 2022 (https://arxiv.org/abs/2106.01548) find them
sharper: a larger dominant eigenvalue of the loss over images as they are, of models trained without strong
augmentation. These are other matrices. Both are computed here, and the table says of each what it is of.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from utilities.analysis.loss.curvature import DTYPES, MODES
from utilities.analysis.loss.hessian import HessianSpectra, hessian_spectra, over_training
from utilities.analysis.loss.mini_batches import SeededMixFunction
from utilities.claims.claim import state_claims
from utilities.claims.park_kim_2022.hessian import claims_of_readings
from utilities.cli.options import PICTURES, add_figure_options, figure_options
from utilities.cli.user_errors import reporting
from utilities.datasets.class_order import HELP, from_options
from utilities.datasets.factory import load_dataset
from utilities.datasets.loaders import Loader, make_loader
from utilities.plots.loss.hessian import plot_spectra
from utilities.plots.style import save_figures, split_picture
from utilities.study.study import Study
from utilities.training import augmentation
from utilities.training.augmentation import MixupCutmix
from utilities.training.recipes import CROPS, Recipe
from utilities.training.trainer import estimate_batch_norm
from utilities.utils import check_writable, write_whole
from utilities.zoo.checkpoints import read_checkpoint
from utilities.zoo.factory import NAMES, create_model
from utilities.zoo.inputs import input_options
from utilities.zoo.trained_on import refuse_other_classes

READINGS = ("mini-batch", "full")
STATED = ("weights", "epoch", "reading", "mode", "augmentation", "mix", "weight_decay", "batch_size", "n_batches")


def both_readings(
    model: nn.Module,
    augmented_loader: Iterable[Any],
    clean_loader: Iterable[Any],
    *,
    k: int = 5,
    batch_size: int = 16,
    n_batches: int = 16,
    ends: Sequence[str] = ("magnitude",),
    weight_decay: float = 0.05,
    mix: SeededMixFunction | None = None,
    label_smoothing: float = 0.0,
    full_images: int = 512,
    full_sets: int = 2,
    chunk: int = 64,
    provenance: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[str, HessianSpectra]:
    """Compute a model's Hessian eigenvalues in the setting of Park & Kim 2022 and in that of Chen et al. 2022.

    Args:
        model: Maps images to logits.
        augmented_loader: Training images, augmented as in training, for ``mini-batch``.
        clean_loader: Training images as they are, for ``full``.
        k: Eigenvalues of each mini-batch and end.
        batch_size: Images in a mini-batch.
        n_batches: How many mini-batches.
        ends: Of the mini-batches' eigenvalues, with ``"magnitude"``.
        weight_decay: lambda of the L2 penalty, in ``mini-batch`` alone.
        mix: Mixes the mini-batches, see `utilities.training.augmentation.MixupCutmix`; in ``mini-batch`` alone.
        label_smoothing: The same.
        full_images: Images over which the loss of ``full`` is averaged.
        full_sets: So many sets of that many other images each, for an error.
        chunk: Of these, images at once.
        provenance: What is known of model and images.
        **options: Of `utilities.analysis.loss.hessian.hessian_spectra`, for both.

    Returns:
        ``mini-batch``: the k eigenvalues largest in magnitude of each mini-batch, with NEP and APE. ``full``: the
        largest eigenvalue of the loss over many images, not augmented, without penalty. The provenance of each says
        what it is of.

    Raises:
        ValueError: As `utilities.analysis.loss.hessian.hessian_spectra` does.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> batch = torch.ones(8, 1, 2, 2), torch.tensor([0, 1] * 4)
        >>> sizes = {"batch_size": 4, "n_batches": 2, "full_images": 8, "full_sets": 1}
        >>> readings = both_readings(model, [batch], [batch], k=1, device="cpu", **sizes)
        >>> {name: (spectra.ends, spectra.provenance["weight_decay"]) for name, spectra in readings.items()}
        {'mini-batch': (['magnitude'], 0.05), 'full': (['largest'], 0.0)}
    """
    facts, largest = dict(provenance or {}), ("largest",)
    own = {"k": k, "batch_size": batch_size, "n_batches": n_batches, "ends": ends, "mix": mix}
    own |= {"weight_decay": weight_decay, "label_smoothing": label_smoothing}
    mode = options.get("mode", "eval")  # in mode "train" the images of a set have to be there at once
    rest = {"k": 1, "batch_size": full_images, "n_batches": full_sets, "ends": largest, "weight_decay": 0.0}
    rest |= {"chunk": chunk if mode == "eval" else None}
    settings = {"mini-batch": (augmented_loader, own), "full": (clean_loader, rest)}
    return {
        name: hessian_spectra(model, loader, provenance=facts | {"reading": name}, **setting, **options)
        for name, (loader, setting) in settings.items()
    }


def readings_table(results: Mapping[str, Mapping[str, HessianSpectra]]) -> pd.DataFrame:
    """Tabulate models and readings, a row each: what the Hessian is of, and what its eigenvalues sum up to.

    Args:
        results: Name of the model -> reading -> spectra, as of `both_readings`.

    Returns:
        ``model``, what `STATED` names, and the columns of `utilities.analysis.loss.hessian.HessianSpectra.summary`,
        with sharpness over the number of parameters and over the trace; NaN where a reading has no such number.
    """
    rows = []
    for model, readings in results.items():
        for reading, spectra in readings.items():
            stated = {name: spectra.provenance.get(name) for name in STATED}
            stated |= {name: stated[name] or "none" for name in ("augmentation", "mix")}
            rows.append({"model": model, **stated, "reading": reading, **spectra.summary()})
    return pd.DataFrame(rows)


def along_training(
    studies: Sequence[Study],
    every: int,
    finals: Mapping[str, HessianSpectra],
    *,
    train: Mapping[str, Any] | None = None,
    mixing: bool = False,
    start: bool = True,
    **options: Any,
) -> dict[str, dict[int, HessianSpectra]]:
    """Compute the spectra of each study's model at the start, at the end of the warm-up, and put the final ones to it.

    Batch norms of an untrained model do not normalise: before the last epoch, their statistics are estimated anew on
    training images, as `utilities.study.study.Study.random_model` does.

    Args:
        studies: One for each model.
        every: See `utilities.study.study.Study.snapshots`. Without a warm-up, the first of these stands for its end.
        finals: Name of the model -> spectra after training, on the same images.
        train: Options of `utilities.study.study.Study.training_loader`.
        mixing: Whether images are mixed as in training, see `utilities.study.study.Study.mixing`.
        start: Whether the initial weights are among the snapshots.
        **options: Of `utilities.analysis.loss.hessian.hessian_spectra`.

    Returns:
        Name of the model -> epoch -> spectra.
    """
    history = {}
    for study in studies:
        snapshots = study.snapshots(every)
        last, warm = max(snapshots), int(study.recipe.warmup)
        chosen = {epoch: snapshots[epoch] for epoch in (0, warm if 0 < warm < last else every) if epoch in snapshots}
        chosen.pop(last, None)
        if not start:
            chosen.pop(0, None)
        for model in chosen.values():
            if any(isinstance(module, _BatchNorm) for module in model.modules()):
                estimate_batch_norm(model, study.loader("train"))
        loader = study.training_loader(**(train or {}))
        facts = study.shared_facts(loader) | {"model": study.model}
        own = {"mix": study.mixing()} if mixing else {}
        found = over_training(chosen, loader, provenance=facts, **options, **own)
        history[study.model] = found | {last: finals[study.model]}
    return history


def by_epoch(history: Mapping[str, Mapping[int, HessianSpectra]]) -> dict[str, HessianSpectra]:
    """Name the spectra of all snapshots but the last ones, to save them.

    Example:
        >>> list(by_epoch({"cnn": {0: None, 2: None, 6: None}}))
        ['cnn_epoch_0', 'cnn_epoch_2']
    """
    return {
        f"{label}_epoch_{epoch}": snapshots[epoch]
        for label, snapshots in history.items()
        for epoch in sorted(snapshots)[:-1]
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Command line; None takes that of the process.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    with reporting(parser):
        results = run(given)
    table = readings_table(results)
    with pd.option_context("display.width", 120, "display.max_rows", None):
        print(table.T.to_string(header=False, float_format=lambda value: f"{value:.4g}"))
    out, suffix = split_picture(given.out)
    print(f"\n{state_claims(claims_of_readings(results), _beside(out, '_claims'))}\n")
    print(f"wrote {out}.csv, _table.csv, _claims.csv, {suffix}, and an npz and a json file for each model and reading")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m utilities.cli.hessian",
        description="Compute Hessian eigenvalues of models on mini-batches of augmented training images with the L2 "
        "penalty, and the largest one of the loss over images as they are.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    for i in "123":
        add(
            f"--model{i}",
            required=i == "1",
            help=NAMES,
        )
        add(f"--weights{i}", default="random", help=f"of model{i}: random, pretrained, or a checkpoint's path")
    add("--dataset", required=True, help="see utilities.datasets.load_dataset; its training images are used")
    add("--classes", nargs="+", metavar="NAME", help=HELP)
    add("--image-size", type=int, help="pixels; default: what a model asks for, else the data set's own")
    add("--k", type=int, default=5, help="eigenvalues of each mini-batch and end")
    add("--batch-size", type=int, default=16, help="images in a mini-batch")
    add("--n-batches", type=int, default=16, help="mini-batches")
    add("--both-ends", action="store_true", help="the k largest and the k smallest of each mini-batch as well")
    add("--weight-decay", type=float, default=0.05, help="lambda of the L2 penalty of mini-batches")
    add(
        "--crop",
        choices=CROPS,
        default="padded",
        help="augmentation of mini-batches, see utilities.training.recipes.Recipe",
    )
    add("--rand-augment", metavar="WORDS", help="of mini-batches, such as rand-m9-n2-mstd1.0; default: none")
    add("--erasing", type=float, default=0.0, help="probability that a rectangle is erased, of mini-batches")
    add("--mixup", type=float, default=0.0, metavar="ALPHA", help="of mini-batches; 0 is none")
    add("--cutmix", type=float, default=0.0, metavar="ALPHA", help="of mini-batches; 0 is none")
    add("--label-smoothing", type=float, default=0.0, help="of mini-batches")
    add("--full-images", type=int, default=512, help="images over which the other reading's loss is averaged")
    add("--full-sets", type=int, default=2, help="so many such sets, for an error")
    add("--chunk", type=int, default=64, help="of these, images at once")
    add("--mode", choices=MODES, default="eval", help="batch norms use running statistics, or those of the batch")
    add("--block", nargs="+", metavar="GLOB", help="names of parameters: the Hessian of these alone")
    add("--tolerance", type=float, default=1e-2, help="of residuals, relative to eigenvalues")
    add("--lanczos-vectors", type=int, help="held at once, 4 bytes a parameter each; default: SciPy's choice")
    add("--trace-probes", type=int, default=1, help="vectors of Hutchinson's estimate of the trace, of each Hessian")
    add("--dtype", choices=DTYPES, default="float32", help="of parameters and vectors")
    add("--seed", type=int, default=0, help="of order, augmentation, mixing, starting vectors and random weights")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    add("--out", required=True, type=Path, help=f"of the files: OUT.csv, OUT.png, OUT_table.csv, ...; {PICTURES}")
    add_figure_options(parser)
    return parser


def run(given: argparse.Namespace) -> dict[str, dict[str, HessianSpectra]]:
    """Compute as the command line says, and write results, tables and figure."""
    out, _ = split_picture(given.out)
    check_writable(out)
    pairs = [(getattr(given, f"model{i}"), getattr(given, f"weights{i}")) for i in "123" if getattr(given, f"model{i}")]
    prepared = dict(zip(_labels(pairs), [_prepared(given, *pair) for pair in pairs], strict=True))
    results = {}
    for label, (model, loaders, facts) in prepared.items():
        classes = loaders[0].dataset.num_classes
        mixing = MixupCutmix(classes, given.mixup, given.cutmix) if given.mixup or given.cutmix else None
        options = {name: getattr(given, name) for name in (
            "k", "batch_size", "n_batches", "weight_decay", "label_smoothing", "full_images", "full_sets", "chunk",
            "mode", "block", "tolerance", "lanczos_vectors", "trace_probes", "dtype", "seed", "device",
        )}  # fmt: skip
        ends = ("magnitude", "largest", "smallest") if given.both_ends else ("magnitude",)
        results[label] = both_readings(model, *loaders, ends=ends, mix=mixing, provenance=facts, **options)
        for reading, spectra in results[label].items():
            spectra.save(_beside(out, re.sub(r"[/\\:]", "-", f"_{label}_{reading}")))
    _write(results, out, given)
    return results


def _labels(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Name models by their names, with the weights where a name comes twice.

    Raises:
        ValueError: If the weights are the same as well.
    """
    alone = len({name for name, _ in pairs}) == len(pairs)
    labels = [name if alone else f"{name} {Path(weights).stem}" for name, weights in pairs]
    if len(set(labels)) < len(labels):
        raise ValueError(f"models should differ in name or in the name of their weights, got {', '.join(labels)}")
    return labels


def _prepared(given: argparse.Namespace, name: str, weights: str) -> tuple[nn.Module, list[Loader], dict[str, Any]]:
    """Make a model, its two loaders, and say what is known of it."""
    options: dict[str, Any] = input_options(name)
    options |= {} if given.image_size is None else {"image_size": given.image_size}
    options |= {"classes": from_options(given.classes)}
    plain, strong = (
        load_dataset(given.dataset, "train", seed=given.seed, augment=augment, masks=False, **options)
        for augment in (False, True)
    )
    recipe = Recipe(crop=given.crop, rand_augment=given.rand_augment, erasing=given.erasing)
    strong.augmentation = augmentation.recipe_augmentation(recipe, strong)
    loaders = [make_loader(part, 256, seed=given.seed, shuffle="every_epoch") for part in (strong, plain)]
    classes = plain.num_classes if weights == "random" else None  # else that of the weights
    model = create_model(name, classes, weights=weights, seed=given.seed)
    refuse_other_classes(model, plain)
    epoch, text = None, Path(weights).name
    if weights == "random":
        epoch, text = 0, f"untrained, seed {given.seed}"
    elif weights != "pretrained":
        epoch = len(read_checkpoint(Path(weights)).get("history") or []) or None
    facts = {
        "model": name,
        "weights": text,
        "epoch": epoch,
        "dataset": f"{plain.name} ({plain.part})",
        "seed": given.seed,
    }
    return model, loaders, facts


def _write(results: Mapping[str, Mapping[str, HessianSpectra]], out: Path, given: argparse.Namespace) -> None:
    tables = [
        spectra.to_frame().assign(model=model, reading=reading)
        for model, readings in results.items()
        for reading, spectra in readings.items()
    ]
    columns = ["model", "reading", "batch", "end", "rank", "eigenvalue", "residual"]
    whole = pd.concat(tables)[columns]
    write_whole(_beside(out, ".csv"), lambda path: whole.to_csv(path, index=False))
    write_whole(_beside(out, "_table.csv"), lambda path: readings_table(results).to_csv(path, index=False))
    figure = plot_spectra({model: readings["mini-batch"] for model, readings in results.items()})
    save_figures({"": figure}, out, **figure_options(given))


def _beside(out: Path, ending: str) -> Path:
    return out.with_name(out.name + ending)


if __name__ == "__main__":
    main()
