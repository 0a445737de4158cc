"""A ResNet's last stage read by its own classifier: identities, what is refused, and that nothing is left changed."""

import pytest
import timm
import torch
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock as TorchvisionBlock

from utilities.analysis.class_embedding.block_tokens import read_blocks
from utilities.analysis.class_embedding.conv_space import STAGES, ConvolutionalSpace, is_resnet
from utilities.analysis.class_embedding.readers import run_readers
from utilities.analysis.class_embedding.space import LensOptions
from utilities.analysis.class_embedding.spaces import class_space
from utilities.lambda_layer import LambdaLayer
from utilities.resnet import BasicBlock, Bottleneck, ResNet
from utilities.zoo.alternet import AlterNet
from utilities.zoo.preact_resnet import PreActBlock, PreActResNet

DEPTHS = (1, 1, 1, 2)
CLASSES = 7


def lambda_resnet():
    return ResNet(Bottleneck, (1, 1, 1, 2), CLASSES, spatial=lambda c, stride: LambdaLayer(c, stride=stride, r=3))


MODELS = {
    "resnet": lambda: ResNet(BasicBlock, DEPTHS, CLASSES),
    "lambda": lambda_resnet,
    "preact": lambda: PreActResNet(PreActBlock, DEPTHS, CLASSES),
    "alternet": lambda: AlterNet(PreActBlock, DEPTHS, (0, 0, 0, 1), CLASSES),
    "torchvision": lambda: torchvision.models.ResNet(TorchvisionBlock, list(DEPTHS), num_classes=CLASSES),
    "timm": lambda: timm.create_model("resnet10t", num_classes=CLASSES),
    "timm_fast": lambda: timm.create_model("resnet10t", num_classes=CLASSES, global_pool="fastavg"),
}
RESNETS = [name for name in MODELS if name not in ("preact", "alternet")]


def built(name, dtype=torch.float64):
    """An untrained model whose norms have seen data, and whose logits differ clearly."""
    torch.manual_seed(0)
    model = MODELS[name]()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
    nn.init.normal_(model.fc.bias)
    return model.to(dtype).eval()


def images(model):
    """Such that the last map has 2 rows and 3 columns: the libraries' stems reduce four times as much."""
    scale = 4 if getattr(model, "maxpool", None) is not None else 1
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, 16 * scale, 24 * scale, generator=generator, dtype=model.fc.weight.dtype)


