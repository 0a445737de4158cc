"""Class-embedding space of any model with a stream of tokens whose parts are named.

A token x after any block is read as E norm(x) + e, as in timm's Vision Transformers (see
`utilities.analysis.class_embedding.space`). Only blocks are read; what attention and MLP add inside them is not known.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from utilities.analysis.class_embedding.space import ClassSpace, LensOptions, Tuned
from utilities.hooks.recorder import first_tensor, select_layers

POOLS = ("token", "avg", "avg_before_norm")


class NamedSpace(ClassSpace):
    """Class-embedding space of a model whose blocks, final norm and classifier are given by name.

    The first batch is used to check that the named norm and classifier turn the last block's tokens into the model's
    own logits. A model that fails the check is refused.

    Args:
        model: Returns logits (batch, classes), or a model output whose first tensor holds them.
        options: How tokens are read; None is the paper's way. ``scale`` concerns branches and has no effect.
        blocks: Name of the list of blocks, such as ``"encoder.layers"``, or names or globs of the blocks themselves.
            Each block returns tokens (batch, tokens, width), or a tuple whose first tensor holds them.
        classifier: Name of the linear classifier.
        norm: Name of the final norm; None if the model has none.
        prefix: Number of tokens before those of the image; the first of them is taken for a class token.
        pool: What is classified: ``"token"``, the first token; ``"avg"``, the mean over normed image tokens; or
            ``"avg_before_norm"``, the norm of their mean.
        grid: Rows and columns of image tokens; None derives a grid from the images' proportions.
        batch_first: Whether blocks return (batch, tokens, width) rather than (tokens, batch, width).

    Raises:
        ValueError: If a name or option is unknown.
        TypeError: If the classifier is not linear.

    Example:
        >>> from torchvision.models import VisionTransformer
        >>> model = VisionTransformer(16, 8, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=8, num_classes=5)
        >>> space = NamedSpace(model, blocks="encoder.layers", norm="encoder.ln", classifier="heads.head")
        >>> space.names, space.project(torch.zeros(1, 5, 8)).shape
        (['encoder.layers.encoder_layer_0', 'encoder.layers.encoder_layer_1'], torch.Size([1, 5, 5]))
    """

    parts = ("block",)

    def __init__(
        self,
        model: nn.Module,
        options: LensOptions | None = None,
        *,
        blocks: str | Sequence[str],
        classifier: str,
        norm: str | None = None,
        prefix: int = 1,
        pool: str = "token",
        grid: Sequence[int] | None = None,
        batch_first: bool = True,
    ) -> None:
        if pool not in POOLS:
            raise ValueError(f"pool {pool!r} is not known; choose from {', '.join(POOLS)}")
        if prefix < 0 or (pool == "token" and prefix == 0):
            raise ValueError(f"prefix={prefix} should be 0 or more, and 1 or more with pool='token'")
        self.model, self.options, self.prefix, self.pool = model, options or LensOptions(), prefix, pool
        self.class_token, self.batch_first = prefix > 0, batch_first
        self.own_grid = None if grid is None else tuple(grid)
        self.names = _block_names(model, blocks)
        self.blocks = [model.get_submodule(name) for name in self.names]
        self.norm, self.head = None if norm is None else _part(model, norm), _part(model, classifier)
        if not isinstance(self.head, nn.Linear):
            raise TypeError(f"classifier {classifier!r} is a {type(self.head).__name__}, not a linear layer")
        self._check_apart()
        self.num_classes = self.head.out_features

    def _check_apart(self) -> None:
        """Refuse blocks inside the norm or classifier: reading one would run it, and trigger another reading."""
        for what, part in (("norm", self.norm), ("classifier", self.head)):
            inside = [] if part is None else list(part.modules())
            for name, block in zip(self.names, self.blocks, strict=True):
                if any(block is module for module in inside):
                    raise ValueError(
                        f"block {name!r} is the {what} or a part of it, by which blocks are read; name the list of "
                        "blocks before it, such as 'encoder.layers'"
                    )

    def logits(self, images: torch.Tensor, **forward: Any) -> torch.Tensor:
        """Run the model, and extract the logits from its output."""
        return first_tensor(self.model(images, **forward))

    def project(self, tokens: torch.Tensor, index: int | None = None, tuned: Tuned | None = None) -> torch.Tensor:
        """Read tokens with the final norm and the classifier."""
        tokens, tuned = tokens.clone(), tuned or self.options.tuned
        if index is not None and tuned is not None:
            tokens = tuned(index, tokens)
        if self.options.norm:
            tokens = self._normed(tokens)
        if tokens.shape[-1] != self.head.in_features:
            raise ValueError(
                f"tokens of {'a block' if index is None else self.names[index]} are {tokens.shape[-1]} wide, the "
                f"classifier takes {self.head.in_features}; name blocks of its width"
            )
        return nn.functional.linear(tokens, self.head.weight, self.head.bias if self.options.bias else None)

    def classify(self, tokens: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        """Norm and pool, in the model's order, and classify; the average is over kept tokens only."""
        before = self.pool == "avg_before_norm"
        tokens = tokens.clone() if before else self._normed(tokens.clone())
        if self.pool == "token":
            return self.head(tokens[:, 0])
        weight = torch.ones_like(tokens[..., :1]) if keep is None else keep[..., None].to(tokens.dtype)
        weight = weight[:, self.prefix :]
        mean = (tokens[:, self.prefix :] * weight).sum(1) / weight.sum(1)
        return self.head(self._normed(mean) if before else mean)

    def tokens(self, output: Any) -> torch.Tensor:
        """Extract the tokens from a block's output."""
        found = first_tensor(output)
        if found is None or found.ndim != 3:
            shape = type(output).__name__ if found is None else tuple(found.shape)
            raise ValueError(f"a block of {type(self.model).__name__} gives {shape}, not tokens (batch, tokens, width)")
        return found if self.batch_first else found.transpose(0, 1)

    def grid(self, output: Any, size: tuple[int, int] | None = None) -> tuple[int, int]:
        """Return the grid that was named, or one with the images' proportions."""
        count = self.tokens(output).shape[1] - self.prefix
        height, width = size or (1, 1)
        rows = max(1, round((max(count, 1) * height / width) ** 0.5))
        grid = self.own_grid or (rows, count // rows)
        if grid[0] * grid[1] != count or count < 1:
            order = "(tokens, batch, width)" if self.batch_first else "(batch, tokens, width)"
            raise ValueError(
                f"{count} image tokens, after {self.prefix} others, are no grid of {grid[0]}x{grid[1]}; say prefix and "
                f"grid, (rows, columns), with the names, or batch_first={not self.batch_first} if blocks give {order}"
            )
        return grid

    def _normed(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens if self.norm is None else self.norm(tokens)


def check_names(names: Any) -> None:
    """Refuse names that are not a mapping, or whose keys are not those of `NamedSpace`.

    Raises:
        TypeError: If names are refused; the message lists the known keys.

    Example:
        >>> check_names({"blocks": "encoder.layers", "head": "heads.head"})
        Traceback (most recent call last):
        TypeError: names have no key 'head'; needed are blocks and classifier, and known norm, prefix, pool, grid, ...
    """
    known = [
        one for one in inspect.signature(NamedSpace).parameters.values() if one.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    needed = [one.name for one in known if one.default is inspect.Parameter.empty]
    optional = [one.name for one in known if one.name not in needed]
    keys = f"needed are {' and '.join(needed)}, and known {', '.join(optional)}"
    if not isinstance(names, Mapping):
        raise TypeError(f"names should be a dictionary of the model's parts, not a {type(names).__name__}; {keys}")
    unknown = [key for key in names if key not in {*needed, *optional}]
    missing = [key for key in needed if key not in names]
    if unknown:
        raise TypeError(f"names have no key {unknown[0]!r}; {keys}")
    if missing:
        raise TypeError(f"names lack {' and '.join(map(repr, missing))}; {keys}")


def _part(model: nn.Module, name: str) -> nn.Module:
    """Find the one module that a name selects."""
    found = select_layers(model, name)
    if len(found) > 1:
        raise ValueError(f"{name!r} names {len(found)} layers, {found[0]} first; name the one that is meant")
    return model.get_submodule(found[0])


def _block_names(model: nn.Module, blocks: str | Sequence[str]) -> list[str]:
    """Name the blocks: the members of a list of blocks, or the modules that names and globs select."""
    chosen = select_layers(model, blocks)
    first = model.get_submodule(chosen[0])
    if len(chosen) == 1 and isinstance(first, (nn.ModuleList, nn.Sequential)):
        return [f"{chosen[0]}.{name}" for name, _ in first.named_children()]
    return chosen
