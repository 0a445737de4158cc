"""The parts that add up to what a ResNet's classifier reads: the branches of its last stage.

Where a ReLU follows each sum, y = relu(z + f(z)), its mask m (1 where z + f(z) is above 0) is frozen per image. Then
y = m z + m f(z), a branch reaches the pool through the product of all masks from its own block on, and the pooled
vector is a sum over the stage's shortcut and its branches. A pre-activation network adds without masks; its final
batch norm is affine, and the ReLU after it has one mask.
"""

from __future__ import annotations

import torch
from torch import nn

from utilities.analysis.class_embedding.components import Components
from utilities.analysis.class_embedding.conv_space import ConvolutionalSpace
from utilities.hooks.residual_reading import reading
from utilities.hooks.residuals import ResidualBranch, find_residuals
from utilities.results.moments import precise
from utilities.zoo.preact_resnet import PreActResNet

STAGE = "layer4"
AFTER_SUM = ("act3", "act2", "relu3", "relu2", "relu")  # the last activation of a block, by library and depth


class ResNetComponents(Components):
    """Components of a ResNet: what enters its last stage by the shortcut, and each residual branch of that stage.

    Args:
        space: Space of the model.

    Raises:
        ValueError: If an activation after a sum is no ReLU, or a block has no residual branch that is known.

    Example:
        >>> from utilities.analysis.class_embedding.spaces import class_space
        >>> from utilities.resnet import resnet18
        >>> components = ResNetComponents(class_space(resnet18(num_classes=10).eval()))
        >>> components.names
        ['layer4.0.shortcut', 'layer4.0', 'layer4.1', 'fc.bias']
        >>> logits, vectors = components(torch.rand(2, 3, 8, 8))
        >>> bool(torch.allclose(components.head(vectors.sum(1).float()), logits, atol=1e-5))
        True
    """

    def __init__(self, space: ConvolutionalSpace) -> None:
        self.space, self.preactivated = space, isinstance(space.model, PreActResNet)
        self.branches = [one for one in find_residuals(space.model) if one.name.startswith(f"{STAGE}.")]
        self.block_names = [one.name for one in self.branches]
        if self.block_names != space.names:
            raise ValueError(
                f"the blocks {', '.join(space.names)} of {type(space.model).__name__} are not all residual ones: "
                f"branches are known of {', '.join(self.block_names) or 'none'}"
            )
        _check_activations(space, self.preactivated)
        count, bias = len(self.branches), ["bn.bias"] * self.preactivated + ["fc.bias"]
        self.names = [f"{self.block_names[0]}.shortcut", *self.block_names, *bias]
        self.kinds = ["shortcut", *(one.kind for one in self.branches), *["bias"] * len(bias)]
        self.blocks = [-1, *range(count), *[count] * len(bias)]

    @property
    def head(self) -> nn.Linear:
        """The classifier."""
        return self.space.model.fc

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the model."""
        parts: list[torch.Tensor] = []
        whole: list[torch.Tensor] = []

        def take(name: str, one: ResidualBranch, skip: torch.Tensor, branch: torch.Tensor) -> None:
            total = skip + branch
            parts[:] = [*(parts or [precise(skip)]), precise(branch)]
            if not self.preactivated:
                parts[:] = [part * (total > 0) for part in parts]
            whole[:] = [total]

        with reading(self.branches, take) as begin:
            begin()
            logits = self.space.logits(images)
        parts = self._final(parts, whole[0]) if self.preactivated else parts
        return logits, torch.stack([part.mean((2, 3)) for part in parts], 1)

    def _final(self, parts: list[torch.Tensor], whole: torch.Tensor) -> list[torch.Tensor]:
        """Apply the final norm of a pre-activation network, with the mask of the ReLU after it."""
        norm = self.space.model.bn
        mask = norm(whole) > 0
        one = precise(norm.running_var).add(norm.eps).rsqrt()
        gain = one if norm.weight is None else one * norm.weight.detach().to(one)
        shift = -precise(norm.running_mean) * gain
        shift = shift if norm.bias is None else shift + norm.bias.detach().to(shift)
        return [*(part * gain[:, None, None] * mask for part in parts), shift[:, None, None] * mask]


def _check_activations(space: ConvolutionalSpace, preactivated: bool) -> None:
    """Refuse activations whose effect on a sum is no mask."""
    kind = type(space.model).__name__
    if preactivated:
        after = {"relu": space.model.relu}
    else:
        after = {}
        for name, block in zip(space.names, space.blocks, strict=True):
            found = next((part for part in AFTER_SUM if isinstance(getattr(block, part, None), nn.Module)), None)
            after[f"{name}.{found}"] = None if found is None else getattr(block, found)
    for name, module in after.items():
        if not isinstance(module, nn.ReLU):
            raise ValueError(
                f"{name} of {kind} is a {type(module).__name__}: only a ReLU passes a share of a sum or nothing, which "
                "a frozen mask says exactly"
            )
