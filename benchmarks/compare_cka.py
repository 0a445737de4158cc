"""Time CKA of all pairs of layers against torch_cka and pytorch-cka, on the same weights and images.

    pip install -r benchmarks/requirements.txt
    python benchmarks/compare_cka.py --cases a b --out runs/compare_cka.json
    python benchmarks/compare_cka.py --cases a b --one-process --out runs/compare_cka_one_process.json

Every contender runs in a process of its own, one after the other, round after round, so that slow spells of the
machine meet all of them; a contender's time is its best round. With ``--one-process`` all of a round run in one process
in turn, where the others too have the allocator settings that ours leaves there. Let nothing else run meanwhile.
``forward`` is what nobody can do without: one plain pass of each model in its default layout (one in all where a model
is compared with itself). ``forward bfloat16`` is the same under autocast with channels last. ``auto``, ``exact``,
``half``, ``centred`` and ``fast`` are ours. ``difference`` is the largest deviation of an entry from a float64
reference, which is written out here with Song's formula. What ``auto`` decided, and by which differences on 32 images,
stands in the file; its time over that of the precision it chose is the cost of looking.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from utilities.compare import compare, measured_precision
from utilities.datasets import load_dataset, make_loader
from utilities.utils import versions, write_json
from utilities.zoo import comparison_layers, create_model

# Case -> two models (one name: a model with itself), images in a batch, their size.
CASES = {
    "a": (("resnet18", "resnet34"), 256, 32),
    "b": (("resnet50",), 64, 32),
    "c": (("vit_large_patch32_224",), 64, 224),
    "d": (("lambda_resnet50", "resnet50"), 64, 32),
    "e": (("timm/vit_small_patch14_dinov2",), 64, 224),
    "f": (("resnet18", "vit_tiny_patch4_32"), 256, 32),  # with --weights
}
WHEELS = ("timm/vit_small_patch14_dinov2",)  # with trained weights
IMAGES = 1024  # by default; `auto` looks at no fewer
PRECISIONS = ("auto", "exact", "half", "centred", "fast")
CONTENDERS = ("forward", "forward bfloat16", *PRECISIONS, "pytorch-cka", "torch_cka")


def inputs(
    case: str, batches: int, data: str = "noise", weights: Sequence[str] = ()
) -> tuple[list[nn.Module], list[list[str]], torch.Tensor]:
    """Make the models, their layers and the images; every process makes the same."""
    names, batch, size = CASES[case]
    origins = weights or ["wheel" if name in WHEELS else "random" for name in names]
    models = [
        create_model(name, 100 if origin == "random" else None, seed=seed, weights=origin).eval()
        for seed, (name, origin) in enumerate(zip(names, origins, strict=True))
    ]
    images = pictures(data, batches * batch, size)
    with torch.no_grad():
        # Batch norms that fit: else an untrained network's features shrink or grow without bound.
        for model in [] if weights else models:
            norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
            for norm in norms:
                norm.momentum = None
                norm.train()
            model(images[:64])
            model.eval()
    return models, [comparison_layers(model) for model in models], images


def pictures(data: str, n: int, size: int) -> torch.Tensor:
    """Draw noise, or take training images of a data set, again from the first one where they do not suffice."""
    if data == "noise":
        return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))
    dataset = load_dataset(data, "train", image_size=size)
    loader = make_loader(dataset, min(n, len(dataset)))
    images = next(iter(loader))[0]
    return images[torch.arange(n) % len(images)].expand(-1, 3, -1, -1).contiguous()


def prepare(contender: str, work: Any, size: int, device: str) -> Any:
    """Return a function of images that does the whole work of a contender and gives matrix and decision, or None."""
    models, layers, _ = work
    one, two, layers1, layers2 = models[0], models[-1], layers[0], layers[-1]

    def forward(images: torch.Tensor) -> None:
        half = "bfloat16" in contender
        layout = torch.channels_last if half else torch.contiguous_format
        with torch.inference_mode(), torch.autocast(torch.device(device).type, torch.bfloat16, enabled=half):
            for batch in images.split(size):
                for model in models:
                    model(batch.to(device, memory_format=layout))

    def ours(images: torch.Tensor) -> tuple[np.ndarray, Any]:
        options = {"layers1": layers1, "layers2": layers2, "precision": contender, "device": device}
        result = compare(one, two, DataLoader(images, size), **options, progress=False)
        return result.matrix, result.provenance.get("auto_precision")

    def pytorch_cka(images: torch.Tensor) -> np.ndarray:
        from cka import compute_cka

        options = {"layers": layers1, "model2_layers": layers2, "device": device, "progress": False}
        return compute_cka(one, two, DataLoader(images, size), **options)[0].cpu().numpy(), None

    def torch_cka(images: torch.Tensor) -> np.ndarray:
        from torch_cka import CKA

        cka = CKA(one, two, "one", "two", layers1, layers2, device=device)
        cka.compare(DataLoader([(image, 0) for image in images], size))
        return cka.hsic_matrix.numpy(), None

    for model in models:
        model.to(device)
    functions = {"forward": forward, "forward bfloat16": forward, "pytorch-cka": pytorch_cka, "torch_cka": torch_cka}
    return functions.get(contender, ours)


def run_here(contenders: Sequence[str], given: argparse.Namespace) -> None:
    """Run contenders in turn in this process, and write each one's seconds, peak memory and matrix."""
    work = inputs(given.cases[0], given.batches, given.data, given.weights)
    for contender in contenders:
        run_one(contender, work, CASES[given.cases[0]][1], given.device, path_of(given.out, contender))


