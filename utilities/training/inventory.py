"""List what has been trained in a folder, finished or interrupted."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pandas as pd

from utilities.zoo.checkpoints import read_checkpoint

SUFFIX = ".resume.pth"  # of a training that was interrupted


def trained(folder: str | Path) -> pd.DataFrame:
    """Tabulate the checkpoints of `utilities.train.fit` below a folder; snapshots within a training are left out.

    Args:
        folder: The folder.

    Returns:
        A row for each: model, data, seed, epochs that are done and those of the recipe, test accuracy (NaN where the
        training was interrupted), loss of the last epoch, precision, processes, hours of training, and the file.

    Raises:
        FileNotFoundError: If there is no such folder, or no checkpoint in it.

    Example:
        >>> import tempfile
        >>> from utilities.train import fit
        >>> from utilities.training.recipes import Recipe
        >>> folder, recipe = tempfile.mkdtemp(), Recipe("digits", epochs=1, image_size=8, n_images=20, batch_size=10)
        >>> _ = fit("resnet18", recipe, 0, folder, report=lambda line: None)
        >>> trained(folder)[["model", "dataset", "done", "epochs"]].to_dict("records")
        [{'model': 'resnet18', 'dataset': 'digits', 'done': 1, 'epochs': 1}]
    """
    rows = []
    for path in sorted(Path(folder).rglob("*.pth")):
        try:
            content = read_checkpoint(path)
        except ValueError as error:
            warnings.warn(str(error), stacklevel=2)
            continue
        finished = "test" in content
        if "recipe" in content and (finished or path.name.endswith(SUFFIX)):
            rows.append(_row(content, path.relative_to(folder)))
    if not rows:
        found = "is no folder" if not Path(folder).is_dir() else "holds no checkpoint of a training"
        raise FileNotFoundError(f"{folder} {found}; python -m utilities train MODEL EPOCHS SEED FOLDER makes one")
    return pd.DataFrame(rows)


def _row(content: dict[str, Any], path: Path) -> dict[str, Any]:
    history, recipe = content.get("history", []), content["recipe"]
    parts = content.get("precisions") or []
    return {
        "model": content.get("name", "?"),
        "dataset": recipe.get("dataset", "?"),
        "seed": content.get("seed", "?"),
        "done": len(history),
        "epochs": recipe.get("epochs", "?"),
        "accuracy": content.get("test", {}).get("top1", float("nan")),
        "train_loss": history[-1]["train_loss"] if history else float("nan"),
        "precision": content.get("precision", parts[-1][1] if parts else "?"),
        "processes": content.get("processes", 1),
        "hours": round(sum(row.get("seconds", 0.0) for row in history) / 3600, 3),
        "file": path.as_posix(),
    }
