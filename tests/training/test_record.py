"""What stands beside a checkpoint, and the curves that are written while a training runs."""

import json
import sys
from dataclasses import asdict, replace
from types import ModuleType

import pandas as pd
import pytest
import torch

from utilities.train import fit
from utilities.training import record
from utilities.training.recipes import Recipe
from utilities.training.trainer import Trainer

TINY = Recipe("digits", epochs=2, batch_size=20, n_images=40, image_size=8, learning_rate=0.01)
EXACT = {"device": "cpu", "precision": "float32", "report": lambda line: None}


def test_the_record_says_what_the_checkpoint_says_but_the_weights(tmp_path):
    path = fit("plain_cnn8", TINY, 0, tmp_path, **EXACT)
    content, stated = torch.load(path, weights_only=True), json.loads(path.with_suffix(".json").read_text())
    assert stated.keys() == content.keys() - {"model"} - ({"commit"} if content["commit"] is None else set())
    for name in stated:
        assert json.dumps(stated[name]) == json.dumps(content[name], default=list), name
    assert stated["recipe"] == json.loads(json.dumps(asdict(TINY.resolved("plain_cnn8"))))


@pytest.fixture
def board(monkeypatch):
    """Put a writer in the place of TensorBoard's, and return what is written."""
    written = []

    class SummaryWriter:
        def __init__(self, folder):
            self.folder = folder

        def add_scalar(self, name, value, step):
            written.append((step, name, value))

        def flush(self):
            pass

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(record.importlib.util, "find_spec", lambda name: object())
    return written


def test_curves_are_written_after_each_epoch(tmp_path, monkeypatch, board):
    seen, run_epoch = [], Trainer.run_epoch

    def looking(self, progress=True):
        table = tmp_path / "log" / "plain_cnn8_seed_0_epochs_2.csv"
        seen.append(len(pd.read_csv(table)) if table.exists() else 0)
        return run_epoch(self, progress)

    monkeypatch.setattr(Trainer, "run_epoch", looking)
    path = fit("plain_cnn8", TINY, 0, tmp_path, log=tmp_path / "log", **EXACT)
    history = torch.load(path, weights_only=True)["history"]
    assert seen == [0, 1]
    table = pd.read_csv(tmp_path / "log" / f"{path.stem}.csv")
    assert table.to_dict("records") == history
    assert [one for one in board if one[1] == "train_loss"] == [
        (r["epoch"], "train_loss", r["train_loss"]) for r in history
    ]


def test_without_tensorboard_there_is_csv_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(record.importlib.util, "find_spec", lambda name: None)
    fit("plain_cnn8", replace(TINY, epochs=1), 0, tmp_path, log=tmp_path / "log", **EXACT)
    assert [path.suffix for path in (tmp_path / "log").iterdir()] == [".csv"]


def test_without_git_the_commit_is_not_said(monkeypatch):
    monkeypatch.setattr(record, "PROJECT_ROOT", "/nowhere")
    assert record.commit() is None
