"""AlterNet (Alter-ResNet): a pre-activation ResNet whose last blocks alternate convolution and local self-attention.

Park & Kim 2022, *How Do Vision Transformers Work?*, https://arxiv.org/abs/2202.06709. In a stage of n blocks, m are
multi-head self-attention (MSA) blocks: n - 2 m convolution blocks, then m times a convolution and an MSA block. So each
stage with MSA blocks ends with one, and starts with a convolution block, which carries the stride.

An MSA block has no feed-forward network of its own: the convolution blocks between the MSA blocks play that part. The
paper tried the order within an encoder only. `MSABlock` works on maps of any size and number of channels, so it can be
put into decoders too; nobody has shown that it helps there. There is no version for other frameworks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torchvision.ops import StochasticDepth

from utilities.resnet import conv
from utilities.zoo.local_attention import LocalAttention
from utilities.zoo.preact_resnet import PreActBlock, PreActBottleneck, PreActResNet, projection

HEADS = (3, 6, 12, 24)  # number of heads by stage
WINDOWS = {"cifar": 4, "imagenet": 7}  # window by stem


class MSABlock(nn.Module):
    """Apply norm, GELU, a 1x1 convolution, norm and local attention, added to a shortcut.

    If the shortcut has to change the number of channels, it is a 1x1 convolution that starts after the GELU.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output; None keeps those of the input.
        stride: Always 1, since attention keeps the size of the map.
        heads: Number of heads, of 64 channels each.
        window: Pixels along a side of a window, see `LocalAttention`.
        reduction: Divisor of the channels in the 1x1 convolution, which has in_channels / reduction outputs: 4 next to
            bottlenecks, 1 next to basic blocks.
        drop_path: Probability of leaving the residual branch out for an image, in training.

    Raises:
        ValueError: If the stride is not 1, or the options do not fit together.

    Example:
        >>> MSABlock(16, 32, heads=2)(torch.zeros(1, 16, 6, 5)).shape
        torch.Size([1, 32, 6, 5])
    """

    kind = "A"

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        stride: int = 1,
        *,
        heads: int,
        window: int = 4,
        reduction: int = 4,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        out_channels = in_channels if out_channels is None else out_channels
        if stride != 1:
            raise ValueError(
                f"stride={stride}: an MSA block keeps the size of its map; give the stride to a convolution block "
                "before it, as AlterNet does at the start of each stage"
            )
        if reduction < 1 or in_channels % reduction:
            raise ValueError(f"in_channels={in_channels} cannot be divided by reduction={reduction}")
        width = in_channels // reduction
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.gelu = nn.GELU()
        self.downsample = projection(in_channels, out_channels)
        self.conv1 = conv(in_channels, width, 1)
        self.bn2 = nn.BatchNorm2d(width)
        self.attn = LocalAttention(width, out_channels, heads=heads, window=window)
        self.drop_path = StochasticDepth(drop_path, "row")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, in_channels, H, W) to (batch, out_channels, H, W)."""
        y = self.gelu(self.bn1(x))
        shortcut = x if self.downsample is None else self.downsample(y)
        y = self.attn(self.bn2(self.conv1(y)))
        return self.drop_path(y) + shortcut


class AlterNet(PreActResNet):
    """Replace blocks of a pre-activation ResNet by MSA blocks.

    The network without MSA blocks is built first. With the same seed, all blocks that are not replaced therefore start
    with the weights of the `PreActResNet` of these depths.

    Args:
        block: `PreActBlock` or `PreActBottleneck`.
        depths: Number of blocks in each of the four stages, including MSA blocks.
        msa: Number of MSA blocks in each stage, at most half of its blocks.
        num_classes: Number of logits.
        in_channels: Channels of the images.
        window: Pixels along a side of the attention windows; None is 4 with the CIFAR stem and 7 with the other.
        heads: Number of heads in each stage, of 64 channels each.
        stem: ``"cifar"`` or ``"imagenet"``, see `PreActResNet`.
        drop_path: Stochastic depth of the last block; it grows linearly with depth from 0 in the first. The paper
            uses 0.1.

    Raises:
        ValueError: If an option does not fit; the message names it, and the values that do.

    Example:
        >>> model = AlterNet(PreActBlock, (1, 2, 2, 3), (0, 0, 1, 1), num_classes=10)
        >>> pattern(model), model(torch.zeros(2, 3, 16, 16)).shape
        ('C/CC/CA/CCA', torch.Size([2, 10]))
    """

    def __init__(
        self,
        block: type[PreActBlock] | type[PreActBottleneck],
        depths: Sequence[int],
        msa: Sequence[int],
        num_classes: int = 100,
        in_channels: int = 3,
        *,
        window: int | None = None,
        heads: Sequence[int] = HEADS,
        stem: str = "cifar",
        drop_path: float = 0.1,
    ) -> None:
        super().__init__(block, depths, num_classes, in_channels, stem=stem, drop_path=drop_path)
        _check_attention(self.depths, msa, heads)
        self.window = WINDOWS[stem] if window is None else window
        self.heads = tuple(heads)
        for stage, count in enumerate(msa, start=1):
            for _ in range(count):
                self.add_msa(stage)

    def add_msa(self, stage: int) -> None:
        """Replace by an MSA block the convolution block of a stage that comes next in the pattern C...CACA.

        Args:
            stage: Number of the stage, 1 to 4.

        Raises:
            ValueError: If the stage has no room for one more.

        Example:
            >>> model = alternet50(msa=(0, 0, 0, 1))
            >>> model.add_msa(4)
            >>> pattern(model)
            'CCC/CCCC/CCCCCC/CACA'
        """
        blocks, count, depth = self.stages[stage - 1], msa_counts(self)[stage - 1], self.depths[stage - 1]
        check_room(stage, count + 1, depth)
        index = depth - 1 - 2 * count  # a smoothing layer may follow
        replaced = blocks[index]
        block = MSABlock(
            replaced.bn1.num_features,
            heads=self.heads[stage - 1],
            window=self.window,
            reduction=self.block.expansion,
            drop_path=replaced.drop_path.p,
        )
        blocks[index] = block.to(replaced.conv1.weight).train(replaced.training)


