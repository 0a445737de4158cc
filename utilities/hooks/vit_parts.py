"""Find the parts of Vision Transformers other than timm's: those of Hugging Face, and torchvision's.

A model is told by the names of its parts, as transformers 5 and torchvision give them; no library is imported for it.
What is told is checked where it is used: blocks have to compose to the model, residual branches to add up, and the
classifier on the last block's tokens to give the model's logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torchvision.models import VisionTransformer as TorchvisionViT

from utilities.hooks.calls.weights import check_module


@dataclass(frozen=True)
class ViTBlock:
    """One block, x + attention, then x + MLP, with a norm before each.

    Attributes:
        name: Its name in the model.
        module: The block.
        norm1: Norm before attention.
        attention: What attends.
        projection: Linear layer whose columns are attention's memories, ``weight`` (width, memories).
        attention_added: Module that puts out what attention adds.
        norm2: Norm before the MLP.
        mlp: The MLP.
        hidden: Its first linear layer, or None where there is no single one.
        memories: Its last linear layer.
        mlp_added: Module that puts out what the MLP adds.
    """

    name: str
    module: nn.Module
    norm1: nn.Module
    attention: nn.Module
    projection: nn.Linear
    attention_added: nn.Module
    norm2: nn.Module
    mlp: nn.Module
    hidden: nn.Linear | None
    memories: nn.Linear
    mlp_added: nn.Module

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        """Return what attention adds to the tokens (batch, tokens, width)."""
        x = self.norm1(x)
        if isinstance(self.attention, nn.MultiheadAttention):
            return self.attention_added(self.attention(x, x, x, need_weights=False)[0])
        x = self.attention(hidden_states=x, attention_mask=None)[0]
        return x if self.attention_added is self.projection else self.attention_added(x)

    def mix(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the MLP adds to the tokens."""
        x = self.mlp(self.norm2(x))
        return x if self.mlp_added is self.mlp else self.mlp_added(x)


@dataclass(frozen=True)
class ViTParts:
    """The parts of a model.

    Attributes:
        blocks: Its blocks, in order.
        patches: The convolution that embeds patches.
        before: Module whose output enters the first block.
        embed: Function from images to the tokens that enter the first block.
        final: Final norm as the model has it.
        norm: Final norm of the tokens, or None where the classifier or the embedding is made without one.
        heads: Classifiers of the first tokens, one or, of a distilled model, two; none without a classifier.
        pool: What is classified: ``"token"``, ``"avg"``, the mean over image tokens, ``"token and avg"``, both side by
            side, or None for something else.
        finish: Function from the last block's tokens to what the model gives, or None where it is not known.
        prefix: Number of tokens before those of the image.
        class_token: Whether the first of these is a class token.
        image_size: Height and width that the model was made for.
        any_size: Whether it takes others.
    """

    blocks: list[ViTBlock]
    patches: nn.Conv2d
    before: nn.Module
    embed: Callable[[torch.Tensor], torch.Tensor]
    final: nn.Module | None
    norm: nn.Module | None
    heads: tuple[nn.Linear, ...]
    pool: str | None
    finish: Callable[[torch.Tensor], torch.Tensor] | None
    prefix: int
    class_token: bool
    image_size: tuple[int, int]
    any_size: bool

    @property
    def step(self) -> tuple[int, int]:
        """Pixels from a patch to the next."""
        return tuple(self.patches.stride)

    def grid(self, size: tuple[int, int] | None = None) -> tuple[int, int]:
        """Return rows and columns of the patches, for images of a height and width."""
        size = size if size is not None and self.any_size else self.image_size
        return size[0] // self.step[0], size[1] // self.step[1]


def vit_parts(model: nn.Module) -> ViTParts | None:
    """Find the parts of torchvision's VisionTransformer, or of a ViT, DeiT, DINOv2, CLIP or SigLIP of Hugging Face.

    Args:
        model: Any module.

    Returns:
        The parts, or None for any other model.

    Example:
        >>> model = TorchvisionViT(16, 8, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=5)
        >>> parts = vit_parts(model)
        >>> [block.name for block in parts.blocks], parts.grid(), vit_parts(nn.Linear(1, 1))
        (['encoder.layers.encoder_layer_0', 'encoder.layers.encoder_layer_1'], (2, 2), None)
    """
    check_module(model)
    if isinstance(model, TorchvisionViT):
        return _torchvision(model)
    roots = [(name, module) for name, module in model.named_modules() if _listed(module) is not None]
    if len(roots) != 1:
        return None
    name, root = roots[0]
    listed, layers = _listed(root)
    first = f"{name}." if name else ""
    blocks = [hf_block(f"{first}{listed}.{i}", layer) for i, layer in enumerate(layers)]
    return None if None in blocks or not blocks else _hugging_face(model, root, blocks)


def _listed(module: nn.Module) -> tuple[str, nn.ModuleList] | None:
    """Find the list of blocks beside a module's embeddings of patches."""
    if _patches(getattr(module, "embeddings", None)) is None:
        return None
    encoder = getattr(module, "encoder", None)
    places = {"layers": module, "encoder.layer": encoder, "encoder.layers": encoder}
    found = ((name, getattr(place, name.rpartition(".")[2], None)) for name, place in places.items())
    return next(((name, one) for name, one in found if isinstance(one, nn.ModuleList)), None)


def _patches(embeddings: nn.Module | None) -> nn.Conv2d | None:
    own = getattr(embeddings, "patch_embedding", None)
    own = own if own is not None else getattr(getattr(embeddings, "patch_embeddings", None), "projection", None)
    return own if isinstance(own, nn.Conv2d) else None


