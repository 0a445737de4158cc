"""The seven Vision Transformers of Vilas et al. 2023 (https://arxiv.org/abs/2310.18969), pinned to their weights.

Weights and preprocessing are those of the authors' code (https://github.com/martinagvilas/vit-cls_emb), which names
models of timm 0.6.12. Some of these names now stand for other weights, so each model is pinned by its tag here. The
weights of two models are not timm's, and their files have to be fetched by hand. The preprocessing is the authors', not
that of the models' own training. It squeezes most images to a square, with processors of Hugging Face's transformers
4.26.

Neither the files nor the hub were available when this was written. Loading is tested on states in the published
layouts, and the preprocessing was taken from public sources, see `PaperModel.note`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import timm
import torch
from PIL import Image
from timm.models.vision_transformer import ResPostBlock
from torch import nn
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from utilities.zoo.checkpoints import load_checkpoint, read_checkpoint
from utilities.zoo.factory import create_model
from utilities.zoo.old_checkpoints import without_block_heads
from utilities.zoo.state_dicts import state_of

SIZE = 224  # pixels, for all seven models
SMALLEST_GAIN = 1e-3  # a branch with a smaller gain adds next to nothing to the residual stream
_HALF, _IMAGENET = ((0.5,) * 3, (0.5,) * 3), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_SQUEEZED = "Images are resized to 224x224 without a crop, which squeezes those that are not square. "


@dataclass(frozen=True)
class PaperModel:
    """One of the paper's models.

    Attributes:
        zoo: Name in `utilities.zoo`, with timm's tag where timm has the weights.
        classes: Number of logits.
        source: Where to get weights that timm does not have; "" if timm has them.
        resize: Height and width after the resize, or the length of the shorter side; a centre crop follows.
        interpolation: Interpolation of the resize.
        mean: Mean of each channel, subtracted from images in the range 0 to 1.
        std: Standard deviation of each channel, by which images are divided afterwards.
        note: What to know about the model.
    """

    zoo: str
    classes: int
    source: str
    resize: tuple[int, int] | int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    note: str


def _squeezed(zoo: str, note: str, classes: int = 1000, source: str = "") -> PaperModel:
    """Describe a model whose images are squeezed to 224x224 and scaled to the range -1 to 1."""
    return PaperModel(zoo, classes, source, (SIZE, SIZE), "bilinear", *_HALF, _SQUEEZED + note)


PAPER_MODELS = MappingProxyType(
    {
        "vit_b_32": _squeezed("timm/vit_base_patch32_224.augreg_in21k_ft_in1k", "The paper's main model."),
        "vit_b_16": _squeezed(
            "timm/vit_base_patch16_224.augreg_in21k_ft_in1k", "timm's name without a tag is augreg2 now: other weights."
        ),
        "vit_large_16": _squeezed(
            "timm/vit_large_patch16_224.augreg_in21k_ft_in1k",
            "24 blocks, which the paper averages in pairs to compare them with 12.",
        ),
        "vit_miil_16": PaperModel(
            "timm/vit_base_patch16_224_miil.in21k_ft_in1k",
            1000,
            "",
            256,
            "bilinear",
            (0.0, 0.0, 0.0),
            (1.0, 1.0, 1.0),
            "timm's own evaluation transform. Its name without a tag has 11,221 classes of ImageNet-21k now.",
        ),
        "vit_cifar_16": _squeezed(
            "timm/vit_base_patch16_224",
            "Trained on CIFAR-100 by the authors; entries of the file begin with 'model.'.",
            classes=100,
            source="vit_base_patch16_224-CIFAR100.pt of the folder that README.md of "
            "https://github.com/martinagvilas/vit-cls_emb links to",
        ),
        "deit_ensemble_16": PaperModel(
            "timm/deit_base_patch16_224",
            1000,
            "https://github.com/Muzammal-Naseer/Improving-Adversarial-Transferability-of-Vision-Transformers/releases/"
            "download/v0/deit_base_trm.pth",
            (256, 256),
            "bicubic",
            *_IMAGENET,
            "The paper's 'Refinement'. Naseer et al. 2022 (https://arxiv.org/abs/2106.04169) added modules that refine "
            "the tokens of the first 11 blocks, and say that they trained these alone: what is left without them "
            "should be DeiT-B as it was. Images are squeezed to 256x256 before the crop, the default of Hugging "
            "Face's processor for DeiT; the file that configures it was not at hand.",
        ),
        "vit_gap_16": _squeezed(
            "timm/vit_base_patch16_rpn_224.sw_in1k",
            "No class token; averages tokens before its norm; residual-post-norm blocks, whose gains start at 1e-5.",
        ),
    }
)


def load_paper_model(
    key: str, checkpoint: str | Path | None = None, pretrained: bool = True, seed: int | None = None
) -> nn.Module:
    """Build one of the paper's models, with its weights or randomly initialised.

    Args:
        key: Name of the model in `PAPER_MODELS`.
        checkpoint: File with the weights. It is required for the two models whose weights timm does not have. Without
            it, the others are fetched from timm's hub.
        pretrained: Whether to load the weights. If not, the model is a random twin with timm's initialisation. The
            random twin of ``vit_gap_16`` is degenerate and causes a warning, see `warn_if_degenerate`.
        seed: Seed of the random twin.

    Returns:
        The model on the CPU, in train mode.

    Raises:
        ValueError: If the key is unknown, or a checkpoint is missing, does not fit, or is not wanted.
        FileNotFoundError: If there is no such file.
        ConnectionError: If weights cannot be fetched.

    Example:
        >>> load_paper_model("deit_ensemble_16")
        Traceback (most recent call last):
        ValueError: the weights of deit_ensemble_16 are not timm's; fetch https://github.com/... pass it as checkpoint
    """
    return _load(key, checkpoint, pretrained, seed, {})


def _load(
    key: str, checkpoint: str | Path | None, pretrained: bool, seed: int | None, options: dict[str, Any]
) -> nn.Module:
    """Build a model as `load_paper_model` does, and pass the options on to timm's builder."""
    paper = _paper_model(key)
    if not pretrained:
        if checkpoint is not None:
            raise ValueError(
                f"checkpoint {str(checkpoint)!r} is not wanted with pretrained=False; leave one of them out"
            )
        model = create_model(paper.zoo, paper.classes, seed=seed, **options)
        warn_if_degenerate(model)
        return model
    if checkpoint is not None:
        return _from_file(key, paper, Path(checkpoint), options)
    if paper.source:
        raise ValueError(f"the weights of {key} are not timm's; fetch {paper.source} and pass it as checkpoint")
    try:
        return create_model(paper.zoo, paper.classes, "pretrained", **options)
    except ConnectionError as error:
        hub = timm.get_pretrained_cfg(paper.zoo.partition("/")[2]).hf_hub_id
        raise ConnectionError(
            f"cannot fetch the weights of {key}; download https://huggingface.co/{hub}/resolve/main/model.safetensors "
            "elsewhere and pass it as checkpoint"
        ) from error


