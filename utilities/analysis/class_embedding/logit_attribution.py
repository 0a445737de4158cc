"""Direct logit attribution: which head, which MLP, which block wrote the answer into what the classifier reads?

A logit is linear in the sum of all that was added to the residual stream, once the scale of the final norm is kept as
it is in that image. Each head, MLP, embedding and bias then has its own share, and the shares add up to the logit
exactly (Elhage et al. 2021, https://transformer-circuits.pub/2021/framework; for CLIP's image encoder Gandelsman et
al. 2024, https://arxiv.org/abs/2310.05916). In a ResNet the masks of the ReLUs are kept instead, and the branches of
the last stage have shares. `utilities.analysis.class_embedding.lens` gives attention and MLP a norm of their own each,
so that their readings add up to nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from utilities.analysis.class_embedding.components import Components, TransformerComponents
from utilities.analysis.class_embedding.conv_space import is_resnet
from utilities.analysis.class_embedding.lens import NO_LABEL, PerImage
from utilities.analysis.class_embedding.readers import Target, check_readout, check_size, check_target
from utilities.analysis.class_embedding.resnet_components import ResNetComponents
from utilities.analysis.class_embedding.spaces import class_space, transformer_space
from utilities.analysis.class_embedding.unrounded import half_type, unrounded
from utilities.analysis.stream import stream
from utilities.datasets.naming import known_facts
from utilities.hooks.calls.labels import BatchCheck, check_labels, hits
from utilities.hooks.vit_parts import vit_parts
from utilities.results.moments import precise
from utilities.results.result import Result
from utilities.results.statistics import mean_and_stderr
from utilities.utils import versions

GROUPS = ("embedding", "attention", "mlp", "branch", "shortcut", "bias")
_GROUP_OF = {"head": "attention", "msa": "branch", "conv": "branch"}
_CONVOLUTION = "a convolution and an activation between its last block and its classifier mix the channels"
_MERGING = "its stages merge patches through norms and projections, and what an early block adds is no term of the end"
REASONS = {
    EfficientNet: _CONVOLUTION, MobileNetV3: _CONVOLUTION, SwinTransformer: _MERGING, SwinTransformerV2: _MERGING,
}  # fmt: skip


@dataclass(frozen=True)
class LogitAttribution(Result):
    """The share of each component in a logit.

    A number added to the logits of all classes changes no answer. So each share has a centred twin: the share in the
    logit, less the mean of the shares in all classes' logits. Draw and compare that one.

    Attributes:
        names: Names of the components, in the order in which they are added.
        kinds: Kind of each: ``embedding``, ``head``, ``mlp`` or ``bias``; of a ResNet, ``shortcut`` (what enters the
            last stage), ``conv``, ``msa`` or ``bias``.
        blocks: Index of the block of each component; -1 before the first, the number of blocks after the last.
        block_names: Names of the blocks.
        share: Share of each component in the target's logit, mean over images, (components,).
        share_stderr: Standard error of ``share`` over images.
        centred: Share less the mean over all classes, mean over images, (components,).
        centred_stderr: Standard error of ``centred``.
        class_centred: The same over the images of each target class, (classes, components); NaN without an image.
        class_centred_stderr: Its standard error; NaN with fewer than two images.
        class_count: Number of images of each target class, (classes,).
        image_share: Share for each image, float64 (images, components).
        image_centred: Centred share for each image.
        target: Class whose logit is looked at in each image, (images,).
        labels: True class of each image; -1 without labels.
        logit: The model's logit of the target for each image, (images,).
        error: Largest difference, over images, of the sum of all shares and the model's own logit, or of their
            centred twins: what rounding in the model's own type leaves.
        accuracy: Accuracy of the model; NaN without labels.
        provenance: What the result was made from.
    """

    names: list[str]
    kinds: list[str]
    blocks: np.ndarray
    block_names: list[str]
    share: np.ndarray
    share_stderr: np.ndarray
    centred: np.ndarray
    centred_stderr: np.ndarray
    class_centred: np.ndarray
    class_centred_stderr: np.ndarray
    class_count: np.ndarray
    image_share: np.ndarray
    image_centred: np.ndarray
    target: np.ndarray
    labels: np.ndarray
    logit: np.ndarray
    error: float
    accuracy: float
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Group of each component, one of `GROUPS`, with its block: a projection's bias belongs to its attention."""
        after = len(self.block_names)
        inside = [kind == "bias" and block < after for kind, block in zip(self.kinds, self.blocks, strict=True)]
        kinds = [
            "attention" if own else _GROUP_OF.get(kind, kind) for own, kind in zip(inside, self.kinds, strict=True)
        ]
        return [(kind, int(block)) for kind, block in zip(kinds, self.blocks, strict=True)]

    def by_block(self, of: str = "image_centred") -> pd.DataFrame:
        """Sum the shares of all heads and the bias of each attention, and of the biases after the last block.

        Args:
            of: ``"image_centred"`` or ``"image_share"``.

        Returns:
            Columns ``group, block, mean, stderr``, a row for each group of each block, in order of depth.
        """
        values, groups = getattr(self, of), self.groups
        unique = list(dict.fromkeys(groups))
        sums = np.stack([values[:, [one == group for group in groups]].sum(1) for one in unique], 1)
        mean, error = mean_and_stderr(sums)
        table = pd.DataFrame(unique, columns=["group", "block"])
        return table.assign(mean=mean, stderr=error)

    def to_frame(self) -> pd.DataFrame:
        """Tabulate the components, a row each."""
        columns = {"component": self.names, "kind": self.kinds, "block": self.blocks}
        for name in ("share", "centred"):
            columns |= {name: getattr(self, name), f"{name}_stderr": getattr(self, f"{name}_stderr")}
        return pd.DataFrame(columns)


