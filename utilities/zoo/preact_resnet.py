"""Pre-activation ResNet-18/34/50/101/152 (He et al. 2016, https://arxiv.org/abs/1603.05027).

Norm and activation come before each convolution, so a stage's blocks add to one stream that nothing rectifies. Such a
network is the base of `utilities.zoo.alternet.AlterNet`. Every activation is a module of its own, called once in a
forward pass and never in place, so a hook on any layer sees that layer's output and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.fx
from torch import nn
from torchvision.ops import StochasticDepth

from utilities.hooks.calls.options import check_number
from utilities.resnet import check_images, conv

torch.fx.wrap("check_images")

HALVINGS = {"cifar": 3, "imagenet": 5}  # number of halvings of the image's sides, by stem


def stage_channels(stage: int) -> int:
    """Return the width of a stage, counted from 1.

    Example:
        >>> [stage_channels(stage) for stage in (1, 2, 3, 4)]
        [64, 128, 256, 512]
    """
    return 64 * 2 ** (stage - 1)


def projection(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d | None:
    """Make the 1x1 convolution for a shortcut whose shape changes; return None where it stays.

    Example:
        >>> projection(8, 8) is None, projection(8, 16, 2).stride
        (True, (2, 2))
    """
    same = stride == 1 and in_channels == out_channels
    return None if same else conv(in_channels, out_channels, 1, stride)


class PreActBlock(nn.Module):
    """Apply two 3x3 convolutions, each after norm and ReLU; a shortcut that projects starts after the first ReLU.

    Args:
        in_channels: Channels of the input.
        width: Channels inside the block and of its output.
        stride: Stride of the first convolution.
        drop_path: Probability of leaving the residual branch out for an image, in training.

    Example:
        >>> PreActBlock(8, 16, stride=2)(torch.zeros(1, 8, 8, 8)).shape
        torch.Size([1, 16, 4, 4])
    """

    expansion = 1
    kind = "C"

    def __init__(self, in_channels: int, width: int, stride: int = 1, drop_path: float = 0.0) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.downsample = projection(in_channels, width, stride)
        self.conv1 = conv(in_channels, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv2 = conv(width, width, 3)
        self.drop_path = StochasticDepth(drop_path, "row")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, in_channels, H, W) to (batch, width, H / stride, W / stride)."""
        y = self.relu1(self.bn1(x))
        shortcut = x if self.downsample is None else self.downsample(y)
        y = self.conv2(self.relu2(self.bn2(self.conv1(y))))
        return self.drop_path(y) + shortcut


class PreActBottleneck(nn.Module):
    """Apply a 1x1, a 3x3 and a 1x1 convolution, each after norm and ReLU; arguments as in `PreActBlock`.

    The output has four times ``width`` channels, and the stride is that of the 3x3 convolution.

    Example:
        >>> PreActBottleneck(8, 4, stride=2)(torch.zeros(1, 8, 8, 8)).shape
        torch.Size([1, 16, 4, 4])
    """

    expansion = 4
    kind = "C"

    def __init__(self, in_channels: int, width: int, stride: int = 1, drop_path: float = 0.0) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.downsample = projection(in_channels, width * self.expansion, stride)
        self.conv1 = conv(in_channels, width, 1)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv2 = conv(width, width, 3, stride)
        self.bn3 = nn.BatchNorm2d(width)
        self.relu3 = nn.ReLU()
        self.conv3 = conv(width, width * self.expansion, 1)
        self.drop_path = StochasticDepth(drop_path, "row")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, in_channels, H, W) to (batch, 4 * width, H / stride, W / stride)."""
        y = self.relu1(self.bn1(x))
        shortcut = x if self.downsample is None else self.downsample(y)
        y = self.conv2(self.relu2(self.bn2(self.conv1(y))))
        y = self.conv3(self.relu3(self.bn3(y)))
        return self.drop_path(y) + shortcut


def _size_needed(stem: str) -> tuple[int, str, str]:
    """Return the fewest pixels along a side that survive the network's halvings, why, and what to do about fewer."""
    halvings = HALVINGS[stem]
    remedy = "enlarge them first" if stem == "cifar" else "enlarge them first, or take stem='cifar'"
    return 2**halvings, f"the network with the {stem} stem halves them {halvings} times", remedy


def _check_options(depths: Sequence[int], num_classes: int, in_channels: int, stem: str, drop_path: float) -> None:
    """Raise ValueError for options that cannot form a network."""
    if len(depths) != 4 or min(depths) < 1:
        raise ValueError(f"depths={tuple(depths)} must be four numbers of blocks, each at least 1")
    if num_classes < 1 or in_channels < 1:
        raise ValueError(f"num_classes={num_classes} and in_channels={in_channels} must both be at least 1")
    if stem not in HALVINGS:
        raise ValueError(f"stem={stem!r} is not known: choose 'cifar' or 'imagenet'")
    check_number("drop_path", drop_path, least=0, below=1, hint=": a probability, 0 for none")


