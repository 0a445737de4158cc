"""The blocks of every family, run one after the other, are the model; their features become maps."""

from collections import OrderedDict

import pytest
import timm
import torch
import torchvision
from torch import nn

from utilities.analysis.blocks.fourier import fourier
from utilities.analysis.blocks.variance import feature_variance
from utilities.hooks import BlockSequence, blocks, describe
from utilities.hooks.block import BLOCK_KINDS, Block
from utilities.zoo import create_model

SMALL_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 7}
MODELS = {
    "resnet18": lambda: (create_model("resnet18", 7), 16),
    "resnet50": lambda: (create_model("resnet50", 7), 16),
    "lambda_resnet26": lambda: (create_model("lambda_resnet26", 7, r=7), 16),
    "preact_resnet18": lambda: (create_model("preact_resnet18", 7), 16),
    "alternet18": lambda: (create_model("alternet18", 7), 16),
    "timm resnet": lambda: (timm.create_model("resnet10t", num_classes=7), 64),
    "timm lambda": lambda: (timm.create_model("lambda_resnet26t", num_classes=7), 64),
    "torchvision resnet": lambda: (torchvision.models.resnet18(num_classes=7), 64),
    "vit cls": lambda: (timm.create_model("vit_tiny_patch16_224", **SMALL_VIT), 32),
    "vit gap": lambda: (
        timm.create_model("vit_tiny_patch16_224", global_pool="avg", class_token=False, **SMALL_VIT),
        32,
    ),
    "vit registers": lambda: (
        timm.create_model("vit_tiny_patch16_224", reg_tokens=4, init_values=0.1, **SMALL_VIT),
        32,
    ),
    "vit norm_pre": lambda: (timm.create_model("vit_tiny_patch16_224", pre_norm=True, **SMALL_VIT), 32),
    "distilled": lambda: (timm.create_model("deit_tiny_distilled_patch16_224", **SMALL_VIT), 32),
    "vit post-norm": lambda: (
        timm.create_model("vit_base_patch16_rpn_224", class_token=False, global_pool="avg", **SMALL_VIT),
        32,
    ),
    "vit without skips": lambda: (create_model("vit_tiny_noskip3_patch2_16", 7), 16),
    "pit": lambda: (timm.create_model("pit_ti_224", num_classes=7), 224),
    "swin": lambda: (create_model("swin_tiny_patch2_16", 7), 16),
    "mixer": lambda: (
        timm.models.mlp_mixer.MlpMixer(img_size=32, patch_size=8, num_blocks=2, embed_dim=24, num_classes=7),
        32,
    ),
    "convnext": lambda: (timm.create_model("convnext_atto", num_classes=7), 64),
}


