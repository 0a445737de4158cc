"""ResNet-18/34/50/101 and Wide ResNet-50 for small images.

He et al. 2016, https://arxiv.org/abs/1512.03385; Zagoruyko and Komodakis 2016, https://arxiv.org/abs/1605.07146.

These models have the CIFAR form: a 3x3 stem of stride 1 and no max-pool, so that 32x32 images reach the four stages at
32, 16, 8 and 4 pixels. Parameters have torchvision's names. Every activation is a module of its own, called once per
forward pass and never in place. A hook on any layer therefore sees only that layer's output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.fx
from torch import nn

MIN_SIZE = 8  # three halvings leave at least one pixel

SpatialLayer = Callable[[int, int], nn.Module]  # (channels, stride) -> the layer that mixes positions


def conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    """Make a convolution without bias that keeps the size at stride 1, initialised kaiming-normal (fan out).

    Example:
        >>> conv(3, 8, 3, stride=2)(torch.zeros(1, 3, 8, 8)).shape
        torch.Size([1, 8, 4, 4])
    """
    layer = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


def conv3x3(channels: int, stride: int = 1) -> nn.Conv2d:
    """Make the spatial layer of a plain ResNet.

    Example:
        >>> conv3x3(8).weight.shape
        torch.Size([8, 8, 3, 3])
    """
    return conv(channels, channels, 3, stride)


def _projection(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """Return the 1x1 convolution and norm of a shortcut whose shape changes, or None."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; ``relu2`` follows the sum.

    Args:
        in_channels: Number of channels of the input.
        width: Number of channels inside the block and of its output.
        stride: Stride of the first convolution.
        spatial: Function that makes the second convolution, ``conv2``, from (channels, stride).

    Example:
        >>> BasicBlock(8, 16, stride=2)(torch.zeros(1, 8, 8, 8)).shape
        torch.Size([1, 16, 4, 4])
    """

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int = 1, spatial: SpatialLayer = conv3x3) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = spatial(width, 1)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _projection(in_channels, width, stride)
        self.relu2 = nn.ReLU()

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The norm whose output is added to the shortcut."""
        return self.bn2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, in_channels, H, W) to (batch, width, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(x)) + shortcut)


