"""Hugging Face's and torchvision's Vision Transformers give what timm's gives with the same weights."""

import numpy as np
import pytest
import torch
from torch import nn

from tests import vit_twins
from utilities.analysis.attention.attention_distance import attention_distance
from utilities.analysis.blocks.fourier import fourier
from utilities.analysis.blocks.lesion import lesions
from utilities.analysis.blocks.skip_ratios import skip_ratios
from utilities.analysis.class_embedding.frozen_norm import freeze
from utilities.analysis.class_embedding.gradient_map import gradient_maps
from utilities.analysis.class_embedding.identifiability import identifiability
from utilities.analysis.class_embedding.key_value import key_value_agreement
from utilities.analysis.class_embedding.lens import lens
from utilities.analysis.class_embedding.logit_attribution import logit_attribution
from utilities.analysis.class_embedding.masking import check_maskable
from utilities.analysis.class_embedding.perturbation import perturb
from utilities.analysis.class_embedding.relevance import relevance_maps
from utilities.analysis.class_embedding.removal import removal_curves
from utilities.analysis.class_embedding.space import LensOptions
from utilities.analysis.class_embedding.spaces import class_space, transformer_space
from utilities.analysis.readout import readout_of
from utilities.compare import compare
from utilities.hooks.block_sequence import blocks
from utilities.hooks.trial import first_tensor
from utilities.hooks.vit_parts import vit_parts
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
    with pytest.raises(ValueError, match="CLIPVisionModel has no linear classifier: it gives an embedding"):
        class_space(twins("clip")[1])


@pytest.mark.parametrize("name", ["vit", "torchvision"])
def test_shares_in_a_logit_are_timms(name, twins, loader):
    one, two = (logit_attribution(model, loader, **QUIET) for model in twins(name))
    same(one, two, "image_share", "image_centred", "logit")
    assert (one.kinds, one.groups) == (two.kinds, two.groups)
    modules = dict(twins(name)[1].named_modules())
    for part in two.names[1:]:
        assert part.removesuffix(".bias").partition(".head.")[0] in modules, part


def classifier(name):
    """A classifier of transformers in float64, with random weights."""
    transformers = pytest.importorskip("transformers")
    from utilities.zoo.huggingface import HuggingFaceModel

    plain = {**vit_twins.CONFIG, "intermediate_size": vit_twins.HIDDEN}
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    own = {"text_config": text, "vision_config": plain} if name in ("CLIP", "Siglip") else {**plain, "mlp_ratio": 2}
    own = plain if name == "DeiT" else own
    config = getattr(transformers, f"{name}Config")(**own, num_labels=vit_twins.CLASSES)
    model = HuggingFaceModel(getattr(transformers, f"{name}ForImageClassification")(config))
    torch.manual_seed(0)
    with torch.no_grad():  # zeros and ones would hide a part that is left out
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.3 + (parameter.ndim == 1) * 0.5)
    return model.double().eval()


@pytest.mark.parametrize("name", ["DeiT", "Dinov2", "Dinov2WithRegisters", "CLIP", "Siglip"])
@torch.no_grad()
def test_shares_of_other_classifiers_add_up_and_are_what_removal_takes_away(name):
    """The mean, with and without a norm before it, and the class token beside the mean, with LayerScale."""
    model, images = classifier(name), vit_twins.images(4).double()
    labels = vit_twins.labels(4)
    result = logit_attribution(model, [(images, labels)], **QUIET)
    rows = torch.arange(4), labels
    np.testing.assert_allclose(result.image_share.sum(1), model(images)[rows], atol=1e-12)
    # In the last block's MLP nothing follows but the norm: with its scale kept, the MLP's share is what it takes away.
    parts, kept = vit_parts(model), {}
    last = parts.blocks[-1]
    hooks = [last.module.register_forward_hook(lambda m, _, out: kept.update(after=first_tensor(out))),
             last.mlp_added.register_forward_hook(lambda m, _, out: kept.update(mlp=out))]  # fmt: skip
    model(images)
    for hook in hooks:
        hook.remove()
    norm = nn.Identity() if parts.norm is None else parts.norm
    frozen = freeze(norm, kept["after"])
    before = frozen.linear(kept["after"] - kept["mlp"]) + frozen.bias
    head, image = parts.heads[0], before[:, parts.prefix :].mean(1)
    pooled = {"token": before[:, 0], "avg": image, "token and avg": torch.cat([before[:, 0], image], 1)}[parts.pool]
    share = result.image_share[:, result.kinds.index("mlp", result.kinds.index("mlp") + 1)]
    assert np.abs(share).max() > 1e-3
    np.testing.assert_allclose((model(images) - head(pooled))[rows], share, atol=1e-12)


def test_shares_are_of_a_copy_in_float32_where_half_precision_rounds_the_sums(loader):
    model = vit_twins.random_timm().bfloat16()
    with pytest.warns(UserWarning, match="runs a copy of VisionTransformer in float32: bfloat16 rounds its sums"):
        found = logit_attribution(model, loader, **QUIET)
    assert model.head.weight.dtype == torch.bfloat16
    expected = logit_attribution(model.float(), loader, **QUIET)
    np.testing.assert_array_equal(found.image_share, expected.image_share)
    assert found.error < 1e-5
    assert found.provenance["precision"] == "float32, of bfloat16 weights"
    with torch.autocast("cpu", torch.bfloat16):
        np.testing.assert_array_equal(logit_attribution(model, loader, **QUIET).image_share, expected.image_share)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("deit", "DeiTForImageClassificationWithTeacher is distilled: two classifiers"),
        ("dinov2", "Dinov2Model has no linear classifier: it gives an embedding, and no logits"),
        ("clip", "CLIPVisionModel has no linear classifier"),
        ("siglip", "SiglipVisionModel has no linear classifier"),
    ],
)
def test_there_are_no_shares_without_one_classifier(name, reason, twins, loader):
    with pytest.raises(ValueError, match=reason):
        logit_attribution(twins(name)[1], loader, **QUIET)


def test_dinov2s_classifier_reads_no_single_token():
    transformers = pytest.importorskip("transformers")
    from utilities.zoo.huggingface import HuggingFaceModel

    config = transformers.Dinov2Config(**vit_twins.CONFIG, mlp_ratio=2, num_labels=5)
    model = HuggingFaceModel(transformers.Dinov2ForImageClassification(config)).eval()
    blocks(model).check(vit_twins.images(2))
    with pytest.raises(ValueError, match="class token beside the mean over patches: no token alone"):
        class_space(model)
    assert readout_of(model) == "CLS and GAP"