def images(size, n=2):
    size = (size, size) if isinstance(size, int) else size
    return torch.randn(n, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", MODELS)
def test_composition_is_the_model_and_features_are_maps(name):
    model, size = MODELS[name]()
    model.eval()
    x, found = images(size), blocks(model)
    found.check(x)  # raises if logits differ
    assert found[0].kind == "stem"
    assert found[-1].kind == "classifier"
    assert {block.kind for block in found} <= set(BLOCK_KINDS)
    assert [block.stage for block in found] == sorted(block.stage for block in found)
    with torch.no_grad():
        shapes = [maps.shape for _, maps in found.maps(x)]
    assert len(shapes) == len(found) - 1  # the logits are no maps
    sizes = [shape[-1] for shape in shapes]
    assert all(len(shape) == 4 and shape[2] == shape[3] for shape in shapes)
    lower = [i for i in range(1, len(sizes)) if sizes[i] < sizes[i - 1]]
    assert [i for i, block in enumerate(found) if block.kind == "pool"] == lower


def test_a_missing_block_is_seen():
    model = create_model("vit_tiny_patch2_16", 7).eval()
    found = blocks(model)
    with pytest.raises(ValueError, match="from the model's own"):
        BlockSequence(model, found[:3] + found[4:]).check(images(16))


def test_indices_of_the_paper():
    """Pooling blocks of ResNet-50 are 4, 8 and 14; attention in a ViT is odd, in PiT-Ti and Swin-Ti as listed there."""

    def where(model, kind):
        return [i for i, block in enumerate(blocks(model)) if block.kind == kind]

    assert where(create_model("resnet50"), "pool") == where(timm.create_model("resnet50"), "pool") == [4, 8, 14]
    assert where(timm.create_model("vit_tiny_patch16_224"), "msa") == list(range(1, 24, 2))
    pit = timm.create_model("pit_ti_224")
    assert where(pit, "msa") == [1, 3, *range(6, 17, 2), 19, 21, 23, 25]
    assert where(pit, "pool") == [5, 18]
    swin = timm.create_model("swin_tiny_patch4_window7_224")
    assert where(swin, "msa") == [1, 3, 6, 8, *range(11, 22, 2), 24, 26]
    assert where(swin, "pool") == [5, 10, 23]


def test_kinds_of_lambda_blocks():
    kinds = [block.kind for block in blocks(create_model("lambda_resnet26"))]
    assert kinds == ["stem", "msa", "msa", *["pool", "msa"] * 3, "classifier"]


@pytest.mark.parametrize("grid", [(3, 5), (4, 4), (1, 6)])
def test_tokens_make_the_round_trip(grid):
    rows, columns = grid
    maps = torch.randn(2, 7, rows, columns)
    tokens = torch.cat([torch.full((2, 3, 7), 9.0), maps.flatten(2).mT], 1)
    block = Block("b", "msa", 1, nn.Identity(), "tokens", prefix=3, grid=grid)
    assert torch.equal(block.to_maps(tokens, torch.zeros(2, 3, 8 * rows, 8 * columns)), maps)
    unknown = Block("b", "msa", 1, nn.Identity(), "tokens", prefix=3)
    assert torch.equal(unknown.to_maps(tokens, torch.zeros(2, 3, 8 * rows, 8 * columns)), maps)
    assert torch.equal(Block("b", "msa", 1, nn.Identity(), "NHWC").to_maps(maps.movedim(1, -1), maps), maps)


def test_a_vit_on_images_that_are_not_square_and_not_its_own_size():
    model = timm.create_model("vit_tiny_patch16_224", **SMALL_VIT, dynamic_img_size=True).eval()
    x = images((16, 40))
    with torch.no_grad():
        (_, found), *_ = blocks(model).maps(x)
        embedded = model.patch_embed.proj(x)
        assert found.shape == embedded.shape
    blocks(model).check(x)


def test_grids_that_cannot_be_told_are_refused():
    block = Block("b", "msa", 1, nn.Identity(), "tokens", grid=(4, 4))
    with pytest.raises(ValueError, match="17 tokens"):
        block.to_maps(torch.zeros(1, 17, 2), torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="no positions"):
        block.to_maps(torch.zeros(1, 17), torch.zeros(1, 3, 8, 8))


def test_any_other_model_by_hooks():
    model = torchvision.models.squeezenet1_1(num_classes=7).eval()
    with pytest.raises(ValueError, match=r"layers=.*features"):
        blocks(model)
    found = blocks(model, {"features.0": "stem", "features.6": "conv"})
    x = images(64)
    with torch.no_grad():
        features = {block.name: f for block, f in found.features(x)}
        assert torch.equal(features["features.0"], model.features[0](x))
    assert list(features) == ["features.0", "features.6"]
    found.check(x)
    with pytest.raises(ValueError, match="kind 'convolution'"):
        blocks(model, {"features.0": "convolution"})
    with pytest.raises(ValueError, match="close: "):
        blocks(model, {"feature.0": "conv"})


def test_blocks_run_the_models_own_modules():
    """An edit of a weight after the blocks were listed is seen, and listing them changes nothing in the model."""
    model = create_model("vit_tiny_patch2_16", 7).eval()
    names = list(model.state_dict())
    found, x = blocks(model), images(16)
    with torch.no_grad():
        model.blocks[2].mlp.fc2.weight.mul_(-1)
    found.check(x)
    assert list(model.state_dict()) == names


def test_named_layers_with_channels_last_are_read_as_such():
    """On images of 64x96 pixels, torchvision's Swin has 16x24 positions of width 96, then 8x12 of 192."""
    model = torchvision.models.swin_t(num_classes=5).eval()
    x = images((64, 96))
    found = blocks(model, {"features.1.0": "msa", "features.3.0": "msa"})
    with torch.no_grad():
        maps = {block.name: maps for block, maps in found.maps(x)}
        tokens = model.features[:2](x)
    assert maps["features.1.0"].shape == (2, 96, 16, 24)
    assert maps["features.3.0"].shape == (2, 192, 8, 12)
    said = blocks(model, {"features.1.1": "msa:NHWC"})
    with torch.no_grad():
        ((_, found),) = said.maps(x)
    assert torch.equal(found, tokens.movedim(-1, 1))


def test_channels_that_cannot_be_told_are_asked_for():
    block = Block("b", "conv", 1, nn.Identity(), "unknown")
    with pytest.raises(ValueError, match="'conv:NHWC' or 'conv:NCHW'"):
        block.to_maps(torch.zeros(1, 4, 4, 4), torch.zeros(1, 3, 8, 8))
    with pytest.raises(TypeError, match=r"names or globs, .* or map them to kinds, .* got int"):
        blocks(torchvision.models.squeezenet1_1(), 3)


def test_weights_that_are_not_finite_are_named():
    model = create_model("vit_tiny_patch2_16", 5).eval()
    with torch.no_grad():
        model.norm.weight[0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        blocks(model).check(images(16))
    with pytest.raises(ValueError, match=r"\(batch, channels, height, width\)"):
        blocks(model).check(images(16)[0])


def test_named_layers_take_globs():
    model = create_model("resnet18", 5, seed=0).eval()
    found = blocks(model, {"layer[12].?": "conv", "layer2.0": "pool", "conv1": "stem:NCHW"})
    assert [(block.name, block.kind) for block in found] == [
        ("conv1", "stem"),
        ("layer1.0", "conv"),
        ("layer1.1", "conv"),
        ("layer2.0", "pool"),
        ("layer2.1", "conv"),
    ]
    one = fourier(model, [torch.rand(2, 3, 16, 16)], layers={"layer1.?": "conv"}, device="cpu")
    assert one.names == ["layer1.0", "layer1.1"]
    assert feature_variance(model, [torch.rand(2, 3, 16, 16)], layers={"layer?": "conv"}, device="cpu").names == [
        f"layer{i}" for i in range(1, 5)
    ]


@pytest.mark.parametrize(
    ("layers", "match"),
    [
        ({"stage*.?": "conv"}, r"layer 'stage\*\.\?' is not in ResNet"),
        ({"layer1.?": "conv", "layer?.0": "pool"}, "layer 'layer1.0' is 'conv' by .* and 'pool' by 'layer[?].0'"),
        ({"layer?": "block"}, "kind 'block' is not known"),
        ({}, "layers is empty"),
    ],
)
def test_patterns_that_name_nothing_or_two_kinds_are_refused(layers, match):
    with pytest.raises(ValueError, match=match):
        blocks(create_model("resnet18", 5, seed=0), layers)


def test_named_layers_of_a_model_are_run_as_forward_says():
    from utilities.analysis.blocks.fourier import fourier
    from utilities.analysis.blocks.variance import feature_variance

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2)

        def encode(self, x):
            return self.conv(x)

        def forward(self, x, mask):
            return self.head((self.encode(x) * mask).mean((2, 3)))

    torch.manual_seed(0)
    model, images = Encoder(), torch.randn(6, 3, 8, 8)
    alone = nn.Sequential(OrderedDict(conv=model.conv))
    for analysis in (fourier, feature_variance):
        run = {"layers": {"conv": "conv"}, "device": "cpu", "progress": False}
        found, truth = (analysis(m, [images], **run, **way) for m, way in ((model, {"forward": "encode"}), (alone, {})))
        assert found.to_frame().equals(truth.to_frame())
    with pytest.raises(ValueError, match="forward= goes with layers="):
        blocks(model, forward="encode")
    assert describe(model, images, "conv", forward="encode").loc["conv", "shape"] == (4, 8, 8)


def test_layers_without_positions_are_refused_by_what_needs_them():
    from utilities.analysis.blocks.fourier import fourier
    from utilities.analysis.blocks.variance import feature_variance

    model, images = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), torch.randn(8, 3, 2, 2)
    for analysis in (fourier, feature_variance):
        with pytest.raises(ValueError, match="none of the layers 1 gives maps or tokens"):
            analysis(model, [images], layers={"1": "mlp"}, device="cpu", progress=False)


