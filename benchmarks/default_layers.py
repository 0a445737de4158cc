"""Time a comparison of all default layers against plain forward passes and against an earlier version of this package.

    git worktree add ../before REVISION
    python benchmarks/default_layers.py --before ../before --out runs/default_layers.json

A model with random weights is compared with itself, one batch of 64 images of 224 pixels. Every contender runs in a
process of its own, in turn, round after round; its time is its best round. ``forward`` is one plain pass. Let nothing
else run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MODELS = ("vit_small_patch14_dinov2", "tf_efficientnet_lite0")
CHILD = "import runpy, sys; runpy.run_path(sys.argv[1])['one'](*sys.argv[2:])"


def one(contender: str, name: str, batch: str, size: str) -> None:
    """Run a contender on a model of timm and print seconds, layers and the matrix's first row as JSON."""
    import timm
    import torch

    from utilities.compare import compare

    torch.manual_seed(0)
    options = {"img_size": int(size)} if name.startswith("vit") else {}
    model = timm.create_model(name, **options).eval()
    images = torch.randn(int(batch), 3, int(size), int(size))

    def run(images: torch.Tensor) -> Any:
        if contender == "forward":
            with torch.inference_mode():
                model(images)
            return None
        return compare(model, model, [images], device="cpu", progress=False)

    run(images[:8])  # warm-up
    start = time.perf_counter()
    result = run(images)
    seconds = time.perf_counter() - start
    found = {} if result is None else {"layers": dict(zip(result.layers1, result.matrix[0].tolist(), strict=True))}
    print(json.dumps({"seconds": seconds, **found}))


def measure(given: argparse.Namespace, name: str) -> dict[str, Any]:
    """Run all contenders on a model in turn."""
    here = Path(__file__).resolve().parent.parent
    contenders = {"forward": here, "before": given.before, "after": here}
    rows: dict[str, dict[str, Any]] = {contender: {"seconds": []} for contender in contenders}
    for _ in range(given.rounds):
        for contender, folder in contenders.items():
            command = [sys.executable, "-W", "ignore", "-c", CHILD, __file__, contender, name, given.batch, given.size]
            environment = {**os.environ, "PYTHONPATH": str(folder)}
            done = subprocess.run(
                [str(x) for x in command], cwd=folder, env=environment, capture_output=True, text=True
            )
            if done.returncode:
                sys.exit(f"{contender} failed:\n{done.stderr[-3000:]}")
            found = json.loads(done.stdout.splitlines()[-1])
            rows[contender]["seconds"].append(found["seconds"])
            rows[contender] |= {"values": found["layers"]} if "layers" in found else {}
            print(f"{name}, {contender}: {found['seconds']:.2f} s", flush=True)
    before, after = (rows[contender].pop("values") for contender in ("before", "after"))
    rows["before"]["layers"], rows["after"]["layers"] = len(before), len(after)
    shared = before.keys() & after.keys()
    rows["after"]["largest_difference"] = max(abs(before[layer] - after[layer]) for layer in shared)
    for row in rows.values():
        row["best"] = min(row["seconds"])
        row["over_forward"] = row["best"] / min(rows["forward"]["seconds"])
    return rows


def main() -> None:
    """Measure, print a table and write it as JSON with the environment."""
    from utilities.utils import versions, write_json

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="checkout of the earlier version")
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="names of timm")
    parser.add_argument("--batch", type=int, default=64, help="images")
    parser.add_argument("--size", type=int, default=224, help="pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/default_layers.json"))
    given = parser.parse_args()
    results = {name: measure(given, name) for name in given.models}
    for name, rows in results.items():
        print(f"\n{name}, {given.batch} images of {given.size} pixels")
        for contender, row in rows.items():
            layers = f", {row['layers']} layers" if "layers" in row else ""
            print(f"  {contender:8s} {row['best']:6.2f} s, {row['over_forward']:.2f} x forward{layers}")
    facts = {"batch": given.batch, "pixels": given.size, "cores": os.cpu_count(), **versions()}
    write_json(given.out, {"environment": facts, "models": results})


if __name__ == "__main__":
    main()
