"""A training that starts from the weights of an earlier one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from utilities import train
from utilities.train import checkpoint_path, fit
from utilities.training.origins import load_start, read_start
from utilities.training.trainer import Recipe, Trainer
from utilities.zoo import create_model
from utilities.zoo.checkpoints import read_checkpoint

OPTIONS = {"device": "cpu", "precision": "float32", "report": lambda line: None}
NAME = "vit_tiny_patch2_16"


def noise(folder, labels, seed):
    """Write ten classes of noise, and return a recipe for them."""
    rng = np.random.default_rng(seed)
    for part, count in (("train", 4), ("val", 1), ("test", 1)):
        for label in labels:
            (folder / part / label).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / label / f"{i}.png")
    return Recipe(f"folder:{folder}", epochs=1, batch_size=20, learning_rate=1e-3)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return noise(tmp_path_factory.mktemp("set"), "0123456789", 0)


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    """No training on other classes."""
    return replace(noise(tmp_path_factory.mktemp("set"), "abcdefghij", 1), epochs=0)


@pytest.fixture(scope="module")
def first(tmp_path_factory, digits):
    return fit(NAME, digits, 0, tmp_path_factory.mktemp("first"), **OPTIONS)


def weights(path):
    return create_model(NAME, None, weights=path).state_dict()


def test_zero_epochs_change_the_classifier_alone(first, still, tmp_path):
    """Ten digits and ten letters are as many classes, and not the same ones."""
    path = fit(NAME, still, 1, tmp_path, start=first, **OPTIONS)
    assert path.name == "vit_tiny_patch2_16_seed_1_epochs_0_from_vit_tiny_patch2_16_seed_0_epochs_1.pth"
    before, after, fresh = weights(first), weights(path), create_model(NAME, 10, seed=1).state_dict()
    for key, value in after.items():
        assert torch.equal(value, fresh[key] if key.startswith("head.") else before[key]), key
    assert not torch.equal(before["head.weight"], after["head.weight"])
    assert read_checkpoint(path)["start"] == {**read_start(first, NAME)[1]}
    assert "start" not in read_checkpoint(first)


def test_the_same_classes_keep_the_classifier(first, digits, tmp_path):
    path = fit(NAME, replace(digits, epochs=0), 1, tmp_path, start=first, **OPTIONS)
    assert all(torch.equal(value, weights(first)[key]) for key, value in weights(path).items())


def test_what_is_finished_is_kept_only_with_the_same_start(first, digits, still, tmp_path):
    lines = []
    options = {**OPTIONS, "report": lines.append, "resume": True}
    path = fit(NAME, still, 1, tmp_path, start=first, **options)
    assert lines[0] == f"starting from {first}, with random head.weight, head.bias"
    written = path.stat().st_mtime_ns
    assert fit(NAME, still, 1, tmp_path, start=first, **options) == path
    assert path.stat().st_mtime_ns == written
    assert fit(NAME, still, 1, tmp_path, **options) == checkpoint_path(tmp_path, NAME, 1, 0)  # another file
    other = fit(NAME, replace(digits, learning_rate=2e-3), 0, tmp_path / "other", **OPTIONS)
    assert fit(NAME, still, 1, tmp_path, start=other, **options) == path  # of the same name, and yet not kept
    assert "trained with another recipe" in lines[-5]
    assert torch.equal(weights(path)["pos_embed"], weights(other)["pos_embed"])


def test_training_from_a_start_is_resumed(first, still, tmp_path, monkeypatch):
    """An interrupted run goes on to the same weights as one that was not interrupted."""
    recipe = replace(still, epochs=2)
    whole = fit(NAME, recipe, 0, tmp_path / "whole", start=first, **OPTIONS)
    monkeypatch.setattr(train, "RESUME_EVERY", -1)
    run_epoch = Trainer.run_epoch

    def killed(self, progress=True):
        if len(self.history) == 1:
            raise KeyboardInterrupt
        return run_epoch(self, progress)

    monkeypatch.setattr(Trainer, "run_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(NAME, recipe, 0, tmp_path, start=first, resume=True, **OPTIONS)
    monkeypatch.setattr(Trainer, "run_epoch", run_epoch)
    path = fit(NAME, recipe, 0, tmp_path, start=first, resume=True, **OPTIONS)
    assert all(torch.equal(value, weights(whole)[key]) for key, value in weights(path).items())


def test_what_cannot_be_started_from_is_refused(first, digits, tmp_path):
    with pytest.raises(ValueError, match="holds vit_tiny_patch2_16, not resnet18"):
        fit("resnet18", digits, 0, tmp_path, start=first, **OPTIONS)
    torch.save({"model": weights(first)}, tmp_path / "bare.pth")
    with pytest.raises(ValueError, match="does not say how its model was trained"):
        fit(NAME, digits, 0, tmp_path, start=tmp_path / "bare.pth", **OPTIONS)
    with pytest.raises(FileNotFoundError):
        fit(NAME, digits, 0, tmp_path, start=tmp_path / "missing.pth", **OPTIONS)
    layers = [nn.Linear(2, 3), nn.Linear(2, 4)]
    content = {"model": nn.Linear(5, 3).state_dict(), "classes": ["a"]}
    with pytest.raises(ValueError, match="not those of this model: weight"):
        load_start(layers[0], content, ["a"], layers[1])