def check_room(stage: int, count: int, depth: int) -> None:
    """Raise ValueError for more MSA blocks than a stage can take."""
    if count > depth // 2:
        raise ValueError(
            f"{count} MSA blocks in stage {stage}: its {depth} blocks have room for {depth // 2}, for each follows a "
            "convolution block; take another stage, or more blocks in depths"
        )


def _check_attention(depths: tuple[int, ...], msa: Sequence[int], heads: Sequence[int]) -> None:
    """Raise ValueError for numbers of MSA blocks or heads that cannot form a network."""
    if len(msa) != 4 or min(msa) < 0:
        raise ValueError(f"msa={tuple(msa)} must be four numbers of MSA blocks, each at least 0")
    for stage, (count, depth) in enumerate(zip(msa, depths, strict=True), start=1):
        check_room(stage, count, depth)
    if len(heads) != 4 or min(heads) < 1:
        raise ValueError(f"heads={tuple(heads)} must be four numbers of heads, each at least 1")


def pattern(model: PreActResNet) -> str:
    """Spell out the blocks of a network: C is a convolution block, A an MSA block.

    Args:
        model: An `AlterNet` or `PreActResNet`.

    Returns:
        Letters in the order of the blocks, with a slash between stages.

    Raises:
        TypeError: For another model.

    Example:
        >>> pattern(alternet50())
        'CCC/CCCA/CCCCCA/CACA'
    """
    if not isinstance(model, PreActResNet):
        raise TypeError(f"expected an AlterNet or PreActResNet, got {type(model).__name__}")
    return "/".join("".join(getattr(block, "kind", "") for block in stage) for stage in model.stages)


def msa_counts(model: PreActResNet) -> tuple[int, ...]:
    """Count the MSA blocks of each stage.

    Example:
        >>> msa_counts(alternet18())
        (0, 1, 1, 1)
    """
    return tuple(stage.count("A") for stage in pattern(model).split("/"))


def alternet18(
    num_classes: int = 100, in_channels: int = 3, *, msa: Sequence[int] = (0, 1, 1, 1), **options: Any
) -> AlterNet:
    """Build Alter-ResNet-18, CC/CA/CA/CA; arguments as in `AlterNet`.

    Example:
        >>> sum(p.numel() for p in alternet18().parameters())
        9499063
    """
    return AlterNet(PreActBlock, (2, 2, 2, 2), msa, num_classes, in_channels, **options)


def alternet34(
    num_classes: int = 100, in_channels: int = 3, *, msa: Sequence[int] = (0, 1, 3, 2), **options: Any
) -> AlterNet:
    """Build Alter-ResNet-34, CCC/CCCA/CACACA/CACA; arguments as in `AlterNet`.

    Example:
        >>> pattern(alternet34())
        'CCC/CCCA/CACACA/CACA'
    """
    return AlterNet(PreActBlock, (3, 4, 6, 4), msa, num_classes, in_channels, **options)


def alternet50(
    num_classes: int = 100,
    in_channels: int = 3,
    *,
    msa: Sequence[int] | None = None,
    stem: str = "cifar",
    **options: Any,
) -> AlterNet:
    """Build Alter-ResNet-50, 33.0 M parameters at 100 classes; arguments as in `AlterNet`.

    Without ``msa`` it is the paper's network for CIFAR, CCC/CCCA/CCCCCA/CACA, or with the large stem the one for
    ImageNet, CCC/CCCA/CACACA/CACA.

    Example:
        >>> sum(p.numel() for p in alternet50().parameters())
        33012840
    """
    if msa is None:
        msa = (0, 1, 3, 2) if stem == "imagenet" else (0, 1, 1, 2)
    return AlterNet(PreActBottleneck, (3, 4, 6, 4), msa, num_classes, in_channels, stem=stem, **options)


def alternet101(
    num_classes: int = 100, in_channels: int = 3, *, msa: Sequence[int] = (0, 1, 3, 2), **options: Any
) -> AlterNet:
    """Build Alter-ResNet-101: 17 convolution blocks, then CACACA in stage 3; arguments as in `AlterNet`.

    Example:
        >>> with torch.device("meta"):
        ...     pattern(alternet101()).split("/")[2]
        'CCCCCCCCCCCCCCCCCCACACA'
    """
    return AlterNet(PreActBottleneck, (3, 4, 23, 4), msa, num_classes, in_channels, **options)


def alternet152(
    num_classes: int = 100, in_channels: int = 3, *, msa: Sequence[int] = (0, 1, 3, 2), **options: Any
) -> AlterNet:
    """Build Alter-ResNet-152: 3, 8, 36 and 4 blocks; arguments as in `AlterNet`.

    Example:
        >>> with torch.device("meta"):
        ...     pattern(alternet152()).split("/")[1]
        'CCCCCCCA'
    """
    return AlterNet(PreActBottleneck, (3, 8, 36, 4), msa, num_classes, in_channels, **options)
