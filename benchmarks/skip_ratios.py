"""Time of skip ratios beside a plain forward pass of the same model on the same images.

    python benchmarks/skip_ratios.py --out benchmarks/results/skip_ratios_cpu.json

Both run in one process, in turn, so that a machine that slows down slows both; the ratio is that of the medians. Ours
reads norms and cosines of every token of all 24 residual branches of ViT-S/14, 224 x 224 pixels, weights random; the
plain pass is the model under `torch.no_grad`. The check of the branches on two images, made once, is timed with the
rest in ``once``, and is not part of the ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from utilities.analysis.blocks.skip_ratios import skip_ratios
from utilities.utils import versions, write_json
from utilities.zoo import create_model

MODEL = "timm/vit_small_patch14_dinov2"
MOST = 1.5  # plain passes


def plain(model: nn.Module, batches: list[torch.Tensor]) -> None:
    """Run the model."""
    with torch.no_grad():
        for images in batches:
            model(images)


def ours(model: nn.Module, batches: list[torch.Tensor]) -> None:
    """Measure the ratios."""
    skip_ratios(model, batches, device="cpu", progress=False)


def timed(function: object, *given: object) -> float:
    """Give the seconds that a call takes."""
    start = time.perf_counter()
    function(*given)
    return time.perf_counter() - start


def main() -> None:
    """Run both in turn, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--batches", type=int, default=2, help="in each run")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    model = create_model(MODEL, 0, seed=0, img_size=224).eval()
    images = torch.randn(given.batch_size, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    batches = [images] * given.batches
    plain(model, batches[:1])
    once = timed(ours, model, [images[:1]])
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    for _ in range(given.repeats):
        for name, function in (("plain", plain), ("ours", ours)):
            seconds[name].append(timed(function, model, batches))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = medians["ours"] / medians["plain"]
    print(f"plain {medians['plain']:.2f} s, skip ratios {medians['ours']:.2f} s: {ratio:.2f} plain passes")
    facts = {"model": MODEL, "batch_size": given.batch_size, "batches": given.batches, "most": MOST, "once": once}
    facts |= {"threads": torch.get_num_threads(), "versions": versions()}
    write_json(given.out, facts | {"seconds": seconds, "medians": medians, "ratio": ratio})


if __name__ == "__main__":
    main()