class Bottleneck(nn.Module):
    """A 1x1, a spatial and a 1x1 layer and a shortcut; ``relu3`` follows the sum.

    Args:
        in_channels: Number of channels of the input.
        width: Number of channels inside the block; its output has four times as many.
        stride: Stride of the spatial layer.
        spatial: Function that makes the spatial layer, ``conv2``, from (channels, stride).

    Example:
        >>> Bottleneck(8, 4, stride=2)(torch.zeros(1, 8, 8, 8)).shape
        torch.Size([1, 16, 4, 4])
    """

    expansion = 4
    widening = 1  # channels of the spatial layer, in units of width

    def __init__(self, in_channels: int, width: int, stride: int = 1, spatial: SpatialLayer = conv3x3) -> None:
        super().__init__()
        inner, out_channels = width * self.widening, width * self.expansion
        self.conv1 = conv(in_channels, inner, 1)
        self.bn1 = nn.BatchNorm2d(inner)
        self.relu1 = nn.ReLU()
        self.conv2 = spatial(inner, stride)
        self.bn2 = nn.BatchNorm2d(inner)
        self.relu2 = nn.ReLU()
        self.conv3 = conv(inner, out_channels, 1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = _projection(in_channels, out_channels, stride)
        self.relu3 = nn.ReLU()

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The norm whose output is added to the shortcut."""
        return self.bn3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, in_channels, H, W) to (batch, 4 * width, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        return self.relu3(self.bn3(self.conv3(x)) + shortcut)


class WideBottleneck(Bottleneck):
    """A bottleneck whose spatial layer has twice the channels; the output has as many channels as a bottleneck's.

    Example:
        >>> block = WideBottleneck(8, 4)
        >>> block.conv2.weight.shape, block(torch.zeros(1, 8, 8, 8)).shape
        (torch.Size([8, 8, 3, 3]), torch.Size([1, 16, 8, 8]))
    """

    widening = 2


@torch.fx.wrap
def check_images(
    images: torch.Tensor, in_channels: int, least: int, why: str, remedy: str = "enlarge them first"
) -> None:
    """Raise ValueError unless images are (batch, in_channels, >= least, >= least).

    A module whose ``forward`` calls it has to wrap its name for torch.fx, as this one does.

    Example:
        >>> check_images(torch.zeros(2, 3, 4, 4), 3, 8, "the network halves them three times")
        Traceback (most recent call last):
        ValueError: images of 4x4 pixels are too small: the network halves them three times and needs at least 8x8; ...
    """
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[1] != in_channels:
        raise ValueError(f"expected images of shape (batch, {in_channels}, height, width), got {shape}")
    if min(shape[2:]) < least:
        raise ValueError(
            f"images of {shape[2]}x{shape[3]} pixels are too small: {why} and needs at least {least}x{least}; {remedy}"
        )


class ResNet(nn.Module):
    """A residual network with a CIFAR stem, four stages, average pooling and a linear classifier.

    Args:
        block: Block class: `BasicBlock`, `Bottleneck` or `WideBottleneck`.
        depths: Number of blocks in each of the four stages; stage i has width 64 * 2**i.
        num_classes: Number of logits.
        in_channels: Number of channels of the images.
        zero_init_residual: Start each block's last norm at zero. This helps training a little. But an untrained network
            is then a stack of identities, and comparing its layers says nothing, so it is off by default.
        spatial: Function that makes the layer ``conv2`` of each block from (channels, stride).

    Example:
        >>> model = ResNet(BasicBlock, (1, 1, 1, 1), num_classes=10)
        >>> model(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        num_classes: int = 100,
        in_channels: int = 3,
        zero_init_residual: bool = False,
        spatial: SpatialLayer = conv3x3,
    ) -> None:
        super().__init__()
        if num_classes < 1 or in_channels < 1:
            raise ValueError(f"num_classes={num_classes} and in_channels={in_channels} must both be at least 1")
        self.in_channels = in_channels
        self.conv1 = conv(in_channels, 64, 3)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        channels = 64
        for stage, depth in enumerate(depths):
            width, blocks = 64 * 2**stage, []
            for index in range(depth):
                blocks.append(block(channels, width, 2 if stage and not index else 1, spatial))
                channels = width * block.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, (BasicBlock, Bottleneck)):
                    nn.init.zeros_(module.last_norm.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images (batch, in_channels, H >= 8, W >= 8) to logits (batch, num_classes)."""
        check_images(x, self.in_channels, MIN_SIZE, "the network halves them three times")
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def resnet18(num_classes: int = 100, in_channels: int = 3, zero_init_residual: bool = False) -> ResNet:
    """Build ResNet-18 for small images: 11,220,132 parameters at 100 classes; arguments as in `ResNet`.

    Example:
        >>> sum(p.numel() for p in resnet18().parameters())
        11220132
    """
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, in_channels, zero_init_residual)


def resnet34(num_classes: int = 100, in_channels: int = 3, zero_init_residual: bool = False) -> ResNet:
    """Build ResNet-34 for small images: 21,328,292 parameters at 100 classes; arguments as in `ResNet`.

    Example:
        >>> [len(getattr(resnet34(), f"layer{i}")) for i in (1, 2, 3, 4)]
        [3, 4, 6, 3]
    """
    return ResNet(BasicBlock, (3, 4, 6, 3), num_classes, in_channels, zero_init_residual)


def resnet50(num_classes: int = 100, in_channels: int = 3, zero_init_residual: bool = False) -> ResNet:
    """Build ResNet-50 for small images: 23,705,252 parameters at 100 classes; arguments as in `ResNet`.

    Example:
        >>> resnet50(num_classes=10).fc
        Linear(in_features=2048, out_features=10, bias=True)
    """
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, in_channels, zero_init_residual)


def resnet101(num_classes: int = 100, in_channels: int = 3, zero_init_residual: bool = False) -> ResNet:
    """Build ResNet-101 for small images: 42,697,380 parameters at 100 classes; arguments as in `ResNet`.

    Example:
        >>> len(resnet101().layer3)
        23
    """
    return ResNet(Bottleneck, (3, 4, 23, 3), num_classes, in_channels, zero_init_residual)


def wide_resnet50(num_classes: int = 100, in_channels: int = 3, zero_init_residual: bool = False) -> ResNet:
    """Build Wide ResNet-50-2 for small images: 67,031,460 parameters at 100 classes; arguments as in `ResNet`.

    Example:
        >>> wide_resnet50(num_classes=10).layer1[0].conv2.weight.shape
        torch.Size([128, 128, 3, 3])
    """
    return ResNet(WideBottleneck, (3, 4, 6, 3), num_classes, in_channels, zero_init_residual)
