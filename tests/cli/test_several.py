"""The analyses of several models at once, and the reading of models that a command names."""

import pytest

from utilities.analysis.loss.trajectory import Trajectory
from utilities.cli.opening import Named, epoch_of, labels, named_models
from utilities.cli.verbs import main
from utilities.compare.layer_matching import LayerMatching
from utilities.train import fit
from utilities.training.recipes import Recipe
from utilities.zoo.factory import split_model

RECIPE = Recipe("digits", epochs=2, image_size=8, n_images=40, batch_size=20, optimizer="adamw")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two trainings with their snapshots."""
    folder = tmp_path_factory.mktemp("trained")
    run = {"save_every": 1, "device": "cpu", "report": lambda line: None}
    return [fit("plain_cnn8", RECIPE, seed, folder, **run) for seed in (0, 1)]


def snapshot(path, epoch):
    return path.with_name(f"{path.stem}_at_{epoch}.pth")


def test_snapshots_make_a_trajectory(trained, tmp_path, capsys):
    words = [f"plain_cnn8={snapshot(trained[0], epoch)}" for epoch in (2, 0, 1)]
    main(["analyse", "trajectory", *words, "--out", str(tmp_path / "a")])
    result = Trajectory.load(tmp_path / "a")
    assert result.epochs.tolist() == [0, 1, 2]
    assert {path.name for path in tmp_path.iterdir()} == {f"a.{end}" for end in ("npz", "json", "csv", "png", "pdf")}
    for wrong, said in ((["plain_cnn8"], "is no snapshot"), ([words[0], words[0]], "two snapshots")):
        with pytest.raises(SystemExit):
            main(["analyse", "trajectory", *wrong, "--out", str(tmp_path / "b")])
        assert said in capsys.readouterr().err


def test_named_networks_are_matched(trained, tmp_path, capsys):
    words = [f"plain_cnn8={path}" for path in trained]
    on = ["--image-size", "8", "--n-images", "60", "--measures", "cka", "--views", "gap", "--device", "cpu"]
    main(["analyse", "layer_matching", "--models", *words, *on, "--out", str(tmp_path / "a.npz")])
    result = LayerMatching.load(tmp_path / "a")
    assert [one["seed"] for one in result.provenance["trained"]] == [0, 1]
    assert result.table() in capsys.readouterr().out


@pytest.mark.parametrize(("model", "layers"), [("plain_cnn8", []), ("resnet18", ["--layers", "layer?"])])
def test_one_name_is_trained_from_several_seeds(model, layers, tmp_path):
    small = ["--image-size", "8", "--n-images", "40", "--n-train", "40", "--epochs", "1", "--n-networks", "2"]
    on = ["--measures", "cka", "--views", "gap", "--device", "cpu", "--checkpoints", str(tmp_path / "trained")]
    main(
        ["analyse", "layer_matching", model, "--dataset", "digits", *layers, *small, *on, "--out", f"{tmp_path}/a.npz"]
    )
    result = LayerMatching.load(tmp_path / "a")
    assert [one["seed"] for one in result.provenance["trained"]] == [0, 1]
    names = {path.name for path in (tmp_path / "trained").rglob("*.pth")}
    assert names == {f"{model}_seed_{seed}_epochs_1.pth" for seed in (0, 1)}


def test_one_checkpoint_is_not_several_networks(trained, tmp_path, capsys):
    words = ["--dataset", "digits", "--out", str(tmp_path / "a")]
    with pytest.raises(SystemExit):
        main(["analyse", "layer_matching", f"plain_cnn8={trained[0]}", *words])
    assert "two or more are needed" in capsys.readouterr().err


def test_epochs_of_weights(trained):
    models = ["random", "pretrained", *map(str, (trained[0], snapshot(trained[0], 1)))]
    assert [epoch_of(Named("plain_cnn8", weights)) for weights in models] == [0, None, 2, 1]


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("timm/vit_tiny_patch16_224", ("timm/vit_tiny_patch16_224", "random")),
        ("resnet18=pretrained", ("resnet18", "pretrained")),
        ("a.b:make=runs/a=b.pth", ("a.b:make", "runs/a=b.pth")),
        ("x=1/nets.py:make", ("x=1/nets.py:make", "random")),
    ],
)
def test_names_and_weights_are_split(word, parts):
    assert split_model(word) == parts


def test_models_of_one_name_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.pth").touch()
    models = named_models(["resnet18", "resnet18", "resnet18=a/x.pth", "resnet18=b/x.pth"], [0, 1, 0, 0])
    assert labels(models[:3]) == ["resnet18 untrained, seed 0", "resnet18 untrained, seed 1", "resnet18 x.pth"]
    assert labels(models[2:]) == ["resnet18 a/x.pth", "resnet18 b/x.pth"]
    with pytest.raises(ValueError, match="named twice"):
        labels(models[2:3] * 2)
    with pytest.raises(ValueError, match="write NAME, or NAME=WEIGHTS"):
        split_model("resnet18=")
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        named_models(["resnet18=c/x.pth"])
