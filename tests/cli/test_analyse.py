"""The command on tiny models and images, and what it refuses."""

import pandas as pd
import pytest

from utilities.analysis.blocks.fourier import Fourier
from utilities.cli.analyse import ANALYSES, main

ON = ["--dataset", "digits", "--n-images", "8", "--device", "cpu"]
MODELS = ["--models", "alternet18", "vit_tiny_patch2_16"]
OF_TRANSFORMERS = ("key_value", "perturb")


@pytest.mark.parametrize("analysis", ANALYSES)
def test_writes_results_figures_and_claims(analysis, tmp_path, capsys):
    models = MODELS[:1] + MODELS[2:] if analysis in OF_TRANSFORMERS else MODELS
    suffix = ".pdf" if analysis == "variance" else ".png"
    main([analysis, *models, *ON, "--out", str(tmp_path / ("a.pdf" if suffix == ".pdf" else "a"))])
    printed = capsys.readouterr().out
    assert "Paper:" in printed
    for name in (f"a{suffix}", "a_claims.csv", *(f"a_{model}.npz" for model in models[1:]), "a_vit_tiny_patch2_16.csv"):
        assert (tmp_path / name).stat().st_size > 0
    assert len(pd.read_csv(tmp_path / "a_vit_tiny_patch2_16.csv")) > 0


def test_each_model_has_its_own_images_and_says_what_it_is(tmp_path):
    main(["fourier", "--models", "resnet18", "vit_tiny_patch2_16", *ON, "--image-size", "16", "--out", f"{tmp_path}/a"])
    result = Fourier.load(tmp_path / "a_resnet18")
    assert result.size[0].tolist() == [16, 16]
    assert result.provenance["weights"] == "untrained, seed 0"
    assert result.provenance["dataset"] == "digits (test)"


def test_options_of_the_analysis_are_passed_on(tmp_path):
    layers = ["-o", "layers", '{"features.0": "conv"}', "-o", "path", "radial"]
    main(["fourier", "--models", "vgg11", *layers, *ON, "--out", f"{tmp_path}/a"])
    result = Fourier.load(tmp_path / "a_vgg11")
    assert (result.names, result.provenance["path"]) == (["features.0"], "radial")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["fourier", "--models", "resnet18", "-o", "over", "samples"], "fourier has no option 'over'; it has path, "),
        (["fourier", "--models", "resnet81"], "close: resnet18"),
        (["fourier", "--models", "resnet18", "--weights", "random", "random"], "1 models, but 2 weights"),
        (["fourier", "--models", "resnet18", "resnet18"], "named twice"),
        (["variance", "--models", "vgg11"], "layers="),
        (["variance", "--models", "resnet18", "--weights", "absent.pth"], "absent.pth"),
        (["perturb", "--models", "resnet18"], "needs timm's VisionTransformer, not a ResNet"),
        (["identifiability", "--models", "vgg11"], "has no class-embedding space"),
    ],
)
def test_bad_input_is_one_line_and_status_2(options, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*options, *ON, "--out", str(tmp_path / "a")])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