def logit_attribution(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    target: Target = "label",
    device: str | torch.device = "auto",
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
) -> LogitAttribution:
    """Split the logit of a class into the shares of heads, MLPs, embedding and biases, which add up to it.

    For an image with last tokens x = sum_i c_i, final norm with weight w, bias b and scale r(x), classifier rows E and
    bias e, component i has in the logit of class k the share

        share_i = E_k (w (c_i - mean(c_i)) r(x)),    logit_k = sum_i share_i + E_k b + e_k

    with c_i = LayerScale W_h k_h for head h of a block. Where the model averages tokens, so do the shares.

    Args:
        model: timm's VisionTransformer with pre-norm blocks, torchvision's, or a classifier of Hugging Face's (ViT,
            DeiT, DINOv2, CLIP, SigLIP), by class token, average or both; or a ResNet (this package, torchvision,
            timm; AlterNet and pre-activation included). It runs in eval mode, and twice where each token is normed
            before the average. One in half precision runs as a copy in float32, because its sums are rounded.
        loader: Yields (images, labels), or images alone if the target is not the label.
        target: The class whose logit is split: ``"label"``, ``"prediction"`` or an index.
        device: See `utilities.utils.resolve_device`.
        progress: Whether to show a bar.
        provenance: Facts to keep with the result.

    Returns:
        Shares with their errors over images, and those of each image.

    Raises:
        ValueError: If the classifier does not read a sum, labels are missing, or the shares do not add up.

    Example:
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> result = logit_attribution(vit_tiny_patch2_16(10, depth=2), [(images, torch.arange(4))], device="cpu")
        >>> result.names[-3:], bool(np.allclose(result.image_share.sum(1), result.logit, atol=1e-5))
        (['blocks.1.mlp', 'norm.bias', 'head.bias'], True)
        >>> result.by_block().group.tolist()
        ['embedding', 'attention', 'mlp', 'attention', 'mlp', 'bias']
    """
    half, model = half_type(model), unrounded(model, "logit attribution")
    components = components_of(model)
    space = components.space
    check_target(target, space.num_classes)
    values, check, name = PerImage(), BatchCheck(loader, model), "logit attribution"
    run = {"device": device, "progress": progress, "description": name, "labelled": target == "label"}
    first = True
    with stream(space.model, loader, sums=(values, check), **run) as batches:
        for images, labels in batches:
            labels = None if labels is None else check_labels(labels, space.num_classes)
            check_size(space, images)
            with torch.autocast(images.device.type, enabled=False):  # it would round sums as half precision does
                logits, vectors = components(images)
            if first:
                check_readout(nn.functional.linear(vectors.sum(1), *_classifier(components.head)), precise(logits))
                first = False
            if labels is not None:
                check(logits, labels)
            values.end_batch(**_of_batch(components.head, logits, vectors, labels, target))
    check.finish(stacklevel=3)
    facts = {"n": len(values.arrays()["logit"]), "target": target, "versions": versions()}
    facts |= {} if half is None else {"precision": f"float32, of {half} weights"}
    return _collect(components, values.arrays(), known_facts(provenance, loader) | facts)