def visited(space, batch):
    seen = []
    with torch.no_grad():
        logits = read_blocks(space, batch, seen.append)
    return seen, logits


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_mean_over_positions_is_the_models_answer(name, dtype, tolerance):
    model = built(name, dtype)
    space = class_space(model)
    seen, logits = visited(space, images(model))
    assert logits.std() > 0.1  # so that the tolerance means something
    gap = (seen[-1].logits("block").mean(1) - logits).abs().max() / logits.abs().max()
    assert gap < tolerance
    assert torch.allclose(space.classify(seen[-1].after), logits, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_read_is_what_the_block_put_out(name):
    """ReLUs in place, inside a block or in the next one, do not reach what a hook was given, also later."""
    model = built(name)
    space, given = ConvolutionalSpace.every_stage(model), {}
    handles = [
        block.register_forward_hook(lambda m, a, output, name=name: given.__setitem__(name, output.clone()))
        for name, block in zip(space.names, space.blocks, strict=True)
    ]
    seen, _ = visited(space, images(model))
    for handle in handles:
        handle.remove()
    for tokens, block in zip(seen, space.names, strict=True):
        rows, columns = tokens.grid
        assert given[block].shape[2:] == (rows, columns)
        for i, j in ((0, 0), (rows - 1, 0), (rows // 2, columns - 1)):
            assert torch.equal(tokens.after[:, i * columns + j], given[block][:, :, i, j])


@pytest.mark.parametrize("name", RESNETS)
def test_options_by_hand(name):
    model = built(name)
    tokens = torch.rand(2, 5, model.fc.in_features, dtype=torch.float64)
    plain = tokens @ model.fc.weight.T
    assert torch.allclose(ConvolutionalSpace(model, LensOptions(bias=False)).project(tokens), plain)
    for options in (LensOptions(), LensOptions(norm=False), LensOptions(scale=False)):
        assert torch.allclose(ConvolutionalSpace(model, options).project(tokens), plain + model.fc.bias)


def test_final_norm_of_preactivation_by_hand():
    model = built("preact")
    tokens, norm = torch.randn(2, 5, 512, dtype=torch.float64), model.bn
    normed = (tokens - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    expected = normed.clamp(min=0) @ model.fc.weight.T
    assert torch.allclose(ConvolutionalSpace(model, LensOptions(bias=False)).project(tokens), expected)
    raw = ConvolutionalSpace(model, LensOptions(norm=False)).project(tokens)
    assert torch.allclose(raw, tokens @ model.fc.weight.T + model.fc.bias)


def test_reading_a_preactivation_network_in_train_mode_leaves_its_statistics():
    model = built("preact").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    ConvolutionalSpace(model, LensOptions()).project(torch.randn(2, 5, 512, dtype=torch.float64))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", MODELS)
def test_kept_positions_alone_are_averaged(name):
    model = built(name)
    space = class_space(model)
    (*_, last), logits = visited(space, images(model))
    keep = torch.rand(last.after.shape[:2], generator=torch.Generator().manual_seed(2)) < 0.5
    keep[:, 0] = True
    # The classifier is linear: the answer is the mean of the kept positions' logits, image by image.
    expected = torch.stack([one[kept].mean(0) for one, kept in zip(last.logits("block"), keep, strict=True)])
    assert torch.allclose(space.classify(last.after, keep), expected, atol=1e-10)
    assert torch.allclose(space.classify(last.after, torch.ones_like(keep)), logits, atol=1e-10)


def test_classification_is_the_models_whatever_the_lens():
    model = built("preact")
    space = ConvolutionalSpace(model, LensOptions(norm=False, bias=False))
    seen, logits = visited(space, images(model))
    assert torch.allclose(space.classify(seen[-1].after), logits)


def test_depth_counts_the_stages_that_are_not_read():
    model = built("resnet")
    assert class_space(model).depth() == [0.8, 1.0]  # the last 2 of 5 blocks
    assert ConvolutionalSpace.every_stage(model).depth() == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert ConvolutionalSpace(model, LensOptions(), ("layer2", "layer4")).depth() == [0.4, 0.8, 1.0]  # layer3 counts


def test_names_groups_and_grids():
    model = built("resnet")
    space = class_space(model)
    assert (space.names, space.parts, space.groups()) == (
        ["layer4.0", "layer4.1"],
        ("block",),
        {"image": slice(0, None)},
    )
    assert (space.prefix, space.class_token, space.num_classes) == (0, False, CLASSES)
    seen, _ = visited(ConvolutionalSpace.every_stage(model), images(model))
    assert [tokens.grid for tokens in seen] == [(16, 24), (8, 12), (4, 6), (2, 3), (2, 3)]
    assert [tokens.index for tokens in seen] == [0, 1, 2, 3, 4]


def test_channels_last_reads_the_same():
    model = built("torchvision")
    batch = images(model)
    expected = visited(class_space(model), batch)[0][0].logits("block")
    model = model.to(memory_format=torch.channels_last)
    found = visited(class_space(model), batch.to(memory_format=torch.channels_last))[0][0].logits("block")
    assert torch.allclose(found, expected, atol=1e-10)


def test_a_learned_map_reads_all_stages():
    model = built("resnet")
    widths = (64, 128, 256, 512, 512)
    maps = [torch.randn(width, 512, dtype=torch.float64) for width in widths]
    space = ConvolutionalSpace.every_stage(model, LensOptions(tuned=lambda index, tokens: tokens @ maps[index]))
    seen, _ = visited(space, images(model))
    assert space.names == ["layer1.0", "layer2.0", "layer3.0", "layer4.0", "layer4.1"]
    for tokens, matrix in zip(seen, maps, strict=True):
        expected = tokens.after @ matrix @ model.fc.weight.T + model.fc.bias
        assert torch.allclose(tokens.logits("block"), expected)


def test_earlier_stages_need_one():
    model = built("resnet")
    seen, _ = visited(ConvolutionalSpace.every_stage(model), images(model))
    with pytest.raises(ValueError, match=r"^layer1.0 has tokens of 64 channels, the classifier takes 512: .*tuned"):
        seen[0].logits("block")
    assert seen[3].logits("block").shape == (2, 6, CLASSES)


@pytest.mark.parametrize("stages", [(), ("layer3",), ("layer4", "layer3"), ("layer4", "layer5"), "layer4"])
def test_wrong_stages(stages):
    with pytest.raises(ValueError, match="should be some of layer1, layer2, layer3, layer4, in this order"):
        ConvolutionalSpace(built("resnet"), LensOptions(), stages)
    assert ConvolutionalSpace(built("resnet"), LensOptions(), STAGES[2:]).names[0] == "layer3.0"


def with_dropout_before_the_classifier():
    model = torchvision.models.resnet18()
    model.fc = nn.Sequential(nn.Dropout(), nn.Linear(512, 3))
    return model


def with_larger_pool():
    model = torchvision.models.resnet18()
    model.avgpool = nn.AdaptiveAvgPool2d(2)
    return model


def with_group_norm():
    model = built("preact")
    model.bn = nn.GroupNorm(4, 512)
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: timm.create_model("resnet10t", num_classes=0), r"ResNet has no linear classifier .*Identity"),
        (with_dropout_before_the_classifier, r"ResNet has no linear classifier \(its fc is Sequential\)"),
        (lambda: timm.create_model("resnet10t", global_pool="max"), r"ResNet pools by .*max.*only the average is read"),
        (lambda: timm.create_model("resnet10t", global_pool="catavgmax"), r"ResNet pools by .*catavgmax"),
        (with_larger_pool, r"ResNet pools by AdaptiveAvgPool2d\(output_size=2\)"),
        (with_group_norm, r"PreActResNet ends in a GroupNorm"),
        (lambda: torchvision.models.mobilenet_v3_small(), r"MobileNetV3 has no class-embedding space"),
        (lambda: timm.create_model("resnetv2_18"), r"ResNetV2 has no class-embedding space"),
    ],
)
def test_refused(make, message):
    with pytest.raises(ValueError, match=message):
        class_space(make())


def test_only_resnets():
    assert not is_resnet(torchvision.models.mobilenet_v3_small())
    with pytest.raises(ValueError, match="Linear is no ResNet"):
        ConvolutionalSpace(nn.Linear(1, 1), LensOptions())


class Doubled(ResNet):
    """Answers otherwise than its classifier does."""

    def forward(self, x):
        return 2 * super().forward(x)


class Keep:
    def __init__(self):
        self.ranks = []

    def block(self, tokens, batch):
        if tokens.index == len(tokens.space.blocks) - 1:
            self.ranks.append(tokens.logits("block").detach())

    def finish(self, batch):
        pass


def test_a_pass_leaves_the_model_as_it_was_and_checks_its_answer():
    model = built("torchvision", torch.float32).train()
    model.layer4[0].bn1.eval()
    before = {name: module.training for name, module in model.named_modules()}
    state = {key: value.clone() for key, value in model.state_dict().items()}
    batch, keep = images(model), Keep()
    assert run_readers(class_space(model), [(batch, torch.tensor([0, 6]))], [keep], device="cpu", progress=False) == 2
    assert {name: module.training for name, module in model.named_modules()} == before
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    with torch.no_grad():
        assert torch.allclose(keep.ranks[0].mean(1), model.eval()(batch), atol=1e-5)
    doubled = Doubled(BasicBlock, (1, 1, 1, 1), CLASSES)
    nn.init.normal_(doubled.fc.bias)
    with pytest.raises(ValueError, match="logits are not its classifier's on its last block's tokens"):
        run_readers(
            class_space(doubled), [(batch[:, :, :8, :8], torch.tensor([0, 1]))], [], device="cpu", progress=False
        )