def test_wrong_images_are_named_by_the_models_own_layers():
    from utilities.analysis.blocks.fourier import fourier

    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=3)
    with pytest.raises(ValueError, match=r"images have 1 channel, .* VisionTransformer's 'patch_embed.proj' takes 3"):
        fourier(model, [torch.randn(4, 1, 32, 32)], device="cpu", progress=False)


def test_a_sequence_knows_its_model_and_is_read_like_a_list():
    model = create_model("vit_tiny_patch2_16", 7).eval()
    sequence = blocks(model)
    assert sequence.model is model
    assert sequence.composes
    assert [sequence[0], *sequence[1:]] == list(sequence)
    assert sequence.index(sequence[3]) == 3
    assert not blocks(model, {"blocks.0": "msa"}).composes


@pytest.mark.parametrize("name", ["resnet18", "vit cls", "swin"])
def test_the_model_goes_on_from_any_block(name):
    model, size = MODELS[name]()
    x, sequence = images(size), blocks(model.eval())
    with torch.no_grad():
        features = [x, *(after for _, after in sequence.features(x))]
        for place, before in enumerate(features):
            assert torch.equal(sequence.run_from(place, before), features[-1])


@pytest.mark.parametrize("layers", [None, {"layer?": "conv"}])
def test_a_walk_checks_the_first_batch_and_gives_the_maps_of_all(layers):
    model, ran = create_model("resnet18", 7).eval(), []
    batches = [(images(16), None), (images(16, 3), None)]
    sequence = blocks(model, layers)
    handle = model.register_forward_hook(lambda *_: ran.append(1))
    with torch.no_grad():
        walked = [(len(x), [(block.name, maps) for block, maps in found]) for x, found in sequence.walk(batches)]
        handle.remove()
        assert layers is not None or len(ran) == 1  # named layers are recorded as the model runs
        for (x, _), (count, found) in zip(batches, walked, strict=True):
            assert count == len(x)
            for (name, maps), (block, features) in zip(found, sequence.features(x), strict=layers is not None):
                assert name == block.name
                assert torch.equal(maps, features)