def _part(module: nn.Module, *names: str) -> nn.Module | None:
    return next((part for name in names if isinstance(part := getattr(module, name, None), nn.Module)), None)


def splits_qkv(module: nn.Module) -> bool:
    """Tell whether an attention layer has linear layers for queries, keys, values and output, as transformers has it.

    Example:
        >>> splits_qkv(nn.MultiheadAttention(8, 2))
        False
    """
    own = [_part(module, name) for name in ("q_proj", "k_proj", "v_proj")] + [_part(module, "o_proj", "out_proj")]
    return all(isinstance(part, nn.Linear) for part in own) and hasattr(module, "head_dim")


def hf_block(name: str, m: nn.Module) -> ViTBlock | None:
    """Find the parts of a block of Hugging Face's ViT, DeiT, DINOv2, CLIP or SigLIP; None of any other module.

    Example:
        >>> hf_block("fc", nn.Linear(1, 1)) is None
        True
    """
    norm1 = _part(m, "layernorm_before", "norm1", "layer_norm1")
    norm2 = _part(m, "layernorm_after", "norm2", "layer_norm2")
    attention, mlp = _part(m, "attention", "self_attn"), _part(m, "mlp")
    if None in (norm1, norm2, attention, mlp) or not splits_qkv(attention):
        return None
    last = _part(mlp, "fc2", "down_proj")
    if not isinstance(last, nn.Linear):
        return None
    out = _part(attention, "o_proj", "out_proj")
    scales = _part(m, "layer_scale1") or out, _part(m, "layer_scale2") or mlp
    return ViTBlock(name, m, norm1, attention, out, scales[0], norm2, mlp, _part(mlp, "fc1"), last, scales[1])


def _hugging_face(model: nn.Module, root: nn.Module, blocks: list[ViTBlock]) -> ViTParts:
    embeddings, pre = root.embeddings, _part(root, "pre_layrnorm")
    final = _part(root, "layernorm", "post_layernorm")
    heads = [_part(model, name) for name in ("classifier", "cls_classifier", "distillation_classifier")]
    heads = tuple(head for head in heads if isinstance(head, nn.Linear))
    prefix = sum(
        parameter.shape[-2] if parameter.ndim > 1 else 1
        for name in ("cls_token", "distillation_token", "register_tokens", "class_embedding")
        if isinstance(parameter := getattr(embeddings, name, None), nn.Parameter)
    )
    norm, pool, finish = _readout(model, root, final, heads, prefix)
    size = getattr(embeddings, "image_size", None) or embeddings.patch_embeddings.image_size
    return ViTParts(
        blocks, _patches(embeddings), pre or embeddings,
        embeddings if pre is None else lambda images: pre(embeddings(images)),
        final, norm, heads, pool, finish, prefix, prefix > 0, (size, size) if isinstance(size, int) else tuple(size),
        any_size=_part(blocks[0].module, "layer_scale1") is not None,  # DINOv2 resamples its position embeddings
    )  # fmt: skip


def _readout(
    model: nn.Module, root: nn.Module, norm: nn.Module | None, heads: tuple[nn.Linear, ...], prefix: int
) -> tuple[nn.Module | None, str | None, Callable[[torch.Tensor], torch.Tensor] | None]:
    """Tell how the last block's tokens become what the model gives: the norm, the pooling and the whole."""
    width = norm.normalized_shape[0] if norm is not None else 0
    if not heads:
        pooler = _part(root, "head", "pooler")
        if pooler is not None:
            return norm, None, lambda x: pooler(norm(x))
        return norm, None, (lambda x: norm(x[:, 0])) if prefix else None
    if heads[0].in_features == 2 * width:  # DINOv2: the class token beside the mean over patches
        both = "token and avg"
        return norm, both, lambda x: heads[0](torch.cat([norm(x)[:, 0], norm(x)[:, prefix:].mean(1)], 1))
    if _part(root, "pre_layrnorm") is not None:  # CLIP's classifier: the mean over patches, without the final norm
        return None, "avg", lambda x: heads[0](x[:, prefix:].mean(1))
    if not prefix:
        return norm, "avg", lambda x: heads[0](norm(x).mean(1))
    return norm, "token", lambda x: sum(head(norm(x)[:, i]) for i, head in enumerate(heads)) / len(heads)


def _torchvision(model: TorchvisionViT) -> ViTParts | None:
    blocks, encoder = [], model.encoder
    for name, m in encoder.layers.named_children():
        linear = [part for part in m.mlp if isinstance(part, nn.Linear)]
        attention = m.self_attention
        blocks.append(
            ViTBlock(f"encoder.layers.{name}", m, m.ln_1, attention, attention.out_proj, m.dropout, m.ln_2, m.mlp,
                     linear[0], linear[-1], m.mlp)
        )  # fmt: skip

    def embed(images: torch.Tensor) -> torch.Tensor:
        x = model._process_input(images)
        x = torch.cat([model.class_token.expand(len(x), -1, -1), x], 1)
        return encoder.dropout(x + encoder.pos_embedding)

    patches = model.conv_proj if isinstance(model.conv_proj, nn.Conv2d) else model.conv_proj[-1]
    head = getattr(model.heads, "head", None)
    plain = isinstance(head, nn.Linear) and len(model.heads) == 1
    return ViTParts(
        blocks, patches, encoder.dropout, embed, encoder.ln, encoder.ln,
        (head,) if plain else (), "token" if plain else None, lambda x: model.heads(encoder.ln(x)[:, 0]), 1, True,
        (model.image_size, model.image_size), any_size=False,
    )  # fmt: skip
