"""Time a comparison of all default layers against plain forward passes, pytorch-cka and an earlier version.

    pip install --no-deps pytorch-cka==1.1.3
    python benchmarks/default_layers.py --out runs/default_layers.json
    git worktree add ../before REVISION && python benchmarks/default_layers.py --before ../before

A model with random weights is compared with itself, on three batches of 64 images of 224 pixels. Every contender runs
in a process of its own, in turn, round after round; its time is its best round. ``forward`` is one plain pass over all
images. It runs twice in each round, first and last, so that their spread shows how quiet the machine was. pytorch-cka
gets the layers that this package chooses. Let nothing else run meanwhile.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MODELS = ("vit_small_patch14_dinov2", "tf_efficientnet_lite0")
CHILD = "import runpy, sys; runpy.run_path(sys.argv[1])['one'](*sys.argv[2:])"


def one(contender: str, name: str, batch: str, batches: str, size: str, layers: str) -> None:
    """Run a contender on a model of timm and print seconds, layers and the matrix's first row as JSON."""
    import timm
    import torch

    torch.manual_seed(0)
    options = {"img_size": int(size)} if name.startswith("vit") else {}
    model = timm.create_model(name, **options).eval()
    images = torch.randn(int(batch) * int(batches), 3, int(size), int(size))

    def ours(images: torch.Tensor) -> dict[str, float]:
        from utilities.compare import compare

        result = compare(model, model, images.split(int(batch)), device="cpu", progress=False)
        return dict(zip(result.layers1, result.matrix[0].tolist(), strict=True))

    def pytorch_cka(images: torch.Tensor) -> dict[str, float]:
        from cka import compute_cka
        from torch.utils.data import DataLoader

        chosen = json.loads(layers)
        options = {"layers": chosen, "model2_layers": chosen, "device": "cpu", "progress": False}
        matrix = compute_cka(model, model, DataLoader(images, min(int(batch), len(images))), **options)[0]
        return dict(zip(chosen, matrix[0].tolist(), strict=True))

    def forward(images: torch.Tensor) -> dict[str, float]:
        with torch.inference_mode():
            for part in images.split(int(batch)):
                model(part)
        return {}

    run = {"forward": forward, "pytorch-cka": pytorch_cka}.get(contender, ours)
    run(images[:8])  # warm-up
    start = time.perf_counter()
    found = run(images)
    print(json.dumps({"seconds": time.perf_counter() - start, "layers": found}))


def measure(given: argparse.Namespace, name: str) -> dict[str, Any]:
    """Run all contenders on a model in turn."""
    here = Path(__file__).resolve().parent.parent
    order = [("forward", here), ("ours", here), ("before", given.before), ("pytorch-cka", here), ("forward", here)]
    rivals = {"before": given.before, "pytorch-cka": importlib.util.find_spec("cka")}
    order = [(contender, folder) for contender, folder in order if rivals.get(contender, True)]
    rows: dict[str, dict[str, Any]] = {contender: {"seconds": []} for contender, _ in order}
    layers: dict[str, dict[str, float]] = {}
    for _ in range(given.rounds):
        for contender, folder in order:
            chosen = json.dumps(list(layers.get("ours", {})))
            command = [sys.executable, "-W", "ignore", "-c", CHILD, __file__, contender, name]
            command += [given.batch, given.batches, given.size]
            done = subprocess.run(
                [*map(str, command), chosen],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(folder)},
                capture_output=True,
                text=True,
            )
            if done.returncode:
                sys.exit(f"{contender} failed:\n{done.stderr[-3000:]}")
            found = json.loads(done.stdout.splitlines()[-1])
            rows[contender]["seconds"].append(found["seconds"])
            layers[contender] = found["layers"]
            print(f"{name}, {contender}: {found['seconds']:.2f} s", flush=True)
    for contender, row in rows.items():
        row["best"] = min(row["seconds"])
        row["over_forward"] = row["best"] / min(rows["forward"]["seconds"])
        if layers[contender]:
            shared = layers[contender].keys() & layers["ours"].keys()
            row["layers"] = len(layers[contender])
            row["largest_difference"] = max(abs(layers[contender][key] - layers["ours"][key]) for key in shared)
    return rows


def main() -> None:
    """Measure, print a table and write it as JSON with the environment."""
    from utilities.utils import versions, write_json

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="checkout of the earlier version")
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="names of timm")
    parser.add_argument("--batch", type=int, default=64, help="images in a batch")
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--size", type=int, default=224, help="pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/default_layers.json"))
    given = parser.parse_args()
    results = {name: measure(given, name) for name in given.models}
    for name, rows in results.items():
        print(f"\n{name}, {given.batches} batches of {given.batch} images of {given.size} pixels")
        for contender, row in rows.items():
            layers = f", {row['layers']} layers" if "layers" in row else ""
            print(f"  {contender:11s} {row['best']:6.2f} s, {row['over_forward']:.2f} x forward{layers}")
    facts = {
        "batch": given.batch,
        "batches": given.batches,
        "pixels": given.size,
        "cores": os.cpu_count(),
        **versions(),
    }
    write_json(given.out, {"environment": facts, "models": results})


if __name__ == "__main__":
    main()
