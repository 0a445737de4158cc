"""Check, train and time on a CUDA device, one item after the other; what is there already is done.

    python benchmarks/gpu.py --data folder:data/cifar10-jpeg --out runs/gpu --until 340 checks training speed
    python benchmarks/gpu.py --toy --device cpu --data digits --out runs/try  # tries the script itself

Each item writes small files below ``--out``, with the device and the versions, and is left out if they are there. One
that fails writes its traceback beside them and does not stop the others. None starts after ``--until`` seconds. The
models of ``training`` are stored below ``checkpoints/``; an interrupted training goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import gpu_checks
import gpu_claims
import gpu_speed
import gpu_studies
import gpu_training
import torch

from utilities.datasets.images import ImageDataset
from utilities.train import load_sets
from utilities.training.recipes import Recipe
from utilities.utils import resolve_device, versions, write_json


@dataclass
class Bench:
    """Hold what the items share.

    Attributes:
        out: Folder of the results.
        data: Name of the data set, of 32 x 32 pixels.
        device: The device.
        checkpoints: Folder of the trained models.
        toy: Whether everything is tried at a size that a CPU manages; the numbers mean nothing then.
        epochs: Epochs of the recipes, by name of the model; others have the recipe's own.
    """

    out: Path
    data: str
    device: torch.device
    checkpoints: Path
    toy: bool
    epochs: dict[str, int]

    @cached_property
    def sets(self) -> list[ImageDataset]:
        """Read the training, validation and test images, once."""
        return load_sets(Recipe(self.data, image_size=32, n_images=200 if self.toy else None))

    def facts(self) -> dict[str, Any]:
        """State where numbers come from."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        return {"device": name, "versions": versions() | {"cuda": torch.version.cuda or ""}, "toy": self.toy}


PARTS = {
    "checks": gpu_checks.items,
    "trials": gpu_training.trials,
    "training": gpu_training.items,
    "studies": gpu_studies.items,
    "claims": gpu_claims.items,
    "speed": gpu_speed.items,
}


def items(parts: list[str], bench: Bench) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Name the items of the parts that were asked for."""
    for part in parts:
        for name, function in PARTS[part](bench):
            yield f"{part}_{name}", function


def run(bench: Bench, parts: list[str], until: float) -> None:
    """Run the items that are not done, and print a line for each."""
    begun = time.perf_counter()
    for name, function in items(parts, bench):
        path = bench.out / f"{name}.json"
        if path.exists():
            continue
        if time.perf_counter() - begun > until:
            print(f"{name}: not begun, the time is over", flush=True)
            continue
        start = time.perf_counter()
        try:
            found = function()
        except Exception:  # the others still have their turn
            (bench.out / f"{name}.error.txt").write_text(traceback.format_exc())
            print(f"{name}: FAILED\n{traceback.format_exc()}", flush=True)
            continue
        seconds = round(time.perf_counter() - start, 1)
        write_json(path, bench.facts() | {"seconds": seconds, "found": found})
        print(f"{name}: {seconds} s: {json.dumps(found)[:1500]}", flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=f"any of {', '.join(PARTS)}; all by default")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints/gpu"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--until", type=float, default=float("inf"), help="seconds after which no item begins")
    parser.add_argument("--epochs", nargs="*", default=[], metavar="MODEL=N")
    parser.add_argument("--toy", action="store_true")
    given = parser.parse_args()
    unknown = sorted({*given.parts} - {*PARTS})
    if unknown:
        parser.error(f"{', '.join(unknown)}: no such part; choose from {', '.join(PARTS)}")
    epochs = {name: int(count) for name, _, count in (word.partition("=") for word in given.epochs)}
    given.out.mkdir(parents=True, exist_ok=True)
    device = resolve_device(given.device)
    run(Bench(given.out, given.data, device, given.checkpoints, given.toy, epochs), given.parts, given.until)


if __name__ == "__main__":
    main()
