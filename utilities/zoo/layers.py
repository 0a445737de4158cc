"""Name the layers of a model that are worth comparing: what its blocks put out, without shortcuts and inner parts."""

from __future__ import annotations

import re
from contextlib import suppress

from timm.layers import LayerNorm2d
from timm.models.mlp_mixer import MlpMixer
from torch import nn

from utilities.hooks.block_families import block_outputs
from utilities.hooks.calls.weights import check_module
from utilities.hooks.vit_parts import vit_parts
from utilities.lambda_layer import LambdaLayer
from utilities.zoo.gated_resnet import ConvolutionalGate, SqueezeExcitation
from utilities.zoo.libraries import transformer_layers
from utilities.zoo.local_attention import LocalAttention
from utilities.zoo.smoothing import SpatialSmoothing

_COMPARED = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.ReLU,
    nn.ReLU6,
    nn.GELU,
    nn.SiLU,
    nn.Hardswish,
    nn.Linear,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    LayerNorm2d,
    LambdaLayer,
    LocalAttention,
    SpatialSmoothing,
)
# Names of blocks: layer1.0 in a ResNet, blocks.0 in a ViT or Mixer, layers.0.blocks.1 in a Swin, stages.0.blocks.1 in a
# ConvNeXt, block1 in a plain CNN.
_BLOCK = re.compile(r"(layer[0-9]+|((layers|stages|transformers)\.[0-9]+\.)?blocks|stages\.[0-9]+)\.[0-9]+|block[0-9]+")


def comparison_layers(model: nn.Module) -> list[str]:
    """Name the layers worth comparing, in the order of registration, which follows that of execution.

    - **timm's VisionTransformer**: the patch embedding, for each block ``norm1, attn.qkv, attn.q_norm,
      attn.k_norm`` (queries and keys, also where these are identities), ``attn.proj, norm2, mlp.fc1, mlp.act,
      mlp.fc2``, then ``norm`` and ``head``.
    - **timm's SwinTransformer**: the patch embedding and its norm, for each stage the norm and the linear layer that
      merge its tokens (``downsample``, which is no shortcut here) and for each block ``norm1, attn.qkv, attn.proj,
      norm2, mlp.fc1, mlp.act, mlp.fc2``, then ``norm``, ``head.global_pool`` and ``head.fc``.
    - **timm's PoolingVisionTransformer**: the patch embedding, for each stage the convolution that merges its tokens
      and the linear layer that widens its class token (``pool``), blocks as in the VisionTransformer, ``norm, head``.
    - **Hugging Face's ViT, DeiT, DINOv2, CLIP and SigLIP**: the patch embedding, for each block the norm, queries,
      keys, values and output of attention, the norm, linear layers and activation of the MLP, then the final norm and
      the classifier.
    - **Every other model**: norms, activations, linear layers and pooling; lambda layers, local attention and spatial
      smoothing as a whole; and the patch embedding of timm's MlpMixer. Shortcuts (``downsample``) are left out, and so
      is what lies inside a lambda layer, local attention, ``nn.MultiheadAttention`` or a gate of an SE- or CBAM-ResNet.
      A ResNet thus has all batch norms after the convolutions of its main path, all ReLUs, ``avgpool`` and ``fc``.

    Args:
        model: Any module.

    Returns:
        Names as in ``model.named_modules()``.

    Example:
        >>> from utilities.zoo import create_model
        >>> names = comparison_layers(create_model("resnet18"))
        >>> len(names), names[:4], names[-2:]
        (36, ['bn1', 'relu', 'layer1.0.bn1', 'layer1.0.relu1'], ['avgpool', 'fc'])
    """
    names, closed = transformer_layers(model), ()
    if names:
        return names
    if isinstance(model, MlpMixer):
        names.append("stem.proj")
    for name, module in model.named_modules():
        if name.startswith(closed) or "downsample" in name.split("."):
            continue
        if isinstance(
            module, (LambdaLayer, LocalAttention, nn.MultiheadAttention, SqueezeExcitation, ConvolutionalGate)
        ):
            closed += (f"{name}.",)
        if name and isinstance(module, _COMPARED):
            names.append(name)
    return names


def block_layers(model: nn.Module) -> list[str]:
    """Name the blocks of a model, whose outputs are its features after each of them, shortcut included.

    Args:
        model: A ResNet, Lambda ResNet, AlterNet or plain CNN of this package, a ResNet of timm or torchvision, or
            timm's VisionTransformer, Swin, PiT, MlpMixer or ConvNeXt; torchvision's VisionTransformer; or Hugging
            Face's ViT, DeiT, DINOv2, CLIP or SigLIP.

    Returns:
        Names as in ``model.named_modules()``, in the order of registration, which follows that of execution.

    Raises:
        ValueError: If no module has the name of a block.

    Example:
        >>> from utilities.zoo import create_model
        >>> block_layers(create_model("resnet18"))[:3], len(block_layers(create_model("vit_tiny_patch2_16")))
        (['layer1.0', 'layer1.1', 'layer2.0'], 6)
    """
    check_module(model)
    names = [name for name, _ in model.named_modules() if _BLOCK.fullmatch(name)]
    if (parts := vit_parts(model)) is not None:
        names = [block.name for block in parts.blocks]
    if not names:
        first = ", ".join(name for name, _ in model.named_children())
        raise ValueError(f"the blocks of a {type(model).__name__} are not known; its parts: {first}; name them")
    return names


def known_blocks(model: nn.Module) -> list[str]:
    """Name the modules that put out a model's features after each block, in the order in which they run.

    Args:
        model: A model of a family that `utilities.hooks.block_families` knows, or whose blocks have usual names.

    Raises:
        ValueError: For another model.

    Example:
        >>> from utilities.zoo import create_model
        >>> known_blocks(create_model("plain_cnn8"))[:2]
        ['block1', 'block2']
    """
    with suppress(ValueError):
        return block_outputs(model)
    return block_layers(model)
