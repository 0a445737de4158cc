"""The table of what has been trained: finished, interrupted, and what is no training."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from utilities.cli.verbs import main
from utilities.train import fit
from utilities.training.inventory import trained
from utilities.training.recipes import Recipe
from utilities.training.trainer import Trainer

TINY = Recipe("digits", epochs=2, batch_size=20, n_images=40, image_size=8, learning_rate=0.01)
EXACT = {"device": "cpu", "precision": "float32", "report": lambda line: None}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    fit("plain_cnn8", TINY, 3, tmp_path / "a", save_every=1, **EXACT)
    step, taken = Trainer._step, []

    def killed(self, *args):
        taken.append(None)
        if len(taken) == 4:
            raise KeyboardInterrupt
        return step(self, *args)

    monkeypatch.setattr(Trainer, "_step", killed)
    with pytest.raises(KeyboardInterrupt):
        fit("plain_cnn8", replace(TINY, epochs=5), 0, tmp_path, resume_every=0, **EXACT)
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    return tmp_path


def test_finished_and_interrupted_trainings_have_a_row_each(folder):
    table = trained(folder)
    assert table["file"].tolist() == [
        "a/plain_cnn8_seed_3_epochs_2.pth",
        "plain_cnn8_seed_0_epochs_5.resume.pth",
    ]
    assert table[["seed", "done", "epochs", "processes"]].to_numpy().tolist() == [[3, 2, 2, 1], [0, 1, 5, 1]]
    content = torch.load(folder / "a" / "plain_cnn8_seed_3_epochs_2.pth", weights_only=True)
    np.testing.assert_equal(table["accuracy"].to_numpy(), [content["test"]["top1"], np.nan])
    assert table["train_loss"][0] == content["history"][-1]["train_loss"]


def test_the_command_prints_it(folder, capsys):
    main(["models", f"{folder}/"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[:5] == ["model", "dataset", "seed", "done", "epochs"]
    assert len(printed) == 3


def test_damaged_files_are_named_and_empty_folders_refused(folder, tmp_path_factory):
    (folder / "broken.pth").write_bytes(b"no weights")
    with pytest.warns(UserWarning, match=r"broken\.pth cannot be read as weights"):
        assert len(trained(folder)) == 2
    with pytest.raises(FileNotFoundError, match="holds no checkpoint of a training; python -m utilities train"):
        trained(tmp_path_factory.mktemp("empty"))
    with pytest.raises(FileNotFoundError, match="is no folder"):
        trained(folder / "absent")
