"""Class-embedding space without attention: the positions of a ResNet's maps, read by its own classifier.

Vilas et al. 2023 (https://arxiv.org/abs/2310.18969) read the tokens of Vision Transformers. In a ResNet, each position
of a map is a token. Average pool and classifier are linear. The mean over positions of the logits of the last block's
tokens is therefore exactly the model's answer, as in a Vision Transformer that averages normed tokens. Except for the
bias, a class's logits over positions are its class activation map (Zhou et al. 2016, https://arxiv.org/abs/1512.04150).

Only block outputs are read. Where a ReLU follows the sum, what a block adds cannot be read by itself. Earlier stages
have fewer channels than the classifier takes, and need a learned map, see `ConvolutionalSpace.every_stage`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.models.resnet import ResNet as TimmResNet
from torch import nn
from torchvision.models.resnet import ResNet as TorchvisionResNet
from typing_extensions import Self

from utilities.analysis.class_embedding.space import ClassSpace, LensOptions, Tuned
from utilities.resnet import ResNet
from utilities.zoo.preact_resnet import PreActResNet

STAGES = ("layer1", "layer2", "layer3", "layer4")
_AVERAGES = ("avg", "fast", "fastavg")  # timm's names


class ConvolutionalSpace(ClassSpace):
    """Class-embedding space of a ResNet (this package, torchvision or timm), a pre-activation ResNet or an AlterNet.

    The blocks of a pre-activation network are read through its final norm and ReLU, which act on each position alone.
    ``options.norm`` switches both. It has no effect on the other ResNets, which have no final norm. ``options.scale``
    concerns branches and has no effect here.

    Args:
        model: A model that `is_resnet` accepts.
        options: How tokens are read.
        stages: Stages whose blocks are read, in order; the last must be ``layer4``.

    Raises:
        ValueError: If the model does not pool by the average, has no linear classifier, or a stage is unknown.

    Example:
        >>> from utilities.resnet import resnet18
        >>> space = ConvolutionalSpace(resnet18(num_classes=10), LensOptions())
        >>> maps = torch.rand(2, 512, 3, 4)
        >>> space.names, space.grid(maps), space.project(space.tokens(maps)).shape
        (['layer4.0', 'layer4.1'], (3, 4), torch.Size([2, 12, 10]))
    """

    parts = ("block",)
    prefix = 0
    class_token = False

    def __init__(self, model: nn.Module, options: LensOptions, stages: Sequence[str] = STAGES[-1:]) -> None:
        _check_resnet(model)
        _check_stages(stages)
        self.model, self.options = model, options
        named = _named_blocks(model, stages)
        self.names, self.blocks = [name for name, _ in named], [block for _, block in named]
        self.num_classes = model.fc.out_features

    @classmethod
    def every_stage(cls, model: nn.Module, options: LensOptions | None = None) -> Self:
        """Build the space with the blocks of all stages, to fit a learned lens and to read with it.

        Without ``options.tuned`` the tokens are available, but those whose width is not the classifier's cannot be
        read: that is an error.

        Args:
            model: A model that `is_resnet` accepts.
            options: How tokens are read; None is the default, without a learned map.

        Example:
            >>> from utilities.resnet import resnet18
            >>> ConvolutionalSpace.every_stage(resnet18()).names[:3]
            ['layer1.0', 'layer1.1', 'layer2.0']
        """
        return cls(model, options or LensOptions(), STAGES)

    def depth(self) -> list[float]:
        """Return the share of blocks that have run after each; blocks of stages that are not read count too."""
        every = [name for name, _ in _named_blocks(self.model, STAGES)]
        return [(every.index(name) + 1) / len(every) for name in self.names]

    def project(self, tokens: torch.Tensor, index: int | None = None, tuned: Tuned | None = None) -> torch.Tensor:
        """Read positions with the classifier, after the final norm and ReLU if the model has them."""
        tuned = tuned or self.options.tuned
        if index is not None and tuned is not None:
            if hasattr(tuned, "with_classifier") and not isinstance(self.model, PreActResNet):
                joined = tuned.with_classifier(index, tokens, self.model.fc, self.options.bias)
                return nn.functional.linear(tokens, *joined)
            tokens = tuned(index, tokens)
        head, width = self.model.fc, tokens.shape[-1]
        if width != head.in_features:
            raise ValueError(
                f"{'a block' if index is None else self.names[index]} has tokens of {width} channels, the classifier "
                f"takes {head.in_features}: fit a learned lens and pass it as tuned, or read layer4 alone"
            )
        return nn.functional.linear(self._normed(tokens), head.weight, head.bias if self.options.bias else None)

    def classify(self, tokens: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        """Average over all positions, or only over those kept, and classify."""
        tokens = _final(self.model, tokens)
        if keep is None:
            return self.model.fc(tokens.mean(1))
        weight = keep[..., None].to(tokens.dtype)
        return self.model.fc((tokens * weight).sum(1) / weight.sum(1))

    def tokens(self, output: torch.Tensor) -> torch.Tensor:
        """List the positions row by row: (batch, channels, rows, columns) -> (batch, rows * columns, channels)."""
        return output.flatten(2).transpose(1, 2)

    def grid(self, output: torch.Tensor, size: tuple[int, int] | None = None) -> tuple[int, int]:
        """Return rows and columns of the map."""
        rows, columns = output.shape[2:]
        return rows, columns

    def _normed(self, tokens: torch.Tensor) -> torch.Tensor:
        return _final(self.model, tokens) if self.options.norm else tokens


def is_resnet(model: nn.Module) -> bool:
    """Tell whether a model is a ResNet of this package (pre-activation and AlterNet included), torchvision or timm.

    Whether `ConvolutionalSpace` can read it also depends on its pool and classifier; the requirements are stated there.

    Example:
        >>> from utilities.lambda_resnet import lambda_resnet26
        >>> is_resnet(lambda_resnet26(r=3)), is_resnet(nn.Linear(1, 1))
        (True, False)
    """
    return isinstance(model, (ResNet, PreActResNet, TorchvisionResNet, TimmResNet))


def _named_blocks(model: nn.Module, stages: Sequence[str]) -> list[tuple[str, nn.Module]]:
    """List the blocks of some stages with their names."""
    return [(f"{stage}.{name}", block) for stage in stages for name, block in getattr(model, stage).named_children()]


def _final(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Apply what the network does to each position between its last block and its pool."""
    if not isinstance(model, PreActResNet):
        return tokens
    norm = model.bn  # uses its running statistics, whatever mode the model is in
    maps = nn.functional.batch_norm(
        tokens.transpose(1, 2), norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
    )
    return model.relu(maps).transpose(1, 2)


