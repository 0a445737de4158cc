"""Shared parts of the notebooks that compare models: several studies on the same images."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import nn

from utilities.compare.all_pairs import compare_all, pair_facts
from utilities.compare.two_models import compare
from utilities.datasets.loaders import same_input
from utilities.hooks.calls.options import check_options
from utilities.results.result import Result
from utilities.results.similarity import Similarity, average
from utilities.study.saving import Saving
from utilities.study.study import Study
from utilities.zoo.layers import comparison_layers

Results = dict[tuple[str, str], Similarity]
PERMUTATIONS = 40


@dataclass(frozen=True)
class Group:
    """Hold what a notebook that compares models needs; the parameters are those of `utilities.study.study.Study`.

    Attributes:
        name: Name of the notebook and of the files it writes.
        models: Names of the models; each may be one name for each profile, as in a study.
        profile: ``"quick"``, ``"natural"`` or ``"paper"``.
        dataset: Data set for all models; one name, or one for each profile.
        epochs: Number of training epochs for all models; None takes each model's own number.
        seed: Seed of training, of the first of several initialisations, and of the order of the images.
        n_images: Number of test images to compare on.
        batch_size: Images in a batch of the comparison.
        output_dir: Folder of the results.
        training: Name of the paper profile's recipe.

    Raises:
        ValueError: For an unknown profile.

    Example:
        >>> group = Group("Depth", ["resnet18", "resnet34"])
        >>> [str(study) for study in group.studies]
        ['resnet18 on digits, quick profile, seed 0', 'resnet34 on digits, quick profile, seed 0']
    """

    name: str
    models: Sequence[str | Mapping[str, str]]
    profile: str = "quick"
    dataset: str | Mapping[str, str] | None = None
    epochs: int | None = None
    seed: int = 0
    n_images: int | None = None
    batch_size: int | None = None
    output_dir: str | Path | None = None
    training: str = "study"

    @property
    def studies(self) -> list[Study]:
        """One study for each model."""
        rest = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in ("name", "models")}
        return [Study(self.name, model, **rest) for model in self.models]

    def __str__(self) -> str:
        return "\n".join(map(str, self.studies))

    def trained(self, **options: Any) -> Results:
        """Train or load all models, measure their accuracies and compare all pairs.

        Args:
            **options: Options of `utilities.compare.compare`; by default a null of `PERMUTATIONS` permutations.

        Returns:
            (model of the rows, model of the columns) -> similarity.
        """
        check_options(self.trained, options, compare, but=("layers1", "layers2", "provenance"))  # before the training
        found = [study.finished_model() for study in self.studies]
        models = {study.model: model for study, (model, _) in zip(self.studies, found, strict=True)}
        facts = {study.model: facts for study, (_, facts) in zip(self.studies, found, strict=True)}
        return self._compared(models, facts, **{"permutations": PERMUTATIONS, **options})

    def untrained(self, initialisations: int = 2, **options: Any) -> Results:
        """Compare all pairs of untrained models, averaged over several initialisations.

        No two models have a seed in common, see `utilities.compare.common_weights`.
        """
        studies, facts, runs = self.studies, {}, []
        first = {study.model: self.seed + number * initialisations for number, study in enumerate(studies)}
        for name, seed in first.items():
            seeds = f"seeds {seed}-{seed + initialisations - 1}"
            weights = f"untrained, mean of {initialisations} initialisations ({seeds})"
            facts[name] = {"model": name, "weights": weights}
        for number in range(initialisations):
            models = {study.model: study.random_model(first[study.model] + number) for study in studies}
            runs.append(self._compared(models, facts, **options))
        return {pair: average([run[pair] for run in runs]) for pair in runs[0]}

    def _compared(self, models: dict[str, nn.Module], facts: dict[str, dict[str, Any]], **options: Any) -> Results:
        """Compare all pairs in one pass, or pair by pair if models need the same images prepared differently."""
        loaders = dict(zip(models, (study.loader(n_images=study.n_images) for study in self.studies), strict=True))
        first = next(iter(loaders.values()))
        shared = self.studies[0].shared_facts(first)
        if all(same_input(first, loader) for loader in loaders.values()):
            return compare_all(models, first, facts=facts, provenance=shared, **options)
        results, labels = {}, list(models)
        for i, one in enumerate(labels):
            for two in labels[i:]:
                layers = {"layers1": comparison_layers(models[one]), "layers2": comparison_layers(models[two])}
                own = facts[one] if one == two else pair_facts(facts[one], facts[two])
                loader2 = None if one == two else loaders[two]
                results[one, two] = compare(
                    models[one], models[two], loaders[one], loader2, **layers, provenance=own | shared, **options
                )
        return results

    def analyse(
        self,
        analysis: Callable[..., Result],
        *,
        untrained: bool = False,
        train: Mapping[str, Any] | None = None,
        mixing: bool = False,
        change: Callable[[nn.Module], nn.Module] | None = None,
        changed: str = "",
        **options: Any,
    ) -> dict[str, Any]:
        """Run a companion analysis on each trained model, or on its untrained twin.

        Args:
            analysis: Called as ``analysis(model, loader, provenance=..., **options)``; see `utilities.analysis`.
            untrained: Use the models as they are initialised with the group's seed.
            train: Options of `Study.training_loader`; if given, training images are used instead of test images.
            mixing: Whether the analysis mixes images as in training. If so, it receives ``mix``, see `Study.mixing`.
            change: Makes of each model the one to analyse, such as a copy with dropout.
            changed: What that does, for captions: behind the origin of the weights.
            **options: Passed on to the analysis.

        Returns:
            Name of the model -> result.
        """
        check_options(self.analyse, options, analysis)
        results = {}
        for study in self.studies:
            model, facts = study.untrained_model() if untrained else study.finished_model()
            loader = study.loader(n_images=study.n_images) if train is None else study.training_loader(**train)
            provenance = study.shared_facts(loader) | facts
            if change is not None:
                model, provenance["weights"] = change(model), f"{facts['weights']}; {changed}"
            own = {"mix": study.mixing()} if mixing else {}
            results[study.model] = analysis(model, loader, provenance=provenance, **options, **own)
        return results

    def save(self, results: Mapping[str, Results], figures: Mapping[str, Figure]) -> Path:
        """Write figures and results of several kinds, such as ``trained`` and ``untrained``; see `save_all`."""
        flat = {(kind, *pair): one for kind, pairs in results.items() for pair, one in unique_pairs(pairs).items()}
        return save_all(self.studies[0], flat, figures)


def unique_pairs(results: Results) -> Results:
    """Keep each pair of models once, including each model with itself, in the order of the models.

    Example:
        >>> list(unique_pairs({("a", "a"): 1, ("a", "b"): 2, ("b", "a"): 3, ("b", "b"): 4}))
        [('a', 'a'), ('a', 'b'), ('b', 'b')]
    """
    order = list(dict.fromkeys(one for one, _ in results))
    return {pair: result for pair, result in results.items() if order.index(pair[0]) <= order.index(pair[1])}


def each_pair(results: Results) -> list[Similarity]:
    """List the results of `unique_pairs`."""
    return list(unique_pairs(results).values())


def split_off(results: Mapping[str, Result], count: int) -> tuple[dict[str, Result], dict[str, Result]]:
    """Split results into the first ``count`` and the rest.

    Example:
        >>> split_off({"a": 1, "b": 2, "c": 3}, 2)
        ({'a': 1, 'b': 2}, {'c': 3})
    """
    items = list(results.items())
    return dict(items[:count]), dict(items[count:])


def save_all(
    study: Saving, results: Mapping[Any, Result | Mapping[str, Result]], figures: Mapping[str, Figure]
) -> Path:
    """Write several results and figures of one notebook, the first ones under its own name.

    Args:
        study: Study, or `utilities.study.saving.Output`, whose name and folder are used.
        results: Results by key. Keys are strings or tuples of strings and become parts of the file names. For a nested
            mapping, the inner keys follow the outer ones.
        figures: Figures by key, named in the same way.

    Returns:
        The path of the first picture.
    """
    flat: dict[Any, Result] = {}
    for key, result in results.items():
        several = result if isinstance(result, Mapping) else {(): result}
        flat |= {(*_parts(key), *_parts(name)): one for name, one in several.items()}
    for number, (key, result) in enumerate(flat.items()):
        part = re.sub(r"[^A-Za-z0-9_]+", "-", "_".join(key)).strip("-")
        result.save(study.path(part if number else ""))
    paths = [study.save_figure(figure, key if number else "") for number, (key, figure) in enumerate(figures.items())]
    return paths[0]


def _parts(key: str | tuple[str, ...]) -> tuple[str, ...]:
    return (key,) if isinstance(key, str) else key
