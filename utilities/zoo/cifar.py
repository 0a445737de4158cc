"""Build models at CIFAR size: ResNeXt, VGG and AlexNet among the CNNs, and PiT and MLP-Mixer.

Sizes are those of Park and Kim (2022, https://arxiv.org/abs/2202.06709). CNNs start with a 3x3 convolution of stride 1,
as the ResNets of `utilities.resnet` do. They end with global average pooling and one linear layer, where the originals
for ImageNet have up to a hundred million parameters. No activation works in place, so a hook on any layer sees that
layer's output and nothing else.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.fx
from timm.models.mlp_mixer import MlpMixer
from timm.models.pit import PoolingVisionTransformer
from torch import nn
from torchvision.models import vgg

from utilities.resnet import ResNet, WideBottleneck, check_images

torch.fx.wrap("check_images")

GROUPS = 32  # groups of ResNeXt's 3x3 convolutions


def _grouped_conv3x3(channels: int, stride: int) -> nn.Conv2d:
    """Make ResNeXt's spatial layer, initialised like the other convolutions of `utilities.resnet`."""
    layer = nn.Conv2d(channels, channels, 3, stride, padding=1, groups=GROUPS, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


def resnext50(num_classes: int = 100, in_channels: int = 3, zero_init_residual: bool = False) -> ResNet:
    """Build ResNeXt-50 (32x4d) for small images (Xie et al. 2017, https://arxiv.org/abs/1611.05431).

    A bottleneck has twice ResNet-50's channels inside. The 3x3 convolution mixes them in 32 groups, in the first stage
    of 4 channels each. Names are torchvision's; arguments as in `utilities.resnet.ResNet`.

    Example:
        >>> resnext50(num_classes=10).layer1[0].conv2.weight.shape
        torch.Size([128, 4, 3, 3])
    """
    return ResNet(WideBottleneck, (3, 4, 6, 3), num_classes, in_channels, zero_init_residual, _grouped_conv3x3)


class PlainNetwork(nn.Module):
    """Chain convolutions and pooling without shortcuts, global average pooling and a linear classifier.

    Args:
        features: Module of convolutions, activations and pooling.
        channels: Channels of the output of ``features``.
        num_classes: Number of logits.
        in_channels: Channels of the images.
        least: Fewest pixels that images need along a side.

    Raises:
        ValueError: If ``num_classes`` or ``in_channels`` is below 1.

    Example:
        >>> PlainNetwork(nn.Conv2d(3, 8, 3), 8, num_classes=2, in_channels=3, least=3)(torch.zeros(1, 3, 5, 5)).shape
        torch.Size([1, 2])
    """

    def __init__(self, features: nn.Module, channels: int, num_classes: int, in_channels: int, least: int) -> None:
        super().__init__()
        if num_classes < 1 or in_channels < 1:
            raise ValueError(f"num_classes={num_classes} and in_channels={in_channels} must both be at least 1")
        self.in_channels, self.least = in_channels, least
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images (batch, in_channels, H, W) to logits (batch, num_classes)."""
        check_images(x, self.in_channels, self.least, "the network pools them away")
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def _vgg(letter: str, num_classes: int, in_channels: int) -> PlainNetwork:
    """Build a VGG from torchvision's convolutions; the letter is that of the paper's table."""
    features = vgg.make_layers(vgg.cfgs[letter][:-1], batch_norm=True)  # average pooling replaces the last max-pool
    if in_channels != 3:
        features[0] = nn.Conv2d(in_channels, features[0].out_channels, 3, padding=1)
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.ReLU):
            layer.inplace = False
    return PlainNetwork(features, 512, num_classes, in_channels, least=16)


def vgg11(num_classes: int = 100, in_channels: int = 3) -> PlainNetwork:
    """Build VGG-11 with batch norm for small images (Simonyan and Zisserman 2015, https://arxiv.org/abs/1409.1556).

    Names are torchvision's. The last max-pool is left out, and one linear layer classifies. Images of 32 pixels
    reach the average at 2x2; the smallest size is 16.

    Args:
        num_classes: Number of logits.
        in_channels: Channels of the images.

    Example:
        >>> vgg11(num_classes=10).classifier
        Linear(in_features=512, out_features=10, bias=True)
    """
    return _vgg("A", num_classes, in_channels)


def vgg13(num_classes: int = 100, in_channels: int = 3) -> PlainNetwork:
    """Build VGG-13 with batch norm for small images; arguments as in `vgg11`.

    Example:
        >>> sum(isinstance(layer, nn.Conv2d) for layer in vgg13().features)
        10
    """
    return _vgg("B", num_classes, in_channels)


def vgg16(num_classes: int = 100, in_channels: int = 3) -> PlainNetwork:
    """Build VGG-16 with batch norm for small images; arguments as in `vgg11`.

    Example:
        >>> sum(isinstance(layer, nn.Conv2d) for layer in vgg16().features)
        13
    """
    return _vgg("D", num_classes, in_channels)


def vgg19(num_classes: int = 100, in_channels: int = 3) -> PlainNetwork:
    """Build VGG-19 with batch norm for small images; arguments as in `vgg11`.

    Example:
        >>> sum(isinstance(layer, nn.Conv2d) for layer in vgg19().features)
        16
    """
    return _vgg("E", num_classes, in_channels)


def alexnet(num_classes: int = 100, in_channels: int = 3) -> PlainNetwork:
    """Build AlexNet for small images (Krizhevsky 2014, https://arxiv.org/abs/1404.5997), without batch norm.

    The first convolution is 3x3 of stride 1 instead of 11x11 of stride 4; the others have torchvision's sizes. As in
    `vgg11`, the last max-pool is left out and one linear layer classifies. The smallest image has 7 pixels a side.

    Args:
        num_classes: Number of logits.
        in_channels: Channels of the images.

    Example:
        >>> sum(p.numel() for p in alexnet(num_classes=10).parameters())
        2450762
    """
    features = nn.Sequential(
        nn.Conv2d(in_channels, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
    )
    return PlainNetwork(features, 256, num_classes, in_channels, least=7)


def pit_tiny_patch2_32(num_classes: int = 100, in_channels: int = 3, **kwargs: Any) -> PoolingVisionTransformer:
    """Build PiT-Ti for 32-pixel images (Heo et al. 2021, https://arxiv.org/abs/2103.16302): 4.6 million parameters.

    Patches are 2x2 at every pixel, so they overlap: 31x31 tokens of width 64 in 2 blocks, then 16x16 of width 128 in 6,
    then 8x8 of width 256 in 4, with heads of 32 channels. A class token runs along. Between stages, a convolution with
    stride merges tokens and a linear layer widens the class token. There is no stochastic depth; the paper trains with
    ``drop_path_rate=0.1``.

    Args:
        num_classes: Number of logits.
        in_channels: Channels of the images.
        **kwargs: Options of timm's ``PoolingVisionTransformer``.

    Example:
        >>> pit_tiny_patch2_32(depth=(1, 1, 1)).patch_embed.grid_size
        (31, 31)
    """
    size = {"img_size": 32, "patch_size": 2, "stride": 1, "base_dims": (32, 32, 32), "depth": (2, 6, 4)}
    size |= {"heads": (2, 4, 8), "mlp_ratio": 4}
    return PoolingVisionTransformer(num_classes=num_classes, in_chans=in_channels, **{**size, **kwargs})


def mixer_tiny_patch2_32(num_classes: int = 100, in_channels: int = 3, **kwargs: Any) -> MlpMixer:
    """Build MLP-Mixer-Ti for 32-pixel images (Tolstikhin et al. 2021, https://arxiv.org/abs/2105.01601).

    It has 256 patches of 2x2, 8 blocks of width 256 and 4.8 million parameters. An MLP of width 128 mixes tokens and
    one of width 1024 mixes channels. There is no stochastic depth; the paper trains with ``drop_path_rate=0.1``.

    Args:
        num_classes: Number of logits.
        in_channels: Channels of the images.
        **kwargs: Options of timm's ``MlpMixer``.

    Example:
        >>> block = mixer_tiny_patch2_32(num_blocks=1).blocks[0]
        >>> block.mlp_tokens.fc1.out_features, block.mlp_channels.fc1.out_features
        (128, 1024)
    """
    size = {"img_size": 32, "patch_size": 2, "num_blocks": 8, "embed_dim": 256, "mlp_ratio": (0.5, 4.0)}
    return _mixer(num_classes, in_channels, **{**size, **kwargs})


def mixer_tiny_patch4_32(num_classes: int = 100, in_channels: int = 3, **kwargs: Any) -> MlpMixer:
    """Build an MLP-Mixer for 32-pixel images as deep and wide as `utilities.zoo.vit.vit_tiny_patch4_32`.

    It has 64 patches of 4x4 and 12 blocks of width 192; arguments as above.

    Example:
        >>> mixer_tiny_patch4_32().stem.num_patches
        64
    """
    size = {"patch_size": 4, "num_blocks": 12, "embed_dim": 192}
    return mixer_tiny_patch2_32(num_classes, in_channels, **{**size, **kwargs})


def mixer_tiny_patch2_16(num_classes: int = 100, in_channels: int = 3, **kwargs: Any) -> MlpMixer:
    """Build a small MLP-Mixer for 16-pixel images: 64 patches of 2x2, 6 blocks of width 96; arguments as above.

    It is as deep and wide as `utilities.zoo.vit.vit_tiny_patch2_16`.

    Example:
        >>> len(mixer_tiny_patch2_16().blocks)
        6
    """
    size = {"img_size": 16, "patch_size": 2, "num_blocks": 6, "embed_dim": 96, "mlp_ratio": (0.5, 4.0)}
    return _mixer(num_classes, in_channels, **{**size, **kwargs})


def mixer_tiny_patch4_16(num_classes: int = 100, in_channels: int = 3, **kwargs: Any) -> MlpMixer:
    """Build `mixer_tiny_patch2_16` with 16 patches of 4x4; arguments as above.

    Example:
        >>> mixer_tiny_patch4_16().stem.num_patches
        16
    """
    return mixer_tiny_patch2_16(num_classes, in_channels, **{"patch_size": 4, **kwargs})


def _mixer(num_classes: int, in_channels: int, **options: Any) -> MlpMixer:
    model = MlpMixer(num_classes=num_classes, in_chans=in_channels, **options)
    if isinstance(model.head, nn.Linear):  # timm starts at zero, so untrained logits would all be equal
        nn.init.trunc_normal_(model.head.weight, std=0.02)
    return model
