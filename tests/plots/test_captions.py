"""What results were made from, in words: the same for every figure, each fact once."""

import importlib
from types import SimpleNamespace

import numpy as np
import pytest

from utilities.plots.captions import basis, describe_accuracy, describe_model, describe_similarity, heading, made_from
from utilities.plots.similarity import plot_panels
from utilities.results.similarity import Similarity

FACTS = {"model": "resnet18", "weights": "trained for 6 epochs", "accuracy": 0.97222, "dataset": "digits (test)"}


def made(**facts):
    return SimpleNamespace(provenance=FACTS | {"n": 1540, "profile": "quick"} | facts)


def test_a_model_is_described_as_far_as_it_is_known():
    assert describe_model(FACTS) == "resnet18, trained for 6 epochs, accuracy 97.2%"
    assert describe_model(FACTS, name=False) == "trained for 6 epochs, accuracy 97.2%"
    assert describe_model({"model2": "vit", "accuracy2": 0.0}, "2") == "vit, accuracy 0.0%"
    assert describe_model({}) == describe_accuracy({}) == describe_accuracy({"accuracy": None}) == ""


def test_every_figure_says_the_same_of_a_model():
    result = Similarity(np.eye(1), ["a"], ["a"], 1540, provenance=FACTS)
    text = describe_model(FACTS)
    assert describe_similarity(result).startswith(f"{text}. digits (test), n = 1,540 images.")
    assert heading(result).replace("\n", ", ") == text
    assert made_from({"CNN": made()}).startswith(f"CNN: {text}. digits (test), n = 1,540 images, quick profile.")


@pytest.mark.parametrize(
    ("dataset", "note"),
    [
        ("photos (test)", " (crops of ten pictures: errors are too small)"),
        ("photos (train, augmented)", " (crops of ten pictures: errors are too small)"),
        ("canvas (test)", " (digits occur twice: errors are a little too small)"),
        ("digits (test)", ""),
        ("folder:photos (test)", ""),
    ],
)
def test_every_caption_says_where_images_are_alike(dataset, note):
    facts = FACTS | {"dataset": dataset}
    result = Similarity(np.eye(2), ["a", "b"], ["a", "b"], 96, provenance=facts)
    name = dataset.removeprefix("folder:")
    text = f"{name}, n = 96 images{note}"
    assert f"{text}." in describe_similarity(result)
    assert f"{text}." in basis([result])
    assert f"{text}, quick profile." in made_from({"CNN": made(dataset=dataset, n=96)})
    title = plot_panels([[result]]).axes[0].get_title()
    assert title.splitlines()[-1] == (note[2:].partition(":")[0] or f"{name}, n = 96, accuracy 97.2%")


def test_figures_of_short_trainings_do_not_pass_for_published_ones():
    for profile, words in {"quick": "Quick profile: not", "natural": "Natural profile: not", "paper": None}.items():
        result = Similarity(np.eye(2), ["a", "b"], ["a", "b"], 96, provenance=FACTS | {"profile": profile})
        text = describe_similarity(result)
        assert words in text if words else "not comparable" not in text


def test_a_panel_of_two_models_names_both():
    facts = {"model1": "timm/cnn", "weights1": "untrained", "model2": "timm/vit", "weights2": "trained", "dataset": "d"}
    ax = plot_panels([[Similarity(np.eye(2), ["a", "b"], ["c", "d"], 9, provenance=facts)]]).axes[0]
    assert ax.get_title() == "timm/cnn x timm/vit\nrows: untrained\ncolumns: trained\nd, n = 9"
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("layers of cnn", "layers of vit")


def test_what_all_results_share_is_stated_once():
    text = made_from({"a": made(), "b": made(weights="untrained", accuracy=None)})
    assert text == (
        "a: resnet18, trained for 6 epochs, accuracy 97.2%. b: resnet18, untrained. "
        "digits (test), n = 1,540 images, quick profile."
    )


def test_images_are_stated_of_each_result_where_they_differ():
    text = made_from({"a": made(), "b": made(n=20), "c": SimpleNamespace(provenance={})})
    assert text.endswith(
        "a: digits (test), n = 1,540 images, quick profile. b: digits (test), n = 20 images, quick profile."
    )


def test_a_label_that_begins_with_the_model_does_not_name_it_twice():
    assert made_from({"resnet18, seed 0": made()}).startswith("resnet18, seed 0: trained for 6 epochs, accuracy 97.2%.")


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("similarity", "plot_similarity"),
        ("style", "save_figure"),
    ],
)
def test_paths_of_earlier_versions_still_import(module, name):
    assert callable(getattr(importlib.import_module(f"utilities.plots.{module}"), name))
