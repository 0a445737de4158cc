"""Record a training: its curves while it runs, and all that is known of it beside its checkpoint."""

from __future__ import annotations

import importlib.util
import math
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from utilities.results.writing import check_writable, write_json, write_whole
from utilities.utils import PROJECT_ROOT

STATED = ("name", "num_classes", "seed", "recipe", "teacher", "start", "precision", "precisions", "processes")
STATED += ("classes", "data", "versions", "commit", "test", "history")
CURVES = ("learning_rate", "train_loss", "train_top1", "train_top5", "loss", "top1", "top5", "seconds")


def commit() -> str | None:
    """Return the commit of this project's files, with ``+`` where some were changed since; None if git knows none.

    Example:
        >>> commit() is None or len(commit()) >= 7
        True
    """

    def git(*words: str) -> str:
        command = ["git", "-C", str(PROJECT_ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short", "HEAD") + "+" * bool(changed)
    except (OSError, subprocess.SubprocessError):
        return None


def write_record(path: Path, content: Mapping[str, Any]) -> Path:
    """Write what a checkpoint states, but for its weights, as JSON beside it.

    Args:
        path: Path of the checkpoint.
        content: Its content.

    Returns:
        The path of the JSON file; numbers that are not finite are null there.

    Example:
        >>> import tempfile
        >>> path = write_record(Path(tempfile.mkdtemp()) / "a.pth", {"name": "resnet18", "test": {"loss": math.nan}})
        >>> print(path.name, path.read_text().split())
        a.json ['{', '"name":', '"resnet18",', '"test":', '{', '"loss":', 'null', '}', '}']
    """
    stated = {name: _plain(content[name]) for name in STATED if name in content}
    return write_json(path.with_suffix(".json"), stated)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Curves:
    """Write the curves of a training after each epoch: as CSV and, where TensorBoard is installed, for that as well.

    Args:
        folder: Folder for ``NAME.csv`` and for TensorBoard's events, in a folder NAME; None writes nothing.
        name: Name of the training.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> Curves(folder, "a").write([{"epoch": 1, "train_loss": 0.5}])
        >>> (folder / "a.csv").read_text().split()
        ['epoch,train_loss', '1,0.5']
    """

    def __init__(self, folder: str | Path | None, name: str) -> None:
        self.folder, self.name = None if folder is None else Path(folder), name
        if folder == "":
            raise ValueError("log is empty: name the folder of the curves, such as runs/curves, or leave it out")
        if self.folder is not None:  # now, not after an epoch
            check_writable(self.folder / f"{name}.csv")
        self._writer, self._written = None, 0

    def write(self, history: Sequence[Mapping[str, float]]) -> None:
        """Write the rows of the epochs so far; a resumed training writes the earlier ones again."""
        if self.folder is None or not history:
            return
        table = pd.DataFrame(history)
        write_whole(self.folder / f"{self.name}.csv", lambda path: table.to_csv(path, index=False))
        if importlib.util.find_spec("tensorboard") is None:
            return
        from torch.utils.tensorboard import SummaryWriter

        self._writer = self._writer or SummaryWriter(str(self.folder / self.name))
        for row in history[self._written :]:
            for key in CURVES:
                if key in row:
                    self._writer.add_scalar(key, row[key], int(row["epoch"]))
        self._written = len(history)
        self._writer.flush()
