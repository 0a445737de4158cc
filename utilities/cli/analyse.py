"""The verb ``analyse``: an analysis by name for one or more models, each on the same images.

    python -m utilities analyse fourier --models timm/resnet50=pretrained timm/vit_tiny_patch16_224=pretrained \
        --dataset imagenet --n-images 1000 --out runs/frequencies

Options of an analysis are those of its signature. Results, figures and a table go where ``--out`` says, and what the
results say about a paper's claims is printed. Under torchrun the batches are shared among processes:

    torchrun --nproc_per_node=8 -m utilities analyse fourier --models timm/vit_large_patch16_224=pretrained \
        --dataset imagenet --out runs/frequencies
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from utilities.cli.analyses import ANALYSES, Analysis, find, summary
from utilities.cli.arguments import Option, options_of, parse
from utilities.cli.options import Augmented, Training, shared
from utilities.cli.user_errors import fail, nearest, reporting

if TYPE_CHECKING:
    from torch import nn

    from utilities.cli.files import Files
    from utilities.cli.opening import Named
    from utilities.datasets.loaders import Loader

PROG = "python -m utilities analyse"
OF_SEVERAL = "With several models, it is for those whose blocks are not known; the others keep their own."
# Parameters that the command fills in by itself, from its shared options or the images.
FILLED = (
    "model", "models", "loader", "train_loader", "test_loader", "augmented_loader", "clean_loader", "call", "device",
    "seed", "provenance", "progress", "mix", "n_images", "workers", "root", "maps", "report", "lens",
)  # fmt: skip


@dataclasses.dataclass
class Call:
    """One model of a command line.

    Attributes:
        given: The values of all options.
        words: The command line.
        model: Name, weights and seed; the first one of those that are analysed together.
        label: Under which its result is drawn and saved.
        models: All models of the command line.
        files: Where results go.
        labelled: Whether weights for other classes are refused.
        loaders: Loaders of its images.
        layers_named: Whether ``--layers`` names the blocks of this model.
    """

    given: SimpleNamespace
    words: Sequence[str]
    model: Named
    label: str
    models: Sequence[Named]
    files: Files
    labelled: bool
    loaders: list[Loader]
    layers_named: bool = True

    def open(self) -> tuple[nn.Module, dict[str, Any]]:
        """Make the model, and say what is known of it and its images."""
        from utilities.cli.opening import data_facts, open_model
        from utilities.zoo.trained_on import refuse_other_classes

        loader = self.loaders[-1]
        model, facts = open_model(self.model, loader.dataset.num_classes, self.given.dataset)
        if self.labelled:
            refuse_other_classes(model, loader.dataset)
        return model, facts | data_facts(loader)

    @property
    def own_label(self) -> str:
        """What names of files say of the model: nothing where it is the only one."""
        return self.label if len(self.models) > 1 else ""


def overview() -> str:
    """List the analyses with a line each."""
    lines = [f"  {name:<20}{summary(one.function)}" for name, one in ANALYSES.items()]
    usage = f"usage: {PROG} ANALYSIS --models MODEL [MODEL ...] --dataset DATA --out FILE [options]"
    return "\n".join([usage, "", *lines, "", f"{PROG} ANALYSIS --help has the options of one"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Command line, less the verb.
    """
    arguments = list(arguments or [])
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return
    name, rest = arguments[0].replace("-", "_"), arguments[1:]
    if name not in ANALYSES:
        fail(f"there is no analysis {arguments[0]!r}{nearest(name, ANALYSES)}; {PROG} lists all analyses")
    entry = ANALYSES[name]
    options, own = all_options(entry)
    given = parse(options, rest, f"{PROG} {name}", summary(entry.function), many="models")
    from utilities.cli.together import together

    with reporting(), together(given):
        run(entry, given, own, [name, *rest])


