"""The verb calibrate: the numbers of the function, figures beside them, and sentences for what is wrong."""

import numpy as np
import pytest

from utilities.cli.verbs import main
from utilities.compare.calibration import calibrate
from utilities.datasets import load_dataset, make_loader
from utilities.results.calibration import Calibration
from utilities.zoo import create_model

WORDS = ["calibrate", "alternet_tiny", "plain_cnn8", "--dataset", "digits", "--n-images", "40", "--batch-size", "20"]
LAYERS = ["--layers1", "block?", "--layers2", "block[1-3]"]


def test_numbers_are_those_of_the_function(tmp_path, capsys):
    main([*WORDS, *LAYERS, "--permutations", "29", "--out", str(tmp_path / "a")])
    found = Calibration.load(tmp_path / "a")
    loader = make_loader(load_dataset("digits", "test", n_images=40), 20)
    models = [create_model(name, 10, seed=0) for name in ("alternet_tiny", "plain_cnn8")]
    own = calibrate(*models, loader, layers1="block?", layers2="block[1-3]", permutations=29)
    np.testing.assert_array_equal(found.matrix, own.matrix)
    np.testing.assert_array_equal(found.null_best, own.null_best)
    assert f"{found.maximum()['similarity']:.3f}, of " in capsys.readouterr().out
    assert {"a.png", "a_heatmap.pdf", "a.csv", "a.json"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--permutations", "5"], "5 permutations cannot show anything at a level of 0.05"),
        (["--measure", "ckas"], "measure 'ckas' is not known"),
    ],
)
def test_what_is_wrong_is_a_sentence(words, said, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([*WORDS, *LAYERS, *words, "--out", str(tmp_path / "a")])
    assert said in capsys.readouterr().err


def test_a_model_with_itself_is_said_to_show_nothing(tmp_path, capsys):
    layers = ["--layers1", "block1", "--layers2", "block8"]
    main([WORDS[0], *WORDS[2:], *layers, "--permutations", "29", "--out", str(tmp_path / "a.npz")])
    assert "of a model with itself this says nothing" in capsys.readouterr().out
