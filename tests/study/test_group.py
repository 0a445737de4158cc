"""The studies of several models, at the smallest size."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

from utilities.analysis.blocks.receptive_field import receptive_field
from utilities.compare import compare
from utilities.datasets.loaders import same_input
from utilities.results.similarity import Similarity
from utilities.study import Group, Study, across_datasets, each_pair, save_all, teach, under_every_measure
from utilities.study import study as module
from utilities.study.profiles import FOLLOWED
from utilities.study.wording import (
    describe_attention,
    describe_datasets,
    describe_measures,
    describe_pair,
    describe_student,
)
from utilities.training.recipes import Recipe

SMALL = {"epochs": 1, "n_images": 120, "batch_size": 30}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("project")
        patch.setattr(module, "PROJECT_ROOT", folder)
        yield folder


@pytest.fixture(scope="module")
def compared(folder):
    group = Group("G", ["plain_cnn8", {"quick": "vit_tiny_patch2_16"}], output_dir=folder / "out", **SMALL)
    return group, group.trained(permutations=19), group.untrained()


def test_a_group_compares_trained_and_untrained_models(compared, folder):
    group, trained, untrained = compared
    cross = trained["plain_cnn8", "vit_tiny_patch2_16"]
    assert cross.provenance["weights1"] == "trained for 1 epoch on digits, seed 0"
    assert 0 <= cross.provenance["accuracy2"] <= 1
    assert cross.n == 120
    assert cross.p_value.shape == cross.matrix.shape
    assert untrained["plain_cnn8", "vit_tiny_patch2_16"].replicates.shape[0] == 2
    group.save({"trained": trained, "untrained": untrained}, {"a": plt.figure(), "b": plt.figure()})
    names = {path.name for path in (folder / "out").iterdir()}
    pairs = ["plain_cnn8_vit_tiny_patch2_16", "vit_tiny_patch2_16_vit_tiny_patch2_16"]
    assert {
        "G.npz",
        "G.json",
        "G.png",
        "G.pdf",
        "G.svg",
        "G_b.png",
        *(f"G_trained_{pair}.npz" for pair in pairs),
    } <= names
    assert "G_trained_vit_tiny_patch2_16_plain_cnn8.npz" not in names
    assert len(each_pair(trained)) == 3
    plt.close("all")


def test_models_that_need_other_preprocessing_get_it(folder, monkeypatch):
    half = {"image_size": 16, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    monkeypatch.setattr(module, "input_options", lambda name: half if "vit" in name else {})
    group = Group("P", ["plain_cnn8", "vit_tiny_patch2_16"], output_dir=folder, **SMALL)
    loaders = [study.loader() for study in group.studies]
    assert not same_input(*loaders)
    models = {"plain_cnn8": group.studies[0].random_model(0), "vit_tiny_patch2_16": group.studies[1].random_model(1)}
    results = group._compared(models, {name: {"model": name} for name in models}, per_batch=True)
    assert list(results) == [("plain_cnn8",) * 2, ("plain_cnn8", "vit_tiny_patch2_16"), ("vit_tiny_patch2_16",) * 2]
    cross = results["plain_cnn8", "vit_tiny_patch2_16"]
    images = [next(iter(study.loader(n_images=120)))[0] for study in group.studies]
    alone = compare(
        *models.values(), [images[0]], [images[1]], layers1=cross.layers1, layers2=cross.layers2, per_batch=True
    )
    np.testing.assert_allclose(cross.per_batch[0], alone.per_batch[0], atol=1e-6)
    with pytest.raises(ValueError, match="prepared differently"):
        under_every_measure(group)


def test_sentences_carry_the_numbers(compared):
    _, trained, untrained = compared
    cross = trained["plain_cnn8", "vit_tiny_patch2_16"]
    text = describe_pair(cross, untrained["plain_cnn8", "vit_tiny_patch2_16"])
    assert f"a similarity of {cross.best_match()['similarity'].mean():.2f}" in text.replace("\n", " ")
    assert "Nearest to plain_cnn8 is vit_tiny_patch2_16" in describe_attention(trained, untrained)


def test_images_that_have_nothing_to_do_with_each_other_are_not_similar(folder):
    results = across_datasets(Study("D", "plain_cnn8", output_dir=folder, **SMALL))
    assert results["own"].n == results["other"].n == results["across"].n == 120
    assert results["across"].provenance["dataset"] == "digits (test) and photos (test)"
    assert abs(np.nanmean(results["across"].matrix)) < 0.1 < np.nanmean(results["own"].matrix)
    assert "photos (test)" in describe_datasets(results)


def test_a_taught_student_is_compared_with_its_teacher_batch_by_batch(folder):
    results = teach(Study("T", "plain_cnn8", output_dir=folder, **SMALL), "plain_cnn8", batch_size=20)
    assert results["taught"].per_batch.shape == (6, *results["taught"].matrix.shape)
    assert "taught by plain_cnn8" in results["taught"].provenance["weights2"]
    assert len(list((folder / "checkpoints" / "digits").glob("*_taught_by_*.pth"))) == 1
    assert describe_student(results).startswith("taught: accuracy")


def test_one_pair_under_every_measure(folder):
    group = Group("M", ["plain_cnn8", "vit_tiny_patch2_16"], output_dir=folder, epochs=1)
    results = under_every_measure(group, count=2)
    assert len(results) == 8
    assert next(iter(results)) == "linear CKA"
    assert {result.matrix.shape for result in results.values()} == {next(iter(results.values())).matrix.shape}
    assert all(np.isfinite(result.matrix).all() for result in results.values())
    assert "linear CKA and RSA (Spearman): Spearman correlation" in describe_measures(results)
    save_all(group.studies[0], results, {"one": plt.figure()})
    assert isinstance(Similarity.load(folder / "M_RSA-Spearman.npz"), Similarity)
    plt.close("all")


def test_an_analysis_of_each_trained_model(folder, monkeypatch):
    group = Group("A", ["plain_cnn8", "vit_tiny_patch2_16"], output_dir=folder / "out", **SMALL)
    seen = []

    def analysis(model, loader, *, provenance, scale, mix=None):
        seen.append((loader.dataset.split, loader.augment is not None, len(loader.dataset), mix))
        return scale, provenance

    results = group.analyse(analysis, scale=3)
    assert list(results) == ["plain_cnn8", "vit_tiny_patch2_16"]
    assert results["plain_cnn8"][0] == 3
    assert results["plain_cnn8"][1]["dataset"] == "digits (test)"
    facts = group.analyse(analysis, scale=3, train={"n_images": 40, "batch_size": 20}, mixing=True)["plain_cnn8"][1]
    assert facts["dataset"] == "digits (train, augmented)"
    assert seen[0] == ("test", False, 120, None)
    assert seen[2] == ("train", True, 40, None)  # the quick recipe does not mix
    assert group.analyse(analysis, untrained=True, scale=1)["plain_cnn8"][1]["weights"] == "untrained, seed 0"
    assert len(seen) == 6
    changed = group.analyse(
        lambda model, loader, *, provenance: (model, provenance), change=nn.Sequential, changed="one layer more"
    )
    model, facts = changed["plain_cnn8"]
    assert isinstance(model, nn.Sequential)
    assert facts["weights"] == f"{results['plain_cnn8'][1]['weights']}; one layer more"


def test_results_within_a_mapping_are_named_by_both(compared, folder):
    group, trained, _ = compared
    first, *_ = trained.values()
    save_all(replace(group.studies[0], name="N"), {"a": {"x/y": first, "z": first}, "b": first}, {"f": plt.figure()})
    assert {path.name for path in (folder / "out").glob("N*.npz")} == {"N.npz", "N_a_z.npz", "N_b.npz"}
    plt.close("all")


def test_the_papers_recipe_is_kept_apart_and_mixes():
    paper = Study("A", "resnet50", "paper", training="cifar_vit")
    assert (paper.recipe.epochs, paper.recipe.mixup, paper.recipe.optimizer) == (300, 1.0, "adamw")
    assert paper.checkpoint_folder.parts[-2:] == ("cifar100", "cifar_vit")
    assert Study("A", "resnet50", "quick", training="cifar_vit").recipe == Study("A", "resnet50").recipe
    with pytest.raises(ValueError, match="choose from study, fast, vit, cifar_general"):
        Study("A", "resnet50", training="quick")


def test_mixing_is_that_of_the_recipe(monkeypatch, generator):
    monkeypatch.setitem(module.RECIPES, "mixed", replace(Recipe("digits"), mixup=1.0, label_smoothing=0.1))
    mix = Study("A", "resnet18", "paper", dataset="digits", training="mixed").mixing()
    images, labels = torch.randn(4, 3, 8, 8), torch.arange(4)
    mixed, targets = mix(images, labels, generator)
    np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
    weight = (targets[0, 0] - 0.01) / 0.9  # one class of ten gets a tenth of what is smoothed
    assert torch.allclose(mixed, weight * images + (1 - weight) * images.flip(0), atol=1e-5)
    assert torch.equal(mix(images, labels, torch.Generator().manual_seed(0))[0], mixed)
    assert Study("A", "resnet18").mixing() is None


def test_snapshots_hold_the_beginning_the_end_of_the_warm_up_and_the_last_epoch(folder):
    study = Study("S", "plain_cnn8", epochs=3)
    models = study.snapshots(every=2)
    assert list(models) == [0, 2, 3]
    weights = [model.state_dict()["head.weight"] for model in models.values()]
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], study.random_model(0).cpu().state_dict()["head.weight"])
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.pth")}
    study.snapshots(every=2)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*.pth")}


def test_a_followed_model_is_trained_once(folder, monkeypatch):
    monkeypatch.setitem(FOLLOWED, "quick", ("plain_cnn8",))
    study = Study("S", "plain_cnn8", epochs=3, seed=5)
    last = study.checkpoint()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.pth")}
    assert list(study.snapshots()) == [0, 2, 3]
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*.pth")}
    for path in last.parent.glob(f"{last.stem}_at_*.pth"):  # as a version that kept none left them
        path.unlink()
    assert list(study.snapshots()) == [0, 2, 3]
    assert before.keys() - set(folder.rglob("*.pth")) == {
        last.with_name(f"{last.stem}_at_{epoch}.pth") for epoch in (0, 2)
    }


def test_options_that_nobody_takes_are_refused_before_the_training(monkeypatch):
    monkeypatch.setattr(Study, "finished_model", lambda self: pytest.fail("trained"))
    group = Group("G", ("resnet18", "plain_cnn8"))
    with pytest.raises(TypeError, match=r"trained\(\) has no option 'estimater'; close: estimator"):
        group.trained(estimater="biased")
    with pytest.raises(TypeError, match=r"analyse\(\) has no option 'images'; close: n_images"):
        group.analyse(receptive_field, images=8)
