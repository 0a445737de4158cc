"""Where a notebook's results and figures go, and under which names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from utilities.plots.style import save_figure
from utilities.results.similarity import Similarity
from utilities.study.profiles import PROFILES
from utilities.utils import PROJECT_ROOT


class Saving:
    """Save results and figures under a notebook's ``name``, in its ``output_dir``."""

    name: str
    output_dir: str | Path | None

    def save(self, result: Similarity, figure: Figure, part: str = "") -> Path:
        """Write NAME.npz, NAME.json, NAME.png, NAME.pdf and NAME.svg to the output folder, or NAME_PART.npz and so on.

        Returns:
            The path of the picture.
        """
        result.save(self.path(part))
        return self.save_figure(figure, part)

    def save_figure(self, figure: Figure, part: str = "") -> Path:
        """Write NAME.png, NAME.pdf and NAME.svg, or NAME_PART.png and so on, and return the path of the picture."""
        base = self.path(part)
        return [save_figure(figure, base.with_name(base.name + suffix)) for suffix in (".pdf", ".svg", ".png")][-1]

    def path(self, part: str = "") -> Path:
        """Return the path of this notebook's files without their ending."""
        return Path(self.output_dir).resolve() / (f"{self.name}_{part}" if part else self.name)


@dataclass(frozen=True)
class Output(Saving):
    """The files of a notebook that trains nothing.

    Attributes:
        name: Name of the notebook and of the files it writes.
        profile: ``"quick"``, ``"natural"`` or ``"paper"``.
        output_dir: Folder of the results; None means ``runs/PROFILE`` in the project.

    Raises:
        ValueError: For an unknown profile.

    Example:
        >>> Output("Attention_Distance").path("claims").parts[-3:]
        ('runs', 'quick', 'Attention_Distance_claims')
    """

    name: str
    profile: str = "quick"
    output_dir: str | Path | None = None

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise ValueError(f"profile {self.profile!r} is not known; choose from {', '.join(PROFILES)}")
        if self.output_dir is None:
            object.__setattr__(self, "output_dir", PROJECT_ROOT / "runs" / self.profile)
