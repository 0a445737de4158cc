"""Shared parts of the notebooks that compare models: several studies on the same images."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import nn

from utilities.compare.measures import MEASURES
from utilities.compare.pairs import compare_all, pair_facts
from utilities.compare.two_models import compare
from utilities.datasets.factory import load_dataset, make_loader
from utilities.datasets.loaders import same_input
from utilities.metrics import MIN_IMAGES
from utilities.results.result import Result
from utilities.results.similarity import Similarity, average
from utilities.study.study import Study
from utilities.zoo.factory import comparison_layers

Results = dict[tuple[str, str], Similarity]
PERMUTATIONS = 40
OTHER_DATASET = {"quick": "photos", "paper": "cifar10"}
MOST_AT_ONCE = 2000  # images in one batch, at most; some measures hold the Gram matrices of all of them


@dataclass(frozen=True)
class Group:
    """Hold what a notebook that compares models needs; the parameters are those of `utilities.study.study.Study`.

    Attributes:
        name: Name of the notebook and of the files it writes.
        models: Names of the models; each may be one name for each profile, as in a study.
        profile: ``"quick"`` or ``"paper"``.
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
        found = [study.finished_model() for study in self.studies]
        models = {study.model: model for study, (model, _) in zip(self.studies, found, strict=True)}
        facts = {study.model: facts for study, (_, facts) in zip(self.studies, found, strict=True)}
        return self._compared(models, facts, **{"permutations": PERMUTATIONS, **options})

    def untrained(self, initialisations: int = 2, **options: Any) -> Results:
        """Compare all pairs of untrained models, averaged over several initialisations."""
        seeds, runs = range(self.seed, self.seed + initialisations), []
        weights = f"untrained, mean of {initialisations} initialisations (seeds {seeds[0]}-{seeds[-1]})"
        facts = {study.model: {"model": study.model, "weights": weights} for study in self.studies}
        for seed in seeds:
            runs.append(self._compared({s.model: s.random_model(seed) for s in self.studies}, facts, **options))
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
        **options: Any,
    ) -> dict[str, Any]:
        """Run a companion analysis on each trained model, or on its untrained twin.

        Args:
            analysis: Called as ``analysis(model, loader, provenance=..., **options)``; see `utilities.analysis`.
            untrained: Use the models as they are initialised with the group's seed.
            train: Options of `Study.training_loader`; if given, training images are used instead of test images.
            mixing: Whether the analysis mixes images as in training. If so, it receives ``mix``, see `Study.mixing`.
            **options: Passed on to the analysis.

        Returns:
            Name of the model -> result.
        """
        results = {}
        for study in self.studies:
            model, facts = study.untrained_model() if untrained else study.finished_model()
            loader = study.loader(n_images=study.n_images) if train is None else study.training_loader(**train)
            provenance = study.shared_facts(loader) | facts
            own = {"mix": study.mixing()} if mixing else {}
            results[study.model] = analysis(model, loader, provenance=provenance, **options, **own)
        return results

    def save(self, results: Mapping[str, Results], figures: Mapping[str, Figure]) -> Path:
        """Write figures and results of several kinds, such as ``trained`` and ``untrained``; see `save_all`."""
        flat = {(kind, *pair): one for kind, pairs in results.items() for pair, one in once(pairs).items()}
        return save_all(self.studies[0], flat, figures)


def once(results: Results) -> Results:
    """Keep each pair of models once, including each model with itself, in the order of the models.

    Example:
        >>> list(once({("a", "a"): 1, ("a", "b"): 2, ("b", "a"): 3, ("b", "b"): 4}))
        [('a', 'a'), ('a', 'b'), ('b', 'b')]
    """
    order = list(dict.fromkeys(one for one, _ in results))
    return {pair: result for pair, result in results.items() if order.index(pair[0]) <= order.index(pair[1])}


def each_pair(results: Results) -> list[Similarity]:
    """List the results of `once`."""
    return list(once(results).values())


def split_off(results: Mapping[str, Result], count: int) -> tuple[dict[str, Result], dict[str, Result]]:
    """Split results into the first ``count`` and the rest.

    Example:
        >>> split_off({"a": 1, "b": 2, "c": 3}, 2)
        ({'a': 1, 'b': 2}, {'c': 3})
    """
    items = list(results.items())
    return dict(items[:count]), dict(items[count:])


def save_all(study: Study, results: Mapping[Any, Result | Mapping[str, Result]], figures: Mapping[str, Figure]) -> Path:
    """Write several results and figures of one notebook, the first ones under its own name.

    Args:
        study: Study whose name and folder are used.
        results: Results by key. Keys are strings or tuples of strings and become parts of the file names. For a nested
            mapping, the inner keys follow the outer ones.
        figures: Figures by key, named in the same way.

    Returns:
        The path of the first picture.
    """
    flat: dict[Any, Result] = {}
    for key, result in results.items():
        flat |= {(key, name): one for name, one in result.items()} if isinstance(result, Mapping) else {key: result}
    for number, (key, result) in enumerate(flat.items()):
        part = re.sub(r"[^A-Za-z0-9_]+", "-", "_".join([key] if isinstance(key, str) else key)).strip("-")
        result.save(study.path(part if number else ""))
    paths = [study.save_figure(figure, key if number else "") for number, (key, figure) in enumerate(figures.items())]
    return paths[0]


