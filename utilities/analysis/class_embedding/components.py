"""The parts that add up to what a classifier reads: in a Vision Transformer heads, MLPs, embedding and biases.

A pre-norm Vision Transformer only ever adds to its residual stream. The last tokens are the embedding, plus what each
head, each projection's bias and each MLP adds. With the scale of the final norm frozen, norm, pool and classifier are
linear, so each part has its own share in every logit (Elhage et al. 2021,
https://transformer-circuits.pub/2021/framework). A head h with coefficients k_h (its slice of what the projection W
takes) adds W_h k_h, times LayerScale.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from timm.models.vision_transformer import ResPostBlock
from torch import nn

from utilities.analysis.class_embedding.block_tokens import BlockTokens, read_blocks
from utilities.analysis.class_embedding.frozen_norm import FrozenNorm, check_norm, freeze
from utilities.analysis.class_embedding.space import ClassSpace
from utilities.analysis.class_embedding.transformer_space import BlockParts, TransformerSpace
from utilities.results.moments import precise

KINDS = ("embedding", "head", "mlp", "shortcut", "conv", "msa", "bias")


class Components(ABC):
    """The components of one model.

    Attributes:
        space: Space of the model.
        names: Name of each component, in the order in which they are added.
        kinds: Kind of each, one of `KINDS`.
        blocks: Index of its block, -1 before the first, and the number of blocks for what follows the last.
        block_names: Names of the blocks.
    """

    space: ClassSpace
    names: list[str]
    kinds: list[str]
    blocks: list[int]
    block_names: list[str]

    @property
    @abstractmethod
    def head(self) -> nn.Linear:
        """The classifier."""

    @abstractmethod
    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the model.

        Args:
            images: Input images, (batch, channels, height, width).

        Returns:
            The model's logits, (batch, classes), and what each component but the classifier's bias puts into the
            vector that the classifier takes, float64 (batch, components - 1, width).
        """


