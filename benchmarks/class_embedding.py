"""A whole pass in class-embedding space: time, memory and disk, against keeping the intermediates.

    python benchmarks/class_embedding.py --images 1000 --published 20 --out benchmarks/results/class_embedding_cpu.json

Two contenders read the same crops of photographs with the same ViT-B/16, weights random, 1000 classes, in turn, each in
a process of its own:

- ``ours``: one pass in which every token of every block, attention output and MLP output is reduced to rank, logit and
  first five classes, and identifiability, change rates, composition and key-value agreement are measured on the way.
  What is kept is written once, at the end.
- ``published``: what the code of Vilas et al. 2023 (https://arxiv.org/abs/2310.18969) keeps, in a pass of our own: per
  image and block the keys and values of attention, its matrix and the MLP's activations before their nonlinearity, in
  float32 on disk, with ranks from a full sort. It runs on a few images, in batches of five as there, and is
  extrapolated. Reading the files again, which the published analysis does for each question, is not timed.

Memory is the peak of the process, the model and its libraries included; of the model alone before the pass it is given
too.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from utilities.analysis.class_embedding.block_tokens import read_blocks
from utilities.analysis.class_embedding.composition import BlockReader
from utilities.analysis.class_embedding.eager_attention import eager_attention
from utilities.analysis.class_embedding.lens import TokenReader
from utilities.analysis.class_embedding.memory_match import MatchReader
from utilities.analysis.class_embedding.readers import run_readers
from utilities.analysis.class_embedding.spaces import transformer_space
from utilities.datasets import load_dataset
from utilities.datasets.factory import make_loader
from utilities.utils import versions, write_json
from utilities.zoo import create_model

MODEL = "timm/vit_base_patch16_224"
PUBLISHED_IMAGES = 4550  # of ImageNet-S in the paper


def loader_of(images: int, batch_size: int) -> Any:
    """Serve crops of photographs."""
    return make_loader(load_dataset("photos", "train", n_images=images), batch_size)


def run_ours(images: int, batch_size: int, folder: Path) -> int:
    """Read all in one pass, and keep rank, logit and first classes of every token, and what images say of the rest."""
    space = transformer_space(create_model(MODEL, num_classes=1000, seed=0))
    blocks, tokens = BlockReader(space, "input", 0.5), TokenReader(5)
    matches = MatchReader(space, "code", 5, "value", "none", seed=0)
    run_readers(space, loader_of(images, batch_size), [blocks, tokens, matches], device="cpu")
    arrays = blocks.values.arrays() | {f"token_{name}": array for name, array in tokens.values.arrays().items()}
    arrays["matches"] = np.concatenate(matches.shares)
    np.savez(folder / "result.npz", **arrays)
    return images


def run_published(images: int, batch_size: int, folder: Path) -> int:
    """Keep what the published code keeps, and rank by a full sort."""
    space, kept = transformer_space(create_model(MODEL, num_classes=1000, seed=0).eval()), {}

    def keep(name: str, values: torch.Tensor) -> None:
        kept[name] = values.detach().clone()

    handles, edits = [], {}
    for i, block in enumerate(space.blocks):
        handles.append(block.mlp.fc1.register_forward_hook(lambda m, a, out, i=i: keep(f"mlp{i}", out)))
        handles.append(block.attn.qkv.register_forward_hook(lambda m, a, out, i=i: keep(f"kv{i}", out[..., 768:])))
        edits[i] = lambda weights, i=i: keep(f"attn{i}", weights)
    with torch.inference_mode(), eager_attention(space, edits):
        for number, (batch, labels) in enumerate(tqdm(loader_of(images, batch_size))):

            def visit(tokens: Any, labels: torch.Tensor = labels) -> None:
                for part in space.parts:
                    order = tokens.logits(part).argsort(2, descending=True)
                    keep(f"top_{part}{tokens.index}", order[..., :5])
                    keep(f"pos_{part}{tokens.index}", (order == labels[:, None, None]).int().argmax(2).long())

            read_blocks(space, batch, visit)
            torch.save(dict(kept), folder / f"{number}.pt")
    for handle in handles:
        handle.remove()
    return images


CONTENDERS = {"ours": run_ours, "published": run_published}


def peak() -> float:
    """Give the peak memory of this process in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def one(name: str, images: int, batch_size: int) -> dict[str, Any]:
    """Run one contender in this process."""
    create_model(MODEL, num_classes=1000, seed=0)(torch.zeros(1, 3, 224, 224))
    alone = peak()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        CONTENDERS[name](images, batch_size, Path(folder))
        seconds = time.perf_counter() - start
        disk = sum(path.stat().st_size for path in Path(folder).iterdir())
    return {"images": images, "seconds": seconds, "peak_gb": peak(), "model_alone_gb": alone, "disk_mb": disk / 1e6}


def main() -> None:
    """Run both, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=1000, help="that ours reads")
    parser.add_argument("--published", type=int, default=20, help="images that the other one reads")
    parser.add_argument("--batch-size", type=int, default=16, help="of ours")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=CONTENDERS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    sizes = {"ours": (given.images, given.batch_size), "published": (given.published, 5)}
    if given.only:
        print(json.dumps(one(given.only, *sizes[given.only])))
        return
    rows = {}
    for name in CONTENDERS:
        command = [sys.executable, __file__, "--only", name, "--out", str(given.out)]
        command += ["--images", str(given.images), "--published", str(given.published)]
        command += ["--batch-size", str(given.batch_size)]
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        rows[name] = json.loads(printed.splitlines()[-1])
    for name, row in rows.items():
        per_image = {"s": row["seconds"] / row["images"], "MB": row["disk_mb"] / row["images"]}
        row |= {"seconds_per_image": per_image["s"], "disk_mb_per_image": per_image["MB"]}
        row["disk_gb_for_4550"] = per_image["MB"] * PUBLISHED_IMAGES / 1000
        print(
            f"{name:10} {row['images']:5} images {row['seconds']:8.1f} s ({per_image['s']:.3f} s an image)  peak "
            f"{row['peak_gb']:.2f} GB (model alone {row['model_alone_gb']:.2f})  disk {row['disk_mb']:.1f} MB "
            f"({row['disk_gb_for_4550']:.2f} GB for {PUBLISHED_IMAGES})"
        )
    facts = {"model": MODEL, "weights": "random", "threads": torch.get_num_threads(), "versions": versions()}
    write_json(given.out, facts | rows)


if __name__ == "__main__":
    main()
