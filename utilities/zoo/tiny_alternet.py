"""A hybrid of a few thousand parameters: convolution blocks that alternate with local self-attention."""

from __future__ import annotations

from torch import nn

from utilities.zoo.alternet import MSABlock


class TinyAlterNet(nn.Sequential):
    """Chain convolution, convolution, attention, convolution, attention, as AlterNet ends its stages.

    The attention blocks are those of `utilities.zoo.alternet`; the convolution blocks, of stride 1, 2 and 2, have no
    shortcut. Global average pooling and a linear classifier follow. Input is (batch, channels, height, width), of 8
    pixels or more.

    Args:
        num_classes: Number of outputs of the classifier.
        in_channels: Channels of the images.
        width: Channels of the first block; the next two have twice, the last two four times as many.

    Example:
        >>> import torch
        >>> network = TinyAlterNet(10, width=8)
        >>> network(torch.zeros(2, 3, 8, 8)).shape, [name for name, _ in network.named_children()][:5]
        (torch.Size([2, 10]), ['block1', 'block2', 'block3', 'block4', 'block5'])
    """

    def __init__(self, num_classes: int, in_channels: int = 3, width: int = 16) -> None:
        super().__init__()
        middle, wide = 2 * width, 4 * width
        blocks = [
            _convolution(in_channels, width, 1),
            _convolution(width, middle, 2),
            MSABlock(middle, heads=1, reduction=1),
            _convolution(middle, wide, 2),
            MSABlock(wide, heads=2, reduction=1),
        ]
        for i, block in enumerate(blocks, 1):
            self.add_module(f"block{i}", block)
        self.norm, self.relu = nn.BatchNorm2d(wide), nn.ReLU()
        self.pool, self.flatten, self.head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(wide, num_classes)


def _convolution(before: int, channels: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(before, channels, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU())


def alternet_tiny(num_classes: int = 100, in_channels: int = 3, width: int = 16) -> TinyAlterNet:
    """Build the hybrid, see `TinyAlterNet`.

    Example:
        >>> sum(p.numel() for p in alternet_tiny(10).parameters()) < 100_000
        True
    """
    return TinyAlterNet(num_classes, in_channels, width)
