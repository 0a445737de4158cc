"""Smooth the feature maps of CNNs at the end of their stages.

Park and Kim 2022, *Blurs Behave Like Ensembles*, https://arxiv.org/abs/2105.12639. A blur averages neighbouring
positions, as attention does and as an ensemble averages its members. What it averages is first bounded and rectified,
so that it can be read as a probability.

The authors' blur pads with zeros: its maps grow by one pixel, and their borders darken. Here maps keep their size and
constant maps their value.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from utilities.hooks.calls.options import check_number
from utilities.hooks.calls.weights import check_module
from utilities.resnet import ResNet
from utilities.zoo.cifar import PlainNetwork
from utilities.zoo.plain_cnn import AllCNN, PlainCNN
from utilities.zoo.preact_resnet import PreActResNet

SUFFIX = "_smooth"  # of the names of models with smoothing
TEMPERATURE = 10.0
PADDINGS = ("reflect", "circular")
STAGES = ("layer1", "layer2", "layer3", "layer4")


def box_blur(x: torch.Tensor, padding: str = "reflect") -> torch.Tensor:
    r"""Average each position with its neighbours to the right, below, and below to the right: a 2 x 2 box of stride 1.

    At the frequency :math:`(\omega_y, \omega_x)` amplitudes are multiplied by
    :math:`\cos(\omega_y / 2) \cos(\omega_x / 2)`, which is 0 at the highest frequency of either axis. Maps move by half
    a pixel.

    Args:
        x: Maps, (..., height, width).
        padding: What lies beyond the last row and column. ``"reflect"``: the row and column before them, so that the
            highest frequency vanishes there too. ``"circular"``: the first ones, so that the blur commutes with every
            circular shift. With either, constant maps stay as they are. A side of one pixel is left alone.

    Returns:
        Maps of the same shape.

    Example:
        >>> box_blur(torch.tensor([[4.0, 0.0, 4.0, 0.0]])), box_blur(torch.tensor([[4.0, 0.0, 0.0]]))
        (tensor([[2., 2., 2., 2.]]), tensor([[2., 0., 0.]]))
    """
    last = slice(-2, None) if padding == "reflect" else slice(None)  # the first of these is what lies beyond
    x = (x + torch.cat([x[..., 1:], x[..., last][..., :1]], -1)) / 2
    return (x + torch.cat([x[..., 1:, :], x[..., last, :][..., :1, :]], -2)) / 2


class SpatialSmoothing(nn.Module):
    r"""Bound maps, rectify them, and blur them: :math:`\mathrm{Blur}(\mathrm{ReLU}(t \tanh(x / t)))`.

    There is nothing to learn, so a network has the same state dictionary with it and without.

    Args:
        temperature: Bound t of the maps; the paper's is 10.
        padding: See `box_blur`.

    Raises:
        ValueError: If the bound is not above 0, or the padding is unknown.

    Example:
        >>> SpatialSmoothing()(torch.tensor([[[[-1.0, 1.0], [1.0, 1.0]]]]))
        tensor([[[[0.7475, 0.7475],
                  [0.7475, 0.7475]]]])
    """

    def __init__(self, temperature: float = TEMPERATURE, padding: str = "reflect") -> None:
        super().__init__()
        check_number("temperature", temperature, above=0, below=None, hint=f"; the paper's is {TEMPERATURE:g}")
        if padding not in PADDINGS:
            raise ValueError(f"padding={padding!r} is not known: choose {' or '.join(map(repr, PADDINGS))}")
        self.temperature, self.padding = temperature, padding

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, channels, H, W) to the same shape."""
        bounded = self.temperature * torch.tanh(x / self.temperature)
        return box_blur(torch.relu(bounded), self.padding)

    def extra_repr(self) -> str:
        """Name the options."""
        return f"temperature={self.temperature:g}, padding={self.padding!r}"


