"""Trainings on shares of the images, and on another data set."""

from dataclasses import replace

import numpy as np
import pytest

from utilities.study import Study
from utilities.study import study as module
from utilities.study.data_size import (
    compare_fine_tuned,
    compare_shares,
    self_similarities,
    share_recipe,
    train_on_shares,
)
from utilities.train import load_sets, make_loaders
from utilities.training.recipes import Recipe
from utilities.zoo.checkpoints import read_checkpoint

SMALL = {"epochs": 1, "n_images": 100, "batch_size": 50}


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PROJECT_ROOT", tmp_path)
    monkeypatch.setattr(module, "NORM_IMAGES", 50)
    return Study("S", "plain_cnn8", output_dir=tmp_path / "out", **SMALL)


@pytest.mark.parametrize("share", [0.03, 0.1, 0.3, 1.0])
def test_a_share_is_trained_for_as_many_steps(share):
    recipe = Recipe("digits", epochs=12, batch_size=64, warmup=2, image_size=8)
    own = share_recipe(recipe, share, 1131)
    assert own == replace(recipe, n_images=round(share * 1131), epoch_images=1131)
    (train, *_), sets = make_loaders(load_sets(own), own, seed=0), load_sets(own)
    assert len(train) == len(make_loaders(load_sets(recipe), recipe, seed=0)[0])
    assert len(sets[0]) == own.n_images
    counts = np.bincount(train.dataset.indices)[sets[0].indices]
    assert (counts.sum(), np.ptp(counts) <= 1) == (1131, True)  # no other image, and each as often


@pytest.mark.parametrize("share", [0, -0.1, 1.01, 0.001])
def test_shares_out_of_range(share):
    with pytest.raises(ValueError, match=r"should be a number above 0 and at most 1|should be two images or more"):
        share_recipe(Recipe("digits"), share, 1131)


@pytest.mark.parametrize("shares", [(0.03, 2.0), (0.03, 0.0)])
def test_shares_out_of_range_are_refused_before_any_training(shares, study, monkeypatch):
    monkeypatch.setattr("utilities.study.data_size.fit", lambda *given, **more: pytest.fail("trained"))
    monkeypatch.setattr(Study, "finished_model", lambda self: pytest.fail("trained"))
    for run in (compare_shares, train_on_shares):
        with pytest.raises(ValueError, match=f"share={shares[1]} should be a number above 0"):
            run(study, shares)


def test_shares_are_compared_with_the_model_of_all_images(study, capsys):
    results = compare_shares(study, (0.03, 1.0))
    assert list(results) == ["untrained", "3 %", "100 %"]
    assert results["untrained"].provenance["weights1"] == "untrained, seed 1"
    whole = results["100 %"]
    assert whole.layers1 == whole.layers2 == [f"block{i}" for i in range(1, 9)]
    assert whole.n == 100
    facts = results["3 %"].provenance
    assert "trained on 34 of 1,131 images, 1 epoch, seed 1" in facts["weights1"]
    assert facts["weights2"] == "trained for 1 epoch on digits, seed 0"
    assert np.diagonal(whole.matrix).max() < 1  # other initial weights
    shares = study.checkpoint_folder / "shares"
    assert sorted(path.name for path in shares.iterdir()) == ["1131_images", "34_images"]
    written = {path: path.stat().st_mtime_ns for path in shares.rglob("*.pth")}
    again = compare_shares(study, (0.03, 1.0))
    assert {path: path.stat().st_mtime_ns for path in shares.rglob("*.pth")} == written  # trained once
    np.testing.assert_allclose(again["3 %"].matrix, results["3 %"].matrix)
    saved = read_checkpoint(next((shares / "34_images").glob("*.pth")))
    assert facts["accuracy1"] == saved["test"]["top1"]
    assert f"{facts['accuracy1']:.2%} of 540 test images right" in capsys.readouterr().out


def test_without_training_fine_tuning_changes_no_block_and_training_does(study):
    still = compare_fine_tuned(study, "photos", epochs=0, n_images=20, norm_images=0, warmup=0)
    np.testing.assert_allclose(np.diagonal(still["fine-tuned"].matrix), 1, atol=1e-5)
    assert np.diagonal(still["from scratch"].matrix).min() < 0.99
    assert still["fine-tuned"].provenance["dataset"] == "photos (test)"
    assert "fine-tuned on 20 images of photos, 0 epochs" in still["fine-tuned"].provenance["weights2"]
    tuned = compare_fine_tuned(study, "photos", epochs=1, n_images=40)["fine-tuned"]
    assert np.diagonal(tuned.matrix).min() < 0.999
    path = next((study.checkpoint_folder.parent / "photos").rglob("*epochs_1_from_*.pth"))
    assert read_checkpoint(path)["start"]["recipe"]["dataset"] == "digits"


def test_each_model_with_itself(study):
    results = self_similarities([study])
    np.testing.assert_allclose(np.diagonal(results["plain_cnn8"].matrix), 1, atol=1e-6)
