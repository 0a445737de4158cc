"""Time the reading of attention against plain forward passes: distance and entropy of every head.

    OMP_WAIT_POLICY=passive python benchmarks/attention_reading.py --out benchmarks/results/attention_reading_cpu.json

A ViT-S/14, with the weights of its wheel or random ones, sees one batch of images of noise. Contenders take turns in
one process, round after round, after a warm-up; what is compared is the median of their CPU time, all threads together,
which other programs on the machine disturb less than the time on the clock. Threads should wait passively, as above:
otherwise they spin while others have their core, and the spinning counts.

- ``forward``: one plain pass, with fused attention.
- ``attention_distance``: distance and entropy of all heads, as `utilities.analysis.attention.attention_distance` gives
  them.
- ``attention_diversity``: how alike the rows of the maps are, see `utilities.analysis.attention.attention_maps`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utilities.analysis.attention.attention_distance import attention_distance
from utilities.analysis.attention.attention_maps import attention_diversity
from utilities.utils import versions, write_json
from utilities.zoo import create_model

RUN = {"device": "cpu", "progress": False}


def contenders(model: nn.Module, images: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """Return what is timed, by name."""

    def forward() -> None:
        with torch.inference_mode():
            model(images)

    return {
        "forward": forward,
        "attention_distance": lambda: attention_distance(model, [images], **RUN),
        "attention_diversity": lambda: attention_diversity(model, [images], **RUN),
    }


def measure(what: dict[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, Any]]:
    """Time all contenders in turn, and relate each to the forward pass."""
    rows: dict[str, dict[str, Any]] = {name: {"cpu_seconds": [], "seconds": []} for name in what}
    for number in range(rounds + 1):
        for name, run in what.items():
            cpu, start = time.process_time(), time.perf_counter()
            run()
            if number:  # the first round is a warm-up
                rows[name]["cpu_seconds"].append(time.process_time() - cpu)
                rows[name]["seconds"].append(time.perf_counter() - start)
    for row in rows.values():
        for kind in ("cpu_seconds", "seconds"):
            row[f"median_{kind}"] = statistics.median(row[kind])
            row[f"{kind}_over_forward"] = row[f"median_{kind}"] / statistics.median(rows["forward"][kind])
    return rows


def main() -> None:
    """Measure, print a table and write it as JSON with the environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="timm/vit_small_patch14_dinov2")
    parser.add_argument("--weights", default="wheel", help="wheel or random")
    parser.add_argument("--size", type=int, default=224, help="pixels")
    parser.add_argument("--batch", type=int, default=32, help="images")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("runs/attention_reading.json"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    options = {"img_size": given.size} if given.weights == "random" else {}
    model = create_model(given.model, None, weights=given.weights, **options).eval()
    images = torch.randn(given.batch, 3, given.size, given.size, generator=torch.Generator().manual_seed(0))
    rows = measure(contenders(model, images), given.rounds)
    print(f"{given.model}, {given.batch} images of {given.size} pixels, {given.threads} threads")
    for name, row in rows.items():
        times = f"{row['median_cpu_seconds']:6.2f} s of CPU, {row['median_seconds']:6.2f} s"
        print(f"  {name:20s} {times}, {row['cpu_seconds_over_forward']:.2f} x forward")
    facts = {name: getattr(given, name) for name in ("model", "weights", "size", "batch", "threads", "rounds")}
    write_json(given.out, {"environment": facts | versions(), "contenders": rows})


if __name__ == "__main__":
    main()
