"""What stands for an image: exact values on small tensors, and the tokens of real models."""

from collections import OrderedDict

import pytest
import timm
import torch
import torchvision
from torch import nn

from utilities.hooks import Recorder
from utilities.hooks.views import check_view, make_view, prefix_tokens
from utilities.zoo.vit import vit_tiny_patch2_16


def same(rows, expected):
    """Compare features up to their order, which is that of memory: as sets of columns."""
    rows, expected = (sorted(map(tuple, x.flatten(1).T.tolist())) for x in (rows, expected))
    return rows == expected


class Tokens(nn.Module):
    """Parameters of the given names and shapes, and an output in Hugging Face's manner."""

    def __init__(self, patches=None, **shapes):
        super().__init__()
        self.embeddings = nn.Module()
        for name, shape in shapes.items():
            self.embeddings.register_parameter(name, nn.Parameter(torch.zeros(shape)))
        self.embeddings.patch_embeddings = nn.Identity()
        if patches:
            self.embeddings.patch_embeddings.num_patches = patches
        self.encoder = Encoder()

    def forward(self, x):
        return self.encoder(x)


class Encoder(nn.Module):
    def forward(self, x):
        return OrderedDict(last_hidden_state=x, pooler_output=x[:, 0])


def numbered(*shape):
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)


WITH_CLASS = {"cls_token": (1, 1, 3), "position_embeddings": (1, 5, 3)}


@pytest.mark.parametrize("view", ["mean", "token:", "token:-1", "token:1.5", "Token:1", "", None, 3])
def test_unknown_views_are_refused(view):
    with pytest.raises(
        ValueError, match=r"is not known; choose 'flatten', 'gap', 'cls', 'spatial', 'mean_all', 'token:i'"
    ):
        check_view(view)
    with pytest.raises(ValueError, match="is not known"):
        make_view(view, nn.ReLU())


@pytest.mark.parametrize("view", ["flatten", "gap", "cls", "spatial", "mean_all", "token:0", "token:196", len])
def test_known_views_pass(view):
    assert check_view(view) is None


def test_values_on_tokens():
    model, x = Tokens(**WITH_CLASS), numbered(2, 5, 3)
    assert torch.equal(make_view("flatten", model)(x), x.reshape(2, 15))
    assert torch.equal(make_view("gap", model)(x), x[:, 1:].mean(1))
    assert torch.equal(make_view("mean_all", model)(x), x.mean(1))
    assert torch.equal(make_view("cls", model)(x), x[:, 0])
    assert torch.equal(make_view("spatial", model)(x), x[:, 1:].reshape(2, 12))
    assert torch.equal(make_view("token:4", model)(x), x[:, 4])


def test_values_on_maps():
    model, x = nn.Conv2d(3, 4, 3), numbered(2, 4, 2, 3)
    for view in ("flatten", "spatial"):
        assert torch.equal(make_view(view, model)(x), x.reshape(2, 24))
    assert torch.equal(make_view("gap", model)(x), x.mean((2, 3)))
    assert torch.equal(make_view("token:4", model)(x), x[:, :, 1, 1])
    for memory_format in (torch.contiguous_format, torch.channels_last):
        moved = x.contiguous(memory_format=memory_format)
        assert torch.equal(make_view("gap", model)(moved), x.mean((2, 3)))
        assert torch.equal(make_view("token:5", model)(moved), x[:, :, 1, 2])


