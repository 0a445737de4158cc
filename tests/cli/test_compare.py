"""The command, in one process and in two."""

import os
import subprocess
import sys

import numpy as np
import pytest

from utilities.cli import verbs
from utilities.cli.compare import main
from utilities.compare import Similarity, compare
from utilities.datasets import load_dataset, make_loader
from utilities.zoo import create_model

COMMON = ["resnet18", "vit_tiny_patch2_16", "--dataset", "digits", "--n-images", "120",
          "--batch-size", "24", "--layers1", "layer1", "layer4", "fc", "--layers2", "blocks.0", "norm",
          "--permutations", "10", "--per-batch", "--device", "cpu"]  # fmt: skip


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    path = tmp_path_factory.mktemp("single") / "result.npz"
    main([*COMMON, "--out", str(path)])
    return path


def test_the_command_writes_result(single):
    assert {p.name for p in single.parent.iterdir()} == {"result.npz", "result.json"}
    result = Similarity.load(single)
    assert result.n == 120
    assert (result.layers1, result.layers2) == (["layer1", "layer4", "fc"], ["blocks.0", "norm"])
    facts = result.provenance
    assert (facts["model1"], facts["weights1"], facts["dataset"]) == ("resnet18", "untrained, seed 0", "digits (test)")


def test_a_star_takes_the_layers_that_the_function_takes(tmp_path):
    words = ["plain_cnn8", "--dataset", "digits", "--n-images", "40", "--device", "cpu", "--layers1", "*"]
    main([*words, "--precision", "float32", "--out", str(tmp_path / "r.npz")])
    result, model = Similarity.load(tmp_path / "r"), create_model("plain_cnn8", 10, seed=0)
    loader = make_loader(load_dataset("digits", "test", n_images=40), 256)
    expected = compare(model, model, loader, device="cpu", precision="exact")
    assert result.layers1 == expected.layers1
    np.testing.assert_array_equal(result.matrix, expected.matrix)


def test_pictures_are_in_the_format_that_out_ends_in(tmp_path, capsys):
    look = ["--width", "column", "--no-caption", "--ticks", "head"]
    same = ["plain_cnn8", "--dataset", "digits", "--n-images", "40", "--device", "cpu"]
    main([*same, *look, "--out", str(tmp_path / "r.pdf")])
    assert {path.name for path in tmp_path.iterdir()} == {"r.pdf"}
    assert f"wrote {tmp_path / 'r.pdf'}" in capsys.readouterr().out
    main([*same, "--out", str(tmp_path / "all")])
    assert {path.name for path in tmp_path.glob("all*")} == {
        f"all{e}" for e in (".npz", ".json", ".csv", ".png", ".pdf")
    }
    main([*same, "--dataset2", "digits", "--image-size2", "32", "--out", str(tmp_path / "b.csv")])
    assert len((tmp_path / "b.csv").read_text().splitlines()) > 10
    assert b"/Type3" not in (tmp_path / "r.pdf").read_bytes()
    out = ["--out", str(tmp_path / "other")]
    for wrong, message in (
        (["--out", "r.jpg"], "not written as .jpg"),
        ([*out, "--width", "0"], "from 2 to 60"),
        ([*out, "--ticks", "fc"], "no layer 'fc' to label"),
    ):
        with pytest.raises(SystemExit):
            main([*same, *wrong])
        assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("other*"))  # refused before the comparison


def test_two_processes_give_the_result_of_one(single, tmp_path):
    """Batches are the same and sums are float64, so that only their order differs: 1e-6 is generous."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29617", "-m"]
    command += ["utilities", "compare", *COMMON, "--out", str(tmp_path / "two.npz")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = Similarity.load(single), Similarity.load(tmp_path / "two.npz")
    assert two.n == one.n
    for name in ("matrix", "stderr", "null_mean", "p_value", "per_batch"):
        np.testing.assert_allclose(getattr(two, name), getattr(one, name), atol=1e-6, err_msg=name)
    assert two.details1["dominant_image"] == one.details1["dominant_image"]
    assert not list(tmp_path.glob("*partial*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet81"], "unknown model 'resnet81'"),
        (["resnet18", "--layers1", "layer9"], "'layer9' is not in"),
        (["resnet18=nowhere.pth"], "nowhere.pth"),
        (["resnet18", "--view", "cls"], "no class token"),
        (["resnet18", "--batch-size", "3"], "4 or more"),
        (["resnet18", "vgg11", "vgg13"], "3 are named"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([*arguments, "--dataset", "digits", "--n-images", "40", "--out", str(tmp_path / "r.npz")])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_refused_at_once(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit):
        main(["resnet18", "--dataset", "digits", "--out", str(tmp_path / "file" / "r.npz")])
    assert "nothing can be written to" in capsys.readouterr().err


def test_kept_features_stand_for_models(tmp_path, capsys):
    images = ["--dataset", "digits", "--n-images", "40", "--batch-size", "20", "--image-size", "16", "--device", "cpu"]
    names = ["plain_cnn8", "vit_tiny_patch2_16"]
    for name in names:
        verbs.main(["features", name, *images, "--out", str(tmp_path / name)])
    said = capsys.readouterr().out
    assert f"{tmp_path / names[0]} takes " in said
    assert f"wrote {tmp_path / names[1]}: " in said
    folders = [str(tmp_path / name) for name in names]
    main([*folders, "--device", "cpu", "--out", str(tmp_path / "kept.npz")])
    main([*names, *images, "--precision", "exact", "--out", str(tmp_path / "run.npz")])
    kept, run = Similarity.load(tmp_path / "kept"), Similarity.load(tmp_path / "run")
    assert (kept.layers1, kept.layers2) == (run.layers1, run.layers2)
    np.testing.assert_allclose(kept.matrix, run.matrix, atol=1e-6, rtol=0)
    facts = kept.provenance
    assert [facts[key] for key in ("model1", "model2", "dataset")] == [*names, "digits (test)"]
    assert facts["weights1"] == "untrained, seed 0"
    main([folders[0], names[1], *images, "--precision", "exact", "--out", str(tmp_path / "mixed.npz")])
    np.testing.assert_allclose(Similarity.load(tmp_path / "mixed").matrix, run.matrix, atol=1e-6, rtol=0)
    main([folders[1], "--device", "cpu", "--out", str(tmp_path / "self.npz")])
    np.testing.assert_allclose(Similarity.load(tmp_path / "self").matrix.diagonal(), 1, atol=1e-6)
    for words, message in (
        ([folders[0], "plain_cnn8"], "--dataset is missing: plain_cnn8 is a model"),
        (["plain_cnn8"], "--dataset is missing: digits, cifar10"),
        ([folders[0], str(tmp_path / "absent")], "absent: no folder of kept features is there, and as a model: "),
    ):
        with pytest.raises(SystemExit):
            main([*words, "--out", str(tmp_path / "no")])
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        verbs.main(["features", names[0], *images, "--out", folders[0]])
    assert "is there already" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        verbs.main(["nearer", folders[0], *names, "--dataset", "digits", "--out", str(tmp_path / "no")])
    assert "holds kept features, which compare alone takes" in capsys.readouterr().err
