"""Train a CNN and two hybrids on the same 10,000 small natural images, and put them through the analyses.

    python benchmarks/ten_thousand.py "folder:data/CIFAR-10 (JPEG)"
    python -m utilities images --keep-ten-thousand runs/ten_thousand

Each model has a seed of its own, so that none begins with another's weights. What is there already is kept, and an
interrupted training goes on. On two CPU cores beside other work, training took some two hours.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SEEDS = {"resnet18": 0, "lambda_resnet26": 1, "alternet18": 2}
# Lambda layers need batch norms that normalise, see `utilities.study.profiles.NORM_IMAGES`.
OWN = {"lambda_resnet26": ["--norm-images", "512"]}
RECIPE = ["--recipe", "fast", "--image-size", "32", "--n-images", "10000", "--mirrored", "--resume"]
TWINS = [("resnet18", "lambda_resnet26"), ("resnet18", "alternet18")]
PAIRS = [*TWINS, *((name, name) for name in SEEDS)]
SOME, FEW = ["--n-images", "2000", "--batch-size", "250"], ["--n-images", "500", "--batch-size", "250"]
LOSS = ["--weight-decay", "0.05", "--label-smoothing", "0.1"]
LINE = ["--points", "9", "--one-dimensional", "--n-images", "256", "--batch-size", "256", *LOSS]
EIGENVALUES = ["--k", "5", "--batch-size", "16", "--n-batches", "12", "--tolerance", "0.05", "--lanczos-vectors", "12"]
# Name of the result -> analysis and options.
ANALYSES = {
    "fourier": ("fourier", SOME),
    "variance": ("variance", SOME),
    "lesions": ("lesions", SOME),
    "noise_frequency": ("noise_frequency", [*SOME, "--bands", "9", "--eps", "0.2"]),
    "robustness": ("robustness", FEW),
    "identifiability": ("identifiability", ["--n-images", "1000", "--batch-size", "250"]),
    "landscape": ("landscape", LINE),
    "landscape_estimated": ("landscape", [*LINE, "--batch-norm", "estimate"]),
    "hessian": ("hessian", [*EIGENVALUES, *LOSS]),
}


def commands(dataset: str, checkpoints: Path, out: Path) -> Iterator[tuple[Path, list[str]]]:
    """List all commands of this package, each with a file that it writes."""
    data = ["--dataset", dataset, "--image-size", "32"]
    paths = {name: checkpoints / f"{name}_seed_{seed}_epochs_10.pth" for name, seed in SEEDS.items()}
    for name, seed in SEEDS.items():
        words = ["train", name, "10", str(seed), str(checkpoints), "--dataset", dataset, *RECIPE, *OWN.get(name, [])]
        yield paths[name], words
    trained = {name: f"{name}={path}" for name, path in paths.items()}
    compared = {f"similarity_{one}_{two}": [*dict.fromkeys((trained[one], trained[two]))] for one, two in PAIRS}
    for one, two in TWINS:
        compared[f"untrained_{one}_{two}"] = [one, two, "--model-seeds", str(SEEDS[one]), str(SEEDS[two])]
    for name, models in compared.items():
        yield out / f"{name}.npz", ["compare", *models, *data, *SOME, "--out", str(out / name)]
    for name, (analysis, options) in ANALYSES.items():
        words = ["analyse", analysis, "--models", *trained.values(), *data, *options, "--out", str(out / name)]
        yield out / f"{name}_alternet18.npz", words


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="cifar10, or folder:PATH with class folders")
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints/ten_thousand"))
    parser.add_argument("--out", type=Path, default=Path("runs/ten_thousand"))
    given = parser.parse_args()
    for file, words in commands(given.dataset, given.checkpoints, given.out):
        if not file.exists():
            print("python -m utilities", *words, flush=True)
            subprocess.run([sys.executable, "-m", "utilities", *words], check=True)


if __name__ == "__main__":
    main()