def test_vectors_are_taken_as_they_are():
    model, x = Tokens(**WITH_CLASS), numbered(2, 6)
    for view in ("flatten", "gap", "cls", "spatial", "token:7"):
        assert torch.equal(make_view(view, model)(x), x)
        assert make_view(view, model)(x[:, 0]).shape == (2, 1)


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(3, 4, 5, 6).contiguous(memory_format=torch.channels_last),
        torch.randn(3, 4, 5, 6),
        torch.randn(3, 5, 6, 4).transpose(2, 3),
        torch.randn(3, 6, 5).transpose(1, 2),
        torch.randn(3, 4, 2, 5, 6).permute(0, 3, 1, 4, 2),
        torch.randn(3, 4, 1, 1).contiguous(memory_format=torch.channels_last),
    ],
)
def test_dense_tensors_are_flattened_without_a_copy(x):
    rows = make_view("flatten", nn.ReLU())(x)
    assert rows.data_ptr() == x.data_ptr()
    assert rows.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
    assert same(rows, x)
    torch.testing.assert_close(rows @ rows.T, x.flatten(1) @ x.flatten(1).T)


def test_memory_that_is_not_dense_is_copied_right():
    x = numbered(3, 4, 6, 5)
    assert same(make_view("flatten", nn.ReLU())(x[:, :2, ::2]), x[:, :2, ::2])
    assert same(make_view("flatten", nn.ReLU())(x[:, :1].expand(3, 7, 6, 5)), x[:, :1].expand(3, 7, 6, 5))


def test_spatial_tokens_are_not_copied():
    x = torch.randn(2, 5, 3)
    assert make_view("spatial", Tokens(**WITH_CLASS))(x).data_ptr() == x[:, 1].data_ptr()


def test_functions():
    x = numbered(2, 4, 3)
    assert torch.equal(make_view(lambda t: t[:, 1:3], nn.ReLU())(x), x[:, 1:3].reshape(2, 6))
    assert make_view(lambda t: t.sum((1, 2)), nn.ReLU())(x).shape == (2, 1)
    with pytest.raises(ValueError, match=r"made \(4, 3\) of an output of shape \(2, 4, 3\).* 2 rows"):
        make_view(lambda t: t.sum(0), nn.ReLU())(x)
    with pytest.raises(ValueError, match=r"made float of an output of shape \(2, 4, 3\)"):
        make_view(lambda t: float(t.sum()), nn.ReLU())(x)
    with pytest.raises(ValueError, match=r"made \(\) of"):
        make_view(torch.sum, nn.ReLU())(x)


def test_errors_name_view_and_shape():
    with pytest.raises(ValueError, match=r"'token:5'.*shape \(2, 5, 3\) has 5 tokens, 0 to 4"):
        make_view("token:5", Tokens(**WITH_CLASS))(numbered(2, 5, 3))
    with pytest.raises(ValueError, match=r"'token:6'.*\(2, 4, 2, 3\) has 6 tokens"):
        make_view("token:6", nn.ReLU())(numbered(2, 4, 2, 3))
    with pytest.raises(ValueError, match=r"'cls'.*\(2, 3, 2, 2\) holds no class token.*view='gap'"):
        make_view("cls", Tokens(**WITH_CLASS))(numbered(2, 3, 2, 2))
    with pytest.raises(ValueError, match=r"'cls': ReLU has no class token; take view='gap'"):
        make_view("cls", nn.ReLU())
    with pytest.raises(ValueError, match=r"'gap'.*\(2, 1, 3\) has no tokens but.* 1 class"):
        make_view("gap", Tokens(**WITH_CLASS))(numbered(2, 1, 3))
    with pytest.raises(ValueError, match=r"'gap'.*not known which dimensions.*\(2, 2, 2, 2, 3\)"):
        make_view("gap", nn.ReLU())(numbered(2, 2, 2, 2, 3))


def test_the_recorder_adds_the_layers_name():
    model = vit_tiny_patch2_16(depth=1)
    recorder = Recorder(model, "patch_embed.proj", transform=make_view("cls", model))
    with pytest.raises(ValueError, match=r"layer 'patch_embed\.proj': view 'cls'.*\(\d, 96, 8, 8\)"), recorder:
        model(torch.zeros(2, 3, 16, 16))


