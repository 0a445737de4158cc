"""The same small Vision Transformer, with random weights, of timm and of another library."""

from functools import partial

import timm.layers
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torchvision.models import VisionTransformer as TorchvisionViT

SIZE, PATCH, WIDTH, HEADS, DEPTH, HIDDEN, CLASSES = 16, 4, 24, 3, 2, 48, 7
SMALL = {"img_size": SIZE, "patch_size": PATCH, "embed_dim": WIDTH, "num_heads": HEADS, "depth": DEPTH, "mlp_ratio": 2}
CONFIG = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "image_size": SIZE,
          "patch_size": PATCH, "layer_norm_eps": 1e-6, "hidden_act": "gelu"}  # fmt: skip


def images(count=8, seed=0):
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def labels(count=8):
    return torch.arange(count) % CLASSES


def random_timm(kind=VisionTransformer, **options):
    """A model whose every parameter is random: zeros and ones would hide a part that is left out."""
    torch.manual_seed(0)
    model = kind(**{"num_classes": CLASSES, **SMALL, **options}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.3 + (parameter.ndim == 1) * 0.5)
    return model


def _block(block, names, first):
    """The weights of one of timm's blocks under the names of transformers."""
    norm1, attention, out, norm2 = names
    found = dict(zip((f"{attention}.{x}_proj" for x in "qkv"), _split(block.attn.qkv), strict=True))
    found |= {f"{attention}.{out}": _of(block.attn.proj), norm1: _of(block.norm1), norm2: _of(block.norm2)}
    found |= {"mlp.fc1": _of(block.mlp.fc1), "mlp.fc2": _of(block.mlp.fc2)}
    return {f"{first}.{name}": value for name, value in found.items()}


def _of(module):
    return {"weight": module.weight, "bias": module.bias}


def _split(qkv):
    return [{"weight": w, "bias": b} for w, b in zip(qkv.weight.chunk(3), qkv.bias.chunk(3), strict=True)]


def load(model, modules, tensors):
    state = {f"{name}.{part}": value for name, parts in modules.items() for part, value in parts.items()} | tensors
    state = {name: value.detach().clone() for name, value in state.items() if value is not None}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all("position_ids" in name or "mask_token" in name for name in missing), missing
    return model.eval()


VIT = ("layernorm_before", "attention", "o_proj", "layernorm_after")
DINOV2 = ("norm1", "attention", "o_proj", "norm2")
CLIP = ("layer_norm1", "self_attn", "out_proj", "layer_norm2")


def _stem(model, root):
    embeddings = f"{root}embeddings"
    tensors = {f"{embeddings}.cls_token": model.cls_token, f"{embeddings}.position_embeddings": model.pos_embed}
    return {f"{embeddings}.patch_embeddings.projection": _of(model.patch_embed.proj)}, tensors


def vit(transformers):
    one = random_timm()
    two = transformers.ViTForImageClassification(
        transformers.ViTConfig(**CONFIG, intermediate_size=HIDDEN, num_labels=CLASSES)
    )
    modules, tensors = _stem(one, "vit.")
    modules |= {"vit.layernorm": _of(one.norm), "classifier": _of(one.head)}
    for i, block in enumerate(one.blocks):
        modules |= _block(block, VIT, f"vit.layers.{i}")
    return one, load(two, modules, tensors)


def deit(transformers):
    one = random_timm(VisionTransformerDistilled)
    two = transformers.DeiTForImageClassificationWithTeacher(
        transformers.DeiTConfig(**CONFIG, intermediate_size=HIDDEN, num_labels=CLASSES)
    )
    modules, tensors = _stem(one, "deit.")
    tensors |= {"deit.embeddings.distillation_token": one.dist_token}
    modules |= {"deit.layernorm": _of(one.norm)}
    modules |= {"cls_classifier": _of(one.head), "distillation_classifier": _of(one.head_dist)}
    for i, block in enumerate(one.blocks):
        modules |= _block(block, VIT, f"deit.layers.{i}")
    return one, load(two, modules, tensors)


def dinov2(transformers):
    one = random_timm(init_values=1.0, num_classes=0)
    two = transformers.Dinov2Model(transformers.Dinov2Config(**CONFIG, mlp_ratio=2))
    modules, tensors = _stem(one, "")
    modules |= {"layernorm": _of(one.norm)}
    for i, block in enumerate(one.blocks):
        modules |= _block(block, DINOV2, f"encoder.layer.{i}")
        tensors |= {f"encoder.layer.{i}.layer_scale{k}.lambda1": getattr(block, f"ls{k}").gamma for k in (1, 2)}
    return one, load(two, modules, tensors)


def clip(transformers):
    one = random_timm(pre_norm=True, num_classes=0, act_layer=timm.layers.QuickGELU)
    config = {**CONFIG, "hidden_act": "quick_gelu", "intermediate_size": HIDDEN}
    two = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**config))
    tensors = {
        "embeddings.class_embedding": one.cls_token[0, 0],
        "embeddings.position_embedding.weight": one.pos_embed[0],
        "embeddings.patch_embedding.weight": one.patch_embed.proj.weight,
    }
    modules = {"pre_layrnorm": _of(one.norm_pre), "post_layernorm": _of(one.norm)}
    for i, block in enumerate(one.blocks):
        modules |= _block(block, CLIP, f"encoder.layers.{i}")
    return one, load(two, modules, tensors)


def siglip(transformers):
    one = random_timm(class_token=False, global_pool="map", num_classes=0)
    config = {**CONFIG, "intermediate_size": HIDDEN}
    two = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**config))
    # timm's pooling has a hidden layer four times as wide; the pooling of neither is looked at here
    two.head.requires_grad_(False)
    modules = {"embeddings.patch_embedding": _of(one.patch_embed.proj), "post_layernorm": _of(one.norm)}
    for i, block in enumerate(one.blocks):
        modules |= _block(block, CLIP, f"encoder.layers.{i}")
    tensors = {"embeddings.position_embedding.weight": one.pos_embed[0]}
    tensors |= {name: value for name, value in two.state_dict().items() if name.startswith("head.")}
    return one, load(two, modules, tensors)


def torchvision():
    one = random_timm()
    two = TorchvisionViT(
        SIZE, PATCH, DEPTH, HEADS, WIDTH, HIDDEN, num_classes=CLASSES, norm_layer=partial(nn.LayerNorm, eps=1e-6)
    )
    tensors = {"class_token": one.cls_token, "encoder.pos_embedding": one.pos_embed}
    modules = {"conv_proj": _of(one.patch_embed.proj), "encoder.ln": _of(one.norm), "heads.head": _of(one.head)}
    for i, block in enumerate(one.blocks):
        first = f"encoder.layers.encoder_layer_{i}"
        tensors |= {
            f"{first}.self_attention.in_proj_{part}": getattr(block.attn.qkv, part) for part in ("weight", "bias")
        }
        own = {"ln_1": block.norm1, "ln_2": block.norm2, "self_attention.out_proj": block.attn.proj}
        own |= {"mlp.0": block.mlp.fc1, "mlp.3": block.mlp.fc2}
        modules |= {f"{first}.{name}": _of(module) for name, module in own.items()}
    return one, load(two, modules, tensors)
