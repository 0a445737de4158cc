"""Decide which runs training may keep or resume: those of the same recipe and data that did not diverge."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from utilities.datasets.factory import load_source
from utilities.datasets.fingerprint import fingerprint
from utilities.datasets.images import ImageDataset
from utilities.results.waiting import waiting
from utilities.results.writing import check_writable
from utilities.training.recipes import Recipe, changed_options, same_recipe
from utilities.training.trainer import DIVERGENCE_REMEDY, Trainer
from utilities.zoo.checkpoints import read_checkpoint, write_torch
from utilities.zoo.state_dicts import state_of
from utilities.zoo.trained_on import difference

SPLITS = ("train", "validation", "test")
REMEDY = "train into another folder, or anew without resuming, which replaces it"


def data_facts(sets: Sequence[ImageDataset]) -> dict[str, Any]:
    """Return what a checkpoint records of its data: the classes in the order of the labels, a fingerprint per part.

    Args:
        sets: Training, validation and test images, see `utilities.train.load_sets`.

    Example:
        >>> from utilities.datasets import load_dataset
        >>> facts = data_facts([load_dataset("digits", part) for part in SPLITS])
        >>> facts["classes"][:2], list(facts["data"])
        (['0', '1'], ['train', 'validation', 'test'])
    """
    return {"classes": list(sets[0].classes), "data": dict(zip(SPLITS, map(fingerprint, sets), strict=True))}


def data_now(recipe: Recipe, seed: int, classes: Sequence[str] | str | Path | None = None) -> dict[str, Any] | None:
    """Return the `data_facts` of a folder in its current state, without decoding it; None if a name fixes the data."""
    if not recipe.dataset.startswith("folder:"):
        return None
    found = [
        load_source(
            recipe.dataset,
            part,
            n_images=recipe.n_images if part == "train" else None,
            seed=seed if part == "train" else 0,
            classes=classes,
        )
        for part in SPLITS
    ]
    prints = (fingerprint(source, name) for name, source in found)
    return {"classes": list(found[0][1].classes), "data": dict(zip(SPLITS, prints, strict=True))}


def parts_now(name: str) -> dict[str, str]:
    """Return the current fingerprint of each part of a folder.

    Args:
        name: ``folder:PATH``.

    Example:
        >>> parts_now("folder:/nowhere")
        {}
    """
    found = {}
    for part in SPLITS:
        with suppress(FileNotFoundError):
            found[part] = fingerprint(load_source(name, part)[1])
    return found


def refuse_other_data(content: Mapping[str, Any], now: Mapping[str, Any] | None, path: Path, name: str) -> None:
    """Refuse a checkpoint that was trained on other data than there are now; warn where it does not state its data.

    Args:
        content: The checkpoint.
        now: `data_facts` or `data_now`; None assumes the same data.
        path: Path of the checkpoint.
        name: Name of the data.

    Raises:
        ValueError: If they differ; the message names the changed classes or parts, and the remedy.
    """
    if now is None:
        return
    if content.get("data") is None or content.get("classes") is None:
        if name.startswith("folder:"):
            warnings.warn(
                f"{path} does not say what images it was trained on; they are taken for those of {name} as it is now",
                stacklevel=3,
            )
        return
    fault = difference(now["classes"], content["classes"])
    changed = [part for part in SPLITS if content["data"].get(part) != now["data"][part]]
    if not fault and changed:
        fault = f"its {' and '.join(changed)} images were others"
    if fault:
        raise ValueError(f"{path} was trained on other data than {name} holds now: {fault}; {REMEDY}")


def finished(
    path: Path, recipe: Recipe, origin: Mapping[str, Any] | None = None, report: Callable[[str], None] = print
) -> dict[str, Any] | None:
    """Read a checkpoint that training with a recipe would repeat; return None if there is none, or another run's.

    Args:
        path: Path of the checkpoint.
        recipe: The recipe, resolved.
        origin: What the checkpoint should record of its ``teacher`` and of the weights it started from, ``start``.
        report: Function that receives the reason why a file is not kept.

    Raises:
        ValueError: If the file is damaged.
    """
    if not path.exists():
        return None
    content = read_checkpoint(path, "delete it to train anew")
    if not (same_recipe(content.get("recipe"), recipe) and _same_origin(content, origin or {})):
        report(f"{path} was trained with another recipe; training anew replaces it at the end: copy it to keep it")
        return None
    fault = diverged(state_of(content), content.get("test"), trained=recipe.epochs > 0)
    if fault:
        report(f"{path} is of a training that diverged: {fault}; training anew")
        return None
    return content


def _same_origin(content: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    return all(content.get(key) == facts.get(key) for key in ("teacher", "start"))


def diverged(state: Mapping[str, Any], test: Mapping[str, float] | None = None, trained: bool = True) -> str:
    """Name what is not finite: weights, statistics of norms, or the test loss; return an empty string if all is finite.

    Args:
        state: The state dictionary.
        test: Results on test images, with a ``loss``.
        trained: Whether there has been any training; the loss of an untrained model may overflow.

    Example:
        >>> diverged({"fc.weight": torch.tensor([0.0, float("nan")])})
        'fc.weight is not finite'
    """
    for name, value in state.items():
        masks = "mask" in name.rpartition(".")[2]  # masks may hold -inf
        if isinstance(value, torch.Tensor) and not masks and not torch.isfinite(value).all():
            return f"{name} is not finite"
    if trained and test is not None and not math.isfinite(test["loss"]):
        return f"the loss on test images is {test['loss']}"
    return ""


def refuse_diverged(trainer: Trainer, test: dict[str, float], path: Path) -> None:
    """Refuse to call a model trained if its weights, its statistics or its loss on test images are not finite.

    There is nothing to go on from then: the file to resume from is removed.

    Raises:
        FloatingPointError: If they are not; the message names them, the last epoch, and the remedy.
    """
    fault = diverged(trainer.result.state_dict(), test, trained=bool(trainer.history))
    if fault:
        if trainer.processes.rank == 0:
            resume_file(path).unlink(missing_ok=True)
        raise FloatingPointError(
            f"training diverged: {fault} after epoch {len(trainer.history)}; nothing is saved as finished; "
            f"{DIVERGENCE_REMEDY}"
        )


def resume_run(
    trainer: Trainer, recipe: Recipe, interrupted: Path, facts: dict[str, Any], report: Callable[[str], None]
) -> None:
    """Resume from a file, unless its training diverged.

    Args:
        trainer: Trainer that takes over the state.
        recipe: The recipe, resolved.
        interrupted: The file to resume from.
        facts: What the checkpoint will record of data, teacher and start.
        report: Function that receives a line on where training resumes, or why it does not.

    Raises:
        ValueError: If the file is damaged, or belongs to another recipe, teacher, start or other data, so that training
            anew would destroy it; the message names the options that differ.
    """
    first = trainer.processes.rank == 0
    state = trainer.processes.first(
        read_checkpoint(interrupted, "delete it to train from the start") if first else None
    )
    same = "name" not in state or _same_origin(state, facts)  # earlier versions did not state it
    if not (same_recipe(state.get("recipe"), recipe) and same):
        other = changed_options(state.get("recipe") or {}, recipe) or "another teacher or start"
        raise ValueError(
            f"{interrupted} is of a training with other options ({other}); repeat its options to go on with it, or "
            "delete it to start anew"
        )
    fault = diverged(state["model"])
    if fault:
        report(f"{interrupted} is of a training that diverged: {fault}; starting anew")
        return
    refuse_other_data(state, facts, interrupted, recipe.dataset)
    trainer.load_state(state)
    within = f", step {trainer.step} of the next" if trainer.step else ""
    report(f"going on after epoch {len(trainer.history)} of {recipe.total_epochs}{within}")
    before = trainer.precision_facts()["precision"]
    if before != trainer.precision:
        report(f"so far in {before}, from here on in {trainer.precision}")


def finish(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint, and remove the file to resume from; if there is no room, report that the file remains.

    Raises:
        OSError: If there is no room; the message names what is needed and what is free.
    """
    interrupted = resume_file(path)
    try:
        write_torch(path, content)
    except OSError as error:
        if interrupted.exists():
            raise OSError(f"{error}; --resume then goes on from {interrupted}") from error
        raise
    interrupted.unlink(missing_ok=True)


def resume_file(path: Path) -> Path:
    """Return the path of the file that an interrupted run of a checkpoint resumes from."""
    return path.with_suffix(".resume.pth")


@contextmanager
def locked(path: Path, report: Callable[[str], None] = print) -> Iterator[None]:
    """Hold the lock of a checkpoint, making its folder; if the lock is refused, no new lock file remains.

    Args:
        path: Path of the checkpoint.
        report: Function that receives a line while another process holds the lock.
    """
    check_writable(path)
    file = path.with_suffix(".lock")
    fresh = not file.exists()
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        report(f"waiting for another process that trains {path}")
        with waiting():
            lock.acquire()
    try:
        yield
    except Exception:
        if fresh:
            file.unlink(missing_ok=True)
        raise
    finally:
        lock.release()
