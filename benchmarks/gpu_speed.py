"""Time on a GPU: comparisons against other packages, the lambda layer's forms, training, and large ViTs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
import training_steps
from compare_cka import CASES, inputs, prepare
from lambda_layer import plain

from utilities import lambda_layer
from utilities.analysis.class_embedding.identifiability import identifiability
from utilities.compare import compare
from utilities.training.trainer import Trainer
from utilities.zoo import comparison_layers, create_model

if TYPE_CHECKING:
    from gpu import Bench

ROUNDS = 3
FORMS = ("toeplitz", "spectral", "conv", "plain", "fft")
STEPS = {
    "resnet50": (None,),
    "lambda_resnet26": ("toeplitz", "spectral", "conv"),
    "lambda_resnet50": ("toeplitz", "spectral"),
}


def items(bench: Bench) -> Iterator[tuple[str, Callable[[], Any]]]:
    """List what is timed."""
    for name in ("plain_cnn8",) if bench.toy else ("resnet18", "vit_tiny_patch4_32", "plain_cnn8"):
        yield f"training_{name}", partial(time_training, bench, name)
    yield "lambda_steps", partial(time_steps, bench)
    for size in (16,) if bench.toy else (32, 16, 64):
        yield f"lambda_{size}", partial(time_lambda, bench, size)
    for case in "a" if bench.toy else "adc":
        yield f"compare_{case}", partial(time_compare, bench, case)
    if not bench.toy:
        yield "large_vit", partial(time_large_vit, bench)


def timed(bench: Bench, contenders: dict[str, Callable[[], Any]], rounds: int = ROUNDS) -> dict[str, float]:
    """Return each contender's median seconds: all in turn, round after round; the first round does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, function in contenders.items():
            _wait(bench)
            start = time.perf_counter()
            function()
            _wait(bench)
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: round(statistics.median(times), 5) for name, times in seconds.items()}


def _wait(bench: Bench) -> None:
    if bench.device.type == "cuda":
        torch.cuda.synchronize(bench.device)


def time_compare(bench: Bench, case: str) -> dict[str, Any]:
    """Time all pairs of layers of two models, all contenders within one process."""
    names = ["forward", "auto", "exact", "half", "pytorch-cka"]
    names += ["torch_cka"] if case == "a" and not bench.toy else []
    batches = 2 if bench.toy else 8
    works = {name: inputs(case, batches) for name in names}
    prepared = {name: prepare(name, work, CASES[case][1], bench.device.type) for name, work in works.items()}
    once = {name: partial(function, works[name][2]) for name, function in prepared.items() if name != "torch_cka"}
    seconds = timed(bench, once)
    if "torch_cka" in prepared:  # its hooks stay on the models, so it can run but once
        function, images = prepared["torch_cka"], works["torch_cka"][2]
        start = time.perf_counter()
        function(images)
        _wait(bench)
        seconds["torch_cka"] = round(time.perf_counter() - start, 5)
    ratios = {name: round(value / seconds["auto"], 2) for name, value in seconds.items()}
    return {"models": CASES[case][0], "images": batches * CASES[case][1], "seconds": seconds, "of auto": ratios}


