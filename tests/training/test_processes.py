"""Several processes train as one: the same loss curve, the same images, and each other's files to resume from."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from utilities.datasets import load_dataset
from utilities.datasets.factory import make_loader
from utilities.datasets.images import Augmentation
from utilities.hooks.calls.processes import Processes
from utilities.train import fit
from utilities.training.augmentation import Blend, Erasing
from utilities.training.recipes import Recipe
from utilities.training.trainer import Trainer
from utilities.utils import PROJECT_ROOT

# The last batch has 4 of 64 + 64 + 4 images: one pair for each process. The small ViT has no batch norm.
RECIPE = Recipe("digits", epochs=2, batch_size=64, n_images=132, image_size=16, optimizer="adamw", learning_rate=1e-3)
MIXED = replace(RECIPE, mixup=0.8, cutmix=1.0, label_smoothing=0.1, clip_grad=1.0, drop_path=0.3)
MODEL = "vit_tiny_patch4_16"
EXACT = {"device": "cpu", "precision": "float32", "report": lambda line: None}
WORDS = ["--dataset", "digits", "--batch-size", "64", "--n-images", "132", "--image-size", "16", "--optimizer", "adamw"]
WORDS += ["--learning-rate", "0.001", "--device", "cpu", "--precision", "float32"]
MIXING = ["--mixup", "0.8", "--cutmix", "1.0", "--label-smoothing", "0.1", "--clip-grad", "1.0"]
MIXING += ["--drop-path", "0.3"]


def torchrun(folder, *words, processes=2, **options):
    """Start the training of `RECIPE` by torchrun, and return the process."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command += ["-m", "utilities.train", MODEL, "2", "0", str(folder), *WORDS, *words]
    own = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT_ROOT)}
    return subprocess.Popen(command, env=own, cwd=folder, text=True, **options)


def content(folder):
    return torch.load(folder / f"{MODEL}_seed_0_epochs_2.pth", weights_only=True)


@pytest.mark.parametrize("n", [1, 2, 5, 8, 13])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_shares_cover_a_batch_once_and_pair_as_mixing_does(n, count):
    shares = [Processes(rank, count).share(n) for rank in range(count)]
    assert sorted(row for share in shares for row in share) == list(range(n))
    for share in shares:
        assert [n - 1 - row for row in share] == share[::-1]


@pytest.mark.parametrize("augment", [Augmentation(2), Erasing(0.9), None])
def test_shares_of_a_loader_are_rows_of_its_batches(augment):
    data = load_dataset("digits", "train", n_images=23)
    loader = make_loader(data, 10, shuffle="every_epoch", augment=augment or False)
    whole = [images for (images, _), _ in loader.served(3)]
    loader.epoch = 3
    assert all(torch.equal(one, images) for one, (images, _) in zip(whole, loader, strict=True))
    for rank in range(2):
        share = Processes(rank, 2).share
        for images, (batch, count) in zip(whole, loader.served(3, share), strict=True):
            assert count == len(images)
            assert torch.equal(batch[0], images[share(count)])


def test_what_is_left_of_an_epoch_is_served_as_it_would_have_been():
    loader = make_loader(load_dataset("digits", "train", n_images=40, augment=True), 10, shuffle="every_epoch")
    served = loader.served(1)
    next(served), next(served)
    draws = loader.draws
    rest = [images for (images, _), _ in served]
    again = [images for (images, _), _ in loader.served(1, first=2, draws=draws)]
    assert len(again) == 2
    assert all(torch.equal(one, two) for one, two in zip(rest, again, strict=True))


def test_a_share_is_mixed_as_in_the_whole_batch():
    images, labels = torch.rand(10, 3, 8, 8), torch.arange(10)
    for blend in (Blend(0.3), Blend(0.75, (0, 4, 0, 4))):
        for rank in range(3):
            rows = Processes(rank, 3).share(10)
            assert torch.equal(blend.images(images[rows]), blend.images(images)[rows])
            assert torch.equal(blend.targets(labels[rows], 10), blend.targets(labels, 10)[rows])


def test_too_few_images_for_the_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Processes, "now", classmethod(lambda cls: cls(0, 40)))
    with pytest.raises(ValueError, match=r"batch_size=64 is that of all 40 processes together.* take 80 or more"):
        fit(MODEL, RECIPE, 0, tmp_path, **EXACT)


def test_norms_cannot_be_synchronised_on_a_cpu(tmp_path):
    with pytest.raises(ValueError, match=r"batch norms \(bn1 and others\) cannot be synchronised on cpu"):
        fit("resnet18", replace(RECIPE, optimizer="sgd"), 0, tmp_path, sync_norms=True, **EXACT)


def test_a_model_without_batch_norms_has_none_to_synchronise(tmp_path):
    with pytest.warns(UserWarning, match="no batch norms to synchronise"):
        fit(MODEL, replace(RECIPE, epochs=0), 0, tmp_path, sync_norms=True, **EXACT)


@pytest.mark.slow
@pytest.mark.parametrize("mixing", [[], MIXING], ids=["plain", "mixed"])
def test_two_processes_give_the_loss_curve_of_one(tmp_path, mixing):
    (tmp_path / "one").mkdir()
    fit(MODEL, MIXED if mixing else RECIPE, 0, tmp_path / "one", **EXACT)
    assert torchrun(tmp_path, *mixing).wait(300) == 0
    one, two = content(tmp_path / "one"), content(tmp_path)
    assert (one["processes"], two["processes"]) == (1, 2)
    for name in ("train_loss", "loss", "train_top1", "top1"):  # sums in another order; the losses are some 2 nats
        values = [[row[name] for row in each["history"]] for each in (one, two)]
        np.testing.assert_allclose(*values, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(one["test"]["loss"], two["test"]["loss"], atol=1e-4)
    assert two["test"]["n"] == 540


@pytest.mark.slow
def test_one_process_goes_on_where_two_were_told_to_end(tmp_path):
    (tmp_path / "whole").mkdir()
    fit(MODEL, RECIPE, 0, tmp_path / "whole", **EXACT)
    process = torchrun(tmp_path, "--resume-every", "0", "--resume", stderr=subprocess.PIPE)
    waited, interrupted = time.monotonic(), tmp_path / f"{MODEL}_seed_0_epochs_2.resume.pth"
    while not interrupted.exists() and process.poll() is None and time.monotonic() - waited < 120:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    lines = []
    fit(MODEL, RECIPE, 0, tmp_path, resume=True, **EXACT | {"report": lines.append})
    if process.returncode:  # else it was so quick that nothing was left
        assert lines[0].startswith("going on after epoch ")
    one, two = content(tmp_path / "whole"), content(tmp_path)
    values = [[row["train_loss"] for row in each["history"]] for each in (one, two)]
    np.testing.assert_allclose(*values, atol=1e-4)


def test_loaders_of_another_kind_train_alone_and_from_the_start():
    batch = torch.rand(4, 3, 8, 8), torch.arange(4)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 10))
    recipe = Recipe("digits", epochs=1, learning_rate=0.01).resolved("linear")
    trainer = Trainer(model, recipe, [batch] * 2, [batch], device="cpu")
    assert trainer.run_epoch(progress=False)["n"] == 4
    trainer.step = 1
    with pytest.raises(TypeError, match=r"list cannot serve shares or the rest of an epoch; .*make_loader"):
        trainer.run_epoch(progress=False)
