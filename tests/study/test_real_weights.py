"""Models that others have trained: each with its own preparation of the same images, and facts for captions."""

import pytest
import torch

from utilities.study import analyse_opened, compare_opened, open_models, real_images
from utilities.zoo import create_model

CNN, VIT = "timm/test_efficientnet", "timm/test_vit"


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Two tiny models of timm with weights in files."""
    folder = tmp_path_factory.mktemp("weights")
    for name in (CNN, VIT):
        torch.save(create_model(name, 7, seed=1).state_dict(), folder / f"{name.rpartition('/')[2]}.pth")
    return [f"{name}={folder / name.rpartition('/')[2]}.pth" for name in (CNN, VIT)]


IMAGES = {"dataset": "photos", "n_images": 8, "batch_size": 4}


def test_each_model_has_its_own_images_and_says_what_it_is(words):
    opened = open_models(words, **IMAGES)
    assert list(opened) == ["test_efficientnet", "test_vit"]
    for (name, one), word in zip(opened.items(), words, strict=True):
        assert one.facts["model"] == f"timm/{name}"
        assert one.facts["weights"] == f"trained, from {word.partition('=')[2]}"
        assert one.model.get_classifier().out_features == 7
        assert one.loader.dataset.image_size == 160
    labels = [torch.cat([batch[1] for batch in one.loader]).tolist() for one in opened.values()]
    assert labels[0] == labels[1]


def test_twins_are_untrained_and_normalise_by_the_images(words):
    twin = open_models(words[:1], **IMAGES, untrained=True)["test_efficientnet"]
    assert twin.facts["weights"] == "untrained, seed 0"
    assert not torch.equal(
        twin.model.conv_stem.weight, open_models(words[:1], **IMAGES)["test_efficientnet"].model.conv_stem.weight
    )
    assert twin.model.bn1.running_mean.abs().max() > 0


def test_all_pairs_are_compared_with_the_facts_of_both(words):
    found = compare_opened(open_models(words, **IMAGES), progress=False)
    cnn, vit = "test_efficientnet", "test_vit"
    assert list(found) == [(cnn, cnn), (cnn, vit), (vit, vit)]
    assert {"model", "weights"} <= found[cnn, cnn].provenance.keys()
    assert {"model1", "weights2"} <= found[cnn, vit].provenance.keys()
    assert found[vit, vit].matrix.diagonal() == pytest.approx(1.0)
    counts = analyse_opened(open_models(words, **IMAGES), lambda model, loader, provenance: provenance["model"])
    assert counts == {cnn: CNN, vit: VIT}


def test_what_cannot_be_opened_is_refused(words):
    with pytest.raises(ValueError, match="is named twice"):
        open_models([words[0]] * 2, **IMAGES)
    with pytest.raises(ValueError, match="has random weights"):
        open_models([f"{CNN}=random"], **IMAGES)
    with pytest.raises(ValueError, match="no wheel carries weights"):
        open_models([CNN], **IMAGES)
    with pytest.raises(ValueError, match="profile 'slow' is not known"):
        real_images("slow")
    assert real_images("quick", None, 5) == {"dataset": "photos", "n_images": 5}


def test_the_natural_profile_takes_as_many_images_of_any_set():
    assert real_images("natural", small=168) == {"dataset": "cifar10", "n_images": 300, "image_size": 168}
    named = real_images("natural", "folder:x", small=168)
    assert named == {"dataset": "folder:x", "n_images": 300, "image_size": 168}
    assert real_images("natural", "folder:x", 20) == {"dataset": "folder:x", "n_images": 20, "image_size": 224}
    assert real_images("natural", image_size=98, small=168)["image_size"] == 98


def test_smaller_images_are_for_the_quick_profiles_own_photographs():
    assert real_images(small=168)["image_size"] == 168
    assert real_images(image_size=224, small=168)["image_size"] == 224
    for other in (real_images("paper", small=168), real_images("quick", "imagenet", small=168), real_images()):
        assert "image_size" not in other
