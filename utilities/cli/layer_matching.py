"""Train the networks, match their layers, print the table."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utilities.cli.user_errors import reporting
from utilities.compare.layer_matching import INDEXES, VIEWS, LayerMatching, layer_matching
from utilities.datasets.factory import load_dataset
from utilities.datasets.images import ImageDataset
from utilities.datasets.loaders import Loader, make_loader
from utilities.hooks.views import check_view
from utilities.train import checkpoint_path, load_sets, make_loaders
from utilities.training.resumption import data_facts, data_now, finished, locked, refuse_diverged, refuse_other_data
from utilities.training.trainer import OPTIMIZERS, PRECISIONS, Recipe, Trainer, evaluate_or_nan
from utilities.utils import PROJECT_ROOT, set_seed, versions
from utilities.zoo.checkpoints import load_checkpoint, write_torch
from utilities.zoo.plain_cnn import WIDTHS, PlainCNN


def trained_networks(
    recipe: Recipe,
    seeds: Iterable[int],
    folder: str | Path,
    *,
    widths: Sequence[int] = WIDTHS,
    device: str | torch.device = "auto",
    precision: str = "auto",
    workers: int = 0,
    report: Callable[[str], None] = print,
) -> tuple[list[nn.Module], list[dict[str, Any]]]:
    """Train a `PlainCNN` from each seed, or load those that have been trained with the same recipe.

    All are trained on the same images; the seed decides on initial weights, order and augmentation. Checkpoints hold
    what those of `utilities.train.fit` do, and appear whole or not at all.

    Args:
        recipe: How to train; ``norm_images`` has to be 0.
        seeds: One for each network.
        folder: Where the checkpoints go.
        widths: Channels of each block.
        device: See `utilities.utils.resolve_device`.
        precision: See `utilities.training.trainer.autocast_dtype`.
        workers: Processes that load images.
        report: Is given a line for each epoch.

    Returns:
        The networks, and of each its seed and its accuracies on the validation and the test images.

    Raises:
        ValueError: For an unknown data set, or options out of range.
        FloatingPointError: If training diverges.

    Example:
        >>> import tempfile
        >>> recipe = Recipe("digits", epochs=1, image_size=8, n_images=20, batch_size=10, optimizer="adamw")
        >>> networks, facts = trained_networks(
        ...     recipe, [0, 1], tempfile.mkdtemp(), widths=(4, 4, 8), device="cpu", report=lambda line: None
        ... )
        >>> len(networks), list(facts[1])
        (2, ['seed', 'validation', 'test'])
    """
    name = "plain_cnn_" + "-".join(map(str, widths))
    recipe = recipe.resolved(name)
    if recipe.norm_images:
        raise ValueError(f"norm_images={recipe.norm_images}: these networks keep the running averages of training")
    sets: list[ImageDataset] = []  # read once, and only if something is left to train
    networks, facts = [], []
    for seed in seeds:
        path = checkpoint_path(folder, name, seed, recipe.epochs)
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path):
            content = finished(path, recipe, report=report)
            if content is not None:
                refuse_other_data(content, data_now(recipe, 0), path, recipe.dataset)
            else:
                sets = sets or load_sets(recipe)
                set_seed(seed)
                network = PlainCNN(sets[0].num_classes, widths)
                content = {"name": name, "num_classes": sets[0].num_classes, "seed": seed, "recipe": asdict(recipe)}
                content |= data_facts(sets)
                content |= _train(network, recipe, sets, seed, device, precision, workers, report)
                write_torch(path, content)
        network = PlainCNN(content["num_classes"], widths)
        load_checkpoint(network, content, path, {"name": name})
        networks.append(network)
        validation = content["history"][-1]["top1"] if content["history"] else None
        facts.append({"seed": seed, "validation": validation, "test": content["test"]["top1"]})
    return networks, facts


def _train(
    network: nn.Module,
    recipe: Recipe,
    sets: Sequence[ImageDataset],
    seed: int,
    device: str | torch.device,
    precision: str,
    workers: int,
    report: Callable[[str], None],
) -> dict[str, Any]:
    train, validation, test = make_loaders(sets, recipe, seed, workers)
    trainer = Trainer(network, recipe, train, validation, device=device, precision=precision)
    for epoch in range(recipe.epochs):
        row = trainer.run_epoch()
        report(
            f"seed {seed}, epoch {epoch + 1} of {recipe.epochs}: train loss {row['train_loss']:.4f}, "
            f"validation top-1 {row['top1']:.2%}, {row['seconds']:.1f} s"
        )
    result = evaluate_or_nan(trainer.model, test, device)
    refuse_diverged(trainer, result)
    facts = trainer.precision_facts() | {"versions": versions()}
    return facts | {"model": trainer.model.cpu().state_dict(), "history": trainer.history, "test": result}


def comparison_loader(
    dataset: str, n_images: int, batch_size: int, image_size: int | None = None, seed: int = 0
) -> Loader:
    """Load test images in batches as equal as can be, for measures that depend on the size of a batch.

    Args:
        dataset: See `utilities.datasets.load_dataset`.
        n_images: At most so many, of all classes alike.
        batch_size: At most so many in a batch.
        image_size: Pixels; None is the set's own.
        seed: Of the choice and the order of images.

    Raises:
        ValueError: For an unknown data set, or a number below 4, of which no measure can be computed.

    Example:
        >>> [len(labels) for _, labels in comparison_loader("digits", 2000, 300)]
        [270, 270]
    """
    if min(n_images, batch_size) < 4:
        raise ValueError(f"4 images or more are needed in all and in a batch, not {n_images} and {batch_size}")
    data = load_dataset(dataset, "test", image_size=image_size)
    if n_images < len(data):
        data = load_dataset(dataset, "test", image_size=image_size, n_images=n_images, seed=seed)
    batches = ceil(len(data) / batch_size)
    return make_loader(data, ceil(len(data) / batches), seed=seed)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Command line; None takes that of the process.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    with reporting(parser):
        result = run(given)
    accuracies = ", ".join(f"{100 * network['test']:.1f}" for network in result.provenance["trained"])
    print(
        f"\n{result.provenance['networks']} networks on {result.provenance['dataset']}, test accuracies {accuracies} %"
        f"\n{result.n} test images in batches of {result.provenance['batch_size']}, standard errors by jackknife over "
        f"networks\n\n{result.table()}"
    )
    if given.out:
        path = result.save(given.out)
        print(f"wrote {path.with_suffix('.json')} and {path.name}")


def run(given: argparse.Namespace) -> LayerMatching:
    """Train or load the networks and compare them as the command line says, after a look at what can be wrong."""
    if given.seeds < 2:
        raise ValueError(f"--seeds {given.seeds}: two networks or more are needed")
    for view in given.view:
        check_view(view)
    loader = comparison_loader(given.dataset, given.test_images, given.comparison_batch, given.image_size)
    recipe = Recipe(
        given.dataset,
        epochs=given.epochs,
        batch_size=given.batch_size,
        learning_rate=given.learning_rate,
        optimizer=given.optimizer,
        weight_decay=given.weight_decay,
        warmup=given.warmup,
        image_size=given.image_size,
        n_images=given.n_images,
    ).resolved("plain_cnn")
    folder = given.checkpoints / re.sub(r"\W+", "-", given.dataset)
    networks, trained = trained_networks(
        recipe, range(given.seeds), folder,
        widths=given.widths, device=given.device, precision=given.precision, workers=given.workers,
    )  # fmt: skip
    facts = {"dataset": loader.dataset.name, "channels": list(given.widths), "recipe": asdict(recipe)}
    return layer_matching(
        networks, loader, given.measures,
        views=given.view, device=given.device, provenance=facts | {"trained": trained}, report=print,
    )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m utilities.compare.layer_matching",
        description="Train one CNN from several seeds and see which measures of similarity find the layer at the same "
        "place in another network. Networks that have been trained with the same recipe are loaded.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--dataset", default="digits", help="digits, cifar10, folder:PATH, ...: see utilities.datasets.load_dataset")
    add("--seeds", type=int, default=4, help="how many networks, of the seeds 0, 1, ...")
    add("--widths", type=int, nargs="+", default=list(WIDTHS), metavar="CHANNELS", help="of each block")
    add("--epochs", type=int, default=12, help="of training")
    add("--n-images", type=int, help="train on this many images, of all classes alike; default: all")
    add("--image-size", type=int, help="pixels; default: the data set's own")
    add("--batch-size", type=int, default=32, help="of training")
    add("--optimizer", choices=OPTIMIZERS, default="adamw", help="of training")
    add("--learning-rate", type=float, default=3e-3, help="at its peak")
    add("--weight-decay", type=float, help="default: 5e-4 for sgd, 0.05 for adamw")
    add("--warmup", type=float, default=1.0, help="epochs of linear growth of the learning rate")
    add("--precision", choices=PRECISIONS, default="auto", help="of training; auto: bfloat16 where it is fast")
    add("--workers", type=int, default=0, help="processes that load training images")
    add("--test-images", type=int, default=2000, help="compare on so many at most")
    add("--comparison-batch", type=int, default=1000, help="images in a batch of the comparison at most")
    add("--measures", nargs="+", choices=list(INDEXES), default=list(INDEXES), metavar="NAME", help=", ".join(INDEXES))
    add("--view", nargs="+", default=list(VIEWS), help="what stands for an image: flatten, gap, ...; one column each")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    add("--checkpoints", type=Path, default=PROJECT_ROOT / "checkpoints", help="folder of the trained networks")
    add("--out", type=Path, help="RESULT.json, with RESULT.npz beside it")
    return parser