class TransformerComponents(Components):
    """Components of a Vision Transformer with pre-norm blocks: timm's, torchvision's or Hugging Face's.

    The fc2 bias of an MLP counts as part of the MLP, and the bias of values as part of the head.

    Args:
        space: Space of the model.

    Raises:
        ValueError: If the residual stream of the model is not a plain sum, or two tokens give the answer.

    Example:
        >>> from utilities.analysis.class_embedding.spaces import transformer_space
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> components = TransformerComponents(transformer_space(vit_tiny_patch2_16(num_classes=10, depth=1).eval()))
        >>> logits, vectors = components(torch.rand(2, 3, 16, 16))
        >>> components.names
        ['embedding', 'blocks.0.attn.head.0', 'blocks.0.attn.head.1', 'blocks.0.attn.head.2', 'blocks.0.attn.proj.bias',
         'blocks.0.mlp', 'norm.bias', 'head.bias']
        >>> bool(torch.allclose(components.head(vectors.sum(1).float()), logits, atol=1e-5))
        True
    """

    def __init__(self, space: TransformerSpace) -> None:
        _check_stream(space)
        self.space, self.block_names = space, list(space.names)
        self.names, self.kinds, self.blocks = ["embedding"], ["embedding"], [-1]
        names = {module: name for name, module in space.model.named_modules()}
        for index, block in enumerate(space.block_parts):
            heads = [f"{names[block.attention]}.head.{h}" for h in range(_heads(block))]
            self.names += [*heads, f"{names[block.projection]}.bias", names[block.mlp]]
            self.kinds += ["head"] * len(heads) + ["bias", "mlp"]
            self.blocks += [index] * (len(heads) + 2)
        ends = [f"{names[module]}.bias" for module in (*space.norms[:1], space.head)]
        self.names += ends
        self.kinds, self.blocks = self.kinds + len(ends) * ["bias"], self.blocks + len(ends) * [len(space.blocks)]

    @property
    def head(self) -> nn.Linear:
        """The classifier."""
        return self.space.head

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the model, twice where each token has a frozen scale of its own before tokens are averaged."""
        weights = self._scales(images) if self._normed_before_pool else None
        parts: list[torch.Tensor] = []
        last: list[torch.Tensor] = []

        def visit(tokens: BlockTokens) -> None:
            if tokens.index == 0:
                parts.append(self._pool(tokens.before, weights)[:, None])
            parts.append(self._of_block(tokens, weights))
            if tokens.index == len(self.space.blocks) - 1:
                last.append(self._pool(tokens.after, weights))

        logits = read_blocks(self.space, images, visit)
        return logits, self._read(torch.cat(parts, 1), last[0], scaled=weights is not None).flatten(2)

    @property
    def _norms(self) -> tuple[nn.Module, nn.Module]:
        """Final norms before and after the pool."""
        return (*self.space.norms, nn.Identity(), nn.Identity())[:2]

    @property
    def _normed_before_pool(self) -> bool:
        return self.space.pool != "token" and not isinstance(self._norms[0], nn.Identity)

    def _scales(self, images: torch.Tensor) -> torch.Tensor:
        """Find the final norm's scale of each token, (batch, tokens, 1)."""
        found: list[torch.Tensor] = []

        def visit(tokens: BlockTokens) -> None:
            if tokens.index == len(self.space.blocks) - 1:
                found.append(freeze(self._norms[0], tokens.after).scale)

        read_blocks(self.space, images, visit)
        return found[0]

    def _pool(self, tokens: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        """Take the class token, the average, or both: (batch, tokens, n) -> (batch, 1 or 2, n), weighted if asked."""
        pool, first = self.space.pool, self.space.first_pooled
        tokens = precise(tokens[:, :1] if pool == "token" else tokens)
        tokens = tokens if weights is None else tokens * weights
        pooled = [] if pool == "avg" else [tokens[:, 0]]
        return torch.stack(pooled if pool == "token" else [*pooled, tokens[:, first:].mean(1)], 1)

    def _of_block(self, tokens: BlockTokens, weights: torch.Tensor | None) -> torch.Tensor:
        """Compute what heads, the projection's bias and the MLP of a block add, (batch, heads + 2, pooled, width)."""
        block = self.space.block_parts[tokens.index]
        keys = self._pool(tokens.attn_keys, weights).unflatten(2, (_heads(block), -1))
        proj, gain = block.projection, next(block.attention_scale.parameters(), None)
        matrix = proj.weight.detach().to(keys).unflatten(1, keys.shape[2:])
        heads = torch.einsum("bphe,dhe->bhpd", keys, matrix)
        bias = heads.new_zeros(heads.shape[3]) if proj.bias is None else proj.bias.detach().to(heads)
        bias = bias * self._pool(torch.ones_like(tokens.attn[..., :1]), weights)
        attn = torch.cat([heads, bias[:, None]], 1)
        attn = attn if gain is None else attn * gain.detach().to(attn)
        return torch.cat([attn, self._pool(tokens.mlp, weights)[:, None]], 1)

    def _read(self, parts: torch.Tensor, last: torch.Tensor, scaled: bool) -> torch.Tensor:
        """Apply the frozen norms to each part, (batch, parts, pooled, width), and add their bias as one of its own."""
        before, after = self._norms
        final = freeze(before, last)
        one = torch.ones_like(final.scale)  # each token has had its own scale already
        final = FrozenNorm(one, final.weight, final.bias, final.centred) if scaled else final
        pooled = freeze(after, final.linear(last) + final.bias)
        parts = _each(pooled, _each(final, parts))
        if not self.space.norms:
            return parts
        bias = pooled.linear(final.bias.expand_as(last)) + pooled.bias
        return torch.cat([parts, bias[:, None]], 1)


def _heads(block: BlockParts) -> int:
    return block.projection.in_features // block.attention.head_dim


def _each(norm: FrozenNorm, parts: torch.Tensor) -> torch.Tensor:
    return norm.linear(parts, norm.scale[:, None])


def _check_stream(space: TransformerSpace) -> None:
    """Refuse a transformer whose logits are no sum over heads and MLPs with the scale of the final norm frozen."""
    model, kind = space.model, type(getattr(space.model, "source", space.model)).__name__
    if space.head_dist is not None:
        raise ValueError(f"{kind} is distilled: two classifiers read two tokens, and no single logit is a sum of parts")
    for name, block in zip(space.names, space.blocks, strict=True):
        if isinstance(block, ResPostBlock):
            raise ValueError(
                f"{name} of {kind} has its norms after attention and MLP: the norm's own scale stands between the "
                "heads and the stream, and the stream is no plain sum over heads; only pre-norm blocks are read"
            )
    for norm in space.norms:
        check_norm(norm)
    if getattr(model, "attn_pool", None) is not None:
        raise ValueError(f"{kind} pools by attention, which is not linear in the tokens; 'token' and 'avg' are read")
