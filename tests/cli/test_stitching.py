"""The verb stitching: the numbers of the function, a figure beside them, and sentences for what is wrong."""

import numpy as np
import pytest

from utilities.cli.verbs import main
from utilities.compare import stitch
from utilities.datasets import load_dataset, make_loader
from utilities.results.stitching import Stitching
from utilities.train import fit
from utilities.training.recipes import Recipe
from utilities.zoo import create_model
from utilities.zoo.checkpoints import write_torch

WORDS = ["stitching", "plain_cnn8", "--dataset", "digits", "--image-size", "8", "--n-images", "40", "--n-train", "60"]


def test_numbers_are_those_of_the_function(tmp_path):
    main([*WORDS, "--depths", "2", "--penalty", "1e-4", "--device", "cpu", "--out", str(tmp_path / "a")])
    found = Stitching.load(tmp_path / "a")
    test = make_loader(load_dataset("digits", "test", n_images=40, image_size=8), 256)
    train = make_loader(load_dataset("digits", "train", n_images=60, image_size=8), 256)
    model = create_model("plain_cnn8", 10, seed=0)
    own = stitch(model, model, train, test, depths=2, penalty=1e-4, device="cpu")
    np.testing.assert_array_equal(found.accuracy, own.accuracy)
    np.testing.assert_array_equal(found.r2, own.r2)
    assert found.provenance["dataset"] == "digits (test)"
    assert {"a.png", "a.pdf", "a.csv", "a.json"} <= {path.name for path in tmp_path.iterdir()}


def test_all_pairs_are_a_heatmap_and_two_models_may_take_other_images(tmp_path):
    words = [*WORDS[:2], "vit_tiny_patch4_16", *WORDS[2:], "--layers1", "block1", "block5", "--layers2", "blocks.[01]"]
    words[words.index("8")] = "16"
    main([*words, "--pairs", "all", "--device", "cpu", "--out", str(tmp_path / "a")])
    found = Stitching.load(tmp_path / "a")
    assert found.accuracy.shape == (1, 2, 2)
    assert len(found.pairs) == 4
    assert (found.provenance["model1"], found.provenance["model2"]) == ("plain_cnn8", "vit_tiny_patch4_16")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--layers2", "layer9"], "close:"),
        (["--layers2", "blocks.0.attn"], "'blocks.0.attn' does not cut VisionTransformer in two"),
        (["--control"], "--control stitches the first model untrained as well"),
        (["--depths", "0"], "depths=0 should be a whole number, 1 or more"),
    ],
)
def test_what_is_wrong_is_a_sentence(words, said, tmp_path, capsys):
    start = ["stitching", "vit_tiny_patch4_16", "--dataset", "digits", "--n-images", "20", "--n-train", "20"]
    with pytest.raises(SystemExit):
        main([*start, *words, "--device", "cpu", "--out", str(tmp_path / "a")])
    assert said in capsys.readouterr().err


def test_a_second_model_of_other_classes_is_refused(tmp_path, capsys):
    path = fit("plain_cnn8", Recipe("digits", epochs=1, batch_size=8, n_images=40), 0, tmp_path, report=str)
    words = ["stitching", "resnet18", f"plain_cnn8={path}", "--dataset", "photos", "--n-images", "8", "--n-train", "8"]
    with pytest.raises(SystemExit):
        main([*words, "--image-size", "16", "--device", "cpu", "--out", str(tmp_path / "a")])
    assert "was not trained on the classes of photos" in capsys.readouterr().err


def test_the_control_is_the_untrained_first_model_on_the_same_images(tmp_path):
    path = tmp_path / "a.pth"
    write_torch(path, create_model("plain_cnn8", 10, seed=3).state_dict())
    words = [f"plain_cnn8={path}", "plain_cnn8", *WORDS[2:], "--depths", "2", "--penalty", "1e-4", "--control"]
    main(["stitching", *words, "--device", "cpu", "--out", str(tmp_path / "s.npz")])
    trained, control = Stitching.load(tmp_path / "s"), Stitching.load(tmp_path / "s_control")
    assert control.provenance["weights1"] == "untrained, seed 0"
    assert trained.provenance["weights1"] == "a.pth"
    np.testing.assert_array_equal(control.own[1], trained.own[1])  # the second model is the same
    assert not np.array_equal(control.cross_entropy, trained.cross_entropy)
