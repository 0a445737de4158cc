"""The command on tiny models and images, and what it refuses."""

import pandas as pd
import pytest

from utilities.analysis.blocks.fourier import Fourier
from utilities.analysis.blocks.receptive_field import ReceptiveField
from utilities.cli.analyse import main

ON = ["--dataset", "digits", "--n-images", "8", "--device", "cpu"]
MODELS = ["--models", "alternet18", "vit_tiny_patch2_16"]
ANALYSES = ("fourier", "variance", "lesions", "receptive_field", "skip_ratios", "classify", "identifiability",
            "key_value", "perturb")  # fmt: skip
OWN = "torchvision/squeezenet1_1"  # whose blocks are not known
OF_TRANSFORMERS = ("key_value", "perturb")


@pytest.mark.parametrize("analysis", ANALYSES)
def test_writes_results_figures_and_claims(analysis, tmp_path, capsys):
    models = MODELS[:1] + MODELS[2:] if analysis in OF_TRANSFORMERS else MODELS
    main([analysis, *models, *ON, "--out", str(tmp_path / "a")])
    printed = capsys.readouterr().out
    assert "Paper:" in printed
    results = [f"a_{model}.npz" for model in models[1:]] if len(models) > 2 else ["a.npz"]
    for name in ("a.png", "a.pdf", "a_claims.csv", "a.csv", *results):
        assert (tmp_path / name).stat().st_size > 0
    assert set(pd.read_csv(tmp_path / "a.csv").model) == set(models[1:])


@pytest.mark.parametrize(
    ("ending", "names"),
    [
        (".pdf", {"a.pdf"}),
        (".svg", {"a.svg"}),
        (".npz", {"a.npz", "a.json"}),
        (".csv", {"a.csv"}),
        ("", {"a.npz", "a.json", "a.csv", "a.png", "a.pdf", "a_claims.csv"}),
    ],
)
def test_the_ending_decides_what_is_written(ending, names, tmp_path, capsys):
    main(["variance", *MODELS[1:2], *ON, "--out", str(tmp_path / f"a{ending}")])
    assert {path.name for path in tmp_path.iterdir()} == names
    assert all(name in capsys.readouterr().out for name in [f"a{ending}"])


def test_the_shares_of_several_models_in_a_logit(tmp_path):
    main(["logit_attribution", *MODELS, *ON, "--target", "prediction", "--out", f"{tmp_path}/a"])
    table = pd.read_csv(tmp_path / "a.csv")
    assert table.model.unique().tolist() == MODELS[1:]
    assert (tmp_path / "a_classes.png").stat().st_size > 0


def test_each_model_has_its_own_images_and_says_what_it_is(tmp_path):
    main(["fourier", "--models", "resnet18", "vit_tiny_patch2_16", *ON, "--image-size", "16", "--out", f"{tmp_path}/a"])
    result = Fourier.load(tmp_path / "a_resnet18")
    assert result.size[0].tolist() == [16, 16]
    assert result.provenance["weights"] == "untrained, seed 0"
    assert result.provenance["dataset"] == "digits (test)"


def test_options_of_the_analysis_are_passed_on(tmp_path):
    layers = ["--layers", "features.0", "conv", "--path", "radial"]
    main(["fourier", "--models", "vgg11", *layers, *ON, "--out", f"{tmp_path}/a"])
    result = Fourier.load(tmp_path / "a")
    assert (result.names, result.provenance["path"]) == (["features.0"], "radial")


def test_the_number_of_images_is_the_command_lines(tmp_path):
    """By itself, the function stops at 32 images."""
    on = ["--dataset", "digits", "--n-images", "40", "--device", "cpu", "--image-size", "8"]
    main(["receptive_field", "--models", "resnet18", *on, "--reduce-to", "4", "--out", f"{tmp_path}/a"])
    result = ReceptiveField.load(tmp_path / "a")
    assert (result.provenance["n"], result.maps.shape[1:]) == (40, (4, 4))


def test_layers_are_those_of_the_model_whose_blocks_are_not_known(tmp_path):
    (tmp_path / "nets.py").write_text(
        "from torch import nn\ndef make(num_classes=2):\n    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), "
        "nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))\n"
    )
    own = f"{tmp_path}/nets.py:make"
    main(["variance", "--models", "resnet18", own, *ON, "--layers", "0", "conv", "--out", f"{tmp_path}/a.csv"])
    table = pd.read_csv(tmp_path / "a.csv")
    counts = table.groupby("model", sort=False).size()
    assert list(counts.index) == ["resnet18", own]
    assert (counts["resnet18"], counts[own]) == (9, 1)


def test_models_before_one_that_fails_are_not_lost(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["variance", "--models", "resnet18", OWN, *ON, "--out", f"{tmp_path}/a"])
    printed = capsys.readouterr()
    assert "layers={'NAME': 'conv'}" in printed.err
    names = {"a_resnet18.npz", "a_resnet18.json", "a.csv", "a.png", "a.pdf", "a_claims.csv"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert "a_resnet18.npz" in printed.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["fourier", "--models", "resnet18", "--over", "samples"], "fourier has no option --over; "),
        (["fourier", "--models", "resnet81"], "close: resnet18"),
        (["fourier", "--models", "resnet18", "--model-seeds", "0", "1"], "1 models, but 2 model seeds"),
        (["attention", "--models", "vit_tiny_patch2_16", "--out", "a.pdf"], "has no figure"),
        (["fourier", "--models", "resnet18", "resnet18"], "named twice"),
        (["variance", "--models", OWN], "layers={'NAME': 'conv'}, as options --layers NAME conv"),
        (["variance", "--models", "resnet18=absent.pth"], "absent.pth"),
        (["perturb", "--models", "resnet18"], "needs timm's VisionTransformer, not a ResNet"),
        (["consistency", "--models", "plain_cnn8", "--dataset", "cifar10-c"], "here: cifar10-p, imagenet-p, digits"),
        (["robustness", "--models", "plain_cnn8", "--dataset", "imagenet-p"], "read by analyse consistency alone"),
        (["fourier", "--models", "resnet18", "--dataset", "cifar100-c"], "alone; data sets here: digits, canvas"),
        (["identifiability", "--models", "vgg11"], "has no class-embedding space"),
        (["logit_attribution", "--models", "timm/tf_efficientnet_lite0"], "no sum over parts that is known: a conv"),
    ],
)
def test_bad_input_is_one_line_and_status_2(options, message, tmp_path, capsys):
    on = ON[2:] if "--dataset" in options else ON
    with pytest.raises(SystemExit) as stop:
        main([*options, *on, *([] if "--out" in options else ["--out", str(tmp_path / "a")])])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
