"""Do local heads compute what convolutions compute? CKA of heads, from local to global, with the layers of a CNN.

As in Raghu et al. 2021, https://arxiv.org/abs/2108.08810, Fig. 5: the heads of one block are sorted by their mean
attention distance, a window slides over them, and the outputs of a window's heads, concatenated, are compared with
layers of a CNN. The paper does not say how its subsets were made; a sliding window is the natural reading.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from utilities.analysis.attention.attention_distance import AttentionDistance
from utilities.analysis.attention.layers import AttentionLayer, attention_layers
from utilities.analysis.attention.stepwise import projection_of
from utilities.compare.two_models import compare
from utilities.hooks.calls.options import check_options
from utilities.hooks.recorder import Layers
from utilities.hooks.vit_parts import splits_qkv
from utilities.results.head_windows import HeadWindowSimilarity


def compare_head_windows(
    vit: nn.Module,
    cnn: nn.Module,
    loader: Iterable[Any],
    loader2: Iterable[Any] | None = None,
    *,
    distances: AttentionDistance,
    layers: Layers,
    block: int = 0,
    width: int | None = None,
    provenance: Mapping[str, Any] | None = None,
    **options: Any,
) -> HeadWindowSimilarity:
    """Compare windows of a ViT's heads, from the most local to the most global, with the layers of a CNN.

    Args:
        vit: See `HeadWindows`.
        cnn: Model of the columns.
        loader: Images for the ViT.
        loader2: The same images for the CNN, where it needs them prepared otherwise; default: ``loader``.
        distances: What `utilities.analysis.attention.attention_distance` found for the ViT.
        layers: Layers of the CNN, see `utilities.hooks.select_layers`; the paper takes those of its first two stages.
        block: Index of the attention layer; the paper takes the first, 0.
        width: Number of heads in a window; None is a quarter of them, at least one.
        provenance: Facts to keep with the result.
        **options: Options of `utilities.compare.compare`.

    Returns:
        The similarity of windows x layers, with the mean distance of each window.

    Raises:
        ValueError: If the distances are those of another model, there is no such block or width, or as in `compare`.
        TypeError: If `compare` has no such option.

    Example:
        >>> from utilities.analysis.attention.attention_distance import attention_distance
        >>> from utilities.resnet import resnet18
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> vit, images = vit_tiny_patch2_16(depth=1), [torch.rand(8, 3, 16, 16) for _ in range(2)]
        >>> found = attention_distance(vit, images, device="cpu")
        >>> result = compare_head_windows(vit, resnet18(), images, distances=found, layers="layer1.?", device="cpu")
        >>> result.matrix.shape, bool((np.diff(result.distance) >= 0).all())
        ((3, 2), True)
    """
    check_options(compare_head_windows, options, compare, but=("layers1", "layers2"))
    windows, layer = windows_of_heads(distances, block, width), _layer(vit, distances, block)
    wrapped = HeadWindows(vit, layer, windows)
    heads = [list(map(int, window)) for window in windows]
    facts = dict(provenance or {}) | {"block": layer.name, "block_index": block, "heads": heads}
    result = compare(wrapped, cnn, loader, loader2, layers1="windows.*", layers2=layers, provenance=facts, **options)
    named = {name: getattr(result, name) for name in (field.name for field in dataclasses.fields(result))}
    named["layers1"] = [f"heads {', '.join(map(str, window))}" for window in heads]
    means = [
        np.array([values[block, window].mean() for window in windows])
        for values in (distances.distance, distances.stderr)
    ]
    return HeadWindowSimilarity(**named, distance=means[0], distance_stderr=means[1])


def windows_of_heads(distances: AttentionDistance, block: int = 0, width: int | None = None) -> list[np.ndarray]:
    """Slide a window over the heads of a block, sorted from the most local to the most global.

    Args:
        distances: Mean attention distances.
        block: Index of the attention layer.
        width: Number of heads in a window; None is a quarter of them, at least one.

    Returns:
        The heads of each window, the most local first.

    Raises:
        ValueError: If there is no such block or width.

    Example:
        >>> one = np.array([[30.0, 10.0, 20.0]])
        >>> found = AttentionDistance(["a"], one, one, one, one, one[:, 0], one[:, 0])
        >>> [window.tolist() for window in windows_of_heads(found, width=2)]
        [[1, 2], [2, 0]]
    """
    if not 0 <= block < len(distances.names):
        raise ValueError(f"there is no block {block}; the model has 0 to {len(distances.names) - 1}")
    count = int(np.isfinite(distances.distance[block]).sum())
    width = max(1, count // 4) if width is None else width
    if not 1 <= width <= count:
        raise ValueError(f"width={width} should be 1 to {count}, the number of heads of {distances.names[block]}")
    order = distances.order[block, :count]
    return [order[start : start + width] for start in range(count - width + 1)]


class HeadWindows(nn.Module):
    """Run a ViT as far as one attention layer, and hand the outputs of windows of its heads through named modules.

    A head's output is its part of what goes into the attention's ``proj``. Tokens without a place in the image, such as
    the class token, are left out.

    Args:
        vit: timm's VisionTransformer and its kin, or PiT; see `utilities.analysis.attention.layers`. Attention within
            windows of the image, as in Swin, is refused.
        layer: Its attention layer.
        windows: Heads of each window.

    Raises:
        ValueError: If the layer has no ``proj`` that the heads' outputs go into.
    """

    def __init__(self, vit: nn.Module, layer: AttentionLayer, windows: Sequence[Sequence[int]]) -> None:
        super().__init__()
        if not isinstance(_projection(layer.module), nn.Linear):
            raise ValueError(
                f"{layer.name} is a {type(layer.module).__name__} without proj: heads cannot be told apart"
            )
        self.vit = vit
        self.layer, self.heads = layer, [list(map(int, window)) for window in windows]
        self.windows = nn.ModuleDict({f"heads_{'_'.join(map(str, heads))}": nn.Identity() for heads in self.heads})

    def forward(self, images: torch.Tensor) -> None:
        """Hand the outputs of all windows, (batch, tokens, channels), through their modules."""
        layer = self.layer
        outputs = self._before_proj(images, layer.module)
        if len(outputs) != len(images):
            raise ValueError(f"{layer.name} attends within windows of the image: its heads have no map of the image")
        prefix = layer.places(tuple(images.shape[-2:])).prefix
        outputs = outputs[:, prefix:].unflatten(-1, (_heads(layer.module), -1))
        for window, heads in zip(self.windows.values(), self.heads, strict=True):
            window(outputs[:, :, heads].flatten(2))

    def _before_proj(self, images: torch.Tensor, layer: nn.Module) -> torch.Tensor:
        kept = []

        def keep(module: nn.Module, args: Any) -> None:
            kept.append(args[0].clone())
            raise _Reached

        handle = _projection(layer).register_forward_pre_hook(keep)
        try:
            self.vit(images)
        except _Reached:
            pass
        finally:
            handle.remove()
        return kept[0]


def _projection(layer: nn.Module) -> nn.Module | None:
    """Return what the heads' outputs go into; None where it is not run as a module of its own."""
    return projection_of(layer) if splits_qkv(layer) else getattr(layer, "proj", None)


def _heads(layer: nn.Module) -> int:
    return projection_of(layer).in_features // layer.head_dim if splits_qkv(layer) else layer.num_heads


class _Reached(Exception):
    """The forward pass has come as far as is needed."""


def _layer(vit: nn.Module, distances: AttentionDistance, block: int) -> AttentionLayer:
    layers = attention_layers(vit, "heads that are compared")
    if [layer.name for layer in layers] != distances.names:
        raise ValueError(f"the distances are those of another model than this {type(vit).__name__}: its layers differ")
    return layers[block]
