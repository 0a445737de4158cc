import numpy as np
import pytest

from utilities.analysis.predictions.adversarial import Adversarial
from utilities.analysis.predictions.consistency import Consistency
from utilities.cli.analyse import main

COMMON = ["plain_cnn8", "--n-images", "12", "--device", "cpu"]
DIGITS = ["--dataset", "digits"]


def test_consistency_prints_means_and_those_in_percent_of_a_reference(tmp_path, capsys):
    vit = ["vit_tiny_patch2_16", *COMMON[1:]]  # untrained, it minds every move
    command = ["consistency", *vit, *DIGITS, "--kinds", "translate"]
    main([*command, "--out", str(tmp_path / "one")])
    result = Consistency.load(tmp_path / "one")
    assert (result.kinds, result.n) == (["translate"], 12)
    assert f"mean flip rate over 1 kind: {100 * result.mean_flip_rate()[0]:.2f} ± " in capsys.readouterr().out
    main([*command, "--reference", str(tmp_path / "one.npz"), "--out", str(tmp_path / "two")])
    printed = capsys.readouterr().out
    assert "mT5D: 100.0 ± " in printed


def test_published_sequences_are_read_or_asked_for(tmp_path, capsys):
    files = ["consistency", *COMMON, "--dataset", "cifar10-p", "--root", str(tmp_path), "--kinds", "tilt"]
    with pytest.raises(SystemExit):
        main([*files, "--out", str(tmp_path / "out" / "one")])
    assert "fetch CIFAR-10-P.tar" in capsys.readouterr().err
    (tmp_path / "CIFAR-10-P").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (13, 3, 32, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "CIFAR-10-P" / "tilt.npy", pixels)
    main([*files, "--out", str(tmp_path / "two")])
    result = Consistency.load(tmp_path / "two")
    assert (result.n, result.provenance["dataset"]) == (12, "cifar10-p")
    assert result.provenance["sequences"] == "read from files"


def test_attacks(tmp_path, capsys):
    command = ["adversarial", *COMMON, *DIGITS, "--attack", "fgsm", "--norm", "l2", "--radii", "0", "64"]
    main([*command, "--out", str(tmp_path / "result")])
    result = Adversarial.load(tmp_path / "result")
    assert (result.norm, result.radii.tolist(), result.n) == ("l2", [0, 64], 12)
    assert result.accuracies[0] == result.accuracies[1]
    assert (tmp_path / "result.png").is_file()
    assert "smoothing" not in capsys.readouterr().out  # there is no smoothed model for a claim on smoothing
    assert not (tmp_path / "result_claims.csv").exists()


def test_a_claim_on_smoothing_is_put_to_a_smoothed_model_and_its_twin(tmp_path, capsys):
    models = ["--models", "plain_cnn8", "plain_cnn8_smooth", *DIGITS, "--n-images", "12", "--device", "cpu"]
    main(["adversarial", *models, "--attack", "fgsm", "--radii", "4", "--out", str(tmp_path / "result")])
    assert "spatial smoothing makes a CNN more robust to adversarial attacks" in capsys.readouterr().out
    assert (tmp_path / "result_claims.csv").is_file()