def fft(weight: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Compute a position lambda by the fast Fourier transform."""
    weight, v = weight.float()[:, 0, 0], v.float()[:, 0]  # one intra-depth
    height, width = v.shape[-2:]
    weight = lambda_layer.crop_kernel(weight, height, width)
    rows, columns = weight.shape[-2:]
    size = height + rows - 1, width + columns - 1
    product = torch.fft.rfft2(v, s=size)[:, None] * torch.fft.rfft2(weight.flip(-1, -2), s=size)[None, :, None]
    return torch.fft.irfft2(product, s=size)[..., rows // 2 : rows // 2 + height, columns // 2 : columns // 2 + width]


def time_lambda(bench: Bench, size: int) -> dict[str, Any]:
    """Time the forms of the position lambda, forward and backward, for maps of one size."""
    found, batch, channels = {}, 8 if bench.toy else 128, 16
    weight = torch.randn(16, 1, 1, 23, 23, device=bench.device, requires_grad=True)
    v = torch.randn(batch, 1, channels, size, size, device=bench.device, requires_grad=True)

    def step(form: str, dtype: torch.dtype) -> None:
        function = {"plain": plain, "fft": fft}.get(form, partial(lambda_layer.position_lambda, method=form))
        autocast = torch.autocast(bench.device.type, dtype) if dtype != torch.float32 else nullcontext()
        with autocast:
            out = function(weight, v)
        out.float().square().mean().backward()

    for dtype in (torch.float32, torch.bfloat16):
        forms = [form for form in FORMS if size < 64 or form != "plain" or dtype != torch.float32]
        found[str(dtype)] = timed(bench, {form: partial(step, form, dtype) for form in forms})
    difference = (fft(weight, v) - lambda_layer.position_lambda(weight, v, "spectral")).abs().max().item()
    return {
        "batch": batch,
        "chosen": lambda_layer.choose_method(size, size, *(min(23, 2 * size - 1),) * 2, bench.device.type),
    } | {
        "seconds": found,
        "difference of fft": difference,
    }


def time_steps(bench: Bench) -> dict[str, Any]:
    """Time a training step of the lambda ResNets with each form at 32 x 32, in bfloat16, beside ResNet-50's."""
    batch, contenders = 8 if bench.toy else 256, {}
    images = torch.randn(batch, 3, 32, 32, device=bench.device)
    labels = torch.randint(10, (batch,), device=bench.device)
    for name, methods in STEPS.items():
        for method in methods:
            label = name if method is None else f"{name}, {method}"
            contenders[label] = partial(_forced, method, _bare_step(bench, name, images, labels))
    seconds = timed(bench, contenders)
    ratios = {name: round(value / seconds["resnet50"], 2) for name, value in seconds.items()}
    return {"batch": batch, "seconds": seconds, "of resnet50": ratios}


def _forced(method: str | None, step: Callable[[], None]) -> None:
    """Run a step with one form of the position lambda at 32 x 32, where the choice matters, and the usual one below."""
    usual = lambda_layer.choose_method

    def choose(height: int, *rest: int) -> str:
        return method if method and height >= 32 else usual(height, *rest)

    with patch.object(lambda_layer, "choose_method", choose):
        step()


def _bare_step(bench: Bench, name: str, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    """Return a function that takes a step on a batch that is there: forward, backward, optimiser."""
    batches = [(images, labels)]
    recipe = training_steps.recipe_of(name, len(images))
    trainer = Trainer(create_model(name, 10, seed=0), recipe, batches, batches, device=bench.device)
    return training_steps.bare_step(trainer, name, images, labels)


def time_training(bench: Bench, name: str) -> dict[str, Any]:
    """Time an epoch of the trainer against as many bare steps on one batch that lies on the device."""
    count, batch = (100, 50) if bench.toy else (45000, 512)
    return training_steps.time_training(name, count, batch, bench.device, ROUNDS)


def time_large_vit(bench: Bench) -> dict[str, Any]:
    """Time ViT-L/16 at 224 pixels, random weights: a comparison of default layers, and identifiability."""
    model = create_model("timm/vit_large_patch16_224", 1000, seed=0).to(bench.device).eval()
    images, labels = torch.randn(256, 3, 224, 224), torch.arange(256)
    loader = [(images[i : i + 64], labels[i : i + 64]) for i in range(0, 256, 64)]
    layers = comparison_layers(model)

    def forward(dtype: torch.dtype | None = None) -> None:
        with torch.inference_mode(), torch.autocast("cuda", dtype, enabled=dtype is not None):
            for batch, _ in loader:
                model(batch.to(bench.device))

    def similarity(precision: str) -> None:
        compare(model, model, loader, layers1=layers, precision=precision, device=bench.device, progress=False)

    contenders = {
        "forward, float32": forward,
        "forward, bfloat16": partial(forward, torch.bfloat16),
        **{f"compare, {name}": partial(similarity, name) for name in ("exact", "auto", "half")},
        "identifiability": partial(identifiability, model, loader, device=bench.device, progress=False),
    }
    seconds = timed(bench, contenders, rounds=1)
    return {"images": 256, "layers": len(layers), "seconds": seconds}
