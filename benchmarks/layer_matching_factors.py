"""Find out what decides whether CCA and linear regression match layers: view, width, or the number of images.

    nice -n 10 python benchmarks/layer_matching_factors.py --out runs/factors

Networks of ten layers, as in Kornblith et al. 2019, table 2 (https://arxiv.org/abs/1905.00414), are trained from
several seeds for each width and compared as in `utilities.compare.layer_matching`. There, features at least as many as
images are refused, because every regression is then perfect. Here they are let through: flattened maps of All-CNN-C on
CIFAR-10 have 6,912 to 98,304 features in all layers but the last, and in six of nine more than the 10,000 test images.
Rounding then decides between equal values.

Every cell is a file of its own; a cell that is there is not computed again. Checkpoints are kept.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from utilities.compare.layer_matching import layer_matching, mean_accuracy
from utilities.compare.measures.measure import centered
from utilities.compare.measures.table import SIMILARITY_MEASURES
from utilities.datasets.factory import load_dataset
from utilities.hooks.features import unit_scale
from utilities.hooks.recorder import Recorder
from utilities.train import fit
from utilities.training.recipes import Recipe
from utilities.utils import PROJECT_ROOT, versions
from utilities.zoo.checkpoints import read_checkpoint
from utilities.zoo.factory import create_model

LAYERS = ["block?", "pool"]
DIGITS = Recipe("digits", epochs=12, batch_size=32, learning_rate=3e-3, optimizer="adamw", warmup=1.0)
SHORT = replace(DIGITS, epochs=6)
CIFAR = Recipe(
    "folder:data/CIFAR-10 (JPEG)", epochs=8, batch_size=128, learning_rate=3e-3, optimizer="adamw", warmup=1.0,
    n_images=10000,
)  # fmt: skip
REFUSED = ("linear_regression", "cca", "pwcca")  # of flattened maps, by `layer_matching`


@dataclass(frozen=True)
class Cell:
    """One combination of factors."""

    recipe: str
    width: int
    view: str
    n: int
    slow: bool = True  # whether PWCCA is computed of flattened maps, which decomposes each pair of layers

    @property
    def name(self) -> str:
        """Name its file."""
        return f"{self.recipe}_width_{self.width}_{self.view}_n_{self.n}"


CELLS = [
    *(Cell("short", 16, "flatten", n) for n in (180, 540)),
    *(Cell("short", 16, "gap", n) for n in (180, 540, 1797)),
    *(Cell("short", 4, "gap", n) for n in (180, 1797)),
    Cell("short", 4, "flatten", 180),
    Cell("short", 4, "flatten", 1797, slow=False),  # fewer features than images in all layers
    Cell("digits", 16, "flatten", 180),  # features per image as those of All-CNN-C of 10,000 images
    *(Cell("digits", 16, "gap", n) for n in (180, 540, 1797)),
    Cell("digits", 48, "flatten", 540, slow=False),  # the same ratio
    *(Cell("digits", 48, "gap", n) for n in (180, 540, 1797)),
    *(Cell("cifar", 16, "gap", n) for n in (540, 1670)),
    Cell("cifar", 16, "flatten", 1670, slow=False),  # the same ratio
]


def trained(recipe: Recipe, width: int, seeds: int, folder: Path) -> tuple[list[nn.Module], list[float]]:
    """Train, or load, networks of one width, and their accuracies on the test images."""
    networks, accuracies = [], []
    for seed in range(seeds):
        path = fit("plain_cnn10", recipe, seed, folder, resume=True, options={"width": width})
        content = read_checkpoint(path)
        networks.append(create_model("plain_cnn10", content["num_classes"], path, width=width))
        accuracies.append(content["test"]["top1"])
    return networks, accuracies


def images_of(recipe: Recipe, n: int) -> torch.Tensor:
    """Read test images, and training images behind them where there are too few."""
    parts = [load_dataset(recipe.dataset, "test")]
    if n > len(parts[0]):
        parts += [load_dataset(recipe.dataset, split) for split in ("train", "validation")]
    else:
        parts = [load_dataset(recipe.dataset, "test", n_images=n)]
    return torch.stack([data[i][0] for data in parts for i in range(len(data))])[:n]


def let_through(networks: Sequence[nn.Module], images: torch.Tensor, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Compare flattened maps without regard to widths, (networks, networks, layers, layers) for each measure."""
    features = []
    for network in networks:
        with Recorder(network.eval(), LAYERS) as recorder, torch.inference_mode():
            network(images)
        maps = [value.flatten(1).double() for value in recorder.activations.values()]
        features.append([centered(unit_scale(x)[0]) for x in maps])
    found = {}
    for name in names:
        measure = SIMILARITY_MEASURES[name]
        rows = [[measure.prepare_row(x) for x in own] for own in features]
        columns = [[measure.prepare_column(x) for x in own] for own in features]
        one = len(features[0])
        values = np.full((len(networks), len(networks), one, one), np.nan)
        for a, b in [(a, b) for a in range(len(networks)) for b in range(len(networks)) if a != b]:
            values[a, b] = measure.pairs(rows[a], columns[b]).numpy()
        found[name] = (values + values.transpose(1, 0, 3, 2)) / 2
    return found


def compute(cell: Cell, seeds: int, checkpoints: Path) -> dict[str, Any]:
    """Train and compare the networks of one cell."""
    recipe = {"digits": DIGITS, "short": SHORT, "cifar": CIFAR}[cell.recipe].resolved("plain_cnn10")
    networks, accuracies = trained(recipe, cell.width, seeds, checkpoints / f"plain_cnn10_{cell.width}_{cell.recipe}")
    images = images_of(recipe, cell.n)
    names = ["cka", "svcca", *REFUSED] if cell.view == "gap" else ["cka", "svcca"]
    result = layer_matching(networks, [images], names, layers=LAYERS, views=[cell.view], device="cpu", progress=False)
    found = {name: result.matrices[i] for i, name in enumerate(result.measures)}
    if cell.view == "flatten":
        found |= let_through(networks, images, [name for name in REFUSED if cell.slow or name != "pwcca"])
    percent = {name: [100 * value for value in mean_accuracy(matrices)] for name, matrices in found.items()}
    facts = {"recipe": asdict(recipe), "accuracies": accuracies, "widths": result.widths[cell.view], "n": len(images)}
    return {"cell": asdict(cell), "percent": percent, "skipped": result.skipped} | facts | {"versions": versions()}


def main() -> None:
    """Compute the cells that are not there yet, and print all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=PROJECT_ROOT / "runs" / "factors")
    parser.add_argument("--checkpoints", type=Path, default=PROJECT_ROOT / "checkpoints")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="cells whose names begin so")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    for cell in [one for one in CELLS if one.name.startswith(given.only)]:
        path = given.out / f"{cell.name}.json"
        if not path.is_file():
            start = time.perf_counter()
            content = compute(cell, given.seeds, given.checkpoints) | {"seconds": time.perf_counter() - start}
            path.write_text(json.dumps(content, indent=1))
        content = json.loads(path.read_text())
        cells = ", ".join(f"{name} {value:.1f} ± {error:.1f}" for name, (value, error) in content["percent"].items())
        print(f"{cell.name}: {cells}; features {content['widths']}", flush=True)


if __name__ == "__main__":
    main()
