"""Time training steps of lambda ResNets at 32 x 32 in bfloat16, with the spectral position lambda and without.

    python benchmarks/lambda_steps.py --json benchmarks/results/lambda_steps_cpu.json

Images have channels last, as in the trainer. All in turn, round after round; the first round does not count. Then
each takes two steps in a process of its own, for the most memory that it held. Let nothing else run meanwhile.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn

from utilities import lambda_layer
from utilities.utils import versions, write_json
from utilities.zoo import create_model

MODELS = ("resnet50", "lambda_resnet26", "lambda_resnet50")


def stepper(name: str, batch: int) -> Callable[[], None]:
    """Return a function that takes a step on one batch: forward, backward, optimiser."""
    model = create_model(name, 10, seed=0).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    images, labels = torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))
    images = images.to(memory_format=torch.channels_last)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(images)
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return step


def without_spectral(*sizes: int | str) -> str:
    """Choose among the other methods."""
    chosen = CHOOSE(*sizes)
    return "conv" if chosen == "spectral" else chosen


CHOOSE = lambda_layer.choose_method
FORMS = {"without": without_spectral, "with": CHOOSE}


def peak_memory(name: str, form: str, batch: int) -> float:
    """Return the most memory that this process has held after two steps, in GB."""
    step = stepper(name, batch)
    with patch.object(lambda_layer, "choose_method", FORMS[form]):
        step()
        step()
    status = Path("/proc/self/status").read_text()  # a process's `ru_maxrss` starts at that of the one that began it
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1e6


def main() -> None:
    """Print images a second and, if asked, write them as JSON with the environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="also write the table here")
    given = parser.parse_args()
    torch.manual_seed(0)
    steps = {name: stepper(name, given.batch) for name in MODELS}
    seconds: dict[str, dict[str, list[float]]] = {name: {form: [] for form in FORMS} for name in MODELS}
    for number in range(given.rounds + 1):
        for name, step in steps.items():
            for form, choose in FORMS.items():
                with patch.object(lambda_layer, "choose_method", choose):
                    start = time.perf_counter()
                    step()
                if number:
                    seconds[name][form].append(time.perf_counter() - start)
    del steps
    rows = {}
    plain = statistics.median(seconds["resnet50"]["with"])
    for name, times in seconds.items():
        median = {form: statistics.median(values) for form, values in times.items()}
        rows[name] = {f"images a second {form}": given.batch / value for form, value in median.items()}
        rows[name] |= {"over resnet50": median["with"] / plain}
        for form in FORMS:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
                rows[name][f"GB {form}"] = process.submit(peak_memory, name, form, given.batch).result()
        print(name, {key: round(value, 2) for key, value in rows[name].items()}, flush=True)
    if given.json:
        write_json(given.json, {"rows": rows, "batch": given.batch, "versions": versions()})


if __name__ == "__main__":
    main()