def path_of(folder: Path, contender: str) -> Path:
    """Return where a contender's numbers are written."""
    return folder / f"{contender}.npz"


def run_one(contender: str, work: Any, size: int, device: str, path: Path) -> None:
    """Run a contender and write seconds, peak memory and the matrix. The warm-up is eight images."""
    function, images = prepare(contender, work, size, device), work[2]
    if contender != "torch_cka":  # its hooks stay on the models: it would record twice
        function(images[:8])
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    start = time.perf_counter()
    answer = function(images)
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    unit = 1 if platform.system() == "Darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else peak
    found = {} if answer is None else {"matrix": answer[0], "decision": json.dumps(answer[1])}
    np.savez(path, seconds=seconds, peak=peak, **found)


def reference(case: str, given: argparse.Namespace) -> None:
    """Compute the debiased CKA in float64, each pair by Song's formula, sums over batches divided at the end."""
    models, layers, images = inputs(case, given.batches, given.data, given.weights)
    sums: Any = 0.0
    for batch in images.split(CASES[case][1]):
        grams = [_grams(model.double(), names, batch.double()) for model, names in zip(models, layers, strict=True)]
        terms = [_song(K, L) for K, L in ((grams[0], grams[-1]), (grams[0], grams[0]), (grams[-1], grams[-1]))]
        sums = sums + np.array(
            [terms[0], terms[1].diagonal()[:, None] + 0 * terms[0], terms[2].diagonal() + 0 * terms[0]]
        )
    np.savez(path_of(given.out, "reference"), matrix=sums[0] / np.sqrt(sums[1] * sums[2]))


