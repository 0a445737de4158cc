"""Which models of a command the option ``--layers NAME KIND ...`` names the blocks of."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from utilities.cli.opening import Named, open_model
from utilities.hooks.block_families import family_blocks


def with_named_layers(models: Sequence[Named]) -> set[Named]:
    """Choose the models whose blocks are not known; all, where those of all are known.

    Example:
        >>> [one.name for one in with_named_layers([Named("resnet18"), Named("torchvision/squeezenet1_1")])]
        ['torchvision/squeezenet1_1']
    """
    if len(models) < 2:
        return set(models)
    unknown = {one for one in models if not _are_known(open_model(Named(one.name), None)[0])}
    return unknown or set(models)


def _are_known(model: nn.Module) -> bool:
    try:
        family_blocks(model)
    except ValueError:
        return False
    return True