def components_of(model: nn.Module) -> Components:
    """List the components whose sum a model's classifier reads.

    Raises:
        ValueError: If it reads no sum that is known; the message says why.

    Example:
        >>> from utilities.resnet import resnet50
        >>> components_of(resnet50()).names
        ['layer4.0.shortcut', 'layer4.0', 'layer4.1', 'layer4.2', 'fc.bias']
        >>> components_of(nn.Linear(1, 1))
        Traceback (most recent call last):
        ValueError: the logits of Linear are no sum over parts that is known; logit attribution takes timm's ...
    """
    if isinstance(model, VisionTransformer) or vit_parts(model) is not None:
        return TransformerComponents(transformer_space(model, alone=False))
    if is_resnet(model):
        return ResNetComponents(class_space(model))
    reason = next((f": {text}" for kind, text in REASONS.items() if isinstance(model, kind)), "")
    raise ValueError(
        f"the logits of {type(getattr(model, 'source', model)).__name__} are no sum over parts that is known{reason}; "
        "logit attribution takes timm's VisionTransformer with pre-norm blocks, torchvision's, those of Hugging Face, "
        "and ResNets with ReLUs"
    )


def _classifier(head: nn.Linear) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weight and bias in float64; a bias of zeros where there is none."""
    weight = precise(head.weight.detach())
    return weight, weight.new_zeros(len(weight)) if head.bias is None else precise(head.bias.detach())


def _of_batch(
    head: nn.Linear, logits: torch.Tensor, vectors: torch.Tensor, labels: torch.Tensor | None, target: Target
) -> dict[str, torch.Tensor]:
    """Compute the shares of a batch's images, and how far their sums are from the model's logits."""
    weight, bias = _classifier(head)
    if target == "label":
        goal = labels
    else:
        goal = logits.argmax(1) if target == "prediction" else logits.new_full((len(logits),), target, dtype=torch.long)
    exact = precise(logits)
    own = exact.gather(1, goal[:, None])[:, 0]
    share = torch.cat([torch.einsum("bkd,bd->bk", vectors, weight[goal]), bias[goal][:, None]], 1)
    mean = torch.cat([vectors @ weight.mean(0), bias.mean().expand(len(goal), 1)], 1)
    gaps = [share.sum(1) - own, (share - mean).sum(1) - (own - exact.mean(1))]
    missing = labels is None
    return {
        "share": share,
        "centred": share - mean,
        "target": goal,
        "labels": torch.full_like(goal, NO_LABEL) if missing else labels,
        "logit": own,
        "gap": torch.stack(gaps).abs().amax(0),
        "correct": torch.full_like(own, torch.nan) if missing else hits(logits, labels),
    }


def _collect(components: Components, values: Mapping[str, np.ndarray], provenance: dict[str, Any]) -> LogitAttribution:
    """Average over all images and those of each class, and collect the result."""
    (share, share_error), (centred, error) = (mean_and_stderr(values[name]) for name in ("share", "centred"))
    classes = components.space.num_classes
    of_class, class_error = np.full((2, classes, len(components.names)), np.nan)
    for one in np.unique(values["target"]):
        of_class[one], class_error[one] = mean_and_stderr(values["centred"][values["target"] == one])
    return LogitAttribution(
        names=list(components.names),
        kinds=list(components.kinds),
        blocks=np.array(components.blocks),
        block_names=list(components.block_names),
        share=share,
        share_stderr=share_error,
        centred=centred,
        centred_stderr=error,
        class_centred=of_class,
        class_centred_stderr=class_error,
        class_count=np.bincount(values["target"], minlength=classes),
        image_share=values["share"],
        image_centred=values["centred"],
        target=values["target"],
        labels=values["labels"],
        logit=values["logit"],
        error=float(values["gap"].max()),
        accuracy=float(values["correct"].mean()),
        provenance=provenance,
    )
