"""Time one training pass of the position lambda in each of its forms: ``python benchmarks/lambda_layer.py``.

Forward and backward on random values, the forms in turn, the best of several rounds; ``plain`` is the convolution
with its whole 23 x 23 kernel, as published code computes it. Prints ratios to the form that is chosen.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional as F

from utilities.lambda_layer import choose_method, position_lambda
from utilities.utils import versions, write_json

SHAPES = [
    (64, 32),
    (128, 32),
    (64, 16),
    (128, 8),
    (256, 4),
    (512, 2),
]  # channels and size: the first layers at 32 pixels, and the four stages at 16


def plain(weight: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Convolve with the whole kernel."""
    return F.conv3d(v, weight, padding=(0, weight.shape[-2] // 2, weight.shape[-1] // 2))


def seconds(form: Callable, weight: torch.Tensor, v: torch.Tensor, dtype: torch.dtype) -> float:
    """Time one forward and backward pass."""
    start = time.perf_counter()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        form(weight, v).float().square().mean().backward()
    return time.perf_counter() - start


def main() -> None:
    """Print a table and, if asked, write it as JSON with the environment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="also write the table here")
    given = parser.parse_args()
    torch.manual_seed(0)
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        for channels, size in SHAPES:
            weight = torch.randn(16, 1, 1, 23, 23, requires_grad=True)
            v = torch.randn(given.batch, 1, channels // 4, size, size, requires_grad=True)
            forms = {name: partial(position_lambda, method=name) for name in ("toeplitz", "spectral", "conv")}
            forms["plain"] = plain
            times = dict.fromkeys(forms, float("inf"))
            for _ in range(given.rounds):
                for name, form in forms.items():
                    times[name] = min(times[name], seconds(form, weight, v, dtype))
            chosen = choose_method(size, size, *(min(23, 2 * size - 1),) * 2)
            ratios = {name: round(value / times[chosen], 2) for name, value in times.items()}
            rows.append({"dtype": str(dtype), "channels": channels, "size": size, "chosen": chosen, **ratios})
            print(f"{dtype!s:15} {channels:>4} x {size:<3} {chosen}: {1000 * times[chosen]:.1f} ms; ratios {ratios}")
    if given.json:
        write_json(given.json, {"rows": rows, "threads": torch.get_num_threads(), "versions": versions()})


if __name__ == "__main__":
    main()
