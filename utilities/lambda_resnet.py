"""Lambda ResNet-26/38/50 for small images (Bello 2021, https://arxiv.org/abs/2102.08602).

These are ResNets with bottleneck blocks in which a lambda layer replaces every 3x3 convolution. The stem stays a 3x3
convolution. Batch norm and ReLU follow the lambda layer as they follow the convolution it replaces, so each layer has
its counterpart in the plain ResNet. "26" has (2, 2, 2, 2) blocks, as in this study; other code bases use (1, 2, 4, 1)
under the same name.

A lambda layer is quadratic in its input. Slightly large values therefore grow from block to block, until single images
dominate an untrained network or overflow. The paper starts each block's last norm at zero. That makes the untrained
network a stack of identities, with nothing to compare. Here it starts at 0.2, which is not zero but small enough for
stable training.
"""

from __future__ import annotations

from torch import nn

from utilities.lambda_layer import LambdaLayer
from utilities.resnet import Bottleneck, ResNet


def _lambda_resnet(
    depths: tuple[int, ...],
    num_classes: int,
    in_channels: int,
    residual_gamma: float,
    **lambda_options: int,
) -> ResNet:
    """Build a bottleneck ResNet whose spatial layers are lambda layers."""

    def spatial(channels: int, stride: int) -> LambdaLayer:
        return LambdaLayer(channels, stride=stride, **lambda_options)

    model = ResNet(Bottleneck, depths, num_classes, in_channels, spatial=spatial)
    for module in model.modules():
        if isinstance(module, Bottleneck):
            nn.init.constant_(module.last_norm.weight, residual_gamma)
    return model


def lambda_resnet26(
    num_classes: int = 100,
    in_channels: int = 3,
    r: int = 23,
    *,
    dk: int = 16,
    du: int = 1,
    Nh: int = 4,
    residual_gamma: float = 0.2,
) -> ResNet:
    """Build Lambda ResNet-26, blocks (2, 2, 2, 2): 8,274,020 parameters at 100 classes.

    Args:
        num_classes: Number of logits.
        in_channels: Number of channels of the images.
        r: Odd size of the window in which positions interact; see `LambdaLayer`.
        dk: Number of channels of a query.
        du: Intra-depth of the lambda layers.
        Nh: Number of heads.
        residual_gamma: Initial weight of each block's last norm. The paper uses 0, other layers use 1.

    Example:
        >>> sum(p.numel() for p in lambda_resnet26().parameters())
        8274020
    """
    return _lambda_resnet((2, 2, 2, 2), num_classes, in_channels, residual_gamma, r=r, dk=dk, du=du, Nh=Nh)


def lambda_resnet38(
    num_classes: int = 100,
    in_channels: int = 3,
    r: int = 23,
    *,
    dk: int = 16,
    du: int = 1,
    Nh: int = 4,
    residual_gamma: float = 0.2,
) -> ResNet:
    """Build Lambda ResNet-38, blocks (2, 3, 5, 2): 10,148,516 parameters; arguments as in `lambda_resnet26`.

    Example:
        >>> [len(getattr(lambda_resnet38(), f"layer{i}")) for i in (1, 2, 3, 4)]
        [2, 3, 5, 2]
    """
    return _lambda_resnet((2, 3, 5, 2), num_classes, in_channels, residual_gamma, r=r, dk=dk, du=du, Nh=Nh)


def lambda_resnet50(
    num_classes: int = 100,
    in_channels: int = 3,
    r: int = 23,
    *,
    dk: int = 16,
    du: int = 1,
    Nh: int = 4,
    residual_gamma: float = 0.2,
) -> ResNet:
    """Build Lambda ResNet-50, blocks (3, 4, 6, 3): 13,144,068 parameters; arguments as in `lambda_resnet26`.

    Example:
        >>> type(lambda_resnet50(r=7).layer4[0].conv2).__name__
        'LambdaLayer'
    """
    return _lambda_resnet((3, 4, 6, 3), num_classes, in_channels, residual_gamma, r=r, dk=dk, du=du, Nh=Nh)
