"""The verb contributions: the shares of the function, figures beside them, and sentences for what is wrong."""

import numpy as np
import pytest

from utilities.cli.verbs import main
from utilities.compare import image_contributions
from utilities.datasets import load_dataset, make_loader
from utilities.results.image_contributions import ImageContributions
from utilities.zoo import create_model

WORDS = ["contributions", "resnet18", "--dataset", "digits", "--n-images", "40", "--batch-size", "20"]


def test_shares_are_those_of_the_function(tmp_path):
    pairs = ["layer1.0", "layer3.1", "layer2.0", "layer2.0"]
    main([*WORDS, "--pairs", *pairs, "--n-shown", "3", "--out", str(tmp_path / "a")])
    found = ImageContributions.load(tmp_path / "a")
    loader = make_loader(load_dataset("digits", "test", n_images=40), 20)
    model = create_model("resnet18", 10, seed=0)
    own = image_contributions(model, model, loader, pairs=[("layer1.0", "layer3.1"), ("layer2.0", "layer2.0")])
    np.testing.assert_array_equal(found.shares, own.shares)
    np.testing.assert_allclose(found.similarity[1], 1, atol=1e-6)  # a layer with itself
    assert found.provenance["dataset"] == "digits (test)"
    names = {path.name for path in tmp_path.iterdir()}
    assert {"a.png", "a_agreement.png", "a_without.pdf", "a.csv", "a.json"} <= names


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--pairs", "layer1"], "a pair is one of each model"),
        (["--pairs", "layer1", "layer9"], "close: layer4"),
        (["--pairs", "layer1", "layer2", "--n-shown", "0"], "--n-shown 0 should be 1 or more"),
    ],
)
def test_what_is_wrong_is_a_sentence(words, said, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([*WORDS, *words, "--out", str(tmp_path / "a")])
    assert said in capsys.readouterr().err