def across_datasets(study: Study, other: str | None = None) -> dict[str, Similarity]:
    """Compare a trained model with itself on its own test images, on those of another set, and across the two.

    Args:
        study: Study of the model and its data set.
        other: Name of another data set, by default taken from `OTHER_DATASET`. Its images are resized to those of the
            first.

    Returns:
        ``own`` and ``other``: self-similarities, each on the same number of images. ``across``: layers on one set
        against layers on the other, with images paired arbitrarily, and its null. ``across`` holds nothing to find.
    """
    model, facts = study.finished_model()
    own = study.loader(n_images=study.n_images).dataset
    like = {"image_size": own.image_size, "mean": own.mean, "std": own.std, "seed": study.seed}
    other = other or OTHER_DATASET[study.profile]
    foreign = load_dataset(other, "test", n_images=study.n_images, **like)
    count = min(len(own), len(foreign))
    own = load_dataset(study.dataset, "test", n_images=count, **like)
    foreign = load_dataset(other, "test", n_images=count, **like)
    size = min(study.batch_size, max(MIN_IMAGES["debiased"], count // 5))  # five batches or more, for the errors
    loaders = [make_loader(data, size, seed=study.seed) for data in (own, foreign)]
    results = {}
    for key, chosen in (("own", loaders[:1]), ("other", loaders[1:]), ("across", loaders)):
        dataset = " and ".join(f"{loader.dataset.name} (test)" for loader in chosen)
        provenance = study.shared_facts(chosen[0]) | facts | {"dataset": dataset}
        permutations = 100 if key == "across" else 0
        layers = comparison_layers(model)
        results[key] = compare(model, model, *chosen, layers1=layers, permutations=permutations, provenance=provenance)
    return results


def teach(teacher: Study, student: str, batch_size: int = 20) -> dict[str, Similarity]:
    """Train a student with and without a teacher, and compare each with the teacher, batch by batch.

    Args:
        teacher: Study of the teacher, with data set and settings.
        student: Name of a small model.
        batch_size: Images in a batch of the comparison.

    Returns:
        ``taught`` and ``alone``: rows are the teacher's layers, columns the student's, with ``per_batch`` values.
    """
    model, facts = teacher.finished_model()
    study = replace(teacher, model=student, epochs=None)
    data = teacher.loader(n_images=teacher.n_images).dataset
    loader = make_loader(data, batch_size, seed=teacher.seed)
    results = {}
    for key, path in (("taught", teacher.checkpoint()), ("alone", None)):
        pupil = study.trained_model(teacher=path)
        how = f"trained for {study.epochs} epochs, {'taught by ' + teacher.model if path else 'on the labels alone'}"
        own = {"model": student, "weights": how, "accuracy": study.accuracy(pupil)}
        provenance = teacher.shared_facts(loader) | pair_facts(facts, own)
        layers = {"layers1": comparison_layers(model), "layers2": comparison_layers(pupil)}
        results[key] = compare(model, pupil, loader, **layers, per_batch=True, provenance=provenance)
    return results


def under_every_measure(group: Group, count: int = 12, view: str = "gap") -> dict[str, Similarity]:
    """Compare a pair of trained models under every measure, on one batch of all images.

    Args:
        group: Two models.
        count: Approximate number of layers of each model, evenly spaced. Some measures look at one pair of layers at a
            time, so many layers take long.
        view: View of a layer. Widths have to stay below the number of images for CCA and regression.

    Returns:
        Title of the measure -> similarity, CKA first.
    """
    studies = group.studies
    found = [study.finished_model() for study in studies]
    (one, facts1), (two, facts2) = found
    inputs = [study.loader(n_images=study.n_images) for study in studies]
    if not same_input(*inputs):
        raise ValueError(f"{studies[0].model} and {studies[1].model} need their images prepared differently")
    data = inputs[0].dataset
    loader = make_loader(data, min(len(data), MOST_AT_ONCE), seed=group.seed, drop_last=True)
    names = [comparison_layers(model) for model, _ in found]
    layers = [layers[:: max(1, len(layers) // count)] for layers in names]
    provenance = studies[0].shared_facts(loader) | pair_facts(facts1, facts2)
    options = {"layers1": layers[0], "layers2": layers[1], "view": view, "provenance": provenance}
    results = [compare(one, two, loader, measure=name, **options) for name in ("cka", *MEASURES)]
    return {result.provenance["measure"]: result for result in results}
