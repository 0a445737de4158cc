"""Shared parts of the notebooks on models that others have trained on photographs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from utilities.compare.all_pairs import pair_facts
from utilities.compare.two_models import compare
from utilities.datasets.factory import load_dataset
from utilities.datasets.loaders import Loader, make_loader
from utilities.hooks.calls.seeding import seeded_torch
from utilities.results.similarity import Similarity
from utilities.study.profiles import REAL_IMAGES
from utilities.training.trainer import estimate_batch_norm
from utilities.zoo.factory import create_model, split_model
from utilities.zoo.inputs import input_options
from utilities.zoo.layers import comparison_layers
from utilities.zoo.libraries import resize_timm
from utilities.zoo.wheel_weights import build_untrained

Results = dict[tuple[str, str], Similarity]
OWN = ("model", "weights", "accuracy")  # facts of each model; the others are shared


def real_images(
    profile: str = "quick",
    dataset: str | None = None,
    n_images: int | None = None,
    image_size: int | None = None,
    small: int | None = None,
) -> dict[str, str | int | None]:
    """Choose the photographs that a notebook takes: the profile's own, or those that are named.

    Args:
        profile: ``"quick"`` takes crops of bundled photographs, ``"natural"`` small images, enlarged, and ``"paper"``
            ImageNet's validation images.
        dataset: See `utilities.datasets.load_dataset`; None takes the profile's.
        n_images: Number of images; None takes the profile's for its own data set, and all of another. The natural
            profile takes its number of any.
        image_size: Height and width in pixels; None takes ``small`` for the quick profile's own data set and for any
            of the natural profile (or 224), and what the weights take for others.
        small: A size at which an analysis is quick, or None.

    Returns:
        ``dataset`` and ``n_images``, and ``image_size`` where there is one, as `open_models` takes them.

    Raises:
        ValueError: For an unknown profile.

    Example:
        >>> real_images(), real_images(dataset="folder:scans")
        ({'dataset': 'photos', 'n_images': 96}, {'dataset': 'folder:scans', 'n_images': None})
        >>> real_images(small=168)
        {'dataset': 'photos', 'n_images': 96, 'image_size': 168}
    """
    if profile not in REAL_IMAGES:
        raise ValueError(f"profile {profile!r} is not known; choose from {', '.join(REAL_IMAGES)}")
    usual = REAL_IMAGES[profile]
    own = profile == "natural" or dataset in (None, usual["dataset"])
    chosen = usual | {"dataset": dataset or usual["dataset"]} if own else {"dataset": dataset, "n_images": None}
    image_size = small if image_size is None and own and profile != "paper" else image_size
    asked = {"n_images": n_images, "image_size": image_size}
    return chosen | {name: value for name, value in asked.items() if value is not None}


def own_dataset(profile: str, dataset: str | None) -> str | None:
    """Name the data set that a notebook trains its own models on, where it opens those of others too.

    Args:
        profile: In the natural profile, all models see the same images.
        dataset: The images that were named for models of others, or None.

    Returns:
        A name, or None for the profile's data set.

    Example:
        >>> own_dataset("natural", "folder:cifar"), own_dataset("quick", "folder:scans")
        ('folder:cifar', None)
    """
    return dataset if profile == "natural" else None


class Opened(NamedTuple):
    """A model, its images prepared as it needs them, and what captions say of both."""

    model: nn.Module
    loader: Loader
    facts: dict[str, Any]


def open_models(
    words: Sequence[str],
    dataset: str = "photos",
    n_images: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    *,
    weights: str = "wheel",
    split: str = "test",
    image_size: int | None = None,
    untrained: bool = False,
) -> dict[str, Opened]:
    """Open models, each with the same images in the same order, prepared as its weights need them.

    Args:
        words: Models, each ``NAME``, or ``NAME=WEIGHTS`` where its weights are others than the rest's.
        dataset: See `utilities.datasets.load_dataset`.
        n_images: Number of images, as many of each class as there are; None is all.
        batch_size: Images in a batch.
        seed: Seed of the choice and order of images, and of random weights.
        weights: ``"wheel"``, ``"pretrained"`` or the path of a checkpoint.
        split: Which part of the data set.
        image_size: Height and width of the images in pixels; None is what the weights take. A transformer's position
            embeddings are resampled, and its patches have to divide the size.
        untrained: Open untrained twins: the same networks with random weights. Batch norms take their statistics from
            the images.

    Returns:
        The model's name without its library -> model, loader and facts, in the order of the words.

    Raises:
        ValueError: If a model is named twice, or with random weights.
        utilities.zoo.wheels.WheelMissing: If a wheel cannot be had.

    Example:
        >>> opened = open_models(["timm/tf_efficientnet_lite0"], n_images=4, untrained=True)
        >>> model, loader, facts = opened["tf_efficientnet_lite0"]
        >>> facts["weights"], loader.dataset.image_size
        ('untrained, seed 0', 224)
    """
    found: dict[str, Opened] = {}
    for word in words:
        name, own = split_model(word if "=" in word else f"{word}={weights}")
        label = name.rpartition("/")[2]
        if label in found:
            raise ValueError(f"{name} is named twice")
        if own == "random":
            raise ValueError(f"{word} has random weights; untrained=True opens the untrained twins")
        options = input_options(name, own) | ({} if image_size is None else {"image_size": image_size})
        data = load_dataset(dataset, split, n_images=n_images, seed=seed, **options)
        loader = make_loader(data, batch_size, seed=seed)
        model = untrained_twin(name, own, loader, seed) if untrained else create_model(name, None, own)
        if image_size is not None:
            resize_timm(name, model, image_size)
        said = f"untrained, seed {seed}" if untrained else describe_weights(model, own)
        part = data.part if image_size is None else f"{data.part}, {image_size} pixels"
        facts = {"model": name, "weights": said, "dataset": f"{data.name} ({part})", "seed": seed}
        found[label] = Opened(model, loader, facts | {"num_classes": data.num_classes})
    return found


def describe_weights(model: nn.Module, weights: str) -> str:
    """State weights as captions do: the wheel and what is known of its training, or where they are from."""
    if hasattr(model, "wheel"):
        return model.wheel.described
    return "the library's pretrained weights" if weights == "pretrained" else f"trained, from {weights}"


def untrained_twin(name: str, weights: str, loader: Loader, seed: int) -> nn.Module:
    """Build a network as it is before training, with the statistics of its batch norms taken from images.

    Args:
        name: See `utilities.zoo.create_model`.
        weights: Those of the trained one: the twin of ``"wheel"`` has the wheel's size and classes.
        loader: The images.
        seed: Seed of the random weights.
    """
    with seeded_torch(seed):
        model = build_untrained(name) if weights == "wheel" else create_model(name, None)
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        estimate_batch_norm(model, loader)
    return model.train()


def compare_opened(opened: Mapping[str, Opened], **options: Any) -> Results:
    """Compare all pairs of opened models, each with its own preparation of the same images.

    Args:
        opened: From `open_models`.
        **options: Options of `utilities.compare.compare`.

    Returns:
        (model of the rows, model of the columns) -> similarity, each pair once.
    """
    labels = list(opened)
    pairs = [(one, two) for i, one in enumerate(labels) for two in labels[i:]]
    return {(one, two): compare_pair(opened[one], opened[two], **options) for one, two in pairs}


def compare_pair(first: Opened, second: Opened, **options: Any) -> Similarity:
    """Compare two opened models, each with its own preparation of the same images; see `compare_opened`."""
    layers = {"layers1": comparison_layers(first.model), "layers2": comparison_layers(second.model)}
    facts = {key: value for key, value in first.facts.items() if key not in OWN}
    own = [{key: side.facts[key] for key in OWN if key in side.facts} for side in (first, second)]
    facts |= own[0] if first is second else pair_facts(*own)
    loader2 = None if first is second else second.loader
    return compare(first.model, second.model, first.loader, loader2, **layers, provenance=facts, **options)


def analyse_opened(opened: Mapping[str, Opened], analysis: Callable[..., Any], **options: Any) -> dict[str, Any]:
    """Run an analysis on each opened model.

    Args:
        opened: From `open_models`.
        analysis: Called as ``analysis(model, loader, provenance=..., **options)``.
        **options: Passed on to the analysis.

    Returns:
        Label -> result.
    """
    return {label: analysis(one.model, one.loader, provenance=one.facts, **options) for label, one in opened.items()}
