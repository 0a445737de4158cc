"""Train a model with the study's recipe: ``python -m utilities.train MODEL EPOCHS SEED DIR``.

The recipe: CIFAR-100, SGD with learning rate 0.1, momentum 0.9 and weight decay 5e-4, cosine decay, batches of 256,
random flips and padded crops, cross-entropy. Vision Transformers do not learn with it and use AdamW. Some of the
training images are held out for validation. The last epoch's weights are kept whatever the validation shows, and the
test set is used only once, at the end. ``--recipe`` selects another one of `utilities.training.recipes.RECIPES`, such
as those of Park & Kim 2022 (https://arxiv.org/abs/2202.06709); other options then change single values of it.
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that is heavy, so that --help is quick; training imports this file by its name
    import sys

    from utilities.cli.verbs import main

    sys.exit(main(["train", *sys.argv[1:]]))

import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torchvision.ops import StochasticDepth

from utilities.datasets.images import ImageDataset, refuse_mirror_images
from utilities.hooks.calls.memory import keeping_freed_memory
from utilities.hooks.calls.options import check_number
from utilities.hooks.calls.processes import Processes
from utilities.results.writing import check_writable, clear_killed
from utilities.training.evaluation import estimate_batch_norm, evaluate_shared
from utilities.training.origins import load_start, read_start, read_teacher
from utilities.training.recipes import Recipe
from utilities.training.record import Curves, commit, write_record
from utilities.training.resumption import (
    data_facts,
    data_now,
    finish,
    finished,
    locked,
    refuse_diverged,
    refuse_other_data,
    resume_file,
    resume_run,
)
from utilities.training.saving import Saving
from utilities.training.sets import check_size, load_sets, make_loaders, resident, still_images
from utilities.training.trainer import Trainer, autocast_dtype
from utilities.utils import resolve_device, set_seed, versions
from utilities.zoo.checkpoints import tensor_bytes, write_torch
from utilities.zoo.factory import check_name, create_model
from utilities.zoo.huggingface import is_hf
from utilities.zoo.own_models import is_own

RESUME_EVERY = 60  # seconds of training that an interruption costs at most
# Names of the stochastic-depth argument: in this package's models, and in those of the libraries.
DROP_PATH = {
    "": ("drop_path", "drop_path_rate"),
    "timm": ("drop_path_rate",),
    "torchvision": ("stochastic_depth_prob",),
    "hf": ("drop_path_rate",),
}


def checkpoint_path(
    folder: str | Path,
    model_name: str,
    seed: int,
    epochs: int,
    teacher: str | Path | None = None,
    start: str | Path | None = None,
) -> Path:
    """Name a checkpoint: ``FOLDER/MODEL_seed_SEED_epochs_EPOCHS.pth``; a slash or colon in a name becomes a dash.

    For a model with a teacher, ``_taught_by_`` and the name of the teacher's checkpoint follow; for one that starts
    from a checkpoint, ``_from_`` and the name of that.

    Example:
        >>> checkpoint_path("runs", "resnet18", 0, 200).as_posix()
        'runs/resnet18_seed_0_epochs_200.pth'
    """
    origin = f"_taught_by_{Path(teacher).stem}" if teacher else ""
    origin += f"_from_{Path(start).stem}" if start else ""
    model_name = re.sub(r"[/\\:]", "-", model_name).lstrip(".-")
    return Path(folder) / f"{model_name}_seed_{seed}_epochs_{epochs}{origin}.pth"


def fit(
    model_name: str,
    recipe: Recipe,
    seed: int,
    folder: str | Path,
    *,
    device: str | torch.device = "auto",
    precision: str = "auto",
    workers: int = 0,
    save_every: int | None = None,
    resume: bool = False,
    teacher: str | Path | None = None,
    start: str | Path | None = None,
    classes: Sequence[str] | str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    sets: Sequence[ImageDataset] | None = None,
    sync_norms: bool = False,
    accumulate: int = 1,
    compiled: bool = False,
    mirrored: bool = False,
    resume_every: float | None = None,
    log: str | Path | None = None,
    report: Callable[[str], None] = print,
) -> Path:
    """Train a model and write its checkpoint, completely or not at all.

    In a ``torch.distributed`` group, as torchrun makes one, each process trains on its share of every batch: gradients
    are averaged, and draws depend on seed, epoch and image alone. The first process writes.

    The checkpoint loads with ``weights_only=True`` and holds ``model`` (the state dictionary), ``name``,
    ``num_classes``, ``seed``, ``recipe``, ``history`` (a row for each epoch), ``test`` (loss and accuracies on the test
    set, measured once, at the end), ``classes`` (their names), ``data`` (a fingerprint of each split, see
    `utilities.datasets.fingerprint`), ``precision``, ``precisions`` (for each part of the epochs), ``processes``
    (how many ended the training), ``versions`` and ``commit``. A JSON file beside it states all but the weights.

    Args:
        model_name: A name that `utilities.zoo.create_model` knows.
        recipe: Recipe of the training.
        seed: Seed of the initial weights, the order of the images and their augmentation.
        folder: Folder of the checkpoint. Several processes may ask for the same checkpoint; one of them trains it.
        device: Device to train on; see `utilities.utils.resolve_device`.
        precision: Numerical precision; see `utilities.training.trainer.autocast_dtype`.
        workers: Number of processes that load images.
        save_every: Interval in epochs at which snapshots ``..._at_EPOCH.pth`` are written. Snapshots are also written
            of the initial weights (epoch 0) and after the epoch in which the warm-up ends. Epochs are counted from the
            first step and include a warm-up that precedes the recipe's epochs: of 5 + 300, the last one is 305.
        resume: Keep a finished checkpoint of the same recipe, or continue an interrupted run of it. If the checkpoint
            is older than an option, that option counts as having its default. A checkpoint trained on other data is
            refused. One whose training diverged is trained anew.
        teacher: Checkpoint of a model to learn from as well, trained by this function on the same images.
        start: Checkpoint of the same model, made by this function, whose weights to start from. Its classifier is kept
            only if the classes are the same ones; otherwise it starts from random weights.
        classes: Order of a folder's classes; see `utilities.datasets.load_dataset`.
        options: Further options of `utilities.zoo.create_model`, such as the ``widths`` of a plain CNN. Checkpoints do
            not hold them, so that they need a folder of their own.
        sets: What `load_sets` gives for this recipe, seed and order of classes, to train several models on images that
            are read once.
        sync_norms: Whether batch norms take their statistics from the images of all processes; needs CUDA.
        accumulate: Number of parts in which a step computes its batch, for want of memory.
        compiled: Whether to use torch.compile.
        mirrored: Whether to test on the mean logits of each image and its mirror image as well; ``..._mirrored`` in
            ``test``. Refused for digits, which are others when they are mirrored.
        resume_every: Minutes of training that an interruption costs at most; None is one. Ctrl-C and SIGTERM save
            after the step at hand.
        log: Folder where curves are written while the training runs, see `utilities.training.record.Curves`.
        report: Function that receives the lines of the epoch table.

    Returns:
        The path of the checkpoint.

    Raises:
        ValueError: Before any training, for an unknown model or data set, options out of range, stochastic depth for a
            model that takes none, or data that have changed.
        FloatingPointError: If training diverges; snapshots are kept.
        OSError: If there is no room for the checkpoint.

    Example:
        >>> import tempfile
        >>> recipe = Recipe("digits", epochs=0, image_size=8, n_images=20, batch_size=10)
        >>> fit("resnet18", recipe, 0, tempfile.mkdtemp(), report=lambda line: None).name
        'resnet18_seed_0_epochs_0.pth'
    """
    check_name(model_name)
    recipe, processes = recipe.resolved(model_name), Processes.now()
    _check_processes(recipe, processes)
    report = report if processes.rank == 0 else _silent
    autocast_dtype(precision, resolve_device(device))
    if save_every is not None and save_every < 1:
        raise ValueError(f"save_every={save_every} must be at least 1")
    if resume_every is not None:
        check_number("resume_every", resume_every, least=0, hint=", in minutes")
    if not 1 <= accumulate <= max(1, recipe.batch_size // (2 * processes.count)):
        raise ValueError(
            f"accumulate={accumulate} (--grad-accum) parts of batches of {recipe.batch_size} should be 1 or more and "
            "leave two images in each part of every process; take fewer parts or larger batches"
        )
    path = checkpoint_path(folder, model_name, seed, recipe.epochs, teacher, start)
    taught = None if teacher is None else read_teacher(Path(teacher), recipe, classes)
    begun = None if start is None else read_start(start, model_name)
    origin = {"teacher": taught[1]} if taught else {}
    origin |= {"start": begun[1]} if begun else {}
    with locked(path, report) if processes.rank == 0 else nullcontext(), keeping_freed_memory():
        if not resume and path.exists():
            report(f"{path} is there already; training anew replaces it at the end: copy it to keep it")
        content = finished(path, recipe, origin, report) if resume and processes.rank == 0 else None
        if content is not None:
            refuse_other_data(content, data_now(recipe, seed, classes), path, recipe.dataset)
            untested = mirrored and "top1_mirrored" not in content.get("test", {})
            remedy = "; it was tested without mirror images: evaluate --mirrored does that" if untested else ""
            report(f"{path} is there already, trained with this recipe{remedy}")
        if processes.first(content is not None):
            return path
        if processes.rank == 0:
            clear_killed(path)
            clear_killed(resume_file(path))
        sets = load_sets(recipe, seed, classes) if sets is None else sets
        if mirrored:
            refuse_mirror_images(sets[2])
        placed = resident(sets, resolve_device(device), workers)
        (train, validation, test), num_classes = make_loaders(placed, recipe, seed, workers), sets[0].num_classes
        set_seed(seed)
        model = _create(model_name, num_classes, seed, recipe.drop_path, options or {})
        if begun:
            wider = _create(model_name, num_classes + 1, seed, recipe.drop_path, options or {})
            fresh = load_start(model, begun[0], sets[0].classes, wider)
            report(f"starting from {start}{', with random ' * bool(fresh)}{', '.join(fresh)}")
        check_size(model, train, model_name)
        check_writable(path, tensor_bytes(model.state_dict()))
        how = {"device": device, "precision": precision, "sync_norms": sync_norms, "processes": processes}
        how |= {"accumulate": accumulate, "compiled": compiled}
        trainer = Trainer(model, recipe, train, validation, teacher=taught and taught[0], **how)
        facts = {"name": model_name, "num_classes": num_classes, "seed": seed, "recipe": asdict(recipe)} | origin
        facts |= {"versions": versions(), "commit": commit(), **data_facts(sets)}
        every = RESUME_EVERY if resume_every is None else 60 * resume_every
        curves = Curves(log if processes.rank == 0 else None, path.stem)
        _run(trainer, recipe, path, facts, save_every, resume, every, curves, report)
        if recipe.norm_images:
            estimate_batch_norm(trainer.result, still_images(recipe, len(sets[0]), seed, classes), device)
        evaluated = partial(evaluate_shared, trainer.result, test, device, processes, autocast=trainer.dtype)
        result = evaluated()
        report(f"test: loss {result['loss']:.4f}, top-1 {result['top1']:.2%}, top-5 {result['top5']:.2%}")
        refuse_diverged(trainer, result, path)
        if mirrored:
            both = evaluated(mirrored=True)
            result |= {f"{name}_mirrored": value for name, value in both.items() if name != "n"}
            report(f"with mirror images: loss {both['loss']:.4f}, top-1 {both['top1']:.2%}, top-5 {both['top5']:.2%}")
        facts |= trainer.precision_facts() | {"history": trainer.history, "test": result, "processes": processes.count}
        if processes.rank == 0:
            finish(path, facts | {"model": trainer.result.state_dict()})
            write_record(path, facts)
            report(f"wrote {path}")
    processes.first(None)  # the others may read what it has written
    return path


def _silent(line: str) -> None:
    """Report nothing: the first process speaks for all."""


def _check_processes(recipe: Recipe, processes: Processes) -> None:
    """Refuse batches that do not give each process two images."""
    if recipe.batch_size < 2 * processes.count:
        raise ValueError(
            f"batch_size={recipe.batch_size} is that of all {processes.count} processes together, which leaves some "
            f"with fewer than two images; take {2 * processes.count} or more, or fewer processes"
        )


def _create(
    model_name: str, num_classes: int, seed: int, drop_path: float, options: Mapping[str, Any]
) -> torch.nn.Module:
    """Make the model to train, passing the stochastic-depth rate under the name that the model has for it."""
    if not drop_path:
        return create_model(model_name, num_classes, "random", seed, **options)
    own, reason = is_own(model_name), "nothing in it is dropped"
    library = "" if own else model_name.rpartition("/")[0]
    for keyword in DROP_PATH["hf" if is_hf(model_name) else library]:
        try:
            model = create_model(model_name, num_classes, "random", seed, **{keyword: drop_path}, **options)
        except TypeError as error:
            reason = str(error)
            continue
        # Some builders of the libraries accept any keyword and ignore it.
        rates = (m.p if isinstance(m, StochasticDepth) else getattr(m, "drop_prob", 0) for m in model.modules())
        if not (library or own) or any(rates):
            return model
    raise ValueError(f"{model_name} cannot be given drop_path={drop_path} ({reason}); --drop-path 0 leaves it as it is")


def _run(
    trainer: Trainer,
    recipe: Recipe,
    path: Path,
    facts: dict[str, Any],
    save_every: int | None,
    resume: bool,
    every: float,
    curves: Curves,
    report: Callable[[str], None],
) -> None:
    """Run the remaining epochs, print the table, and write snapshots and a file to resume from."""
    interrupted = resume_file(path)
    if trainer.processes.first(resume and interrupted.exists()):
        resume_run(trainer, recipe, interrupted, facts, report)
    elif interrupted.exists():
        report(f"{interrupted} is of an interrupted training; this one begins anew, and replaces it")

    def snapshot(epoch: int) -> None:
        if trainer.processes.rank:
            return
        if save_every and (epoch % save_every == 0 or epoch == math.ceil(recipe.warmup)):
            content = facts | trainer.precision_facts() | {"model": trainer.result.state_dict()}
            write_torch(path.with_name(f"{path.stem}_at_{epoch}.pth"), content)

    if not trainer.history and not trainer.step:
        snapshot(0)
    report("epoch  lr        train loss  top-1   top-5    validation loss  top-1   top-5    seconds")
    with Saving(trainer, interrupted, facts, every, report) as save_if_due:
        trainer.after_step = save_if_due
        while len(trainer.history) < recipe.total_epochs:
            row = trainer.run_epoch()
            report(
                f"{row['epoch']:>5}  {row['learning_rate']:<8.2g}  {row['train_loss']:>10.4f}  "
                f"{row['train_top1']:>6.2%}  {row['train_top5']:>7.2%}  {row['loss']:>15.4f}  {row['top1']:>6.2%}  "
                f"{row['top5']:>7.2%}  {row['seconds']:>7.1f}"
            )
            curves.write(trainer.history)
            snapshot(row["epoch"])
            save_if_due(due=len(trainer.history) == recipe.total_epochs)  # the tests that follow take minutes, too
