"""Compare and analyse the models that `gpu_training` trained, on their test images."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gpu_training import RUNS, SEEDED, checkpoint_of

from utilities.cli.analyses import ANALYSES, find
from utilities.compare import compare
from utilities.compare.all_pairs import pair_facts
from utilities.datasets.loaders import Loader, make_loader
from utilities.utils import evaluate
from utilities.zoo import comparison_layers, create_model

if TYPE_CHECKING:
    from gpu import Bench

N_IMAGES, BATCH = 2000, 200
NAMES = {"cifar10-jpeg": "CIFAR-10 (JPEG)"}  # folders whose images are known
CROSS = (
    ("resnet18", "vit_tiny_patch4_32"),
    ("resnet18", "lambda_resnet26"),
    ("resnet50", "lambda_resnet50"),
    ("resnet50", "vit_tiny_patch4_32"),
    ("lambda_resnet50", "vit_tiny_patch4_32"),
    ("resnet18", "resnet34"),
    ("alternet18", "vit_tiny_patch4_32"),
    ("resnet18", "alternet18"),
)
PRECISE = (("resnet18", "resnet34"), ("resnet50", "lambda_resnet50"), ("resnet18", "vit_tiny_patch4_32"))
LAMBDA, VIT = ("lambda_resnet26", "lambda_resnet50"), ("vit_tiny_patch4_32",)
BLOCKS = ("resnet18", "resnet50", "alternet18", *LAMBDA, *VIT)
MODELS = {
    "fourier": BLOCKS,
    "variance": BLOCKS,
    "lesions": BLOCKS,
    "classify": BLOCKS,
    "skip_ratios": BLOCKS,
    "lambda_reach": LAMBDA,
    "attention_distance": ("alternet18", *VIT),
    "receptive_field": ("resnet18", "lambda_resnet26", *VIT),
    "layer_probes": ("resnet18", "lambda_resnet26", *VIT),
    "identifiability": VIT,
    "hessian": ("resnet18", "alternet18", "lambda_resnet26", *VIT),
}
OPTIONS: dict[str, dict[str, Any]] = {"receptive_field": {"reduce_to": 32}, "hessian": {"k": 5, "n_batches": 16}}


def items(bench: Bench) -> Iterator[tuple[str, Callable[[], Any]]]:
    """List comparisons and analyses of what has been trained."""
    there = [name for name, seed in RUNS if seed == 0 and checkpoint_of(bench, name, 0).exists()]
    pairs = [(name, name) for name in there] + [pair for pair in CROSS if {*pair} <= {*there}]
    for one, two in pairs:
        yield f"{one}_{two}", partial(similarity, bench, (one, 0), (two, 0))
    for name in SEEDED:
        if name in there and checkpoint_of(bench, name, 1).exists():
            yield f"{name}_seeds", partial(similarity, bench, (name, 0), (name, 1))
    for pair in PRECISE:
        if {*pair} <= {*there}:
            yield f"precision_{'_'.join(pair)}", partial(precisions, bench, pair)
    for analysis, names in MODELS.items():
        for name in names:
            if name in there:
                yield f"{analysis}_{name}", partial(analyse, bench, analysis, name)


def _opened(bench: Bench, name: str, seed: int = 0) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Open a trained model, and say what captions say of it."""
    path = checkpoint_of(bench, name, seed)
    model = create_model(name, bench.sets[2].num_classes, str(path)).to(bench.device)
    content = torch.load(path, weights_only=True)
    recipe, accuracy = content["recipe"], content["test"]["top1"]
    return model, {
        "model": name,
        "weights": f"trained for {recipe['epochs']} epochs, seed {seed}",
        "accuracy": accuracy,
    }


def _loader(bench: Bench, split: int = 2) -> Loader:
    """Serve some images of a split, in a fixed random order and not augmented."""
    data = copy.copy(bench.sets[split])
    data.augmentation = None
    count = min(60 if bench.toy else N_IMAGES, len(data))
    rows = np.random.default_rng(0).permutation(len(data))[:count]
    return make_loader(torch.utils.data.Subset(data, rows.tolist()), min(BATCH, count // 2))


def _facts(bench: Bench) -> dict[str, Any]:
    return {
        "dataset": f"{NAMES.get(bench.data.rpartition('/')[2], bench.data)} (test)",
        "num_classes": bench.sets[2].num_classes,
        "seed": 0,
    }


def similarity(bench: Bench, one: tuple[str, int], two: tuple[str, int]) -> dict[str, Any]:
    """Compare two trained models, and keep the result."""
    (model1, facts1), (model2, facts2) = _opened(bench, *one), _opened(bench, *two)
    model2 = model1 if one == two else model2
    layers = {"layers1": comparison_layers(model1), "layers2": comparison_layers(model2)}
    provenance = _facts(bench) | (facts1 if one == two else pair_facts(facts1, facts2))
    result = compare(
        model1, model2, _loader(bench), **layers, provenance=provenance, device=bench.device, progress=False
    )
    same = "_seeds" if one[0] == two[0] and one != two else ""
    result.save(bench.out / f"similarity_{one[0]}_{two[0]}{same}.npz")
    return {"mean": float(result.matrix.mean()), "best match": float(result.matrix.max(1).mean())}


def precisions(bench: Bench, pair: tuple[str, str]) -> dict[str, Any]:
    """Compare two trained models in each precision: the largest difference from ``exact``, and the seconds."""
    models = [_opened(bench, name)[0] for name in pair]
    layers = dict(zip(("layers1", "layers2"), map(comparison_layers, models), strict=True))
    matrices, seconds = {}, {}
    for precision in ("exact", "exact", "auto", "fast", "half"):  # the first one warms up
        start = time.perf_counter()
        options = {"precision": precision, "device": bench.device, "progress": False}
        matrices[precision] = compare(*models, _loader(bench), **layers, **options).matrix
        seconds[precision] = round(time.perf_counter() - start, 3)
    differences = {name: float(np.abs(matrix - matrices["exact"]).max()) for name, matrix in matrices.items()}
    return {"largest difference": differences, "seconds": seconds}


def analyse(bench: Bench, analysis: str, name: str) -> dict[str, Any]:
    """Run an analysis of a trained model, and keep the result."""
    model, facts = _opened(bench, name)
    images, loaders = ANALYSES[analysis].images, [_loader(bench)]
    if images == "train and test":
        loaders = [_loader(bench, 0), *loaders]
    elif images == "augmented and plain":
        train = bench.sets[0]
        loaders = [make_loader(train, 64), make_loader(train, 64, augment=False)]
    options = {
        "device": bench.device,
        "progress": False,
        "provenance": _facts(bench) | facts,
        **OPTIONS.get(analysis, {}),
    }
    results = find(ANALYSES[analysis].function)(model, *loaders, **options)
    for key, result in (results if isinstance(results, dict) else {"": results}).items():
        result.save(bench.out / f"{analysis}_{name}{'_' * bool(key)}{key}.npz")
    return evaluate(model, _loader(bench), device=bench.device) if analysis == "classify" else {}