def _check_resnet(model: nn.Module) -> None:
    """Refuse a model whose answer is not one linear classifier on the mean over positions."""
    kind = type(model).__name__
    if not is_resnet(model):
        raise ValueError(f"{kind} is no ResNet of this package, torchvision or timm")
    if not isinstance(model.fc, nn.Linear):
        raise ValueError(f"{kind} has no linear classifier (its fc is {type(model.fc).__name__}); pass num_classes")
    if isinstance(model, PreActResNet) and not isinstance(model.bn, nn.BatchNorm2d):
        raise ValueError(f"{kind} ends in a {type(model.bn).__name__}; only batch norm acts on each position alone")
    pool = model.global_pool if isinstance(model, TimmResNet) else model.avgpool
    one = isinstance(pool, nn.AdaptiveAvgPool2d) and pool.output_size in (1, (1, 1))
    if not one and getattr(pool, "pool_type", None) not in _AVERAGES:
        raise ValueError(f"{kind} pools by {pool}: its logits are no mean over positions; only the average is read")


def _check_stages(stages: Sequence[str]) -> None:
    """Refuse stages that are unknown, out of order, or do not end where the classifier reads."""
    known = [stage for stage in STAGES if stage in stages]
    if list(stages) != known or known[-1:] != [STAGES[-1]]:
        raise ValueError(
            f"stages {tuple(stages)} should be some of {', '.join(STAGES)}, in this order, and end in layer4"
        )
