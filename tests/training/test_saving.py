"""Interruptions within an epoch: the same weights bit for bit, whatever killed the training, and however often."""

import os
import signal
from dataclasses import replace

import pytest
import torch

from utilities import train
from utilities.datasets.loaders import Loader
from utilities.train import fit
from utilities.training.recipes import Recipe
from utilities.training.trainer import Trainer

# Seven steps an epoch, with all that draws: crops, RandAugment, erasing, mixing, stochastic depth, dropout of paths.
RECIPE = Recipe("digits", epochs=2, batch_size=8, n_images=56, image_size=16, learning_rate=1e-3, drop_path=0.2)
RECIPE = replace(RECIPE, rand_augment="rand-m9-n2-mstd1.0", erasing=0.25, mixup=1.0, cutmix=0.8, clip_grad=5.0)
MODEL = "vit_tiny_patch4_16"
EXACT = {"device": "cpu", "precision": "float32", "report": lambda line: None}


def killed(monkeypatch, at, how):
    """Let the trainer's next steps fail: before the one with that number, counted over the run, ``how`` is called."""
    step, taken = Trainer._step, []

    def failing(self, *args):
        taken.append(None)
        if len(taken) == at:
            how()
        return step(self, *args)

    monkeypatch.setattr(Trainer, "_step", failing)
    return lambda: monkeypatch.setattr(Trainer, "_step", step)


def interrupt():
    raise KeyboardInterrupt  # as a kill does it, without a chance to save


def same(one, two):
    """Tell whether two checkpoints hold the same bits, and the same curves but for the seconds."""
    one, two = (torch.load(path, weights_only=True) for path in (one, two))
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in each["history"]] for each in (one, two)]
    return rows[0] == rows[1] and all(torch.equal(value, two["model"][name]) for name, value in one["model"].items())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return fit(MODEL, RECIPE, 0, tmp_path_factory.mktemp("whole"), **EXACT)


@pytest.mark.parametrize("every", [0.0, 1.0], ids=["saved after each step", "never saved"])
def test_three_kills_within_epochs_leave_the_same_weights(tmp_path, monkeypatch, whole, every):
    for at in (3, 4, 6):  # steps 3, 6 (or 4) and 11 (or 6) of 14
        mend = killed(monkeypatch, at, interrupt)
        with pytest.raises(KeyboardInterrupt):
            fit(MODEL, RECIPE, 0, tmp_path, resume=True, resume_every=every, **EXACT)
        mend()
    lines, torch_state = [], torch.manual_seed(99)
    path = fit(MODEL, RECIPE, 0, tmp_path, resume=True, **EXACT | {"report": lines.append})
    assert torch_state
    assert (lines[0] == "going on after epoch 1 of 2, step 3 of the next") is (every == 0)
    assert same(path, whole)


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_ends_after_the_step_at_hand_and_loses_nothing(tmp_path, monkeypatch, whole, number, error):
    handlers = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    mend, lines = killed(monkeypatch, 5, lambda: os.kill(os.getpid(), number)), []
    with pytest.raises(error) as raised:
        fit(MODEL, RECIPE, 0, tmp_path, resume=True, **EXACT | {"report": lines.append})
    mend()
    assert getattr(raised.value, "code", 143) == 143
    assert lines[-1].startswith(f"saving after this step, then ending; {signal.Signals(number).name} once more")
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == handlers
    path = fit(MODEL, RECIPE, 0, tmp_path, resume=True, **EXACT | {"report": lines.append})
    assert "going on after epoch 0 of 2, step 5 of the next" in lines
    assert same(path, whole)


def test_a_second_signal_ends_at_once(tmp_path, monkeypatch):
    twice = lambda: [os.kill(os.getpid(), signal.SIGTERM) for _ in range(2)]  # noqa: E731
    mend = killed(monkeypatch, 2, twice)
    with pytest.raises(SystemExit):
        fit(MODEL, RECIPE, 0, tmp_path, **EXACT)
    mend()
    assert not (tmp_path / f"{MODEL}_seed_0_epochs_2.resume.pth").exists()


def test_steps_that_are_done_are_not_read_again(tmp_path, monkeypatch, whole):
    mend = killed(monkeypatch, 5, interrupt)
    with pytest.raises(KeyboardInterrupt):
        fit(MODEL, RECIPE, 0, tmp_path, resume_every=0, **EXACT)
    mend()
    served, first = Loader.served, []

    def noted(self, epoch, share=None, start=0, draws=None):
        first.append(start) if self.augment is not None else None  # that of the training images
        return served(self, epoch, share, start, draws)

    monkeypatch.setattr(Loader, "served", noted)
    assert same(fit(MODEL, RECIPE, 0, tmp_path, resume=True, **EXACT), whole)
    assert first == [4, 0]


def test_a_kill_in_the_test_at_the_end_costs_no_training(tmp_path, monkeypatch, whole):
    monkeypatch.setattr(train, "evaluate_shared", lambda *args, **options: interrupt())
    with pytest.raises(KeyboardInterrupt):
        fit(MODEL, RECIPE, 0, tmp_path, resume_every=60, **EXACT)
    monkeypatch.undo()
    lines = []
    path = fit(MODEL, RECIPE, 0, tmp_path, resume=True, **EXACT | {"report": lines.append})
    assert lines[0] == "going on after epoch 2 of 2"
    assert same(path, whole)


def test_the_interval_has_a_default(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "RESUME_EVERY", -1)
    mend = killed(monkeypatch, 3, interrupt)
    with pytest.raises(KeyboardInterrupt):
        fit(MODEL, RECIPE, 0, tmp_path, **EXACT)
    mend()
    assert torch.load(tmp_path / f"{MODEL}_seed_0_epochs_2.resume.pth", weights_only=True)["begun"]["step"] == 2
