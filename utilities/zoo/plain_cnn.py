"""Build plain CNNs: the networks of the layer-matching test, and a small student."""

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


class AllCNN(nn.Sequential):
    """Chain the ten layers of All-CNN-C (Springenberg et al. 2015, https://arxiv.org/abs/1412.6806), with batch norm.

    Seven 3x3 convolutions, the third and the sixth with stride 2 and the last without padding, and a 1x1 convolution,
    each with batch norm and ReLU; then global average pooling and a linear classifier. Ten-layer networks of this kind
    are those of Kornblith et al. 2019, table 2 (https://arxiv.org/abs/1905.00414). Input is (batch, 3, height, width),
    of 12 pixels or more.

    Args:
        num_classes: Number of outputs of the classifier.
        width: Channels of the first three convolutions; the others have twice as many. The paper has 96.

    Raises:
        ValueError: If there is no channel.

    Example:
        >>> import torch
        >>> network = AllCNN(10, width=8)
        >>> network(torch.zeros(2, 3, 12, 12)).shape, [name for name, _ in network.named_children()][-4:]
        (torch.Size([2, 10]), ['block8', 'pool', 'flatten', 'head'])
    """

    def __init__(self, num_classes: int, width: int = 96) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width should be a number of channels, 1 or more, not {width}")
        before = 3
        for i in range(8):
            channels, size = width * (1 if i < 3 else 2), 1 if i == 7 else 3
            stride, padding = 2 if i in (2, 5) else 1, 0 if i >= 6 else 1
            convolution = nn.Conv2d(before, channels, size, stride, padding, bias=False)
            self.add_module(f"block{i + 1}", nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU()))
            before = channels
        self.pool, self.flatten, self.head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, num_classes)


def plain_cnn10(num_classes: int = 100, width: int = 96) -> AllCNN:
    """Build the network of ten layers and 96 and 192 channels, or of other widths, see `AllCNN`.

    Example:
        >>> sum(p.numel() for p in plain_cnn10(10).parameters())
        1370986
    """
    return AllCNN(num_classes, width)
