"""What 50,000 images of ImageNet-1k and ViT-L/16 take on 1, 8 and 64 GPUs: measured on a few images, then arithmetic.

    python benchmarks/scaling.py --measure --images 8 24 --photos FOLDER --out benchmarks/results/scaling_cpu.json
    python benchmarks/scaling.py --table benchmarks/results/scaling_cpu.json

``--measure`` runs ViT-L/16 with random weights on noise, on the CPU, each analysis in a process of its own, with two
numbers of images: slopes are what one more image takes. It notes seconds of the processor beside those of a plain pass,
the peak of memory, bytes of the sums that travel between processes, and bytes of the files. With OMP_NUM_THREADS=1,
other work on the machine hardly changes these seconds. ``--photos`` names a folder of JPEG files, of which some are
decoded as ImageNet's are.

``--table`` prints the table, its assumptions above it. Nothing in it has been measured on a GPU: how fast one runs the
model, how fast the network is, and how many cores decode are assumed, and stand in `ASSUMED`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from utilities.compare.batch_sums import MAX_BLOCKS
from utilities.hooks.calls import sharing
from utilities.hooks.calls.packing import packed_sums
from utilities.utils import versions, write_json
from utilities.zoo import create_model

MODEL, CLASSES, SIZE, BATCH = "timm/vit_large_patch16_224", 1000, 224, 8
IMAGES, GPUS = 50_000, (1, 8, 64)
ANALYSES = ("compare", "fourier", "identifiability")
# Assumed, not measured: half of the 67 TFLOP/s of float32 that NVIDIA's data sheet gives for an H200 (analyses run in
# float32, without TF32), 10 Gbit/s between processes, 16 cores for each GPU, batches of 32 images, and ImageNet's
# photographs of 469 x 387 pixels on average, which take longer to decode by their area.
ASSUMED = {"flop_per_second": 33.5e12, "bytes_per_second": 1.25e9, "cores": 16, "batch": 32, "pixels": 469 * 387}


def inputs(images: int) -> tuple[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]]:
    """Make the model and batches of noise with labels."""
    model = create_model(MODEL, CLASSES, seed=0).eval()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(images, 3, SIZE, SIZE, generator=generator)
    labels = torch.randint(CLASSES, (images,), generator=generator)
    return model, list(zip(pixels.split(BATCH), labels.split(BATCH), strict=True))


def run(name: str, model: nn.Module, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> Any:
    """Run one of the analyses."""
    quiet = {"device": "cpu", "progress": False}
    if name == "compare":
        from utilities.compare import compare
        from utilities.zoo import comparison_layers

        layers = comparison_layers(model)
        return compare(model, model, batches, layers1=layers, layers2=layers, precision="exact", **quiet)
    if name == "fourier":
        from utilities.analysis.blocks.fourier import fourier

        return fourier(model, batches, **quiet)
    from utilities.analysis.class_embedding.identifiability import identifiability

    return identifiability(model, batches, **quiet)


def measure_one(name: str, images: int) -> dict[str, float]:
    """Measure one analysis in this process, or a plain pass."""
    model, batches = inputs(images)
    with torch.inference_mode():
        model(batches[0][0])
    before, seen = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, {}
    start = time.process_time()
    if name == "forward":
        with torch.inference_mode():
            for pixels, _ in batches:
                model(pixels)
        return {"seconds": time.process_time() - start}
    with mock.patch("utilities.analysis.stream.shared_pass", _noting(sharing.shared_pass, seen)), _noting_compare(seen):
        result = run(name, model, batches)
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        result.save(Path(folder) / "result.npz")
        result.to_frame().to_csv(Path(folder) / "result.csv", index=False)
        disk = sum(path.stat().st_size for path in Path(folder).iterdir())
    found = {"seconds": seconds, "sums": len(packed_sums(seen["sums"])), "disk": disk}
    found |= {"peak": peak * 1024, "before": before * 1024}
    return found | ({"finishing": _finishing(seen)} if name == "identifiability" else {})


def _noting(shared_pass: Any, seen: dict[str, Any]) -> Any:
    """Note the sums that a pass would exchange."""

    def noting(loader: Any, sums: Any, *args: Any, **options: Any) -> Any:
        seen["sums"] = sums
        return shared_pass(loader, sums, *args, **options)

    return noting


def _noting_compare(seen: dict[str, Any]) -> Any:
    """Note the sums of a comparison."""
    from utilities.compare import two_models

    real = two_models.run_batches

    def noting(comparison: Any, *args: Any) -> Any:
        found = real(comparison, *args)
        seen["sums"] = comparison.sums
        return found

    return mock.patch.object(two_models, "run_batches", noting)


def _finishing(seen: dict[str, Any]) -> float:
    """Time what identifiability does once all images are read, with as many as its rows repeated, per image."""
    from utilities.analysis.class_embedding import composition
    from utilities.results.statistics import bootstrap_interval, mean_and_stderr, paired_p

    reader = next(one for one in seen["sums"] if isinstance(one, composition.BlockReader))
    values = {name: one for name, one in reader.values.arrays().items() if one.ndim > 1}
    times = []
    for repeats in (25, 75):
        start = time.process_time()
        for name, rows in values.items():
            many = rows.repeat(repeats, 0)
            mean_and_stderr(many)
            bootstrap_interval(many)
            if name.endswith("difference"):
                paired_p(many)
        times.append((time.process_time() - start, len(many)))
    (short, few), (long, many_) = times
    return (long - short) / (many_ - few)


def decode(folder: Path, count: int = 100) -> dict[str, float]:
    """Time how an image of a folder is read, per image on one thread, and note the pixels of its files."""
    from PIL import Image

    from utilities.datasets import load_dataset

    data = load_dataset(f"folder:{folder}", "train", image_size=SIZE, n_images=count)
    data[0]
    start = time.process_time()
    for i in range(len(data)):
        data[i]
    seconds = (time.process_time() - start) / len(data)
    areas = [math.prod(Image.open(path).size) for path in sorted(folder.rglob("*.jp*g"))[:count]]
    return {"seconds": seconds, "pixels": sum(areas) / len(areas)}


def measure(images: tuple[int, int], photos: Path | None) -> dict[str, Any]:
    """Measure everything, in processes one after the other."""
    found: dict[str, Any] = {}
    for name in ("forward", *ANALYSES):
        sizes = {}
        for n in images:
            command = [sys.executable, __file__, "--one", name, "--images", str(n)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            sizes[n] = json.loads(done.stdout.splitlines()[-1])
            print(name, n, sizes[n], flush=True)
        found[name] = {str(n): values for n, values in sizes.items()}
    model, _ = inputs(1)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    facts = {
        "model": MODEL,
        "batch": BATCH,
        "weights": weights,
        "flop": _flop(model),
        "threads": torch.get_num_threads(),
    }
    facts |= {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "versions": versions()}
    return {"facts": facts, "decode": None if photos is None else decode(photos), "found": found}


def _flop(model: nn.Module) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, SIZE, SIZE))
    return counter.get_total_flops()


def slopes(sizes: dict[str, dict[str, float]]) -> dict[str, tuple[float, float]]:
    """Split each value into a part for each image and one that is fixed."""
    (few, one), (many, two) = ((int(n), values) for n, values in sizes.items())
    found = {}
    for name, value in two.items():
        each = (value - one[name]) / (many - few)
        found[name] = each, value - each * many
    return found


def table(measured: dict[str, Any]) -> str:
    """Work the table out, with its assumptions above it."""
    facts, plain, rate, decoding = _bases(measured)
    lines = [
        f"Measured: {facts['model']}, batches of {facts['batch']}, {facts['threads']} thread(s): {plain:.2f} s an "
        f"image for a plain pass, {1000 * decoding:.1f} ms to decode one of ImageNet's size.",
        f"Assumed: {rate:.0f} images a second and GPU in float32 ({facts['flop'] / 1e9:.0f} GFLOP an image), "
        f"{ASSUMED['bytes_per_second'] / 1e9:g} GB/s between processes, {ASSUMED['cores']} cores a GPU, batches of "
        f"{ASSUMED['batch']}. Beside each analysis stands the time of its pass over that of a plain one, on the CPU.",
        "",
        "| | GPUs | passes | decoding | merging | finishing | in all | memory a process | sums | files |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name in ANALYSES:
        for count in GPUS:
            times, seconds, sizes = expected(name, measured, count)
            cells = [f"{name}, {times:.2f} times" if count == GPUS[0] else "", str(count)]
            lines.append(f"| {' | '.join([*cells, *map(_time, seconds), *map(_size, sizes)])} |")
    return "\n".join(lines)


def _bases(measured: dict[str, Any]) -> tuple[dict[str, Any], float, float, float]:
    """Return the facts, seconds of a plain pass on the CPU, images a second on a GPU, and seconds to decode one."""
    facts, decode = measured["facts"], measured["decode"] or {"seconds": 0.0, "pixels": 1}
    plain = slopes(measured["found"]["forward"])["seconds"][0]
    decoding = decode["seconds"] * ASSUMED["pixels"] / decode["pixels"]
    return facts, plain, ASSUMED["flop_per_second"] / facts["flop"], decoding


def expected(name: str, measured: dict[str, Any], count: int) -> tuple[float, list[float], list[float]]:
    """Work out what an analysis takes on so many GPUs.

    Returns:
        Its pass over a plain one; seconds of passes, decoding, merging, finishing and all; bytes of memory, sums and
        files.
    """
    facts, plain, rate, decoding = _bases(measured)
    values, last = slopes(measured["found"][name]), list(measured["found"][name].values())[-1]
    finishing, (rows, fixed), disk = last.get("finishing", 0.0), values["sums"], last["disk"]
    if name == "compare":  # a block for each batch, up to so many, whatever the number of images
        rows, fixed = 0.0, fixed + rows * facts["batch"] * MAX_BLOCKS
    if name == "identifiability":  # the scores of each image
        disk = values["disk"][0] * IMAGES + values["disk"][1]
    times, sums = (values["seconds"][0] - finishing) / plain, rows * IMAGES + fixed
    passes, reading = IMAGES / count * times / rate, IMAGES / count * decoding / ASSUMED["cores"]
    rounds = math.ceil(math.log2(count))  # towards the first process, pair by pair; and back to all
    sent = sum(rows * IMAGES / count * 2**k + fixed for k in range(rounds)) + rounds * sums
    merging, end = sent / ASSUMED["bytes_per_second"], finishing * IMAGES
    memory = last["before"] + (last["peak"] - last["before"]) / facts["batch"] * ASSUMED["batch"]
    memory += sums * (1 if count == 1 else 2)
    return times, [passes, reading, merging, end, max(passes, reading) + merging + end], [memory, sums, disk]


def _time(seconds: float) -> str:
    """Put a time into words."""
    if seconds < 600:
        return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _size(count: float) -> str:
    """Put a number of bytes into words."""
    if count >= 1e9:
        return f"{count / 1e9:.2g} GB"
    if count < 1e6:
        return f"{count / 1e3:.0f} kB"
    return f"{count / 1e6:.2g} MB" if count < 1e8 else f"{count / 1e6:.0f} MB"


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure on this machine's CPU")
    parser.add_argument("--images", type=int, nargs="+", default=[8, 24], help="two numbers of images")
    parser.add_argument("--photos", type=Path, help="a folder of JPEG files, to time decoding")
    parser.add_argument("--out", type=Path, help="where the measurements go")
    kept = Path(__file__).parent / "results" / "scaling_cpu.json"
    parser.add_argument("--table", type=Path, default=kept, help="measurements to work the table out of")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure_one(given.one, given.images[0])))
        return
    measured = measure(tuple(given.images), given.photos) if given.measure else json.loads(given.table.read_text())
    if given.out:
        write_json(given.out, measured)
    print(table(measured))


if __name__ == "__main__":
    main()
