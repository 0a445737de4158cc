"""Build a plain CNN: the network of the layer-matching test, and a small student."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

WIDTHS = (32, 32, 64, 64, 64, 128, 128, 128)


class PlainCNN(nn.Sequential):
    """Chain 3x3 convolutions with batch norm and ReLU, global average pooling and a linear classifier; no shortcuts.

    The network resembles All-CNN-C (Springenberg et al. 2015, https://arxiv.org/abs/1412.6806): convolutions of stride
    2 replace pooling after a third and two thirds of the blocks. Input is (batch, 3, height, width).

    Args:
        num_classes: Number of outputs of the classifier.
        widths: Channels of each block.

    Raises:
        ValueError: If there is no block, or a block without channels.

    Example:
        >>> import torch
        >>> network = PlainCNN(10)
        >>> network(torch.zeros(2, 3, 16, 16)).shape, [name for name, _ in network.named_children()][-4]
        (torch.Size([2, 10]), 'block8')
    """

    def __init__(self, num_classes: int, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        if not widths or min(widths) < 1:
            raise ValueError(f"widths should be one or more numbers of channels, not {widths}")
        count, before = len(widths), 3
        for i, width in enumerate(widths):
            stride = 2 if i > 0 and i in (count // 3, 2 * count // 3) else 1
            convolution = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
            self.add_module(f"block{i + 1}", nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU()))
            before = width
        self.pool, self.flatten, self.head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, num_classes)


def plain_cnn8(num_classes: int = 100, widths: Sequence[int] = WIDTHS) -> PlainCNN:
    """Build the network of eight blocks and 32 to 128 channels, or of other widths, see `PlainCNN`.

    Example:
        >>> sum(p.numel() for p in plain_cnn8(10).parameters())
        473450
    """
    return PlainCNN(num_classes, widths)
