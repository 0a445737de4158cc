"""The natural profile: which recipe, images and checkpoints each model gets. No table of settings forgets a profile."""

import ast
import re
from dataclasses import replace

import nbformat
import numpy as np
import pytest
from PIL import Image

from utilities.cli import rerun
from utilities.study import Group, Study, across_datasets
from utilities.study import study as module
from utilities.study.data_size import compare_fine_tuned
from utilities.study.profiles import CNN, HYBRID, PROFILES, VIT
from utilities.training.recipes import RECIPES
from utilities.utils import PROJECT_ROOT
from utilities.zoo import create_model
from utilities.zoo.inputs import input_options

PYTHON = sorted((PROJECT_ROOT / "utilities").rglob("*.py"))
NOTEBOOKS = sorted((PROJECT_ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write ten classes of twelve images of noise for training and for testing, of other sizes than 32 pixels."""
    path, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for part in ("train", "val", "test"):
        for name in "abcdefghij":
            (path / part / name).mkdir(parents=True)
            for i in range(12):
                pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path / part / name / f"{i}.png")
    return f"folder:{path}"


def natural(model, **options):
    return Study("x", model, "natural", **options)


def test_cnns_and_hybrids_are_trained_by_the_fast_recipe_and_vits_by_their_own():
    fast = replace(RECIPES["fast"], image_size=32)
    for model in ("resnet18", "alternet18", "plain_cnn8"):
        assert natural(model).recipe == fast.resolved(model)
        assert (natural(model).epochs, natural(model).dataset, natural(model).n_images) == (10, "cifar10", 2000)
    vit = replace(RECIPES["vit"], image_size=32, epochs=40)
    for model in ("vit_tiny_patch4_32", "swin_tiny_patch2_32", "mixer_tiny_patch4_32"):
        assert natural(model).recipe == vit.resolved(model)
    lambdas = natural("lambda_resnet26").recipe
    assert (lambdas.epochs, lambdas.optimizer, lambdas.learning_rate, lambdas.norm_images) == (10, "sgd", 0.1, 512)
    assert natural("resnet18", training="cifar_vit").recipe == fast.resolved("resnet18")  # a name for the paper profile
    assert natural("resnet18").output_dir == PROJECT_ROOT / "runs" / "natural"


def test_epochs_are_each_familys_own_unless_they_are_given():
    models = [CNN, HYBRID, VIT]
    assert [study.recipe.epochs for study in Group("x", models, "natural").studies] == [10, 10, 40]
    assert [study.recipe.epochs for study in Group("x", models, "natural", epochs=3).studies] == [3, 3, 3]


def test_no_accuracy_is_required():
    assert natural("vit_tiny_patch4_32").require(0.1) is None  # quick refuses it


def test_all_models_see_images_of_32_pixels(folder):
    for model in ("resnet18", "vit_tiny_patch4_32"):
        study = natural(model, dataset=folder, n_images=20, batch_size=20)
        loaders = (study.loader(n_images=20), study.loader("train", n_images=20), study.training_loader(n_images=20))
        assert {tuple(next(iter(loader))[0].shape) for loader in loaders} == {(20, 3, 32, 32)}
        assert study.recipe.image_size == 32
    quick = Study("x", "resnet18", dataset=folder, n_images=20, batch_size=20)
    assert next(iter(quick.loader(n_images=20)))[0].shape[-1] == 40  # as before


def test_a_small_set_is_used_whole_but_more_than_it_holds_is_refused(folder):
    study = natural("vit_tiny_patch4_32", dataset=folder)
    assert (study.n_images, len(study.loader(n_images=study.n_images).dataset)) == (2000, 120)
    with pytest.raises(ValueError, match="n_images=500 is more than the 120"):
        study.loader(n_images=500)


def test_checkpoints_do_not_replace_those_of_other_profiles(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PROJECT_ROOT", tmp_path)
    options = {"dataset": folder, "epochs": 0, "n_images": 20}
    quick = Study("x", "plain_cnn8", **options).checkpoint()
    before = quick.stat().st_mtime_ns
    own = natural("plain_cnn8", **options).checkpoint()
    assert own.parent == quick.parent / "natural"
    assert own.name == quick.name
    assert quick.stat().st_mtime_ns == before
    assert natural("plain_cnn8", **options).checkpoint().stat().st_mtime_ns == own.stat().st_mtime_ns
    folders = {Study("x", "resnet18", name, dataset="cifar10").checkpoint_folder for name in PROFILES}
    assert len(folders) == 2  # quick and paper share one, as before: their epochs differ


@pytest.mark.parametrize("model", [CNN["natural"], VIT["natural"]])
def test_the_models_of_the_study_are_followed_through_their_training(model, folder, tmp_path, monkeypatch):
    """Then the notebook on the Hessian needs no second training."""
    monkeypatch.setattr(module, "PROJECT_ROOT", tmp_path)
    asked = {}
    monkeypatch.setattr(module, "fit", lambda *given, **options: asked.update(options))
    natural(model, dataset=folder).checkpoint()
    assert asked["save_every"] == natural(model).recipe.total_epochs + 1


@pytest.fixture(scope="module")
def tables():
    """Find the dictionaries of settings by profile, in the package and the notebooks: place, keys, node."""
    return list(find_tables())


def find_tables():
    for path in [*PYTHON, *NOTEBOOKS]:
        text = path.read_text()
        if path.suffix == ".ipynb":
            cells = [cell.source for cell in nbformat.reads(text, 4).cells if cell.cell_type == "code"]
            text = re.sub(r"^(\s*)[!%].*", r"\1pass", "\n".join(cells), flags=re.MULTILINE)
        for node in ast.walk(ast.parse(text)):
            keys = [getattr(key, "value", None) for key in node.keys] if isinstance(node, ast.Dict) else []
            if {"quick", "paper"} <= set(keys):
                yield f"{path.name}:{node.lineno}", keys, node


def test_every_table_of_settings_has_all_profiles(tables):
    assert len(tables) > 30
    for place, keys, node in tables:
        inner = {key.value for value in node.values if isinstance(value, ast.Dict) for key in value.keys if key}
        assert {*keys, *inner} >= set(PROFILES), place
    assert tuple(PROFILES) == rerun.PROFILES


def test_models_that_are_trained_on_small_natural_images_take_images_of_32_pixels(tables):
    names = set()
    for _place, keys, node in tables:
        value = dict(zip(keys, node.values, strict=True)).get("natural")
        words = [one.value for one in ast.walk(value) if isinstance(one, ast.Constant)] if value else []
        names |= {word for word in words if re.match(r"(resnet|alternet|lambda|vit|swin|mixer).*\d", str(word))}
    assert len(names) >= 8
    for name in names:
        create_model(name, 10)
        assert input_options(name).get("image_size", 32) == 32


def test_another_set_may_have_fewer_test_images_than_are_compared(folder, tmp_path, monkeypatch):
    """As the bundled photographs have fewer than 2,000."""
    monkeypatch.setattr(module, "PROJECT_ROOT", tmp_path)
    study = Study("x", "plain_cnn8", epochs=0, n_images=200, batch_size=40)
    assert {result.n for result in across_datasets(study, folder).values()} == {120}
    tuned = compare_fine_tuned(study, folder, epochs=0, n_images=20, norm_images=0, warmup=0)
    assert {result.n for result in tuned.values()} == {120}
