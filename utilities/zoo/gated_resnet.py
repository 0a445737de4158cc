"""ResNets for small images whose blocks weigh their channels, and places, before they add to the shortcut.

Squeeze-and-excitation (Hu et al. 2018, https://arxiv.org/abs/1709.01507) weighs channels by what they hold on average
over the whole map. CBAM (Woo et al. 2018, https://arxiv.org/abs/1807.06521) weighs channels and then positions. Neither
compares positions with each other, as self-attention does, so these networks count as CNNs. Stem, stages and names are
those of `utilities.resnet`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from utilities.resnet import BasicBlock, Bottleneck, ResNet, SpatialLayer, conv3x3

REDUCTION = 16  # channels of a block, in units of those inside its gate
KERNEL = 7  # side of the window by which CBAM weighs positions


def _squeezed(channels: int, reduction: int) -> int:
    if reduction < 1 or channels < reduction:
        raise ValueError(f"reduction={reduction} should be from 1 to the {channels} channels of a block")
    return channels // reduction


class SqueezeExcitation(nn.Module):
    r"""Weigh channels: :math:`x \cdot \sigma(W_2\,\mathrm{ReLU}(W_1\,\mathrm{mean}(x)))`, both layers with bias.

    Args:
        channels: Channels of the maps.
        reduction: Channels of the maps over those inside.

    Example:
        >>> SqueezeExcitation(32)(torch.zeros(1, 32, 4, 4)).shape
        torch.Size([1, 32, 4, 4])
    """

    def __init__(self, channels: int, reduction: int = REDUCTION) -> None:
        super().__init__()
        inner = _squeezed(channels, reduction)
        self.fc1, self.act, self.fc2 = nn.Conv2d(channels, inner, 1), nn.ReLU(), nn.Conv2d(inner, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, channels, H, W) to the same shape."""
        return x * self.fc2(self.act(self.fc1(x.mean((2, 3), keepdim=True)))).sigmoid()


class ConvolutionalGate(nn.Module):
    """Weigh channels by their mean and maximum, then positions by those over channels: CBAM.

    Channels pass through one small network for both statistics, without biases, and the results are added. Positions
    are weighed by a convolution and batch norm of the two maps.

    Args:
        channels: Channels of the maps.
        reduction: Channels of the maps over those inside.

    Example:
        >>> ConvolutionalGate(32)(torch.zeros(1, 32, 4, 4)).shape
        torch.Size([1, 32, 4, 4])
    """

    def __init__(self, channels: int, reduction: int = REDUCTION) -> None:
        super().__init__()
        inner = _squeezed(channels, reduction)
        layers = nn.Conv2d(channels, inner, 1, bias=False), nn.ReLU(), nn.Conv2d(inner, channels, 1, bias=False)
        self.channels = nn.Sequential(*layers)
        self.places = nn.Sequential(nn.Conv2d(2, 1, KERNEL, padding=KERNEL // 2, bias=False), nn.BatchNorm2d(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, channels, H, W) to the same shape."""
        both = torch.cat([x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)])
        average, highest = self.channels(both).chunk(2)
        x = x * (average + highest).sigmoid()
        return x * self.places(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)).sigmoid()


class _Gated:
    """Make blocks whose last norm, which is what the shortcut is added to, is followed by a gate, ``se``."""

    gate: Callable[[int], nn.Module]

    def __init__(self, in_channels: int, width: int, stride: int = 1, spatial: SpatialLayer = conv3x3) -> None:
        super().__init__(in_channels, width, stride, spatial)
        self.se = type(self).gate(width * self.expansion)


class _GatedBasicBlock(_Gated, BasicBlock):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, in_channels, H, W) to (batch, width, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.se(self.bn2(self.conv2(x))) + shortcut)


class _GatedBottleneck(_Gated, Bottleneck):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, in_channels, H, W) to (batch, 4 * width, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        return self.relu3(self.se(self.bn3(self.conv3(x))) + shortcut)


class SEBlock(_GatedBasicBlock):
    """Put squeeze-and-excitation into a basic block; arguments as in `utilities.resnet.BasicBlock`."""

    gate = SqueezeExcitation


class SEBottleneck(_GatedBottleneck):
    """Put squeeze-and-excitation into a bottleneck; arguments as in `utilities.resnet.Bottleneck`."""

    gate = SqueezeExcitation


class CBAMBlock(_GatedBasicBlock):
    """Put CBAM's gates into a basic block; arguments as in `utilities.resnet.BasicBlock`."""

    gate = ConvolutionalGate


class CBAMBottleneck(_GatedBottleneck):
    """Put CBAM's gates into a bottleneck; arguments as in `utilities.resnet.Bottleneck`."""

    gate = ConvolutionalGate


def se_resnet18(num_classes: int = 100, in_channels: int = 3, zero_init_residual: bool = False) -> ResNet:
    """Build SE-ResNet-18 for small images: 11,309,212 parameters at 100 classes; arguments as in `ResNet`.

    Example:
        >>> sum(p.numel() for p in se_resnet18().parameters())
        11309212
    """
    return ResNet(SEBlock, (2, 2, 2, 2), num_classes, in_channels, zero_init_residual)


def se_resnet34(num_classes: int = 100, in_channels: int = 3, zero_init_residual: bool = False) -> ResNet:
    """Build SE-ResNet-34 for small images; arguments as in `utilities.resnet.ResNet`.

    Example:
        >>> [len(getattr(se_resnet34(), f"layer{i}")) for i in (1, 2, 3, 4)]
        [3, 4, 6, 3]
    """
    return ResNet(SEBlock, (3, 4, 6, 3), num_classes, in_channels, zero_init_residual)


def se_resnet50(num_classes: int = 100, in_channels: int = 3, zero_init_residual: bool = False) -> ResNet:
    """Build SE-ResNet-50 for small images; arguments as in `utilities.resnet.ResNet`.

    Example:
        >>> se_resnet50().layer1[0].se.fc1
        Conv2d(256, 16, kernel_size=(1, 1), stride=(1, 1))
    """
    return ResNet(SEBottleneck, (3, 4, 6, 3), num_classes, in_channels, zero_init_residual)


def cbam_resnet18(num_classes: int = 100, in_channels: int = 3, zero_init_residual: bool = False) -> ResNet:
    """Build CBAM-ResNet-18 for small images: 11,307,972 parameters at 100 classes; arguments as in `ResNet`.

    Example:
        >>> sum(p.numel() for p in cbam_resnet18().parameters())
        11307972
    """
    return ResNet(CBAMBlock, (2, 2, 2, 2), num_classes, in_channels, zero_init_residual)


def cbam_resnet34(num_classes: int = 100, in_channels: int = 3, zero_init_residual: bool = False) -> ResNet:
    """Build CBAM-ResNet-34 for small images; arguments as in `utilities.resnet.ResNet`.

    Example:
        >>> cbam_resnet34().layer1[0].se.places[0].kernel_size
        (7, 7)
    """
    return ResNet(CBAMBlock, (3, 4, 6, 3), num_classes, in_channels, zero_init_residual)


def cbam_resnet50(num_classes: int = 100, in_channels: int = 3, zero_init_residual: bool = False) -> ResNet:
    """Build CBAM-ResNet-50 for small images; arguments as in `utilities.resnet.ResNet`.

    Example:
        >>> cbam_resnet50(num_classes=10).fc
        Linear(in_features=2048, out_features=10, bias=True)
    """
    return ResNet(CBAMBottleneck, (3, 4, 6, 3), num_classes, in_channels, zero_init_residual)
