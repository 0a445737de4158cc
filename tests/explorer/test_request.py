"""What the explorer shows to be copied gives the same numbers as what it runs."""

import shlex

import numpy as np
import pytest

from utilities.cli.verbs import main
from utilities.explorer.request import Request, command, place
from utilities.results.similarity import Similarity
from utilities.zoo.factory import create_model

VIT = "vit_tiny_patch2_16"


def run(words, out):
    main([*words, "--out", str(out)])
    return Similarity.load(out)


@pytest.mark.parametrize(
    "options",
    [
        {"models": (("resnet18", "random"),)},
        {"models": (("resnet18", "random"), (VIT, "random")), "layers": ((), ("blocks.?",)), "seed": 3},
        {"models": (("resnet18", "random"), (VIT, "random")), "measure": "procrustes", "view": "gap"},
    ],
    ids=["one model", "layers", "measure and view"],
)
def test_python_and_command_agree(options, tmp_path):
    asked = Request(**options, n_images=40, batch_size=20)
    names = {}
    exec(asked.python, names)
    by_command = run(asked.words, tmp_path / "a")
    assert (names["result"].layers1, names["result"].layers2) == (by_command.layers1, by_command.layers2)
    np.testing.assert_array_equal(names["result"].matrix, by_command.matrix)


def test_a_checkpoint_is_named_by_both(tmp_path):
    import torch

    model = create_model("resnet18", 10, seed=5)
    torch.save(model.state_dict(), tmp_path / "five.pth")
    asked = Request((("resnet18", str(tmp_path / "five.pth")),), n_images=40, batch_size=20)
    names = {}
    exec(asked.python, names)
    np.testing.assert_array_equal(names["result"].matrix, run(asked.words, tmp_path / "a").matrix)


def test_an_analysis_in_python_is_that_of_the_command(tmp_path):
    from utilities.analysis.blocks.variance import Variance

    asked, names = Request(((VIT, "random"),), n_images=20, batch_size=20), {}
    exec(asked.analysis_python("variance"), names)
    main([*asked.analysis_words("variance"), "--out", str(tmp_path / "a.npz")])
    np.testing.assert_array_equal(names["results"][0].variance, Variance.load(tmp_path / "a").variance)


def test_the_command_survives_a_shell():
    words = Request((("my net.py:make", "a b.pth"),), "folder:my images").words
    assert shlex.split(command(words))[3:-2] == words
    assert place(words) != place(Request((("my net.py:make", "a b.pth"),), "digits").words)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"models": ((" ", "random"),)}, "no name stands for model 1"),
        ({"dataset": ""}, "no data set is named"),
        ({"n_images": 0}, "number of images is 0"),
        ({"batch_size": -1}, "images in a batch is -1"),
    ],
)
def test_what_is_missing_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        Request(**{"models": (("resnet18", "random"),), **wrong})
