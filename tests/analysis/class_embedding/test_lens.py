"""The lens of every token against full sorts and plain loops, and the identities of class-embedding space."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import ResPostBlock, VisionTransformer

from utilities.analysis.class_embedding.lens import Lens, lens
from utilities.analysis.class_embedding.ranks import chance_score, score
from utilities.analysis.class_embedding.readers import run_readers
from utilities.analysis.class_embedding.space import BLOCK_PARTS, LensOptions
from utilities.analysis.class_embedding.spaces import class_space
from utilities.plots.class_embedding.lens import plot_lens
from utilities.resnet import BasicBlock, ResNet

C = 5
KINDS = {
    "token": {},
    "average": {"global_pool": "avg", "class_token": False},
    "average of normed tokens": {"global_pool": "avg", "class_token": False, "fc_norm": False},
    "residual post-norm": {"global_pool": "avg", "class_token": False, "block_fn": ResPostBlock},
    "LayerScale": {"init_values": 0.5},
    "registers": {"reg_tokens": 2},
    "distilled": {},
}


def toy(kind="token", depth=2, seed=0):
    """A ViT in float64, all of whose weights differ clearly from 0 and from each other."""
    cls = VisionTransformerDistilled if kind == "distilled" else VisionTransformer
    size = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": depth, "num_heads": 2, "num_classes": C}
    model, generator = cls(**size, **KINDS[kind]), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.double().eval()


def pictures(n=6, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, 8, 8, generator=generator).double(), torch.randint(C, (n,), generator=generator)


@torch.no_grad()
def brute_logits(model, images):
    """Logits of every token by the model's own modules, (n, 4, blocks, tokens, classes).

    The parts are the block's output, attention, the MLP, and what the MLP sees, the block's input with attention.
    """
    x, blocks = model.norm_pre(model._pos_embed(model.patch_embed(images))), []
    for block in model.blocks:
        if isinstance(block, ResPostBlock):
            a = block.norm1(block.attn(x))
            m = block.norm2(block.mlp(x + a))
        else:
            a = block.ls1(block.attn(block.norm1(x)))
            m = block.ls2(block.mlp(block.norm2(x + a)))
        parts = (x + a + m, a, m, x + a)
        blocks.append(torch.stack([_read(model, tokens) for tokens in parts], 1))
        x = parts[0]
    return torch.stack(blocks, 2).numpy()


def _read(model, tokens):
    logits = []
    for t in range(tokens.shape[1]):
        head = model.head_dist if t == 1 and hasattr(model, "head_dist") else model.head
        logits.append(head(model.fc_norm(model.norm(tokens[:, t]))))
    return torch.stack(logits, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_every_token_against_a_full_sort(kind):
    model, (images, labels) = toy(kind), pictures()
    found, logits = lens(model, [(images, labels)], top=3, device="cpu"), brute_logits(model, images)[:, :3]
    assert found.rank.shape == logits.shape[:-1] == found.logit.shape
    for at in np.ndindex(found.rank.shape):
        order, target = np.argsort(-logits[at]), int(labels[at[0]])
        assert found.rank[at] == list(order).index(target)
        assert found.top[at].tolist() == order[:3].tolist()
        assert found.logit[at] == pytest.approx(logits[at][target], rel=1e-6)  # it is kept in float32
    np.testing.assert_allclose(found.score, 1 - found.rank / C, rtol=1e-6)
    with torch.no_grad():
        np.testing.assert_array_equal(found.predictions, model(images).argmax(1))
    np.testing.assert_array_equal(found.target, labels)
    assert (found.prefix, found.class_token) == (model.num_prefix_tokens, "class_token" not in KINDS[kind])


def test_all_logits_are_kept_where_they_are_asked_for(tmp_path):
    model, (images, labels) = toy(), pictures()
    found = lens(model, [(images[:4], labels[:4]), (images[4:], labels[4:])], logits=True, device="cpu")
    np.testing.assert_allclose(found.logits, brute_logits(model, images)[:, :3], atol=1e-5)  # kept as float32
    np.testing.assert_array_equal(found.top[..., 0], found.logits.argmax(-1))
    np.testing.assert_array_equal(Lens.load(found.save(tmp_path / "all")).logits, found.logits)
    alone = lens(model, [(images, labels)], device="cpu")
    assert alone.logits is None
    assert Lens.load(alone.save(tmp_path / "few")).logits is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("depth", [1, 3])
def test_a_block_adds_attention_and_mlp(kind, depth):
    class Sum:
        gaps = ()

        def block(self, tokens, batch):
            gap = (tokens.before + tokens.attn + tokens.mlp - tokens.after).abs().max() / tokens.after.abs().max()
            self.gaps = (*self.gaps, float(gap))

        def finish(self, batch):
            pass

    reader = Sum()
    run_readers(class_space(toy(kind, depth)), [pictures(2)], [reader], device="cpu")
    assert len(reader.gaps) == depth
    assert max(reader.gaps) < 1e-14  # a few roundings of float64


@pytest.mark.parametrize(
    ("kind", "tokens"), [("average of normed tokens", slice(0, None)), ("distilled", slice(0, 2)), ("token", slice(1))]
)
def test_mean_logits_of_the_tokens_that_decide_are_the_models(kind, tokens):
    model, (images, labels) = toy(kind), pictures()
    with torch.no_grad():
        logits = model(images)
    for c in range(C):
        last = lens(model, [(images, labels)], target=c, device="cpu").logit[:, 0, -1, tokens]
        np.testing.assert_allclose(last.mean(1), logits[:, c], rtol=1e-5, atol=1e-5)  # kept in float32


def test_chance_is_the_mean_over_all_ranks():
    for classes in (2, 5, 1000):
        assert float(score(torch.arange(classes), classes).double().mean()) == pytest.approx(chance_score(classes))


def test_score_rises_with_the_logit():
    model, batch = toy(), pictures()
    scores = []
    for _ in range(4):
        scores.append(lens(model, [batch], target=2, device="cpu").score)
        with torch.no_grad():
            model.head.bias[2] += 1
    assert (np.diff(scores, axis=0) >= 0).all()
    assert scores[-1].mean() > scores[0].mean()


def test_ties_take_the_mean_rank_and_share_the_first_place(tmp_path):
    model = toy()
    assert lens(model, [pictures()], device="cpu").tied is None
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
    found = lens(model, [pictures()], device="cpu")
    np.testing.assert_allclose(found.score, chance_score(C), rtol=1e-6)
    np.testing.assert_allclose(found.first, 1 / C, rtol=1e-6)
    np.testing.assert_allclose(found.to_frame()[["score", "rate"]], [[chance_score(C), 1 / C]] * 12, rtol=1e-6)
    loaded = type(found).load(found.save(tmp_path / "lens"))
    np.testing.assert_array_equal(loaded.tied, found.tied)


def test_batches_do_not_matter_and_nothing_is_left_behind():
    model, (images, labels) = toy("registers"), pictures()
    model.train()
    seen = []
    attention = model.blocks[0].attn
    probe = attention.register_forward_hook(lambda module, *_: seen.append(module.fused_attn))
    whole = lens(model, [(images, labels)], device="cpu")
    parts = lens(model, [(images[:1], labels[:1]), (images[1:4], labels[1:4]), (images[4:], labels[4:])], device="cpu")
    probe.remove()
    for name in ("rank", "logit", "top", "target", "labels", "predictions"):
        one, two = getattr(whole, name), getattr(parts, name)
        assert one.dtype == two.dtype
        np.testing.assert_allclose(one, two, rtol=1e-6)
    assert (whole.rank.dtype, whole.logit.dtype, whole.top.dtype) == (np.int16, np.float32, np.int16)
    assert seen == [True] * 4  # attention stays fused
    assert attention.fused_attn
    assert model.training
    assert hooks_of(model) == 0


def hooks_of(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_hooks_are_removed_after_an_exception():
    model, batch = toy(), pictures()

    def broken():
        yield batch
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        lens(model, broken(), device="cpu")
    with pytest.raises(ValueError, match="label 5 is none"):
        lens(model, [(batch[0], batch[1] * 0 + 5)], device="cpu")
    assert hooks_of(model) == 0
    assert model.blocks[0].attn.fused_attn


def test_maps_are_the_image_tokens_in_their_order():
    model, (images, labels) = toy("registers"), pictures()
    result = lens(model, [(images, labels)], device="cpu")
    maps = result.image_map(result.rank)
    assert maps.shape == (6, 3, 2, 2, 2)
    np.testing.assert_array_equal(maps[..., 1, 0], result.rank[..., 3 + 2])
    with pytest.raises(ValueError, match="7 tokens"):
        result.image_map(result.rank[..., 3:])


def test_without_labels_the_prediction_can_be_looked_at():
    model, (images, _) = toy(), pictures()
    result = lens(model, [images], target="prediction", device="cpu")
    assert (result.labels == -1).all()
    np.testing.assert_array_equal(result.target, result.predictions)
    assert (result.rank[:, 0, -1, 0] == 0).all()  # the class token's answer is the model's


def test_options_are_followed():
    model, (images, labels) = toy("LayerScale"), pictures()
    raw, whole = (lens(model, [(images, labels)], lens=LensOptions(scale=x), device="cpu") for x in (False, True))
    np.testing.assert_array_equal(raw.logit[:, 0], whole.logit[:, 0])
    assert not np.allclose(raw.logit[:, 1:], whole.logit[:, 1:])
    assert raw.provenance["lens"] == {"norm": True, "bias": True, "scale": False, "tuned": False}
    plain = lens(model, [(images, labels)], lens=LensOptions(bias=False), device="cpu")
    bias = model.head.bias[labels].detach().numpy()[:, None, None, None]
    np.testing.assert_allclose(plain.logit, whole.logit - bias, rtol=1e-5, atol=1e-5)  # kept in float32


@pytest.fixture(scope="module")
def cnn():
    torch.manual_seed(0)
    return ResNet(BasicBlock, (1, 1, 1, 2), num_classes=C).eval()


def test_positions_of_a_cnn_average_to_its_answer(cnn):
    images, labels = (x.float() if x.is_floating_point() else x for x in pictures(3))
    images = torch.nn.functional.interpolate(images, 16)
    with torch.no_grad():
        logits = cnn(images)
    for c in range(C):
        result = lens(cnn, [(images, labels)], target=c, device="cpu")
        np.testing.assert_allclose(result.logit[:, 0, -1].mean(1), logits[:, c], rtol=1e-4, atol=1e-4)
    assert (result.parts, result.grid, result.prefix) == (["block"], [2, 2], 0)
    assert set(result.to_frame().group) == {"image"}
    with pytest.raises(ValueError, match="grid of 1x1 tokens, and others one of 2x2"):
        lens(cnn, [(images, labels), (images[..., :8, :8], labels)], device="cpu")


def test_files_table_and_bad_input(tmp_path):
    model, batch = toy(), pictures()
    result = lens(model, [batch], device="cpu", provenance={"model": "toy"})
    loaded = Lens.load(result.save(tmp_path / "a"))
    table = loaded.to_frame()
    assert table.equals(result.to_frame())
    assert list(table.columns) == ["block", "part", "group", "score", "rate", "logit"]
    row = table[(table.part == "mlp") & (table.block == "blocks.1") & (table.group == "image")].iloc[0]
    assert row.score == pytest.approx(result.score[:, 2, 1, 1:].mean(), rel=1e-6)
    assert row.logit == pytest.approx(result.logit[:, 2, 1, 1:].mean(), rel=1e-5)
    assert (loaded.provenance["n"], loaded.provenance["model"], tuple(loaded.parts)) == (6, "toy", BLOCK_PARTS)
    for top in (0, 6, True, 1.5):
        with pytest.raises(ValueError, match="from 1 to the model's 5 classes"):
            lens(model, [batch], top=top, device="cpu")
    with pytest.raises(ValueError, match="target 'guess'"):
        lens(model, [batch], target="guess", device="cpu")
    with pytest.raises(ValueError, match="labels are needed"):
        lens(model, [batch[0]], device="cpu")
    with pytest.raises(ValueError, match="too many"):
        lens(VisionTransformer(8, 4, embed_dim=2, depth=1, num_heads=1, num_classes=2**15), [batch], device="cpu")


def test_a_picture_beside_the_maps_of_its_tokens():
    model, batch = toy(depth=3), pictures()
    result, picture = lens(model, [batch], device="cpu"), torch.rand(3, 8, 8)
    classes = ["ant", "bee", "cat", "dog", "elk"]
    figure = plot_lens(result, picture, 2, part="mlp", blocks=[0, -1], classes=classes, names=True)
    image, *maps = figure.axes[:3]
    np.testing.assert_allclose(image.images[0].get_array(), picture.permute(1, 2, 0))
    assert image.get_title() == classes[batch[1][2]]
    for ax, b in zip(maps, (0, 2), strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), result.image_map(result.score)[2, 1 + 1, b])
        assert ax.images[0].get_clim() == (0, 1)
        first = result.top[2, 2, b, 1:, 0]
        assert [text.get_text() for text in ax.texts] == [classes[c] for c in first]
        assert ax.get_title() == f"block {b + 1}, [CLS] {result.score[2, 2, b, 0]:.2f}"
    plt.close("all")
    bad = {
        "index=6": {"index": 6},
        "part 'head'": {"part": "head"},
        r"blocks \[3\]": {"blocks": [3]},
        "2 names for 5": {"classes": ["a", "b"]},
    }
    for message, options in bad.items():
        with pytest.raises(ValueError, match=message):
            plot_lens(result, picture, **options)
    with pytest.raises(ValueError, match="undo its normalisation"):
        plot_lens(result, picture - 1)
