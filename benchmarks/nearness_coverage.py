"""How often do intervals of `compare_similarities` hold the truth, and how often is a largest difference found in vain?

Features are linear in a hidden variable, so that linear CKA has a closed form. Many samples of each case are drawn.

    python benchmarks/nearness_coverage.py            # 2,000 samples of each case, written to benchmarks/results
    python benchmarks/nearness_coverage.py --samples 50 --out runs/coverage.csv
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from utilities.compare.gram_differences import difference_of_grams
from utilities.compare.resampled_grams import draw_weights, resampled_sums
from utilities.metrics import center

RESAMPLES = 200
LEVEL = 0.05


@dataclass(frozen=True)
class Case:
    """Describe a shared model A and two others, B and C, that copy it with noise.

    Attributes:
        name: What is drawn.
        noise1: Standard deviation of B's noise; infinite: B is independent of A.
        noise2: The same of C.
        n: Number of images.
        batches: Number of batches.
        width: Number of features.
        decay: Whether the variance of features falls as 1, 1/2, 1/3, ...
        freedom: Degrees of freedom of t-distributed features; 0: normal.
        layers: Number of layers, whose noise is correlated.
        seeds: Number of models of B and of C; each weighs A's features with random factors of its own.
        others: Number of layers of B and of C, among which the best match is taken.
        apart: Share by which the noise of each of these is larger than that of the one before.
        matrix: Whether all layers of A are compared with all layers of B and of C.
        own: Standard deviation of the noise of A's second layer; that of each further one is larger by as much.
        own_seeds: Number of models of A; each weighs features as those of B and of C do.
        percentile: Whether to look at uncorrected percentile intervals as well.
    """

    name: str
    noise1: float
    noise2: float
    n: int = 100
    batches: int = 1
    width: int = 10
    decay: bool = False
    freedom: int = 0
    layers: int = 1
    seeds: int = 1
    percentile: bool = False
    others: int = 1
    apart: float = 0.0
    matrix: bool = False
    own: float = 0.0
    own_seeds: int = 1


CASES = [
    Case("C noisier", 0.5, 1.0, percentile=True),
    Case("B = C in distribution", 1.0, 1.0),
    Case("B = C, unequal variances", 0.3, 0.3, decay=True),
    Case("C noisier, heavy tails", 0.3, 0.6, decay=True, freedom=8),
    Case("C independent", 0.5, np.inf, percentile=True),
    Case("B and C independent", np.inf, np.inf),
    Case("C noisier, twice as wide as n", 1.0, 2.0, width=200, percentile=True),
    Case("C noisier, 3 batches", 0.5, 1.0, n=180, batches=3),
    Case("B = C, 6 layers", 1.0, 1.0, layers=6),
    Case("B = C, 5 seeds of each", 0.5, 0.5, seeds=5),
    Case("C noisier, best of 3 layers", 0.5, 0.7, others=3, apart=0.5),
    Case("B = C, best of 3 equal layers", 0.8, 0.8, others=3),
    Case("B = C, whole 4 x 4 matrix", 0.8, 0.8, layers=4, matrix=True, own=0.3),
    Case("C noisier, whole 4 x 4 matrix", 0.5, 1.0, layers=4, matrix=True, own=0.3),
    Case("B = C, 5 seeds of A", 0.5, 0.5, own_seeds=5),
    Case("C noisier, best of 3 nearly equal layers", 0.5, 0.7, others=3, apart=0.1),
    Case("B = C, best of 6 equal layers", 0.8, 0.8, others=6),
    Case("C noisier, best of 6 equal layers, heavy tails", 0.5, 0.7, n=200, freedom=8, others=6),
]


def draw(case: Case, rng: np.random.Generator) -> tuple[dict[tuple[int, int, str], list[torch.Tensor]], np.ndarray]:
    """Draw Gram matrices of all models and layers, and the true difference, of a matrix (layers, 1)."""
    scale = 1 / np.sqrt(np.arange(1, case.width + 1)) if case.decay else np.ones(case.width)
    shape = (case.n, case.width)

    def noise() -> np.ndarray:
        if not case.freedom:
            return rng.standard_normal(shape)
        return rng.standard_t(case.freedom, shape) / np.sqrt(case.freedom / (case.freedom - 2))

    hidden = noise() * scale
    grams = {}
    for k in range(case.own_seeds):
        factors = rng.uniform(0.2, 1.8, case.width) if case.own_seeds > 1 else 1.0
        for layer in range(case.layers):
            own = case.own * layer * noise() if case.own else 0.0
            grams[0, k, str(layer)] = _grams(factors * hidden + own, case.batches)
    for side, size in ((1, case.noise1), (2, case.noise2)):
        for k in range(case.seeds):
            factors = rng.uniform(0.2, 1.8, case.width) if case.seeds > 1 else np.ones(case.width)
            shared = noise()
            for layer in range(max(case.layers, case.others)):
                own = np.sqrt(0.5) * (shared + noise()) if case.layers > 1 else noise() if case.others > 1 else shared
                x = own if np.isinf(size) else factors * hidden + size * (1 + case.apart * layer) * own
                grams[side, k, str(layer)] = _grams(x, case.batches)
    noises = [case.own * layer for layer in range(case.layers)] if case.matrix else [0.0]
    truth = [_truth(scale**2, own, case.noise1) - _truth(scale**2, own, case.noise2) for own in noises]
    return grams, np.array(truth)[:, None] if case.matrix else np.array(truth[0])


def _truth(variances: np.ndarray, one: float, two: float) -> float:
    """Compute linear CKA of two noisy copies of features; the same for both sides wherever factors are random."""
    if np.isinf(two):
        return 0.0
    sizes = [((variances + noise**2) ** 2).sum() for noise in (one, two)]
    return float((variances**2).sum() / np.sqrt(sizes[0] * sizes[1]))


def _grams(x: np.ndarray, batches: int) -> list[torch.Tensor]:
    parts = torch.from_numpy(x).chunk(batches)
    return [center((part - part.mean(0)) @ (part - part.mean(0)).T) for part in parts]


def sample(case: Case, seed: int) -> dict[str, float]:
    """Draw once, and look whether intervals hold the truth."""
    torch.set_num_threads(1)
    grams, truth = draw(case, np.random.default_rng([seed, CASES.index(case)]))
    match = "all" if case.matrix else "best" if case.others > 1 else "depth"
    result = difference_of_grams(grams, match=match, resamples=RESAMPLES, seed=seed)
    held = (result.low <= truth) & (truth <= result.high)
    found = {
        "held": float(held.mean()),
        "whole held": float(result.whole["low"] <= truth.mean() <= result.whole["high"]),
        "band held": float(((result.band_low <= truth) & (truth <= result.band_high)).all()),
        "found": float(result.p_family.min() <= LEVEL),
        "error": (result.difference - truth).flat[0],
        "stderr": result.stderr.flat[0],
        "truth": float(truth.flat[0]),
    }
    return found | ({"percentile held": _percentile(grams, case, seed, truth)} if case.percentile else {})


def _percentile(grams: dict, case: Case, seed: int, truth: float) -> float:
    """Tell whether the uncorrected percentile interval of the first layer holds the truth."""
    one, *others = ((side, 0, "0") for side in range(3))
    pairs = [(one, one), *((one, other) for other in others), *((other, other) for other in others)]
    sums, _ = resampled_sums(grams, pairs, draw_weights([len(K) for K in grams[one]], RESAMPLES, seed))
    first, second = (sums[one, other] / np.sqrt(sums[one, one] * sums[other, other]) for other in others)
    low, high = np.quantile((first - second)[1:], [LEVEL / 2, 1 - LEVEL / 2])
    return float(low <= truth <= high)


def coverage(case: Case, samples: int, run: Callable) -> dict[str, float | str | int]:
    """Count over samples of one case."""
    table = pd.DataFrame(list(run(sample, [case] * samples, range(samples), chunksize=20)))
    row = {"case": case.name, "n": case.n, "layers": case.layers, "seeds": case.seeds, "samples": samples}
    row |= {"truth": round(table["truth"][0], 4), "bias": round(table["error"].mean(), 5)}
    row["spread"] = round(table["error"].std(), 5)
    row["mean stderr"] = round(float(np.sqrt((table["stderr"] ** 2).mean())), 5)
    for name in ("held", "whole held", "band held", "percentile held", "found"):
        row[f"{name} %"] = round(100 * table[name].mean(), 2) if name in table else np.nan
    return row


def main() -> None:
    """Run all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "nearness_coverage.csv")
    parser.add_argument("--only", nargs="*", help="parts of the names of cases, whose rows are replaced")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    rows = {} if given.only is None else pd.read_csv(given.out).set_index("case", drop=False).T.to_dict()
    with ProcessPoolExecutor(given.workers) as pool:
        for case in CASES:
            if given.only is None or any(word in case.name for word in given.only):
                rows[case.name] = coverage(case, given.samples, pool.map)
                print(rows[case.name], flush=True)
                pd.DataFrame([rows[one.name] for one in CASES if one.name in rows]).to_csv(given.out, index=False)


if __name__ == "__main__":
    main()
