"""Time CKA of all pairs of layers against torch_cka and pytorch-cka, on the same weights and images.

    pip install -r benchmarks/requirements.txt
    python benchmarks/compare_cka.py --cases a b --out runs/compare_cka.json

Every contender runs in a process of its own, one after the other, round after round, so that slow spells of the
machine meet all of them; a contender's time is its best round. Let nothing else run meanwhile. ``forward`` is what
nobody can do without: one plain pass of each model in its default layout (one in all where a model is compared with
itself). ``difference`` is the largest deviation of an entry from a float64 reference, which is written out here with
Song's formula.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from utilities.compare import compare
from utilities.utils import versions, write_json
from utilities.zoo import comparison_layers, create_model

# Case -> two models (one name: a model with itself), images in a batch, their size.
CASES = {
    "a": (("resnet18", "resnet34"), 256, 32),
    "b": (("resnet50",), 64, 32),
    "c": (("vit_large_patch32_224",), 64, 224),
    "d": (("lambda_resnet50", "resnet50"), 64, 32),
}
CONTENDERS = ("forward", "ours", "ours exact", "pytorch-cka", "torch_cka")


def inputs(case: str, batches: int) -> tuple[list[nn.Module], list[list[str]], list[torch.Tensor]]:
    """Make the models, their layers and the images; every process makes the same."""
    names, batch, size = CASES[case]
    models = [create_model(name, 100, seed=seed).eval() for seed, name in enumerate(names)]
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batches * batch, 3, size, size, generator=generator)
    with torch.no_grad():
        for model in models:  # batch norms that fit: else an untrained network's features shrink or grow without bound
            norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
            for norm in norms:
                norm.momentum = None
                norm.train()
            model(images[:64])
            model.eval()
    return models, [comparison_layers(model) for model in models], images


def prepare(contender: str, case: str, batches: int, device: str) -> Any:
    """Return a function of images that does the whole work of a contender and gives the matrix, or None."""
    models, layers, images = inputs(case, batches)
    one, two, layers1, layers2 = models[0], models[-1], layers[0], layers[-1]
    size = CASES[case][1]

    def forward(images: torch.Tensor) -> None:
        with torch.inference_mode():
            for batch in images.split(size):
                for model in models:
                    model(batch.to(device))

    def ours(images: torch.Tensor) -> np.ndarray:
        precision = "exact" if "exact" in contender else "auto"
        options = {"layers1": layers1, "layers2": layers2, "precision": precision, "device": device}
        return compare(one, two, DataLoader(images, size), **options, progress=False).matrix

    def pytorch_cka(images: torch.Tensor) -> np.ndarray:
        from cka import compute_cka

        options = {"layers": layers1, "model2_layers": layers2, "device": device, "progress": False}
        return compute_cka(one, two, DataLoader(images, size), **options)[0].cpu().numpy()

    def torch_cka(images: torch.Tensor) -> np.ndarray:
        from torch_cka import CKA

        cka = CKA(one, two, "one", "two", layers1, layers2, device=device)
        cka.compare(DataLoader([(image, 0) for image in images], size))
        return cka.hsic_matrix.numpy()

    for model in models:
        model.to(device)
    functions = {"forward": forward, "pytorch-cka": pytorch_cka, "torch_cka": torch_cka}
    return functions.get(contender, ours), images


def run_one(contender: str, case: str, batches: int, device: str, path: Path) -> None:
    """Run a contender and write seconds, peak memory and the matrix. The warm-up is eight images."""
    function, images = prepare(contender, case, batches, device)
    if contender != "torch_cka":  # its hooks stay on the models: it would record twice
        function(images[:8])
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    start = time.perf_counter()
    matrix = function(images)
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    unit = 1 if platform.system() == "Darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else peak
    found = {} if matrix is None else {"matrix": matrix}
    np.savez(path, seconds=seconds, peak=peak, **found)


def reference(case: str, batches: int, path: Path) -> None:
    """Compute the debiased CKA in float64, each pair by Song's formula, sums over batches divided at the end."""
    models, layers, images = inputs(case, batches)
    sums: Any = 0.0
    for batch in images.split(CASES[case][1]):
        grams = [_grams(model.double(), names, batch.double()) for model, names in zip(models, layers, strict=True)]
        terms = [_song(K, L) for K, L in ((grams[0], grams[-1]), (grams[0], grams[0]), (grams[-1], grams[-1]))]
        sums = sums + np.array(
            [terms[0], terms[1].diagonal()[:, None] + 0 * terms[0], terms[2].diagonal() + 0 * terms[0]]
        )
    np.savez(path, matrix=sums[0] / np.sqrt(sums[1] * sums[2]))


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
        truth = _child(["--reference"], case, given, Path(folder) / "reference.npz")
        for turn in range(given.rounds):
            for contender in given.contenders:
                if contender == "torch_cka" and turn >= given.torch_cka_rounds:
                    continue
                found = _child(["--one", contender], case, given, Path(folder) / "one.npz")
                row = rows.setdefault(contender, {"seconds": []})
                if "seconds" not in found:
                    row["stopped_after"] = given.limit
                    continue
                row["seconds"].append(float(found["seconds"]))
                row["peak_bytes"] = max(row.get("peak_bytes", 0), int(found["peak"]))
                if "matrix" in found:
                    row["difference"] = float(np.abs(found["matrix"] - truth["matrix"]).max())
                print(f"case {case}, round {turn + 1}, {contender}: {row['seconds'][-1]:.2f} s", flush=True)
    names, batch, size = CASES[case]
    shape = list(truth["matrix"].shape)
    return {"models": names, "batch": batch, "batches": given.batches, "pixels": size, "layers": shape, "rows": rows}