def _from_file(key: str, paper: PaperModel, path: Path, options: dict[str, Any]) -> nn.Module:
    """Load a file in full, except modules added to inner blocks if the model is known to have them."""
    state = state_of(read_checkpoint(path))
    if key == "deit_ensemble_16":
        state, extra = without_block_heads(state)
        if extra:
            heads = dict.fromkeys(".".join(name.split(".")[:2]) for name in extra)
            warnings.warn(
                f"{len(extra)} entries of {path} were left out, on which the model's answer does not depend: all of "
                f"{', '.join(heads)}",
                stacklevel=4,
            )
    model = create_model(paper.zoo, paper.classes, **options)
    load_checkpoint(model, state, path, {"name": key})
    return model


def _paper_model(key: str) -> PaperModel:
    """Look up a model by its key."""
    if key not in PAPER_MODELS:
        raise ValueError(f"unknown model {key!r}; the paper's are {', '.join(PAPER_MODELS)}")
    return PAPER_MODELS[key]


def warn_if_degenerate(model: nn.Module) -> list[str]:
    """Warn of a model that makes a useless baseline: its classifier is zero, or its blocks add next to nothing.

    With a classifier of zeros, as from the ``jax`` initialisation, all classes tie and every reading is at chance. If
    the gains of LayerScale, or of the norms that end residual branches, are all below `SMALLEST_GAIN`, the model is
    close to one without blocks. As a baseline, it then shows the chance level of its patch embedding, not that of its
    architecture.

    Args:
        model: Classifier with a ``head`` or ``fc``.

    Returns:
        What is wrong, in words; an empty list for other models.

    Example:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> options = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 5}
        >>> warn_if_degenerate(VisionTransformer(**options))
        []
    """
    found: list[str] = []
    head = getattr(model, "head", getattr(model, "fc", None))
    if isinstance(head, nn.Linear) and not head.weight.any():
        found.append("its classifier is zero, so that all tokens read alike")
    gains = [gain for block in model.modules() for gain in _gains(block)]
    largest = max((float(gain.detach().abs().max()) for gain in gains), default=1.0)
    if largest < SMALLEST_GAIN:
        found.append(f"its branches are scaled by {largest:.1g} or less, so that its blocks add next to nothing")
    if found:
        text = "; ".join(found)
        warnings.warn(f"{type(model).__name__} is a degenerate baseline: {text}", stacklevel=2)
    return found


def _gains(block: nn.Module) -> list[torch.Tensor]:
    """Find the gains that scale the output of a transformer block's branches, if there are any."""
    if isinstance(block, ResPostBlock):
        return [norm.weight for norm in (block.norm1, block.norm2) if norm.weight is not None]
    return [block.gamma] if isinstance(block, timm.layers.LayerScale) else []


def paper_preprocessing(key: str) -> transforms.Compose:
    """Return the transform that the paper's code applies to a model's images.

    Except for ``vit_miil_16``, it differs from timm's own, which `utilities.zoo.preprocessing` returns.

    Args:
        key: Name of the model in `PAPER_MODELS`.

    Returns:
        A transform that maps a PIL image of any mode to a tensor (3, 224, 224).

    Raises:
        ValueError: If the key is unknown.

    Example:
        >>> paper_preprocessing("vit_miil_16")(Image.new("L", (300, 400), 51))[:, 0, 0]
        tensor([0.2000, 0.2000, 0.2000])
    """
    paper = _paper_model(key)
    return transforms.Compose(
        [
            transforms.Lambda(_rgb),
            transforms.Resize(paper.resize, InterpolationMode(paper.interpolation)),
            transforms.CenterCrop(SIZE),
            transforms.ToTensor(),
            transforms.Normalize(paper.mean, paper.std),
        ]
    )


def _rgb(image: Image.Image) -> Image.Image:
    return image.convert("RGB")
