"""The verb ``train``: train a model with the study's recipe or another one; see `utilities.train`.

Under torchrun, each process trains on its share of every batch; ``--batch-size`` is that of all together:

    torchrun --nproc_per_node=8 -m utilities.train resnet50 90 0 checkpoints --recipe imagenet_general --resume

``python -m utilities.train MODEL EPOCHS SEED DIR`` and ``python utilities/train.py ...`` are the same.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

from utilities.cli.arguments import Option, options_of, parse, position
from utilities.cli.user_errors import fail, nearest, reporting
from utilities.training.recipes import CROPS, FLIPS, OPTIMIZERS, RECIPES, SCHEDULES, Recipe, describe_recipe

PROG = "python -m utilities train"
PRECISIONS = {"exact": "float32", "half": "bfloat16"}  # compare's words for the same
CHOICES = {"crop": CROPS, "flips": FLIPS, "optimizer": OPTIMIZERS, "schedule": SCHEDULES}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A training.

    Attributes:
        model: NAME, package.module:FUNCTION or FILE.py:FUNCTION; see python -m utilities models. Its weights are
            random at first, unless there is a start.
        epochs: Epochs of the recipe. A warm-up that the recipe counts apart comes on top.
        seed: Seed of the initial weights, the order of the images and their augmentation.
        dir: Folder of the checkpoint MODEL_seed_SEED_epochs_EPOCHS.pth.
        recipe: One of those above.
        device: auto, cpu, cuda, cuda:1, mps.
        precision: exact or float32: float32 throughout; half or bfloat16: the model in bfloat16; float16: on GPUs
            alone; auto: bfloat16 where it is fast, else float32.
        workers: Processes that load images.
        classes: Order of a folder's classes: natural (2 before 10, as timm), a text file with one a line, or names.
        save_every: Snapshots every so many epochs, at the start and after the warm-up.
        teacher: Checkpoint of a model whose answers to learn from as well.
        start: Checkpoint of the same model whose weights to start from; its classifier stays where the classes do.
        resume: Keep what is finished, go on with what was interrupted.
        resume_every: Minutes of training that a killed run loses at most; one by default. Ctrl-C and SIGTERM lose none.
        log: Folder where curves are written after each epoch, as CSV and, where it is installed, for TensorBoard.
        grad_accum: Parts in which a step computes its batch, where memory is short.
        compile: Let torch.compile make the model's code; pays in long trainings.
        mirrored: Test on the mean of each image and its mirror image as well.
        sync_norms: Under torchrun, batch norms see the images of all processes; on GPUs alone.
    """

    model: Annotated[str, position(metavar="MODEL")]
    epochs: Annotated[int, position(metavar="EPOCHS")]
    seed: Annotated[int, position(metavar="SEED")]
    dir: Annotated[str, position(metavar="DIR")]
    recipe: str = "study"
    device: str = "auto"
    precision: Literal["auto", "exact", "float32", "half", "bfloat16", "float16"] = "auto"
    workers: int = 0
    classes: tuple[str, ...] | None = None
    save_every: int | None = None
    teacher: str | None = None
    start: str | None = None
    resume: bool = False
    resume_every: float | None = None
    log: str | None = None
    grad_accum: int = 1
    compile: bool = False
    mirrored: bool = False
    sync_norms: bool = False


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Command line, less the verb; None takes that of the process.
    """
    if arguments is None:
        import sys

        arguments = sys.argv[1:]
    named = [after for before, after in pairwise(arguments) if before == "--recipe"]
    named += [word.removeprefix("--recipe=") for word in arguments if word.startswith("--recipe=")]
    recipe = (named or ["study"])[-1]
    if recipe not in RECIPES:
        fail(f"there is no recipe {recipe!r}{nearest(recipe, RECIPES)}; recipes: {', '.join(RECIPES)}")
    listed = "\n\n".join(f"{name}: {describe_recipe(one)}." for name, one in RECIPES.items())
    about = f"Train a model, with the study's recipe or another one.\n\nRecipes:\n\n{listed}"
    given = vars(parse([*options_of(Run), *recipe_options(RECIPES[recipe])], arguments, PROG, about))
    values = {field.name: given.pop(field.name) for field in dataclasses.fields(Recipe) if field.name != "epochs"}
    if (values["rand_augment"] or "").lower() == "none":
        values["rand_augment"] = None
    own = dataclasses.replace(RECIPES[recipe], epochs=given.pop("epochs"), **values)
    given.pop("recipe")
    given["precision"] = PRECISIONS.get(given["precision"], given["precision"])
    if not own.epochs:
        warnings.warn(f"0 epochs: the weights of {given['model']} stay random", stacklevel=1)
    with reporting():
        _refuse_weights(given["model"])
        from utilities.datasets.class_order import from_options
        from utilities.hooks.calls.processes import process_group
        from utilities.train import fit

        given["classes"] = from_options(given["classes"])
        given |= {"accumulate": given.pop("grad_accum"), "compiled": given.pop("compile")}
        with process_group(given["device"]) as given["device"]:
            fit(given.pop("model"), own, given.pop("seed"), given.pop("dir"), **given)


def _refuse_weights(word: str) -> None:
    """Refuse NAME=WEIGHTS, which other verbs take."""
    from utilities.zoo.factory import split_model

    name, _ = split_model(word)
    if name != word:
        raise ValueError(
            f"training starts from random weights: write {name} instead of {word}; --start CHECKPOINT starts from an "
            "earlier training, --resume goes on with an interrupted one, --teacher CHECKPOINT learns from another model"
        )


def recipe_options(recipe: Recipe) -> list[Option]:
    """List the options that change single values of a recipe, which are their defaults.

    Example:
        >>> next(one.default for one in recipe_options(RECIPES["study"]) if one.name == "batch_size")
        256
    """
    found = []
    for one in options_of(Recipe, ["epochs"]):
        own = one.type if one.name not in CHOICES else Literal[CHOICES[one.name]]
        own = own | None if one.name == "optimizer" else own
        words = " or none" if one.name == "rand_augment" else ""
        default = getattr(recipe, one.name)
        found.append(dataclasses.replace(one, type=own, default=default, metavar="WORDS|none" if words else ""))
    return found
