"""Hugging Face's and torchvision's Vision Transformers give what timm's gives with the same weights."""

import numpy as np
import pytest
import torch

from tests import vit_twins
from utilities.analysis.attention.attention_distance import attention_distance
from utilities.analysis.blocks.fourier import fourier
from utilities.analysis.blocks.lesion import lesions
from utilities.analysis.blocks.skip_ratios import skip_ratios
from utilities.analysis.class_embedding.gradient_map import gradient_maps
from utilities.analysis.class_embedding.identifiability import identifiability
from utilities.analysis.class_embedding.key_value import key_value_agreement
from utilities.analysis.class_embedding.lens import lens
from utilities.analysis.class_embedding.masking import check_maskable
from utilities.analysis.class_embedding.perturbation import perturb
from utilities.analysis.class_embedding.relevance import relevance_maps
from utilities.analysis.class_embedding.removal import removal_curves
from utilities.analysis.class_embedding.space import LensOptions
from utilities.analysis.class_embedding.spaces import class_space, transformer_space
from utilities.compare import compare
from utilities.hooks.block_sequence import blocks
from utilities.zoo.layers import block_layers, comparison_layers

QUIET = {"device": "cpu", "progress": False}
# float32 in two orders of addition, some ten layers deep: 1e-5 of values near 1
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
HEADED, TOWERS = ("vit", "deit", "torchvision"), ("dinov2", "clip", "siglip")


@pytest.fixture(scope="module")
def twins():
    """Pairs of models by name, made once."""
    made = {}

    def pair(name):
        if name not in made:
            if name == "torchvision":
                made[name] = vit_twins.torchvision()
            else:
                transformers = pytest.importorskip("transformers")
                from utilities.zoo.huggingface import HuggingFaceModel

                one, two = getattr(vit_twins, name)(transformers)
                made[name] = one, HuggingFaceModel(two).eval()
        return made[name]

    return pair


@pytest.fixture(scope="module")
def loader():
    return [(vit_twins.images(8, seed), vit_twins.labels()) for seed in range(2)]


def same(one, two, *names):
    for name in names:
        np.testing.assert_allclose(getattr(one, name), getattr(two, name), **CLOSE, err_msg=name)


@pytest.mark.parametrize("name", [*HEADED, *TOWERS])
def test_outputs_blocks_and_layers_are_timms(name, twins, loader):
    one, two = twins(name)
    with torch.no_grad():
        if name == "siglip":  # its pooling has a hidden layer of another width
            expected, found = one.forward_features(loader[0][0]), two.source(loader[0][0]).last_hidden_state
        else:
            expected, found = one(loader[0][0]), two(loader[0][0])
    np.testing.assert_allclose(found, expected, **CLOSE)
    blocks(two).check(loader[0][0])
    same_layers = {"layers1": block_layers(one), "layers2": block_layers(two)}
    result = compare(one, two, loader, precision="exact", **same_layers, **QUIET)
    np.testing.assert_allclose(result.matrix.diagonal(), 1, atol=1e-6)
    if name != "torchvision":
        names = comparison_layers(two)
        assert names == list(dict.fromkeys(names))
        assert len(names) == 1 + 9 * vit_twins.DEPTH + 1 + (name == "clip") + {"vit": 1, "deit": 2}.get(name, 0)
    for view in ("gap", *(["cls"] if name != "siglip" else [])):
        result = compare(one, two, loader, view=view, precision="exact", **same_layers, **QUIET)
        np.testing.assert_allclose(result.matrix.diagonal(), 1, atol=1e-6)


@pytest.mark.parametrize("name", [*HEADED, *TOWERS])
def test_analyses_of_blocks_and_attention_are_timms(name, twins, loader):
    one, two = twins(name)
    found = [attention_distance(model, loader, **QUIET) for model in (one, two)]
    same(*found, "distance", "stderr", "entropy", "uniform_distance")
    found = [skip_ratios(model, loader, **QUIET) for model in (one, two)]
    assert found[0].groups == found[1].groups
    same(*found, "grid", "image_ratio", "token_ratio", "token_cosine")
    if name == "siglip":
        return  # timm does not pool as blocks of this package do
    found = [fourier(model, loader, **QUIET) for model in (one, two)]
    assert found[0].kinds == found[1].kinds
    same(*found, "frequency", "log_amplitude", "delta", "gain")


@pytest.mark.parametrize("name", HEADED)
def test_class_embedding_space_is_timms(name, twins, loader):
    one, two = twins(name)
    found = [identifiability(model, loader, **QUIET) for model in (one, two)]
    same(*found, "score", "rate", "change", "layer_change", "composition", "image_score")
    found = [lens(model, loader, logits=True, **QUIET) for model in (one, two)]
    same(*found, "rank", "logit", "logits")
    for scale in (True, False):
        spaces = [class_space(model, LensOptions(scale=scale)) for model in (one, two)]
        assert spaces[0].groups() == spaces[1].groups()
        assert spaces[0].own_grid == spaces[1].own_grid
    found = [key_value_agreement(model, loader, k=3, resamples=20, **QUIET) for model in (one, two)]
    same(*found, "rate", "control", "match", "true_logit", "class_rate")
    found = [
        key_value_agreement(model, loader, k=3, keys="preactivation", resamples=20, **QUIET) for model in (one, two)
    ]
    same(*found, "rate")


@pytest.mark.parametrize("name", HEADED)
def test_interventions_are_timms(name, twins, loader):
    one, two = twins(name)
    images = loader[0][0]
    expected = relevance_maps(one, images, 3)
    np.testing.assert_allclose(relevance_maps(two, images, 3), expected, **CLOSE)
    if name == "torchvision":
        with pytest.raises(ValueError, match=r"no layer of its own for its values .*method='relevance'"):
            gradient_maps(two, images, 3)
    else:
        np.testing.assert_allclose(gradient_maps(two, images, 3), gradient_maps(one, images, 3), **CLOSE)
    check_maskable(transformer_space(two))
    found = [perturb(model, loader, resamples=20, **QUIET) for model in (one, two)]
    assert found[0].kinds == found[1].kinds
    same(*found, "values")
    maps = {"a": np.random.default_rng(0).random((16, 16))}
    found = [removal_curves(model, loader, maps, random=1, steps=4, **QUIET) for model in (one, two)]
    same(*found, "negative", "positive", "random")
    found = [lesions(model, loader, **QUIET) for model in (one, two)]
    assert found[0].kinds == found[1].kinds
    np.testing.assert_allclose(found[0].loss, found[1].loss, **CLOSE)


def test_towers_have_no_class_embedding_space(twins):
    with pytest.raises(ValueError, match="CLIPVisionModel has no linear classifier, whose rows"):
        class_space(twins("clip")[1])


def test_dinov2s_classifier_reads_no_single_token():
    transformers = pytest.importorskip("transformers")
    from utilities.zoo.huggingface import HuggingFaceModel

    config = transformers.Dinov2Config(**vit_twins.CONFIG, mlp_ratio=2, num_labels=5)
    model = HuggingFaceModel(transformers.Dinov2ForImageClassification(config)).eval()
    blocks(model).check(vit_twins.images(2))
    with pytest.raises(ValueError, match="class token beside the mean over patches: no token alone"):
        class_space(model)
