"""Gradient maps against autograd through the attention matrix, and maps of whole data sets."""

import numpy as np
import pytest
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import ResPostBlock, VisionTransformer
from torch.nn import functional as F

from utilities.analysis.class_embedding.eager_attention import eager_attention
from utilities.analysis.class_embedding.gradient_map import LOSSES, gradient_maps
from utilities.analysis.class_embedding.importance import METHODS, Importance, importance, object_share
from utilities.analysis.class_embedding.space import LensOptions
from utilities.analysis.class_embedding.spaces import transformer_space
from utilities.datasets.masks import token_coverage
from utilities.zoo.local_vit import local_vit

KINDS = {
    "pre-norm": {},
    "LayerScale": {"init_values": 0.5},
    "residual-post-norm": {"block_fn": ResPostBlock},
    "normed queries and keys": {"qk_norm": True},
    "registers": {"reg_tokens": 2},
    "average, norm after": {"class_token": False, "global_pool": "avg"},
    "average with a class token": {"global_pool": "avg", "fc_norm": False},
    "average of prefix too": {"global_pool": "avg", "pool_include_prefix": True},
    "distilled": {},
}
IMAGES = torch.randn(7, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()
LABELS = torch.tensor([0, 1, 2, 3, 4, 1, 2])


def toy(kind="pre-norm", seed=0, **options):
    """Make a ViT of 4 image tokens whose weights are large enough for maps to differ clearly."""
    make = VisionTransformerDistilled if kind == "distilled" else VisionTransformer
    size = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 5}
    torch.manual_seed(0)  # timm draws from the global generator
    model = make(**size, **KINDS[kind], **options).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


def loss_of(logits, target, loss):
    """Write the losses once more, one image and token at a time."""
    if loss == "logit":
        return -logits[target]
    return F.cross_entropy(logits.softmax(0) if loss == "ce_double_softmax" else logits, target)


def readings(model, added, image):
    """Read the rows that a classifier reads, each by its own head: a list of logits."""
    norm, prefix = lambda x: model.fc_norm(model.norm(x)), model.num_prefix_tokens
    if isinstance(model, VisionTransformerDistilled):
        return [model.head(norm(added[image, 0])), model.head_dist(norm(added[image, 1]))]
    first = 0 if model.pool_include_prefix else prefix
    rows = [0] if model.global_pool == "token" else range(first, added.shape[1])
    return [model.head(norm(added[image, row])) for row in rows]


