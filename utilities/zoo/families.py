"""Families of models by name: what a model is, and the optimiser that trains it.

One table decides both, so that claims, figures, recipes and studies agree. ``cnn`` has no attention, ``vit`` mixes
tokens throughout, ``hybrid`` has convolutional layers and attention (or lambda layers) in its stages.

LeViT is a hybrid. Its paper says so (Graham et al. 2021, https://arxiv.org/abs/2104.01136): four strided 3x3
convolutions take the place of the patch embedding, resolution falls from stage to stage as in a CNN, all norms are
batch norms, and all that mixes places after the stem is attention. AdamW trains it, as it trains transformers.

For Hugging Face's models (``hf/``) the type in the configuration counts, or the words of the name.

A name that the table does not know counts as a CNN and is trained by SGD.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

# Each family in words, from no attention to nothing else.
FAMILY_TITLES = {"cnn": "CNN", "hybrid": "hybrid", "vit": "ViT"}


@dataclass(frozen=True)
class Family:
    """One row of the table.

    Attributes:
        pattern: Regular expression, matched from the beginning of a name without its library or file.
        family: ``cnn``, ``hybrid`` or ``vit``.
        optimizer: ``sgd`` or ``adamw``, the optimiser of recipes that leave it open. SGD trains transformers badly.
    """

    pattern: str
    family: str
    optimizer: str


_WORDS = "(vit|deit|pit|swin|mixer)"  # in the names of most transformers, and of MLP-Mixer, which mixes tokens too
# The first row that matches decides.
FAMILIES = (
    Family(f"(alternet|lambda).*{_WORDS}", "hybrid", "adamw"),
    Family("alternet|lambda", "hybrid", "sgd"),
    Family(".*(coatne|edgenext|efficientformer|visformer|caformer|swiftformer|lowformer)|iformer", "hybrid", "adamw"),
    Family("(eca_)?(se|lam)?(botne|halone|halobotne|haloregnet)", "hybrid", "sgd"),  # in a ResNet's stages
    Family("(aimv2|beit|cait|coat_|eva|hiera|nest_|pvt|tnt|twins|volo|xcit)", "vit", "adamw"),
    Family(".*(levit|efficientvit|fastvit|maxx?vit|mobilevit|nextvit|shvit|tiny_vit_)", "hybrid", "adamw"),
    Family("(convit|crossvit|davit|flexivit|gcvit|gmixer|mvit|naflexvit|samvit)", "vit", "adamw"),
    Family(f"(.*_)?{_WORDS}", "vit", "adamw"),
    Family(f".*{_WORDS}", "cnn", "adamw"),  # ConvMixer and RepViT have no attention, in spite of their names
    Family("", "cnn", "sgd"),
)


def family(model: str) -> str:
    """Tell attention-free CNNs, hybrids and Vision Transformers apart by their names.

    Example:
        >>> [family(name) for name in ("resnet18", "alternet18", "timm/levit_128", "my/models.py:vit_small")]
        ['cnn', 'hybrid', 'hybrid', 'vit']
    """
    return _row(model).family


def usual_optimizer(model: str) -> str:
    """Choose the optimiser of a model by its name: AdamW for transformers, SGD for all else.

    Example:
        >>> [usual_optimizer(name) for name in ("resnet18", "alternet18", "timm/levit_128", "vit_tiny_patch2_16")]
        ['sgd', 'sgd', 'adamw', 'adamw']
    """
    return _row(model).optimizer


def _row(model: str) -> Family:
    bare = re.split("[/:]", model)[-1]  # for a user's own function, its name
    if model.startswith("hf/"):
        bare = _type_of(model.removeprefix("hf/")) or bare.replace("-", "_")
        if re.search("vit|deit|dino|clip|siglip|beit|swin", bare):
            bare = f"vit_{bare}"
    return next(row for row in FAMILIES if re.match(row.pattern, bare))


def _type_of(folder: str) -> str:
    """Read the type of a Hugging Face model off the configuration in its folder; empty where there is none."""
    path = Path(folder).expanduser() / "config.json"
    return str(json.loads(path.read_text()).get("model_type", "")) if path.is_file() else ""