def all_options(entry: Analysis) -> tuple[list[Option], list[str]]:
    """List the options of an analysis: those shared, and those of its own.

    Returns:
        All of them, and the names of its own.
    """
    common = shared()
    common += options_of(Augmented) if "augmented" in entry.images else []
    common += options_of(Training) if "train and" in entry.images else []
    leave_out = {*FILLED, *entry.without}
    own = [one for source in (*entry.more, entry.function) for one in options_of(find(source), leave_out)]
    defaults = {"split": "train"} if "augmented" in entry.images else {}
    defaults |= entry.defaults
    together = [
        dataclasses.replace(one, default=defaults[one.name]) if one.name in defaults else one for one in [*common, *own]
    ]
    together = [_in_words_of_commands(one, defaults) for one in together]
    return together, list(dict.fromkeys(one.name for one in own))


def _in_words_of_commands(one: Option, defaults: Mapping[str, Any]) -> Option:
    """Add to an option's help what holds of the command line alone."""
    if one.name == "dataset" and defaults.get("dataset") == "":
        return dataclasses.replace(one, help="Not needed by this analysis.")
    if one.name == "layers" and not one.help.startswith("Globs"):
        return dataclasses.replace(one, help=f"{one.help} {OF_SEVERAL}")
    return one


def run(entry: Analysis, given: SimpleNamespace, own: Sequence[str], words: Sequence[str]) -> None:
    """Analyse as the command line says, write results and figures, and say where they are."""
    from utilities.cli.files import Files, say_written
    from utilities.hooks.calls.sharing import sharing_processes
    from utilities.utils import resolve_device

    first = sharing_processes().rank == 0
    files = Files.of(given) if first else Files.of(given).none()
    resolve_device(given.device)
    if files.formats and not files.result and not entry.figures:
        raise ValueError(f"{given.out}: this analysis has no figure; write its result (.npz) or its table (.csv)")
    options = {name: getattr(given, name) for name in own}
    options = {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
    options |= {"layers": globs_or_kinds(options["layers"])} if "layers" in options else {}
    results: dict[str, Any] = {}
    loaders: dict[str, list[Loader]] = {}
    try:
        for label, result, own_loaders in measure(entry, given, options, words, files):
            results[label], loaders[label] = result, own_loaders
    finally:  # what was measured before a model failed is not lost
        if results and first:
            say_written(write(entry, given, files, results, loaders))


def write(
    entry: Analysis,
    given: SimpleNamespace,
    files: Files,
    results: Mapping[str, Any],
    loaders: Mapping[str, list[Loader]],
) -> list[Path]:
    """Write results, figures, table and claims, and print reports.

    Returns:
        The files.
    """
    paths = save(results, files, several=len(results) > 1 or (len(given.models) > 1 and not entry.together))
    if entry.report:
        for ending, table in find(entry.report)(results, given).items():
            paths += files.save_table(table, ending) if files.everything else []
    if files.formats and entry.figures:
        paths += files.save_figures(draw(entry, results, loaders))
    if entry.claims and (not entry.about or find(entry.about)(results)):
        from utilities.claims.claim import state_claims

        where = files.beside("claims")
        print(state_claims(find(entry.claims)(results), where if files.everything else None))
        paths += [where.with_name(f"{where.name}.csv")] if files.everything else []
    return paths


def measure(
    entry: Analysis, given: SimpleNamespace, options: Mapping[str, Any], words: Sequence[str], files: Files
) -> Iterator[tuple[str, Any, list[Loader]]]:
    """Run an analysis for each model.

    Yields:
        The model's label, its result, and the loaders of its images.
    """
    from utilities.cli.loaders import LOADERS
    from utilities.cli.opening import labels, named_models

    models = named_models(given.models, given.model_seeds, given.seed) if given.models or not entry.together else []
    function = find(entry.function)
    if entry.together:
        call = Call(given, words, models[0] if models else None, "", models, files, entry.labelled, [])
        yield from ((label, result, []) for label, result in function(call, **options).items())
        return
    named = _with_named_layers(models, options)
    for model, label in zip(models, labels(models), strict=True):
        loaders = LOADERS[entry.images](given, model)
        call = Call(given, words, model, label, models, files, entry.labelled, loaders, model in named)
        found = function(call, **options) if _takes_call(function) else _plain(entry, call, options)
        if found is not None:
            yield label, found, loaders


def _with_named_layers(models: Sequence[Named], options: Mapping[str, Any]) -> set[Named]:
    if not isinstance(options.get("layers"), Mapping):
        return set(models)
    from utilities.cli.named_layers import with_named_layers

    return with_named_layers(models)


def globs_or_kinds(layers: Any) -> Any:
    """Tell an even number of globs, ``--layers GLOB GLOB``, from ``--layers GLOB KIND``, which reads the same.

    Example:
        >>> globs_or_kinds({"layer1.?": "layer2.?"}), globs_or_kinds({"layer1.?": "conv"})
        (['layer1.?', 'layer2.?'], {'layer1.?': 'conv'})
    """
    if not isinstance(layers, Mapping) or any(_like_kind(str(kind)) for kind in layers.values()):
        return layers
    return [word for pair in layers.items() for word in pair]


def _like_kind(word: str) -> bool:
    """Tell whether a word is a kind of block, perhaps with a layout, or nearly one."""
    from utilities.hooks.block import BLOCK_KINDS

    return bool(difflib.get_close_matches(word.partition(":")[0], BLOCK_KINDS, n=1, cutoff=0.7))


def _takes_call(function: Any) -> bool:
    return next(iter(inspect.signature(function).parameters)) == "call"


def _plain(entry: Analysis, call: Call, options: Mapping[str, Any]) -> Any:
    """Call an analysis with a model, its loaders, and what it takes of what is known."""
    from utilities.cli.loaders import mixing
    from utilities.cli.opening import epoch_of
    from utilities.hooks.calls.sharing import sharing_processes

    model, facts = call.open()
    facts |= {"epoch": epoch_of(call.model), "seed": call.given.seed} if "augmented" in entry.images else {}
    known = {"device": call.given.device, "seed": call.given.seed, "provenance": facts}
    known |= {"progress": sharing_processes().rank == 0}
    known |= {"n_images": getattr(call.given, "n_images", None)}
    if "augmented" in entry.images:
        known["mix"] = mixing(call.given, facts["num_classes"])
    sources = [find(source) for source in (entry.function, *entry.more)]
    takes = {name for source in sources for name in inspect.signature(source).parameters}
    loaders = [] if entry.images == "none" else call.loaders
    known = {name: value for name, value in known.items() if name in takes}
    options = {name: value for name, value in options.items() if name != "layers" or call.layers_named}
    return sources[0](model, *loaders, **known, **options)


def save(results: Mapping[str, Any], files: Files, several: bool) -> list[Path]:
    """Write each model's result, under its label where there are several, and one table of all."""
    import pandas as pd

    paths, tables = [], []
    for label, result in results.items():
        nested = isinstance(result, Mapping)  # several readings of one model
        for reading, one in result.items() if nested else [("", result)]:
            paths += files.save(one, label if nested or several else "", reading)
            table = one.to_frame()
            more = {"model": label} if label else {}
            more |= {"reading": reading} if nested else {}
            for name in reversed([name for name in more if name not in table.columns]):
                table.insert(0, name, more[name])
            tables.append(table)
    return paths + files.save_table(pd.concat(tables, ignore_index=True))


def draw(entry: Analysis, results: Mapping[str, Any], loaders: Mapping[str, list[Loader]]) -> dict[str, Any]:
    """Draw the figures of an analysis, by the endings of their names."""
    if isinstance(entry.figures, str):
        return find(entry.figures)(results, loaders)
    return {ending: find(plot)(results) for ending, plot in entry.figures.items()}
