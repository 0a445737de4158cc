"""Save figures in the style of `utilities.plots.paper`: format, width, resolution, with or without the line below."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from utilities.plots.paper import DPI, SMALLEST, PaperFigure, inches, paper_figure, saving
from utilities.plots.resizing import resize_figure
from utilities.utils import write_whole

__all__ = [
    "DPI",
    "FORMATS",
    "SMALLEST",
    "PaperFigure",
    "inches",
    "paper_figure",
    "read_caption",
    "save_figure",
    "save_figures",
    "saving",
    "split_picture",
]
FORMATS = (".png", ".pdf", ".svg", ".eps")
CAPTION_KEYS = {".png": "Description", ".pdf": "Subject", ".svg": "Description"}  # metadata that holds a caption
OTHER_FORMATS = (".jpg", ".jpeg", ".tif", ".tiff", ".gif", ".webp", ".ps", ".bmp")


def save_figure(
    figure: Figure,
    path: str | Path,
    *,
    width: float | str | None = None,
    caption: bool = True,
    dpi: float | None = None,
) -> Path:
    """Save a figure in the format that its path ends in, completely or not at all.

    Args:
        figure: Any matplotlib figure.
        path: Path that ends in .png, .pdf, .svg or .eps. If it has no ending, .png is added.
        width: Width of the figure: ``"column"``, ``"page"`` or inches. None leaves it as it is. Fonts keep their size.
        caption: Whether the line below the figure stays, which says what it was made from. The caption itself stands in
            the file's metadata.
        dpi: Dots per inch of the parts made of pixels; None takes 300, or the user's ``savefig.dpi``.

    Returns:
        The path.

    Raises:
        ValueError: If the path ends in any other format.

    Example:
        >>> import tempfile
        >>> import matplotlib.pyplot as plt
        >>> save_figure(paper_figure(2, 1), Path(tempfile.mkdtemp()) / "empty.pdf").name
        'empty.pdf'
        >>> plt.close()
    """
    path = Path(path)
    base, suffix = split_picture(path)
    if width is not None or not caption:
        resize_figure(figure, width, caption=caption)
    path = path if path.suffix.lower() == suffix else base.with_name(f"{base.name}{suffix}")
    options: dict[str, Any] = {} if dpi is None else {"dpi": dpi}
    if suffix in CAPTION_KEYS and (text := getattr(figure, "caption", "")):
        options["metadata"] = {CAPTION_KEYS[suffix]: text}

    def write(temporary: Path) -> None:
        with saving():
            figure.savefig(temporary, format=suffix[1:], **options)

    return write_whole(path, write)


def read_caption(path: str | Path) -> str:
    """Read the caption of a saved .png from its metadata; empty where it has none.

    Example:
        >>> import tempfile
        >>> import matplotlib.pyplot as plt
        >>> figure = paper_figure(2, 1)
        >>> figure.caption = "Bars: one standard error."
        >>> read_caption(save_figure(figure, Path(tempfile.mkdtemp()) / "a.png"))
        'Bars: one standard error.'
        >>> plt.close()
    """
    from PIL import Image

    with Image.open(path) as picture:
        return str(picture.info.get(CAPTION_KEYS[".png"], ""))


def save_figures(
    figures: Mapping[str, Figure],
    base: str | Path,
    suffix: str = ".png",
    *,
    width: float | str | None = None,
    caption: bool = True,
) -> list[Path]:
    """Save figures under one name, each with its own ending.

    Args:
        figures: Ending of the name, such as ``"_surface"``, or ``""`` -> figure.
        base: Path of a result without its suffix.
        suffix: Suffix of the format.
        width: As in `save_figure`.
        caption: As in `save_figure`.

    Returns:
        The paths.

    Example:
        >>> import tempfile
        >>> import matplotlib.pyplot as plt
        >>> one, two = (paper_figure(2, 1) for _ in range(2))
        >>> [path.name for path in save_figures({"": one, "_cut": two}, Path(tempfile.mkdtemp()) / "r18", ".svg")]
        ['r18.svg', 'r18_cut.svg']
        >>> plt.close("all")
    """
    base = Path(base)
    return [
        save_figure(figure, base.with_name(f"{base.name}{part}{suffix}"), width=width, caption=caption)
        for part, figure in figures.items()
    ]


def split_picture(path: str | Path) -> tuple[Path, str]:
    """Split the path of a result into the beginning of all its files and the suffix of its pictures.

    Args:
        path: Path that ends in the format of the pictures. With .npz or no known suffix, the pictures are .png.

    Raises:
        ValueError: If the path ends in a picture format that cannot be written.

    Example:
        >>> [split_picture(f"runs/{name}")[0].name for name in ("r18.pdf", "r18.npz", "r18", "seed0.5")]
        ['r18', 'r18', 'r18', 'seed0.5']
        >>> [split_picture(f"runs/{name}")[1] for name in ("r18.pdf", "r18.npz", "r18", "seed0.5")]
        ['.pdf', '.png', '.png', '.png']
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in OTHER_FORMATS:
        raise ValueError(f"{path.name}: pictures are not written as {suffix}; choose one of {', '.join(FORMATS)}")
    if suffix in FORMATS:
        return path.with_suffix(""), suffix
    return (path.with_suffix("") if suffix == ".npz" else path), ".png"