def _grams(model: nn.Module, names: list[str], batch: torch.Tensor) -> torch.Tensor:
    grams: dict[str, torch.Tensor] = {}

    def hook(name: str) -> Any:
        def record(module: nn.Module, args: Any, output: torch.Tensor) -> None:
            x = output.flatten(1)
            grams[name] = (x @ x.T).fill_diagonal_(0)

        return record

    handles = [model.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    with torch.inference_mode():
        model(batch)
    for handle in handles:
        handle.remove()
    return torch.stack([grams[name] for name in names])


def _song(K: torch.Tensor, L: torch.Tensor) -> np.ndarray:
    """n(n-3) HSIC₁ of all pairs: tr(KL) + 1ᵀK1 1ᵀL1 / ((n-1)(n-2)) - 2/(n-2) 1ᵀKL1, diagonals zero."""
    n = K.shape[-1]
    k, l = K.sum(1), L.sum(1)
    whole = k.sum(1)[:, None] * l.sum(1)[None, :] / ((n - 1) * (n - 2))
    return (K.flatten(1) @ L.flatten(1).T + whole - 2 / (n - 2) * k @ l.T).numpy()


def measure(case: str, given: argparse.Namespace) -> dict[str, Any]:
    """Run all contenders of a case in turn, and the reference."""
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        _child(["--reference"], case, given, Path(folder))
        truth = _read(path_of(Path(folder), "reference"))
        for turn in range(given.rounds):
            wanted = [one for one in given.contenders if one != "torch_cka" or turn < given.torch_cka_rounds]
            for together in [wanted] if given.one_process else [[one] for one in wanted]:
                ended = _child(["--run", *together], case, given, Path(folder))
                for contender in together:
                    row = rows.setdefault(contender, {"seconds": []})
                    if not ended:
                        row["stopped_after"] = given.limit
                        continue
                    _note(row, _read(path_of(Path(folder), contender)), truth["matrix"])
                    print(f"case {case}, round {turn + 1}, {contender}: {row['seconds'][-1]:.2f} s", flush=True)
    names, batch, size = CASES[case]
    facts = {"models": names, "images": given.data, "batch": batch, "batches": given.batches, "pixels": size}
    process = "all in one process" if given.one_process else "each in a separate process"
    return {**facts, "measured": process, "layers": list(truth["matrix"].shape), "rows": rows}


def _note(row: dict[str, Any], found: dict[str, np.ndarray], truth: np.ndarray) -> None:
    row["seconds"].append(float(found["seconds"]))
    row["peak_bytes"] = max(row.get("peak_bytes", 0), int(found["peak"]))
    if "matrix" in found:
        row["difference"] = float(np.abs(found["matrix"] - truth).max())
        decision = json.loads(str(found["decision"]))
        row |= {} if decision is None else {"decision": decision}


def _read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as content:
        return dict(content)


def _child(what: list[str], case: str, given: argparse.Namespace, folder: Path) -> bool:
    """Run a part in a process of its own; tell whether it ended within the limit."""
    command = [sys.executable, __file__, "--cases", case, "--batches", str(given.batches), "--data", given.data]
    command += [
        "--device",
        given.device,
        "--out",
        str(folder),
        *(["--weights", *given.weights] if given.weights else []),
        *(["--look"] if given.look else []),
    ]
    command += what
    try:
        subprocess.run(command, check=True, timeout=None if "--reference" in what else given.limit, capture_output=True)
    except subprocess.TimeoutExpired:
        return False
    except subprocess.CalledProcessError as error:
        sys.exit(f"{' '.join(what)} failed:\n{error.stderr.decode()[-3000:]}")
    return True


def table(case: str, result: dict[str, Any]) -> str:
    """Lay out a case as text: best seconds, how many times as long as auto, peak memory and its ratio, difference."""
    rows, ours = result["rows"], result["rows"]["auto"]
    best = min(ours["seconds"])
    names = " x ".join(result["models"]) if len(result["models"]) > 1 else f"{result['models'][0]} with itself"
    title = f"({case}) {names}, {result['layers'][0]} x {result['layers'][1]} layers"
    title += f", {result['batches']} batches of {result['batch']} images of {result['pixels']} px ({result['images']})"
    lines = [f"{title}, {result['measured']}"]
    lines.append(f"{'':16s} {'seconds':>9s} {'/ auto':>7s} {'peak GB':>8s} {'auto /':>7s} {'difference':>11s}")
    for name, row in rows.items():
        if not row["seconds"]:
            lines.append(f"{name:16s} stopped after {row['stopped_after']:.0f} s")
            continue
        seconds, peak = min(row["seconds"]), row["peak_bytes"]
        memory = f"{peak / 2**30:8.2f} {ours['peak_bytes'] / peak:7.2f}"
        memory = memory if "separate" in result["measured"] else f"{'':16s}"  # one process has one peak
        difference = f"{row['difference']:.1e}" if "difference" in row else ""
        lines.append(f"{name:16s} {seconds:9.2f} {seconds / best:7.2f} {memory} {difference:>11s}")
    decision = ours["decision"]
    lines.append(f"auto chose {decision['chosen']}: {decision['reason']} {decision.get('differences', '')}")
    if "images" in decision and (chosen := rows.get(decision["chosen"])) and chosen["seconds"]:
        share = 1 - min(chosen["seconds"]) / best
        lines.append(f"looking took {100 * share:.0f}% of its time")
    return "\n".join(lines)


def main() -> None:
    """Measure, print tables and write them as JSON with the environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list("abcde"))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--batches", type=int, help=f"default: {IMAGES} images")
    parser.add_argument("--data", default="noise", help="noise, or a data set such as digits (default noise)")
    parser.add_argument("--weights", nargs="+", default=[], help="checkpoints of the models, for a single case")
    parser.add_argument("--look", action="store_true", help="let auto look however few the images are")
    parser.add_argument("--one-process", action="store_true", help="all contenders of a round in one process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--torch-cka-rounds", type=int, default=1, help="it takes minutes (default 1)")
    parser.add_argument("--limit", type=float, default=1800, help="seconds after which a contender is stopped")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/compare_cka.json"))
    parser.add_argument("--run", nargs="+", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--reference", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.look:
        measured_precision.FEWEST = 0
    if given.reference:
        return reference(given.cases[0], given)
    if given.run:
        return run_here(given.run, given)
    if "auto" not in given.contenders:
        parser.error("ratios need 'auto' among the contenders")
    if bool(given.weights) != (given.cases == ["f"]):
        parser.error("case f takes --weights of a ResNet-18 and a vit_tiny_patch4_32, and the other cases take none")
    if given.one_process and "torch_cka" in given.contenders[:-1]:
        parser.error("torch_cka leaves its hooks on the models: in one process it has to come last")
    results, asked = {}, given.batches
    for case in given.cases:
        given.batches = asked or IMAGES // CASES[case][1]
        results[case] = measure(case, given)
        print("\n" + table(case, results[case]) + "\n", flush=True)
    processor = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), "")
    machine = {"processor": processor, "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    if given.device == "cuda":
        machine["gpu"] = torch.cuda.get_device_name()
    write_json(given.out, {"environment": {**versions(), **machine}, "cases": results})
    print(f"wrote {given.out}")


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


if __name__ == "__main__":
    main()
