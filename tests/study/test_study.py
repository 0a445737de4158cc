"""The notebooks' settings and the comparison behind them, on a small model."""

import json
from dataclasses import replace

import numpy as np
import pytest

from utilities.compare import Similarity
from utilities.plots.similarity.heatmap import plot_similarity
from utilities.study import Group, Study
from utilities.study import study as module
from utilities.utils import PROJECT_ROOT


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PROJECT_ROOT", tmp_path)
    monkeypatch.setattr(module, "NORM_IMAGES", 50)
    return Study("small", "vit_tiny_patch2_16", epochs=1, n_images=40, batch_size=20, output_dir=tmp_path / "out")


def test_profiles_fill_in_what_is_not_given():
    quick, paper = (Study("x", "resnet18", profile=profile) for profile in ("quick", "paper"))
    assert (quick.dataset, paper.dataset, paper.epochs) == ("digits", "cifar100", 200)
    assert (paper.recipe.learning_rate, paper.recipe.batch_size) == (0.1, 256)
    assert quick.output_dir == PROJECT_ROOT / "runs" / "quick"
    assert Study("x", "resnet18", dataset="cifar10", epochs=3).recipe.dataset == "cifar10"
    assert Study("x", {"quick": "a", "paper": "b"}, "paper").model == "b"
    assert Study("x", "vit_large_patch32_224").dataset == "photos"
    with pytest.raises(ValueError, match="'fast' is not known; choose from quick, natural, paper"):
        Study("x", "resnet18", profile="fast")


def test_trained_similarity_is_cached_and_saved(small):
    result = small.trained_similarity()
    written = {path.name: path.stat().st_mtime_ns for path in module.PROJECT_ROOT.glob("checkpoints/digits/*.pth")}
    assert len([name for name in written if "_at_" not in name]) == 1
    again = small.trained_similarity()
    now = {path.name: path.stat().st_mtime_ns for path in module.PROJECT_ROOT.glob("checkpoints/digits/*.pth")}
    assert now == written
    np.testing.assert_allclose(again.matrix, result.matrix)
    np.testing.assert_allclose(result.matrix.diagonal(), 1)
    assert result.n == 40
    assert result.provenance["weights"] == "trained for 1 epoch on digits, seed 0"
    picture = small.save(result, plot_similarity(result))
    files = sorted(path.name for path in picture.parent.iterdir())
    assert files == ["small.json", "small.npz", "small.pdf", "small.png", "small.svg"]
    saved = json.loads((picture.parent / "small.json").read_text())["provenance"]
    assert (saved["model"], saved["accuracy"]) == ("vit_tiny_patch2_16", result.provenance["accuracy"])
    np.testing.assert_array_equal(Similarity.load(picture.with_suffix(".npz")).matrix, result.matrix)


def test_accuracy_is_of_all_test_images_and_a_small_vit_gets_images_of_its_size(small, monkeypatch, capsys):
    model = small.random_model(0)
    small.accuracy(model)
    assert "of 540 test images" in capsys.readouterr().out
    assert Study("x", "swin_tiny_patch2_16").recipe.image_size == 16
    other = Study("x", "vit_tiny_patch4_32")
    assert other.recipe.image_size == 32
    assert other.loader().dataset[0][0].shape == (3, 32, 32)


def test_random_similarity_averages_different_initialisations(small):
    result = small.random_similarity(initialisations=3)
    assert result.replicates.shape[0] == 3
    np.testing.assert_allclose(result.matrix, result.replicates.mean(0))
    assert result.stderr.max() > 0
    assert "3 initialisations (seeds 0-2)" in result.provenance["weights"]


def test_too_low_an_accuracy_is_refused_only_at_the_profiles_own_settings(small):
    with pytest.raises(AssertionError, match=r"reached 50\.0% on digits, not 95%"):
        Study("x", "resnet18").require(0.5)
    for model in ("vit_tiny_patch2_16", "swin_tiny_patch2_16"):
        with pytest.raises(AssertionError, match="not 90%"):
            Study("x", model).require(0.5)
    with pytest.raises(AssertionError, match=r"wide_resnet50 .* not 95%"):
        Study("x", "wide_resnet50").require(0.94)
    Study("x", "resnet18").require(0.95)
    Study("x", "resnet18", epochs=1).require(0.5)


def test_settings_on_canvas(small):
    study = Study("x", "vit_tiny_patch4_24", dataset="canvas")
    assert (study.recipe.dataset, study.recipe.image_size) == ("canvas", 24)
    assert (study.epochs, study.recipe.epochs) == (module.CANVAS_TRAINING[study.model]["epochs"],) * 2
    with pytest.raises(AssertionError, match=r"reached 87\.0% on canvas, not 88%"):
        study.require(0.87)
    study.require(0.88)
    Study("x", "vit_tiny_patch4_24", dataset="canvas", epochs=1).require(0.5)
    with pytest.raises(AssertionError, match="not 95%"):
        Study("x", "resnet18", dataset="canvas").require(0.94)
    assert Study("x", "resnet18").recipe.n_images is None  # on digits nothing has changed
    Study("x", "swin_tiny_patch2_16", dataset="canvas").require(0.5)  # has no settings there, and so nothing required


def test_masks_are_for_testing(small):
    study = replace(small, model="vit_tiny_patch4_24", dataset="canvas", batch_size=20)
    images, labels, masks = next(iter(study.loader(n_images=20)))
    assert (images.shape[-1], len(labels), masks.shape) == (24, 20, (20, 24, 24))
    for loader in (study.loader("train"), study.training_loader(n_images=20), study.training_loader(augment=False)):
        assert len(next(iter(loader))) == 2
    study.accuracy(study.random_model(0), n_images=40)


def test_a_data_set_for_each_profile():
    names = {"quick": "canvas", "paper": "imagenet-s919"}
    assert Study("x", "resnet18", dataset=names).dataset == "canvas"
    assert Study("x", "resnet18", "paper", dataset=names).recipe.dataset == "imagenet-s919"
    assert str(Group("x", ["resnet18"], dataset=names)) == "resnet18 on canvas, quick profile, seed 0"


@pytest.mark.parametrize("field", ["epochs", "seed", "n_images", "batch_size"])
def test_numbers_are_refused_before_anything_is_trained(field, tmp_path):
    with pytest.raises(ValueError, match=rf"{field.upper()}='many' should be a whole number"):
        Study("N", "resnet18", output_dir=tmp_path, **{field: "many"})
