"""Cut plain networks, which are chains of convolutions without shortcuts, into their steps."""

from __future__ import annotations

from torch import nn

CHAINS = ("PlainCNN", "AllCNN", "TinyAlterNet")  # of the zoo, which hooks do not know
Steps = list[tuple[str, nn.Module]]


def plain_steps(model: nn.Module) -> tuple[Steps, nn.Sequential] | None:
    """List the steps of a plain network and what follows them, its classifier; None for any other model.

    A step is a convolution with its norm and activation, a block of attention, a pool, or spatial smoothing. Its name
    is that of its block where it is a whole one, else of its last module, which puts out the features after it.

    Args:
        model: A ``PlainCNN``, ``AllCNN`` or ``TinyAlterNet``; a VGG or AlexNet of the zoo or of torchvision.

    Example:
        >>> from utilities.zoo import create_model
        >>> [name for name, _ in plain_steps(create_model("alexnet_smooth"))[0]][:4]
        ['features.1', 'features.2.smooth', 'features.2.pool', 'features.4']
        >>> [name for name, _ in plain_steps(create_model("plain_cnn8_smooth"))[0]][:4]
        ['block1', 'block2.2', 'block2.smooth', 'block3']
    """
    children = dict(model.named_children())
    if type(model).__name__ in CHAINS:
        steps = [step for name, part in children.items() if name.startswith("block") for step in _of_block(name, part)]
        return steps, nn.Sequential(*(part for name, part in children.items() if not name.startswith("block")))
    if list(children) == ["features", "avgpool", "classifier"] and _is_chain(model.features):
        return _of_features(model.features), nn.Sequential(model.avgpool, nn.Flatten(), model.classifier)
    return None


def _of_block(name: str, block: nn.Module) -> Steps:
    if not hasattr(block, "smooth"):
        return [(name, block)]
    *parts, (_, smooth) = block.named_children()
    before = nn.Sequential(*(part for _, part in parts))
    return [(f"{name}.{parts[-1][0]}", before), (f"{name}.smooth", smooth)]


def _is_chain(features: nn.Module) -> bool:
    """Tell whether these are convolutions and norms, and layers without parameters."""
    plain = (nn.Conv2d, nn.BatchNorm2d)
    return isinstance(features, nn.Sequential) and all(
        isinstance(part, plain) or not list(part.parameters()) for part in features
    )


def _of_features(features: nn.Sequential) -> Steps:
    steps: Steps = []
    for name, part in features.named_children():
        if isinstance(part, nn.Sequential):  # smoothing, and the pool after it
            steps += [(f"features.{name}.{inner}", one) for inner, one in part.named_children()]
        elif not steps or isinstance(part, nn.Conv2d | nn.MaxPool2d):
            steps.append((f"features.{name}", nn.Sequential(part)))
        else:
            steps[-1] = f"features.{name}", steps[-1][1].append(part)
    return steps
