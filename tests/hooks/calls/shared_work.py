"""What three processes do together, well or badly; each writes down what came out.

python -m torch.distributed.run --nproc_per_node=3 -m tests.hooks.calls.shared_work FOLDER
"""

import json
import sys
from pathlib import Path

import torch
from torch import nn

from utilities.analysis.blocks.variance import feature_variance
from utilities.analysis.stream import stream
from utilities.hooks.calls.merging import Sums, Total
from utilities.hooks.calls.processes import Processes, process_group
from utilities.hooks.calls.sharing import shared_pass, sharing_batches
from utilities.resnet import resnet18

BATCHES = [torch.full((3, 1), float(k)) for k in range(7)]


def rows(batches, what="rows", place=None):
    """Keep one number of each image, and count them."""
    found, count = [], Total()
    with shared_pass(batches, (found, count), what) as served:
        for batch in served:
            found += batch[:, 0].tolist()
            count.add(len(batch))
            if place is not None and served.number == place:
                raise OSError("no such image")
    return found, count.value


def forgotten():
    class Forgetful(Sums):
        def __init__(self):
            self.n = 0

    with shared_pass(BATCHES, Forgetful(), "a forgetful analysis") as served:
        list(served)


def nested():
    with shared_pass(BATCHES, [], "outer") as outer:
        for _ in outer:
            rows(BATCHES, "inner", place=6)


def streamed(rank):
    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, float(rank))
    with stream(model, BATCHES, device="cpu", sums=[]) as batches:
        list(batches)


def at_different_points(rank):
    rows(BATCHES, "first" if rank == 0 else "second")


def with_model():
    with shared_pass(BATCHES, {"model": [nn.Linear(1, 1)]}, "with a model"):
        pass


def first_alone(rank):
    """Call an analysis in one process of a group, as from a training loop."""
    if rank:
        return None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return feature_variance(resnet18(10), [torch.rand(2, 3, 8, 8)], device="cpu", progress=False).provenance["n"]


def tried(work, *args):
    try:
        return work(*args)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def main(folder):
    found = {}
    with process_group("cpu"):
        rank = Processes.now().rank
        found["alone"] = tried(first_alone, rank)
        with sharing_batches():
            found["rows"] = tried(rows, BATCHES)
            found["few"] = tried(rows, BATCHES[:2])
            found["end"] = tried(rows, [*BATCHES[:3], BATCHES[3][:0]])  # the last one is empty
            found["failing"] = tried(rows, BATCHES, "reading", 3)
            found["after"] = tried(rows, BATCHES)
            found["forgotten"] = tried(forgotten)
            found["nested"] = tried(nested)
            found["models"] = tried(streamed, rank)
            found["images"] = tried(rows, [batch + rank for batch in BATCHES])
            found["points"] = tried(at_different_points, rank)
            found["with model"] = tried(with_model)
            found["at the end"] = tried(rows, BATCHES)
        found["outside"] = rows(BATCHES)
    (folder / f"{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