def test_a_walk_refuses_images_of_several_sizes_and_blocks_that_are_not_the_model():
    model = create_model("resnet18", 7).eval()
    with torch.no_grad():
        with pytest.raises(ValueError, match="several sizes, 16x16 and 24x16 pixels"):
            list(blocks(model).walk([(images(16),), (images((24, 16)),)]))
        with pytest.raises(ValueError, match="the model gives"):
            next(BlockSequence(model, blocks(model)[:-1]).walk([(images(16),)]))


def test_globs_without_kinds_take_those_of_the_models_own_blocks_or_of_what_layers_hold():
    vit, resnet = (create_model(name, 5).eval() for name in ("vit_tiny_patch4_16", "resnet18"))
    named = [(block.name, block.kind) for block in blocks(vit, ["blocks.0", "blocks.0.*", "!*.attn.*", "!*.mlp.*"])]
    assert dict(named) == {
        **{"blocks.0": "msa", "blocks.0.norm1": "msa", "blocks.0.attn": "msa", "blocks.0.norm2": "msa"},
        "blocks.0.mlp": "mlp",
        **{name: "msa" for name, _ in named if ".ls" in name or ".drop_path" in name},
    }
    own = {block.name: block.kind for block in blocks(resnet)}
    assert {block.name: block.kind for block in blocks(resnet, "layer?.?")}.items() <= own.items()
    plain = blocks(torchvision.models.squeezenet1_1(), ["features.0", "features.1"])
    assert [block.kind for block in plain] == ["pool", "conv"]
    with pytest.raises(ValueError, match=r"'1' is a ReLU, whose kind cannot be told; say it: layers=\{'1': 'conv'\}"):
        blocks(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()), ["1"])
    with pytest.raises(ValueError, match=r"'layr1' is not in ResNet; close: layer1"):
        blocks(resnet, ["layr1"])
