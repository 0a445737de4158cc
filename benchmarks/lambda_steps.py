"""Time training steps of lambda ResNets at 32 x 32 in bfloat16, with two forms of the position lambda.

    python benchmarks/lambda_steps.py --json benchmarks/results/lambda_steps_cpu.json

All in turn, round after round; the first round does not count. Let nothing else run meanwhile.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from unittest.mock import patch

import torch
from torch import nn

from utilities import lambda_layer
from utilities.utils import versions, write_json
from utilities.zoo import create_model

MODELS = ("resnet50", "lambda_resnet26", "lambda_resnet50")


def stepper(name: str, batch: int) -> Callable[[], None]:
    """Return a function that takes a step on one batch: forward, backward, optimiser."""
    model = create_model(name, 10, seed=0).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    images, labels = torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(images)
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return step


def banded(*sizes: int, **options: bool) -> str:
    """Choose as without half precision."""
    return CHOOSE(*sizes[:4])


CHOOSE = lambda_layer.choose_method


def main() -> None:
    """Print images a second and, if asked, write them as JSON with the environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="also write the table here")
    given = parser.parse_args()
    torch.manual_seed(0)
    steps = {name: stepper(name, given.batch) for name in MODELS}
    seconds: dict[str, dict[str, list[float]]] = {name: {"before": [], "now": []} for name in MODELS}
    for number in range(given.rounds + 1):
        for name, step in steps.items():
            for when, choose in (("before", banded), ("now", CHOOSE)):
                with patch.object(lambda_layer, "choose_method", choose):
                    start = time.perf_counter()
                    step()
                if number:
                    seconds[name][when].append(time.perf_counter() - start)
    rows = {}
    plain = statistics.median(seconds["resnet50"]["now"])
    for name, times in seconds.items():
        before, now = (statistics.median(times[when]) for when in ("before", "now"))
        rows[name] = {"before": given.batch / before, "now": given.batch / now, "over resnet50": now / plain}
        print(name, {key: round(value, 2) for key, value in rows[name].items()})
    if given.json:
        write_json(given.json, {"rows": rows, "batch": given.batch, "versions": versions()})


if __name__ == "__main__":
    main()
