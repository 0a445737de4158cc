"""The loss landscape for ``analyse landscape``: its points shared among processes or machines.

On several machines with a common disk, give each a ``--part``, and call the command once more without it when all are
done: it finds their points and puts them together.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from matplotlib.figure import Figure
from timm.data import Mixup

from utilities.analysis.loss.directions import random_directions
from utilities.analysis.loss.landscape import Landscape, loss_landscape
from utilities.analysis.loss.unfinished_landscape import unfinished_files
from utilities.cli.analyse import Call
from utilities.datasets.loaders import Loader
from utilities.hooks.calls.sharing import sharing_processes
from utilities.plots.loss.landscape import plot_contours, plot_cuts, plot_surfaces
from utilities.utils import PROJECT_ROOT


def landscape(
    call: Call,
    *,
    label_smoothing: float = 0.0,
    jobs: int = 1,
    part: tuple[int, int] | None = None,
    resume: bool = True,
    directions: bool = True,
    **options: Any,
) -> Landscape | None:
    """Measure the loss on a grid of points around a model's weights, on the same images at every point.

    Args:
        call: The command.
        label_smoothing: Smoothing of the labels where images are mixed.
        jobs: Processes that share the points; each holds model and images.
        part: I COUNT: measure the points I, I + COUNT, ... alone.
        resume: Whether to go on with the points that a killed run left.
        directions: Whether to save both directions, 8 bytes for each parameter.
        **options: Options of `utilities.analysis.loss.landscape.loss_landscape`.

    Returns:
        The landscape, or None of a part.
    """
    given, (loader,), base = call.given, call.loaders, call.files.beside(call.own_label)
    if jobs < 1 or (part and jobs > 1):
        raise ValueError(f"--jobs {jobs} should be 1 or more, and 1 beside --part")
    place = sharing_processes()
    if place.count > 1 and (part or jobs > 1):
        raise ValueError("the processes of torchrun share the points by themselves; leave out --jobs and --part")
    mix = _mix(given, loader, label_smoothing)
    model, facts = call.open()
    if not resume and place.rank == 0:
        for path in unfinished_files(base, call.model.name):
            path.unlink()
    if jobs > 1 and call.model is call.models[0]:
        share(call.words, jobs, given.device)
    first = not part or part[0] == 0  # one of several processes reports
    result = loss_landscape(
        model,
        loader,
        mix=mix,
        part=tuple(part or (0, 1)),
        resume=base,
        report=print if first else None,
        progress=first,
        seed=given.seed,
        device=given.device,
        provenance=facts | {"data_seed": loader.seed},
        **options,
    )
    if part:
        print(f"part {part[0]} of {part[1]} is done; call the command without --part once all are")
        return None
    if directions and call.files.result:
        both = random_directions(model, given.seed, orthogonal=options["orthogonal"])
        both.save(call.files.beside(call.own_label, "directions"))
    return result


def _mix(given: SimpleNamespace, loader: Loader, smoothing: float) -> Mixup | None:
    """Make timm's mixing, which takes images in pairs."""
    if not (given.mixup or given.cutmix or smoothing):
        return None
    count, size = len(loader.dataset), given.batch_size
    if count % 2 or size % 2:
        raise ValueError(
            f"mixing takes images in pairs, but there are {count} in batches of {size}; make both even with --n-images "
            "and --batch-size"
        )
    mixes, classes = float(given.mixup > 0 or given.cutmix > 0), loader.dataset.num_classes
    return Mixup(given.mixup, given.cutmix, prob=mixes, label_smoothing=smoothing, num_classes=classes)


def share(words: Sequence[str], jobs: int, device: str) -> None:
    """Start a process for each part, and wait for all; if one fails, the others are ended.

    Args:
        words: The command line from the analysis' name on.
        jobs: How many.
        device: Asked for; with ``auto`` and ``cuda`` each process gets a GPU, as far as there are several.

    Raises:
        ChildProcessError: Naming the part that failed.
    """
    command = [sys.executable, "-m", "utilities", "analyse", *words, "--jobs", "1", "--resume"]
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    paths = os.pathsep.join(filter(None, [str(PROJECT_ROOT), os.environ.get("PYTHONPATH")]))
    environment = {"OMP_NUM_THREADS": threads, **os.environ, "PYTHONPATH": paths}
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    how = {"env": environment, "start_new_session": True}  # a terminal's Ctrl-C reaches this process alone
    started: list[subprocess.Popen] = []
    try:
        for part in range(jobs):
            own = ["--device", f"cuda:{part % gpus}"] if gpus else []
            started.append(subprocess.Popen([*command, *own, "--part", str(part), str(jobs)], **how))
        while any(process.poll() is None for process in started):
            _refuse_failure(started)
            time.sleep(0.1)
        _refuse_failure(started)
    finally:
        for process in started:
            if process.poll() is None:
                process.terminate()
            process.wait()


def _refuse_failure(started: Sequence[subprocess.Popen]) -> None:
    for part, process in enumerate(started):
        if process.returncode:
            raise ChildProcessError(
                f"part {part} of {len(started)} ended with status {process.returncode}; what is done is kept, and the "
                "same command goes on with it"
            )


def figures(results: Mapping[str, Landscape], loaders: Mapping[str, Any]) -> dict[str, Figure]:
    """Draw contours, surfaces and cuts; of lines the cuts alone."""
    if any(len(result.y) == 1 for result in results.values()):
        return {"": plot_cuts(results)}
    return {"": plot_contours(results), "_surface": plot_surfaces(results), "_cut": plot_cuts(results)}
