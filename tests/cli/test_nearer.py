"""The verb nearer: the result of the function, a sentence and a figure; several seeds; sentences for what is wrong."""

import numpy as np
import pytest

from utilities.cli.verbs import main
from utilities.compare import compare_similarities
from utilities.datasets import load_dataset, make_loader
from utilities.results.matrix_difference import MatrixDifference
from utilities.results.similarity_difference import SimilarityDifference
from utilities.zoo import create_model

HOW = ["--dataset", "digits", "--n-images", "40", "--batch-size", "20", "--image-size", "16", "--resamples", "100"]
LAYERS = ["--layers", "layer?.0", "--layers1", "layer?.0", "--layers2", "layer?.0"]


def test_the_result_is_that_of_the_function(tmp_path, capsys):
    names = ["alternet18", "resnet18", "resnet18"]
    main(["nearer", *names, "--model-seeds", "0", "1", "2", *HOW, *LAYERS, "--out", str(tmp_path / "a")])
    found = SimilarityDifference.load(tmp_path / "a")
    loader = make_loader(load_dataset("digits", "test", n_images=40, image_size=16), 20)
    models = [create_model(name, 10, seed=seed) for seed, name in enumerate(names)]
    layers = dict.fromkeys(("layers", "layers1", "layers2"), "layer?.0")
    own = compare_similarities(*models, loader, **layers, resamples=100, device="cpu")
    np.testing.assert_allclose(found.difference, own.difference, atol=1e-6)
    np.testing.assert_allclose(found.p_family, own.p_family, atol=0.02)
    assert found.provenance["dataset"] == "digits (test)"
    assert found.names[1] == "resnet18 (untrained, seed 1)"
    assert {"a.png", "a.pdf", "a.csv", "a.json"} <= {path.name for path in tmp_path.iterdir()}
    assert "As a whole, alternet18" in capsys.readouterr().out


def test_seeds_belong_together_by_their_counts(tmp_path):
    words = ["nearer", *["resnet18"] * 5, "--model-seeds", *"01234", "--counts", "2", "2", "1"]
    main([*words, *HOW, *LAYERS, "--out", str(tmp_path / "a.npz")])
    found = SimilarityDifference.load(tmp_path / "a")
    assert found.provenance["models_of_side"] == [2, 2, 1]
    assert found.provenance["weights1"].startswith("2 seeds: ")


def test_whole_matrices_are_drawn_as_such(tmp_path, capsys):
    words = ["nearer", "alternet18", "resnet18", "resnet18", "--model-seeds", "0", "1", "2", "--match", "all"]
    main([*words, *HOW, *LAYERS, "--out", str(tmp_path / "a")])
    found = MatrixDifference.load(tmp_path / "a")
    assert found.difference.shape == (len(found.layers), 4)
    assert f"Of {found.difference.size} pairs of layers" in capsys.readouterr().out.replace("\n", " ")
    assert {"a.png", "a.csv"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["resnet18", "resnet34"], "three models are compared, but 2 are named"),
        (["resnet18"] * 3 + ["--counts", "1", "1", "2"], "--counts asks for 4 models, but 3 are named"),
        (["resnet18"] * 3 + ["--counts", "3"], "give three numbers"),
        (["alternet18", "resnet18", "resnet18"], "are both resnet18 (untrained, seed 0); --model-seeds gives each"),
        (
            ["resnet18"] * 3 + ["--model-seeds", "0", "1", "2", "--match", "all", "--layers2", "layer1.?"],
            "the first has 36 and the second 2: choose",
        ),
        (
            ["resnet18", "resnet18", "resnet34", "resnet18", "--counts", "1", "2", "1"],
            "seeds of one model have one name",
        ),
    ],
)
def test_what_is_wrong_is_a_sentence(words, said, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["nearer", *words, *HOW, "--out", str(tmp_path / "a")])
    assert said in capsys.readouterr().err
