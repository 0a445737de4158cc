import numpy as np
import pandas as pd
import pytest

from utilities.analysis.predictions.noise_frequency import NoiseFrequency
from utilities.analysis.predictions.robustness import Robustness
from utilities.cli.analyse import main

COMMON = ["plain_cnn8", "--dataset", "digits", "--n-images", "30", "--device", "cpu"]
CORRUPTIONS = ["robustness", *COMMON, "--kinds", "fog", "pixelate", "--severities", "1", "5"]
NOISE = ["noise-frequency", *COMMON, "--bands", "7", "--eps", "0.5"]


def files(folder):
    return {path.name for path in folder.iterdir()}


def test_corruptions(tmp_path, capsys):
    main([*CORRUPTIONS, "--out", str(tmp_path / "result")])
    pictures = [f"result{part}{suffix}" for part in ("", "_types") for suffix in (".png", ".pdf")]
    names = ("result.npz", "result.json", "result.csv", "result_claims.csv", *pictures)
    assert files(tmp_path) == set(names)
    assert all(str(tmp_path / name) in capsys.readouterr().out for name in names[:1])
    result = Robustness.load(tmp_path / "result")
    assert (result.kinds, result.severities, result.n) == (["fog", "pixelate"], [1, 5], 30)
    assert result.provenance["weights"] == "untrained, seed 0"
    table = pd.read_csv(tmp_path / "result.csv")
    np.testing.assert_allclose(table.accuracy[1:], result.accuracy.ravel())


def test_numbers_are_printed_and_mce_against_a_reference(tmp_path, capsys):
    main([*CORRUPTIONS, "--out", str(tmp_path / "one")])
    result = Robustness.load(tmp_path / "one")
    capsys.readouterr()
    main([*CORRUPTIONS, "--reference", str(tmp_path / "one.npz"), "--out", str(tmp_path / "two")])
    printed = capsys.readouterr().out
    assert f"mean accuracy over 4 sets: {100 * result.mean_accuracy()[0]:.1f} ± " in printed
    assert "mCE: 100.0 ± " in printed


def test_noise_frequency(tmp_path):
    main([*NOISE, "--no-equal-energy", "--noise", "gaussian", "--out", str(tmp_path / "deep" / "result")])
    assert "result.png" in files(tmp_path / "deep")
    result = NoiseFrequency.load(tmp_path / "deep" / "result")
    facts = result.provenance
    assert (facts["eps"], facts["noise"], facts["equal_energy"]) == (0.5, "gaussian", False)
    assert (facts["dataset"], facts["model"], result.n) == ("digits (test)", "plain_cnn8", 30)
    np.testing.assert_allclose(result.centres, np.arange(1, 8) / 8)


def test_edges_of_bands(tmp_path):
    main(["noise-frequency", *COMMON, "--bands", "0", "0.5", "1", "--out", str(tmp_path / "result")])
    assert NoiseFrequency.load(tmp_path / "result").edges.tolist() == [0, 0.5, 1]


def test_nine_bands_where_none_are_given(tmp_path):
    main(["noise-frequency", *COMMON, "--image-size", "32", "--out", str(tmp_path / "result")])
    np.testing.assert_allclose(NoiseFrequency.load(tmp_path / "result").centres, np.arange(1, 10) / 10)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([*CORRUPTIONS, "--kinds", "mist"], "mist"),
        ([*CORRUPTIONS, "--severities", "9"], "severities"),
        ([*CORRUPTIONS, "--models", "resnet81"], "resnet18"),
        ([*CORRUPTIONS, "--dataset", "cifar10-c"], "zenodo.org/records/2535967"),
        ([*NOISE, "--bands", "12"], "bands=7"),
        ([*NOISE, "--models", "resnet18=no_such.pth"], "no_such.pth"),
        ([*NOISE, "--device", "abacus"], "abacus"),
    ],
)
def test_errors_are_one_line_and_leave_no_result(tmp_path, capsys, arguments, word):
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--root", str(tmp_path / "data"), "--out", str(tmp_path / "out" / "result")])
    message = capsys.readouterr().err
    assert stop.value.code == 2
    assert message.startswith("error: ")
    assert word in message
    assert not list((tmp_path / "out").rglob("*"))