class PreActResNet(nn.Module):
    """Chain a stem, four stages of pre-activation blocks, norm, ReLU, average pooling and a linear classifier.

    Args:
        block: `PreActBlock` or `PreActBottleneck`.
        depths: Number of blocks in each of the four stages; stage i has width 64 * 2**(i - 1).
        num_classes: Number of logits.
        in_channels: Channels of the images.
        stem: ``"cifar"``, a 3x3 convolution; or ``"imagenet"``, a 7x7 convolution of stride 2 and a max-pool.
        drop_path: Stochastic depth of the last block; it grows linearly with depth from 0 in the first.

    Raises:
        ValueError: If an option does not fit; the message names it, and the values that do.

    Example:
        >>> model = PreActResNet(PreActBlock, (1, 1, 1, 1), num_classes=10)
        >>> model(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        block: type[PreActBlock] | type[PreActBottleneck],
        depths: Sequence[int],
        num_classes: int = 100,
        in_channels: int = 3,
        *,
        stem: str = "cifar",
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        _check_options(depths, num_classes, in_channels, stem, drop_path)
        self.block, self.depths, self.in_channels, self.stem = block, tuple(depths), in_channels, stem
        large = stem == "imagenet"
        self.conv1 = conv(in_channels, 64, 7, stride=2) if large else conv(in_channels, 64, 3)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if large else None
        channels, rates = 64, iter(drop_path * index / (sum(depths) - 1) for index in range(sum(depths)))
        for stage, depth in enumerate(depths, start=1):
            width, blocks = stage_channels(stage), []
            for index in range(depth):
                stride = 2 if stage > 1 and index == 0 else 1
                blocks.append(block(channels, width, stride, next(rates)))
                channels = width * block.expansion
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)

    @property
    def stages(self) -> tuple[nn.Sequential, ...]:
        """Return the four stages, ``layer1`` to ``layer4``."""
        return self.layer1, self.layer2, self.layer3, self.layer4

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images (batch, in_channels, H, W), H and W >= 8 (large stem: 32), to logits (batch, num_classes)."""
        check_images(x, self.in_channels, *_size_needed(self.stem))
        x = self.conv1(x)
        if self.maxpool is not None:
            x = self.maxpool(x)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(self.relu(self.bn(x))).flatten(1))


def preact_resnet18(num_classes: int = 100, in_channels: int = 3, **options: Any) -> PreActResNet:
    """Build pre-activation ResNet-18: 11,218,340 parameters at 100 classes; arguments as in `PreActResNet`.

    Example:
        >>> sum(p.numel() for p in preact_resnet18().parameters())
        11218340
    """
    return PreActResNet(PreActBlock, (2, 2, 2, 2), num_classes, in_channels, **options)


def preact_resnet34(num_classes: int = 100, in_channels: int = 3, **options: Any) -> PreActResNet:
    """Build pre-activation ResNet-34: 21,326,500 parameters at 100 classes; arguments as in `PreActResNet`.

    Example:
        >>> [len(stage) for stage in preact_resnet34().stages]
        [3, 4, 6, 3]
    """
    return PreActResNet(PreActBlock, (3, 4, 6, 3), num_classes, in_channels, **options)


def preact_resnet50(num_classes: int = 100, in_channels: int = 3, **options: Any) -> PreActResNet:
    """Build pre-activation ResNet-50: 23,697,572 parameters at 100 classes; arguments as in `PreActResNet`.

    Example:
        >>> preact_resnet50(num_classes=10).fc
        Linear(in_features=2048, out_features=10, bias=True)
    """
    return PreActResNet(PreActBottleneck, (3, 4, 6, 3), num_classes, in_channels, **options)


def preact_resnet101(num_classes: int = 100, in_channels: int = 3, **options: Any) -> PreActResNet:
    """Build pre-activation ResNet-101: 42,689,700 parameters at 100 classes; arguments as in `PreActResNet`.

    Example:
        >>> with torch.device("meta"):
        ...     len(preact_resnet101().layer3)
        23
    """
    return PreActResNet(PreActBottleneck, (3, 4, 23, 3), num_classes, in_channels, **options)


def preact_resnet152(num_classes: int = 100, in_channels: int = 3, **options: Any) -> PreActResNet:
    """Build pre-activation ResNet-152: 58,333,348 parameters at 100 classes; arguments as in `PreActResNet`.

    Example:
        >>> with torch.device("meta"):
        ...     len(preact_resnet152().layer2)
        8
    """
    return PreActResNet(PreActBottleneck, (3, 8, 36, 3), num_classes, in_channels, **options)
