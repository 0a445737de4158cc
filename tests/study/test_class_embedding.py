"""What the notebooks on class-embedding space share, with an untrained model in the place of a trained one."""

import numpy as np
import pytest

from utilities.analysis.class_embedding.identifiability import identifiability
from utilities.datasets import load_dataset
from utilities.datasets.factory import make_loader
from utilities.study.class_embedding import class_values, explanations, identifiability_table, pictures, probe_group
from utilities.study.group import Group
from utilities.study.study import Study

VIT = "vit_tiny_patch4_24"


@pytest.fixture
def group(tmp_path, monkeypatch):
    """One ViT and one ResNet on canvas; nothing is trained."""
    monkeypatch.setattr(Study, "finished_model", Study.untrained_model)
    return Group("T", [VIT, "resnet18"], dataset="canvas", n_images=20, batch_size=10, output_dir=tmp_path)


def test_pictures_are_the_images_before_normalisation():
    data = load_dataset("canvas", n_images=30)
    batches, shown, names = pictures(make_loader(data, 8, shuffle="never"), 10)
    images, labels, masks = batches[0]
    assert images.shape[0] == labels.shape[0] == masks.shape[0] == len(names) == 10  # of two batches
    assert names == [data.classes[label] for label in data.targets[:10]]
    grey = shown * 255
    np.testing.assert_allclose(grey, grey.round(), atol=1e-3)  # whole grey levels, to float32's precision
    assert 0 <= shown.min() < 0.1
    assert 0.9 < shown.max() <= 1


def test_the_table_is_of_the_last_block(group):
    results = group.analyse(identifiability, resamples=10)
    table = identifiability_table(results).set_index("model")
    vit = results[VIT]
    assert table.loc[VIT, "CLS"] == table.loc[VIT, "accuracy"] == pytest.approx(100 * vit.accuracy, abs=0.01)
    assert table.loc[VIT, "image tokens"] == pytest.approx(100 * vit.rate[0, -1, 1], abs=0.01)
    assert np.isnan(table.loc["resnet18", "CLS"])
    assert set(table["chance"]) == {10.0}
    assert set(table["n"]) == {20}


def test_class_values_stand_beside_three_untrained_models(group):
    vit = Group("T", [VIT], dataset="canvas", output_dir=group.output_dir)
    (result,) = class_values(vit).values()
    assert result.provenance["model"] == VIT
    assert result.provenance["untrained"] == 3
    assert np.isfinite(result.random_mean).all()


def test_explanations_are_of_the_same_images(group):
    study = group.studies[0]
    model, _ = study.untrained_model()
    found = explanations(model, study.loader(n_images=20), progress=False)
    assert list(found) == ["gradient", "double softmax", "relevance"]
    assert all((one.labels == found["gradient"].labels).all() for one in found.values())
    assert not np.allclose(found["gradient"].maps, found["double softmax"].maps)


def test_probes_and_lenses_of_every_stage(group):
    probes, distances = probe_group(group, 40, epochs=1, tokens="shared")
    assert probes["resnet18"].names[0] == "layer1.0"
    assert "tuned" in probes["resnet18"].readings
    assert distances["resnet18"].kl.shape[1] == len(probes["resnet18"].names) == 8
    np.testing.assert_allclose(distances[VIT].kl[:, -1], 0, atol=1e-6)  # the last block is read as it is
    plain, none = probe_group(group, 40, untrained=True)
    assert "tuned" not in plain[VIT].readings
    assert plain["resnet18"].names == ["layer4.0", "layer4.1"]
    assert none == {}
