"""Hold results of a GPU against those of the CPU: the same code, weights and images."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Subset

from utilities.cli.analyses import ANALYSES, find
from utilities.compare import compare
from utilities.datasets import load_dataset
from utilities.datasets.loaders import Loader, make_loader
from utilities.hooks.calls.tf32 import choosing_tf32
from utilities.lambda_layer import position_lambda
from utilities.training.recipes import Recipe
from utilities.training.trainer import Trainer, estimate_batch_norm
from utilities.zoo import comparison_layers, create_model

if TYPE_CHECKING:
    from gpu import Bench

# Largest differences that are accepted, and why. float32 sums in another order differ by some 1e-6 of a layer's scale,
# and depth multiplies that; TF32 rounds factors to 10 bits, bfloat16 to 8, float16 to 11. An untrained network
# multiplies rounding more than a trained one, for which the part "studies" has the same numbers.
COMPARED = {"exact": 2e-4, "auto": 2e-3, "fast": 5e-3, "half": 5e-2}
LAMBDA = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
ANALYSED = 1e-3  # of the largest value of an array, but for those that multiply what rounding moves:
COARSER = {
    "fourier": 2e-2,  # logarithms of amplitudes that are zero but for rounding
    "receptive_field": 5e-3,  # a ReLU or a maximum that tips over takes a pixel's gradient with it
    "spectral_density": 5e-2,  # narrow bells around eigenvalues
    "probes": 2e-2,  # ranks of nearly equal scores, which are whole numbers
}
EPOCH = 2e-2  # of the loss: a handful of steps multiply what rounding begins
PAIRS = (("resnet18", "lambda_resnet26"), ("resnet50", "vit_tiny_patch4_32"))
ANY = ("fourier", "variance", "lesions", "receptive_field", "skip_ratios", "localisation", "classify", "layer_probes")
ANY += ("noise_frequency", "spectral_density")
VIT = ("attention", "attention_distance", "identifiability", "key_value", "importance", "lens", "probes", "perturb")
ANALYSED_MODELS = {
    "resnet18": ANY,
    "lambda_resnet26": ("fourier", "skip_ratios", "lambda_reach"),
    "alternet18": ("fourier", "lesions", "attention_distance"),
    "vit_tiny_patch4_32": (*ANY, *VIT),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "receptive_field": {"n_images": 4},
    "noise_frequency": {"bands": 3},
    "spectral_density": {"n_vectors": 1, "steps": 8},
    "localisation": {"most": 4},
}


def items(bench: Bench) -> Iterator[tuple[str, Callable[[], Any]]]:
    """List the checks."""
    yield "compare", partial(check_compare, bench)
    yield "lambda", partial(check_lambda, bench)
    yield "epoch", partial(check_epoch, bench)
    for name in ANALYSED_MODELS:
        yield f"analyses_{name}", partial(check_analyses, bench, name)


def _verdict(difference: float, bound: float) -> dict[str, Any]:
    return {"difference": float(f"{difference:.2g}"), "bound": bound, "holds": bool(difference <= bound)}


def _images(bench: Bench, split: int = 2) -> Loader:
    """Serve a few images of a split as they are; pictures of nature, since a blank patch has no similarity."""
    data = copy.copy(bench.sets[split])
    data.augmentation = None
    rows = np.random.default_rng(0).permutation(len(data))[: 48 if bench.toy else 96]
    return make_loader(Subset(data, rows.tolist()), 48)


def _model(bench: Bench, name: str) -> torch.nn.Module:
    """Make an untrained model whose batch norms fit, so that nothing overflows."""
    return estimate_batch_norm(create_model(name, 10, seed=0), _images(bench, 0), "cpu")


def check_compare(bench: Bench) -> dict[str, Any]:
    """Compare in each precision on the device with ``exact`` on the CPU."""
    loader, found = _images(bench), {}
    for names in PAIRS[: 1 if bench.toy else None]:
        one, two = (_model(bench, name) for name in names)
        layers = {"layers1": comparison_layers(one), "layers2": comparison_layers(two), "progress": False}
        exact = compare(one, two, loader, **layers, precision="exact", device="cpu").matrix
        for precision, bound in COMPARED.items():
            got = compare(one, two, loader, **layers, precision=precision, device=bench.device).matrix
            found[f"{' x '.join(names)}, {precision}"] = _verdict(np.abs(got - exact).max(), bound)
    return found


def check_lambda(bench: Bench) -> dict[str, Any]:
    """Run every form of the position lambda, values and gradients, against a convolution in float64 on the CPU."""
    found = {}
    for channels, size in ((16, 32), (32, 16), (64, 8)):
        generator = torch.Generator().manual_seed(size)
        weight = torch.randn(16, 1, 1, 23, 23, generator=generator)
        v = torch.randn(4, 1, channels, size, size, generator=generator)
        exact = _passed(weight, v, "conv", torch.device("cpu"), torch.float64)
        for method in ("toeplitz", "spectral", "conv"):
            for dtype, bound in LAMBDA.items():
                if dtype == torch.float16 and bench.device.type == "cpu":
                    continue
                with choosing_tf32(bench.device, allowed=False):
                    got = _passed(weight, v, method, bench.device, dtype)
                worst = max(float((a.double().cpu() - b).norm() / b.norm()) for a, b in zip(got, exact, strict=True))
                found[f"{size} px, {method}, {dtype}".replace("torch.", "")] = _verdict(worst, bound)
    return found


def _passed(
    weight: torch.Tensor, v: torch.Tensor, method: str, device: torch.device, dtype: torch.dtype
) -> list[torch.Tensor]:
    """Return the values and the gradients of their mean square."""
    wide = dtype if dtype == torch.float64 else torch.float32
    weight, v = (x.detach().clone().to(device, wide).requires_grad_() for x in (weight, v))
    with torch.autocast(device.type, dtype, enabled=dtype in (torch.bfloat16, torch.float16)):
        out = position_lambda(weight, v, method)
    out.to(wide).square().mean().backward()
    return [out.detach(), weight.grad, v.grad]


def check_epoch(bench: Bench) -> dict[str, Any]:
    """Train for one epoch in float32 and in bfloat16, on both devices."""
    found = {}
    for name in ("resnet18", "vit_tiny_patch4_32"):
        rows = {}
        for key, device, precision in (
            ("cpu", "cpu", "float32"),
            ("device", bench.device, "float32"),
            ("bfloat16", bench.device, "bfloat16"),
        ):
            data = load_dataset("digits", "train", image_size=32, n_images=96 if bench.toy else 400)
            train, held = make_loader(data, 50, shuffle="every_epoch"), _images(bench)
            model = create_model(name, 10, seed=0)
            recipe = Recipe("digits", 1, learning_rate=0.01 if name == "resnet18" else 3e-4).resolved(name)
            with choosing_tf32(torch.device(device), allowed=False):
                trainer = Trainer(model, recipe, train, held, device=device, precision=precision)
                rows[key] = trainer.run_epoch(progress=False)["train_loss"]
        for key in ("device", "bfloat16"):
            found[f"{name}, {key}"] = _verdict(abs(rows[key] / rows["cpu"] - 1), EPOCH)
    return found


def check_analyses(bench: Bench, name: str) -> dict[str, Any]:
    """Run analyses of an untrained model on the device and on the CPU."""
    found, model = {}, _model(bench, name)
    for analysis in ANALYSED_MODELS[name]:
        loaders = [_images(bench)]
        if ANALYSES[analysis].images == "train and test":
            loaders = [_images(bench, 0), *loaders]
        function, options = find(ANALYSES[analysis].function), {"progress": False, **OPTIONS.get(analysis, {})}
        results = [
            function(copy.deepcopy(model), *loaders, device=device, **options) for device in ("cpu", bench.device)
        ]
        worst, where = max(_differences(*results), default=(float("nan"), ""))
        found[analysis] = _verdict(worst, COARSER.get(analysis, ANALYSED)) | {"array": where}
    return found


def _differences(one: Any, two: Any) -> Iterator[tuple[float, str]]:
    """Yield the largest difference in each array of numbers but counts, as a share of the array's largest value."""
    for field in dataclasses.fields(one):
        a, b = (getattr(result, field.name) for result in (one, two))
        if isinstance(a, np.ndarray) and a.size and np.issubdtype(a.dtype, np.floating):
            missing = np.isnan(a)
            a, b = (np.where(missing, 0.0, x) for x in (a, b))  # what is missing in the second alone remains NaN
            difference = float(np.abs(a - b).max() / (np.abs(a).max() or 1.0))
            yield (float("inf") if np.isnan(difference) else difference), field.name