def with_smoothing(model: nn.Module, temperature: float = TEMPERATURE, padding: str = "reflect") -> nn.Module:
    """Copy a CNN, adding spatial smoothing at the end of its stages.

    - **ResNets**, of this package, timm or torchvision: after each stage, as its last layer ``smooth``. Before the
      classifier of a pre-activation ResNet, AlterNet included, are a norm and an activation; it has none after the last
      stage. Both are as in the paper.
    - **VGG and AlexNet** (of `utilities.zoo.cifar`): before each max-pool.
    - **PlainCNN and AllCNN**: before each convolution of stride 2.

    Parameter names do not change, so state dictionaries fit both networks. Train the copy: a network that was trained
    without smoothing has not learnt to use it.

    Args:
        model: The network, which is left as it is.
        temperature: See `SpatialSmoothing`.
        padding: See `box_blur`.

    Raises:
        ValueError: If it is another kind of network, or smooth already.

    Example:
        >>> from utilities.resnet import resnet18
        >>> one = resnet18(10)
        >>> two = with_smoothing(one)
        >>> two.load_state_dict(one.state_dict()), two.layer1.smooth
        (<All keys matched successfully>, SpatialSmoothing(temperature=10, padding='reflect'))
    """
    if smoothing_layers(model):
        raise ValueError(f"this {type(model).__name__} is smooth already: {', '.join(smoothing_layers(model))}")
    model = copy.deepcopy(model)

    def layer() -> SpatialSmoothing:
        return SpatialSmoothing(temperature, padding)

    if isinstance(model, PlainNetwork):
        pools = [name for name, part in model.features.named_children() if isinstance(part, nn.MaxPool2d)]
        for name in pools:
            parts = OrderedDict(smooth=layer(), pool=model.features.get_submodule(name))
            setattr(model.features, name, nn.Sequential(parts))
    elif isinstance(model, PlainCNN | AllCNN):
        blocks = [part for name, part in model.named_children() if name.startswith("block")]
        for block, following in pairwise(blocks):
            if following[0].stride != (1, 1):
                block.add_module("smooth", layer())
    elif isinstance(model, ResNet) or all(isinstance(getattr(model, one, None), nn.Sequential) for one in STAGES):
        for name in STAGES[: 3 if isinstance(model, PreActResNet) else 4]:
            getattr(model, name).add_module("smooth", layer())
    else:
        raise ValueError(
            f"the stages of a {type(model).__name__} are not known; give a ResNet, VGG, AlexNet or PlainCNN, or put "
            "utilities.zoo.smoothing.SpatialSmoothing into your own network"
        )
    return model


def smoothing_layers(model: nn.Module) -> list[str]:
    """Name the smoothing layers of a model.

    Example:
        >>> from utilities.zoo.cifar import alexnet
        >>> smoothing_layers(with_smoothing(alexnet()))
        ['features.2.smooth', 'features.5.smooth']
    """
    check_module(model)
    return [name for name, part in model.named_modules() if isinstance(part, SpatialSmoothing)]


def build_smooth(
    build: Callable[..., nn.Module],
    num_classes: int = 100,
    in_channels: int = 3,
    *,
    temperature: float = TEMPERATURE,
    padding: str = "reflect",
    **options: Any,
) -> nn.Module:
    """Build a network with spatial smoothing; its initial weights are those of its twin of the same seed.

    Args:
        build: Builder of the network without smoothing.
        num_classes: Number of logits.
        in_channels: Channels of the images.
        temperature: See `SpatialSmoothing`.
        padding: See `box_blur`.
        **options: Options of the builder.

    Example:
        >>> from utilities.resnet import resnet18
        >>> build_smooth(resnet18, 10, temperature=5.0).layer4.smooth
        SpatialSmoothing(temperature=5, padding='reflect')
    """
    channels = {} if in_channels == 3 else {"in_channels": in_channels}  # which not every builder takes
    return with_smoothing(build(num_classes, **channels, **options), temperature, padding)