def by_autograd(model, images, target, loss, scale=True):
    """Differentiate each block's loss by its own attention matrix: (batch, blocks, heads, image tokens)."""
    space, matrices, outputs = transformer_space(model), {}, {}

    def keep(store, index):
        return lambda *args: store.__setitem__(index, args[-1])

    handles = []
    for i, block in enumerate(model.blocks):
        branch = block.attn if not scale else block.norm1 if isinstance(block, ResPostBlock) else block.ls1
        handles.append(branch.register_forward_hook(keep(outputs, i)))
    with eager_attention(space, {i: keep(matrices, i) for i in range(len(model.blocks))}):
        model(images)
    maps = []
    for i in range(len(model.blocks)):
        losses = []
        for image in range(len(images)):
            read = readings(model, outputs[i], image)
            losses.append(sum(loss_of(logits, target[image], loss) for logits in read) / len(read))
        gradient = torch.autograd.grad(sum(losses), matrices[i], retain_graph=True)[0]
        maps.append(-gradient.sum(2)[..., space.prefix :])  # over rows: those that are not read have no gradient
    for handle in handles:
        handle.remove()
    return torch.stack(maps, 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", LOSSES)
def test_closed_form_is_the_gradient_by_the_attention_matrix(kind, loss):
    model = toy(kind)
    maps = gradient_maps(model, IMAGES, LABELS, loss=loss, per_head=True)
    assert maps.shape == (7, 2, 2, 4)
    assert maps.abs().max() > 1e-3
    # Both are float64 sums of a few hundred terms near 1.
    torch.testing.assert_close(maps, by_autograd(model, IMAGES, LABELS, loss), rtol=1e-10, atol=1e-10)
    summed = gradient_maps(model, IMAGES, LABELS, loss=loss)
    torch.testing.assert_close(summed, maps.sum(2), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["LayerScale", "residual-post-norm"])
def test_a_raw_lens_leaves_out_what_comes_after_the_branch(kind):
    model = toy(kind)
    raw = gradient_maps(model, IMAGES, LABELS, per_head=True, lens=LensOptions(scale=False))
    torch.testing.assert_close(raw, by_autograd(model, IMAGES, LABELS, "ce", scale=False), rtol=1e-10, atol=1e-10)
    assert (raw - gradient_maps(model, IMAGES, LABELS, per_head=True)).abs().max() > 1e-2


def test_more_attention_to_a_positive_token_raises_the_logit():
    """A finite difference of the weights themselves: the sign, and the linearity within the layer."""
    model, seen = toy(), {}
    space, step = transformer_space(model), 1e-4
    target, block, head, token = LABELS, 1, 0, 2

    def logit(more):
        def edit(weights):
            weights = weights.clone()
            weights[:, head, 0, space.prefix + token] += more
            return weights

        def keep(module, args, output):
            seen["added"] = output

        handle = model.blocks[block].ls1.register_forward_hook(keep)
        with torch.no_grad(), eager_attention(space, {block: edit}):
            model(IMAGES)
        handle.remove()
        return space.project(seen["added"])[:, 0].gather(1, target[:, None])[:, 0]

    maps = gradient_maps(model, IMAGES, target, loss="logit", per_head=True)[:, block, head, token]
    # Central differences of step 1e-4 are exact to its square times third derivatives near 1.
    torch.testing.assert_close((logit(step) - logit(-step)) / (2 * step), maps, rtol=1e-5, atol=1e-6)


def test_double_softmax_is_another_map():
    maps = {loss: gradient_maps(toy(), IMAGES, LABELS, loss=loss).flatten() for loss in LOSSES}
    for other in ("ce_double_softmax", "logit"):
        cosine = F.cosine_similarity(maps["ce"], maps[other], dim=0)
        assert cosine < 0.999  # not the same map at another scale


def test_any_class_can_be_asked_about():
    model = toy()
    one, two = (gradient_maps(model, IMAGES, target=c) for c in (0, 3))
    assert (one - two).abs().max() > 1e-3
    torch.testing.assert_close(one, gradient_maps(model, IMAGES, torch.zeros(7, dtype=torch.long)))


def test_model_is_put_back():
    model = toy().train()
    model.blocks[0].eval()
    hooks = [len(module._forward_hooks) for module in model.modules()]
    gradient_maps(model, IMAGES, LABELS)
    dynamic = toy(dynamic_img_size=True)
    with pytest.raises(ValueError, match="16 image tokens are not the 2x2 patches"):  # in the middle of the pass
        gradient_maps(dynamic, torch.zeros(1, 3, 16, 16).double(), 0)
    assert not any(module._forward_hooks for module in dynamic.modules())
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert model.training
    assert not model.blocks[0].training
    assert all(block.attn.fused_attn for block in model.blocks)


def test_an_image_does_not_depend_on_its_batch():
    model = toy()
    alone = torch.cat([gradient_maps(model, IMAGES[i : i + 1], LABELS[i : i + 1]) for i in range(7)])
    torch.testing.assert_close(gradient_maps(model, IMAGES, LABELS), alone, rtol=1e-10, atol=1e-12)


def test_attention_that_is_not_linear_is_refused():
    gated, normed = toy(), toy(scale_attn_norm=True)
    gated.blocks[1].attn.gate = torch.nn.Linear(16, 16)
    for model, words in ((gated, r"blocks\.1\.attn has a gate"), (normed, "scale norm")):
        with pytest.raises(ValueError, match=words):
            gradient_maps(model, IMAGES, LABELS)
    with pytest.raises(ValueError, match="a forward pass of its own"):
        importance(local_vit("16", reach=3), [])


@pytest.mark.parametrize(
    ("target", "options", "words"),
    [
        (LABELS, {"loss": "mse"}, "loss 'mse' is not known"),
        (5, {}, "class from 0 to 4"),
        ("label", {}, "is no class"),
        (LABELS[:3], {}, "3 targets for 7 images"),
        (torch.full((7,), 9), {}, "label 9"),
    ],
)
def test_bad_questions_are_refused(target, options, words):
    with pytest.raises(ValueError, match=words):
        gradient_maps(toy(), IMAGES, target, **options)


# Whole data sets


def batches(size, labelled=True, masks=None):
    """Serve the seven images in batches."""
    parts = [IMAGES, LABELS] + ([] if masks is None else [masks])
    split = list(zip(*(part.split(size) for part in parts), strict=True))
    return split if labelled else [batch[0] for batch in split]


@pytest.mark.parametrize("method", METHODS)
def test_result_does_not_depend_on_batches(method):
    one, two = (importance(toy(), batches(size), method=method, device="cpu", progress=False) for size in (7, 3))
    np.testing.assert_allclose(one.maps, two.maps, rtol=1e-5, atol=1e-7)  # float32
    assert one.maps.dtype == np.float32
    assert (one.n, one.grid, one.heatmaps.shape) == (7, [2, 2], (7, 2, 2))
    np.testing.assert_array_equal(one.labels, LABELS)
    assert one.provenance["method"] == method


def test_gradient_method_sums_blocks_and_heads():
    result = importance(toy(), batches(7), loss="logit", target=2, device="cpu", progress=False)
    maps = gradient_maps(toy(), IMAGES, 2, loss="logit", per_head=True).sum((1, 2))
    np.testing.assert_allclose(result.maps, maps, rtol=1e-5)
    assert result.targets.tolist() == [2] * 7
    assert result.provenance["loss"] == "logit"


@pytest.mark.parametrize("method", ["gradient", "relevance"])
def test_prediction_is_asked_about_without_labels(method):
    model = toy()
    answers = model(IMAGES).argmax(1).numpy()
    options = {"method": method, "device": "cpu", "progress": False}
    result = importance(model, batches(3, labelled=False), target="prediction", **options)
    np.testing.assert_array_equal(result.targets, answers)
    assert result.labels is None
    known = [(images, torch.tensor(answers).split(3)[i]) for i, images in enumerate(IMAGES.split(3))]
    np.testing.assert_array_equal(result.maps, importance(model, known, **options).maps)


def test_random_orders_differ_between_images_and_seeds():
    maps = [
        importance(toy(), batches(7), method="random", seed=s, device="cpu", progress=False).maps for s in (0, 0, 1)
    ]
    np.testing.assert_array_equal(maps[0], maps[1])
    assert (maps[0] != maps[2]).any()
    assert len(np.unique(maps[0], axis=0)) > 3
    np.testing.assert_array_equal(np.sort(maps[0], 1), np.tile(np.arange(4), (7, 1)))


def test_share_on_the_object():
    masks = torch.zeros(7, 8, 8)
    masks[:, :4, :6] = 1
    result = importance(toy(), batches(3, masks=masks), device="cpu", progress=False)
    np.testing.assert_allclose(result.coverage, token_coverage(masks, (2, 2)))
    share, area = result.on_object()
    np.testing.assert_allclose(area, 24 / 64)
    for image in range(7):
        positive = [max(value, 0) for value in result.maps[image]]
        expected = (positive[0] + positive[1] / 2) / sum(positive) if sum(positive) else np.nan
        np.testing.assert_allclose(share[image], expected, rtol=1e-6)
    np.testing.assert_array_equal(object_share(-np.ones((1, 2)), np.ones((1, 2))), [np.nan])
    with pytest.raises(ValueError, match="no masks"):
        importance(toy(), batches(7), device="cpu").on_object()


def test_table_and_files(tmp_path):
    given = {"model": "toy", "dataset": "noise"}
    result = importance(toy(), batches(7), device="cpu", progress=False, provenance=given)
    frame = result.to_frame()
    assert frame[["row", "column"]].to_numpy().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    np.testing.assert_allclose(frame["mean"], result.maps.mean(0), rtol=1e-5)
    loaded = Importance.load(result.save(tmp_path / "maps"))
    np.testing.assert_array_equal(loaded.maps, result.maps)
    assert loaded.coverage is None
    assert loaded.provenance == result.provenance
    assert loaded.provenance["model"] == "toy"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "rollout"}, "method 'rollout' is not known; choose from gradient"),
        ({"loss": "mse"}, "loss 'mse'"),
        ({"target": 9}, "class from 0 to 4"),
        ({"target": "label", "loader": [IMAGES]}, "labels are needed"),
        ({"loader": [(IMAGES, LABELS + 3)]}, "label 5"),
        ({"model": torch.nn.Linear(2, 2)}, "importance needs timm's VisionTransformer"),
    ],
)
def test_bad_options_are_refused(options, words):
    options = {"model": toy(), "loader": batches(7), "device": "cpu", **options}
    with pytest.raises(ValueError, match=words):
        importance(**options)