@pytest.mark.parametrize(
    ("shapes", "count"),
    [
        ({}, 0),
        ({"cls_token": (1, 1, 8), "mask_token": (1, 1, 8), "position_embeddings": (1, 5, 8)}, 1),  # ViT
        ({"cls_token": (1, 1, 8), "distillation_token": (1, 1, 8)}, 2),  # DeiT
        ({"cls_token": (1, 1, 8), "mask_token": (1, 8), "register_tokens": (1, 4, 8)}, 5),  # DINOv2 with registers
        ({"class_embedding": (8,)}, 1),  # CLIP
        ({"class_embedding": (1, 1, 8)}, 1),
        ({"class_token": (1, 1, 8), "reg_token": (1, 3, 8), "dist_token": (1, 1, 8)}, 5),
        ({"cls_token": (1, 2, 8)}, 2),
    ],
)
def test_prefix_tokens_by_name(shapes, count):
    assert prefix_tokens(Tokens(**shapes)) == count
    assert prefix_tokens(nn.Sequential(nn.Identity(), Tokens(**shapes))) == count


def test_hidden_states_of_a_model_output():
    model, x = Tokens(cls_token=(1, 1, 8), register_tokens=(1, 4, 8)), torch.randn(3, 9, 8)
    for view, expected in {"gap": x[:, 5:].mean(1), "cls": x[:, 0], "spatial": x[:, 5:].flatten(1)}.items():
        with Recorder(model, "encoder", transform=make_view(view, model)) as recorder:
            model(x)
        torch.testing.assert_close(recorder.activations["encoder"], expected)


def test_patches_alone_have_no_prefix():
    model, x = Tokens(patches=4, **WITH_CLASS), torch.randn(2, 4, 3)
    torch.testing.assert_close(make_view("gap", model)(x), x.mean(1))
    assert make_view("spatial", model)(x).shape == (2, 12)
    with pytest.raises(ValueError, match="holds no class token"):
        make_view("cls", model)(x)


def transformer(name, pixels, **options):
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=4, img_size=pixels, **options).eval()


VITS = {
    "class": (lambda: transformer("vit_tiny_patch16_224", 48, depth=1), 48, 1),
    "registers": (lambda: transformer("vit_small_patch16_dinov3", 48, depth=1), 48, 5),
    "registers alone": (lambda: transformer("vit_betwixt_patch16_reg4_gap_256", 48, depth=1), 48, 4),
    "no prefix": (
        lambda: transformer("vit_tiny_patch16_224", 48, depth=1, class_token=False, global_pool="avg"),
        48,
        0,
    ),
    "distilled": (lambda: transformer("deit_tiny_distilled_patch16_224", 48, depth=1), 48, 2),
    "normed queries": (lambda: transformer("vit_tiny_patch16_224", 48, depth=1, qk_norm=True), 48, 1),
    "torchvision": (lambda: torchvision.models.VisionTransformer(48, 16, 1, 2, 32, 64, num_classes=4).eval(), 48, 1),
}


@pytest.mark.parametrize("kind", VITS)
def test_real_vits(kind):
    build, pixels, prefix = VITS[kind]
    model = build()
    assert prefix_tokens(model) == prefix
    has_class = kind not in ("registers alone", "no prefix")
    stem, names = "patch_embed.proj", ["blocks.0", "blocks.0.attn.q_norm", "blocks.0.attn.proj"]
    if kind == "torchvision":
        stem, names = "conv_proj", ["encoder.layers.encoder_layer_0"]
    with Recorder(model, [stem, *names]) as recorder:
        model(torch.randn(2, 3, pixels, pixels))
    values = dict(recorder.activations)
    maps = values.pop(stem)
    assert torch.equal(make_view("gap", model)(maps), maps.mean((2, 3)))
    assert torch.equal(make_view("token:5", model)(maps), maps[:, :, 1, 2])
    for name, value in values.items():
        if name.endswith("q_norm"):
            assert value.ndim == 4
            value = torch.cat(list(value.unbind(1)), dim=-1)  # heads side by side
        assert value.shape[1] == 9 + prefix
        expected = {"gap": value[:, prefix:].mean(1), "spatial": value[:, prefix:], "token:8": value[:, 8]}
        if has_class:
            expected["cls"] = value[:, 0]
        for view, rows in expected.items():
            found = make_view(view, model)(recorder.activations[name])
            if view == "gap":  # a mean may be rounded otherwise in another order
                found, rows = found.sort(1).values, rows.sort(1).values
                torch.testing.assert_close(found, rows)
            else:
                assert same(found, rows)
    if not has_class:
        with pytest.raises(ValueError, match=r"has no class token; take view='gap'"):
            make_view("cls", model)


