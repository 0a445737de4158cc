"""Comparisons beyond pairs of models: across data sets, of a student with its teacher, and under every measure."""

from __future__ import annotations

from dataclasses import replace

from utilities.compare.all_pairs import pair_facts
from utilities.compare.measures.table import SIMILARITY_MEASURES
from utilities.compare.two_models import compare
from utilities.datasets.factory import load_dataset
from utilities.datasets.loaders import make_loader, same_input
from utilities.metrics import MIN_IMAGES
from utilities.results.formatting import counted
from utilities.results.similarity import Similarity
from utilities.study.group import Group
from utilities.study.study import Study
from utilities.zoo.layers import comparison_layers

OTHER_DATASET = {"quick": "photos", "natural": "photos", "paper": "cifar10"}
MOST_AT_ONCE = 2000  # images in one batch, at most; some measures hold the Gram matrices of all of them


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
    count = min(len(own), len(load_dataset(other, "test", **like)))
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
        how = f"taught by {teacher.model}" if path else "on the labels alone"
        how = f"trained for {counted(study.epochs, 'epoch')}, {how}"
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
    results = [compare(one, two, loader, measure=name, **options) for name in ("cka", *SIMILARITY_MEASURES)]
    return {result.provenance["measure"]: result for result in results}