def _child(what: list[str], case: str, given: argparse.Namespace, path: Path) -> dict[str, np.ndarray]:
    path.unlink(missing_ok=True)
    command = [sys.executable, __file__, *what, "--cases", case, "--batches", str(given.batches)]
    command += ["--device", given.device, "--out", str(path)]
    try:
        subprocess.run(command, check=True, timeout=None if "--reference" in what else given.limit, capture_output=True)
    except subprocess.TimeoutExpired:
        return {}
    except subprocess.CalledProcessError as error:
        sys.exit(f"{' '.join(what)} failed:\n{error.stderr.decode()[-3000:]}")
    with np.load(path) as content:
        return dict(content)


def table(case: str, result: dict[str, Any]) -> str:
    """Lay out a case as text: best seconds, how many times as long as ours, peak memory and its ratio, difference."""
    rows, ours = result["rows"], result["rows"]["ours"]
    best = min(ours["seconds"])
    names = " x ".join(result["models"]) if len(result["models"]) > 1 else f"{result['models'][0]} with itself"
    title = f"({case}) {names}, {result['layers'][0]} x {result['layers'][1]} layers"
    lines = [f"{title}, {result['batches']} batches of {result['batch']} images of {result['pixels']} px"]
    lines.append(f"{'':12s} {'seconds':>9s} {'/ ours':>7s} {'peak GB':>8s} {'ours /':>7s} {'difference':>11s}")
    for name, row in rows.items():
        if not row["seconds"]:
            lines.append(f"{name:12s} stopped after {row['stopped_after']:.0f} s")
            continue
        seconds, peak = min(row["seconds"]), row["peak_bytes"]
        difference = f"{row['difference']:.1e}" if "difference" in row else ""
        lines.append(f"{name:12s} {seconds:9.2f} {seconds / best:7.2f} {peak / 2**30:8.2f} "
                     f"{ours['peak_bytes'] / peak:7.2f} {difference:>11s}")  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    """Measure, print tables and write them as JSON with the environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--batches", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--torch-cka-rounds", type=int, default=1, help="it takes minutes (default 1)")
    parser.add_argument("--limit", type=float, default=1800, help="seconds after which a contender is stopped")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/compare_cka.json"))
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--reference", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.reference:
        return reference(given.cases[0], given.batches, given.out)
    if given.one:
        return run_one(given.one, given.cases[0], given.batches, given.device, given.out)
    if "ours" not in given.contenders:
        parser.error("ratios need 'ours' among the contenders")
    results = {}
    for case in given.cases:
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