def test_queries_at_another_image_size():
    model = vit_tiny_patch2_16(depth=1, dynamic_img_size=True, qk_norm=True)
    with Recorder(model, "blocks.0.attn.q_norm") as recorder:
        model(torch.randn(2, 3, 12, 12))
    (queries,) = recorder.activations.values()
    assert queries.shape == (2, 3, 37, 32)
    torch.testing.assert_close(make_view("gap", model)(queries), queries[:, :, 1:].mean(2).flatten(1))


def test_swin_has_its_width_last_and_first_behind_the_stem():
    model = transformer("swin_tiny_patch4_window7_224", 32, window_size=4, depths=(2, 1, 1, 1))
    names = ["patch_embed.proj", "patch_embed.norm", "layers.0.blocks.1.attn.proj", "layers.0.blocks.1.mlp.fc1"]
    with Recorder(model, [*names, "norm", "head.fc"]) as recorder:
        model(torch.randn(2, 3, 32, 32))
    values = recorder.activations
    assert values["layers.0.blocks.1.attn.proj"].shape == (2, 4, 16, 96)  # windows, tokens
    axes = dict(zip(values, [(2, 3), (1, 2), (1, 2), (1,), (1, 2), ()], strict=True))
    for name, value in values.items():
        expected = value.mean(axes[name]) if axes[name] else value
        torch.testing.assert_close(make_view("gap", model)(value), expected)
        assert same(make_view("spatial", model)(value), value)
    torch.testing.assert_close(
        make_view("token:10", model)(values["patch_embed.norm"]), values["patch_embed.norm"][:, 1, 2]
    )
    assert prefix_tokens(model) == 0


@pytest.mark.parametrize("size", [(64, 64), (64, 96)])  # 8 x 12 pixels are told from 32 channels by the width alone
def test_convnext_has_both_layouts(size):
    model = timm.create_model("convnext_tiny", num_classes=4, depths=(1, 1, 1, 1), dims=(16, 32, 64, 128))
    with Recorder(model, ["stages.1.blocks.0.conv_dw", "stages.1.blocks.0.norm"]) as recorder:
        model(torch.randn(2, 3, *size))
    first, last = recorder.activations.values()
    assert (first.shape[1], last.shape[3]) == (32, 32)
    torch.testing.assert_close(make_view("gap", model)(first), first.mean((2, 3)))
    torch.testing.assert_close(make_view("gap", model)(last), last.mean((1, 2)))


def test_width_and_height_that_cannot_be_told_apart_are_an_error():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LayerNorm(5))
    torch.testing.assert_close(make_view("gap", model)(numbered(2, 3, 3, 5)), numbered(2, 3, 3, 5).mean((1, 2)))
    torch.testing.assert_close(make_view("gap", model)(numbered(2, 5, 3, 3)), numbered(2, 5, 3, 3).mean((2, 3)))
    for shape in ((2, 5, 5, 5), (2, 3, 4, 5)):
        with pytest.raises(ValueError, match="not known which dimensions"):
            make_view("gap", model)(numbered(*shape))
        assert make_view("spatial", model)(numbered(*shape)).shape[0] == 2
    assert make_view("gap", nn.Conv2d(3, 4, 3))(numbered(2, 5, 5, 5)).shape == (2, 5)
