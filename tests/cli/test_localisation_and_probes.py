"""The verbs ``localisation`` and ``layer_probes`` of the command on tiny models and images."""

import pandas as pd

from utilities.analysis.blocks.layer_probes import LayerProbes
from utilities.analysis.blocks.localisation import Localisation
from utilities.cli.analyse import main

MODELS = ["--models", "resnet18", "vit_tiny_patch2_16"]
ON = ["--dataset", "digits", "--image-size", "16", "--n-images", "20", "--device", "cpu"]


def test_localisation(tmp_path, capsys):
    main(["localisation", *MODELS, *ON, "--batch-size", "10", "--patch", "4", "--out", f"{tmp_path}/a"])
    assert "Fig. 9" in capsys.readouterr().out
    for name in ("a.png", "a_sharpness.pdf", "a_claims.csv"):
        assert (tmp_path / name).stat().st_size > 0
    assert set(pd.read_csv(tmp_path / "a.csv").model) == set(MODELS[1:])
    result = Localisation.load(tmp_path / "a_vit_tiny_patch2_16")
    assert (result.patch_grid, result.provenance["batches"]) == ([4, 4], 2)
    main(["localisation", "--models", "resnet18", *ON, "--layers", "layer?.1", "--out", f"{tmp_path}/b.npz"])
    assert Localisation.load(tmp_path / "b").names == [f"layer{i}.1" for i in range(1, 5)]


def test_layer_probes(tmp_path, capsys):
    words = [*MODELS, *ON, "--n-train", "40", "--view", "gap", "tokens", "--shots", "3", "--draws", "2"]
    main(["layer_probes", *words, "--out", f"{tmp_path}/a"])
    assert "Fig. 11a" in capsys.readouterr().out
    for name in ("a.png", "a_tokens.png", "a_claims.csv", "a.csv"):
        assert (tmp_path / name).stat().st_size > 0
    result = LayerProbes.load(tmp_path / "a_vit_tiny_patch2_16")
    assert (result.views, result.by_draw.shape, result.provenance["shots"]) == (["gap", "tokens"], (2, 2, 6), 3)
