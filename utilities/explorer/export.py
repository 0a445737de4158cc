"""Links that hand on a result: its numbers and its figure, written to disk and for download."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from utilities.explorer.libraries import import_libraries
from utilities.results.similarity import Similarity

KINDS = {".csv": "text/csv", ".npz": "application/octet-stream", ".json": "application/json", ".png": "image/png",
         ".pdf": "application/pdf", ".svg": "image/svg+xml"}  # fmt: skip
SCREEN = 120  # pixels that stand for an inch
DPI = 300  # of pictures that do not say


def write_all(result: Similarity, path: Path) -> list[Path]:
    """Write a result, its table and its heatmap beside each other.

    Args:
        result: The result.
        path: Path of all files, without ending.

    Returns:
        The files.
    """
    import_libraries()
    import matplotlib.pyplot as plt

    from utilities.plots.style import save_figure

    npz = result.save(path)
    table = result.to_csv(path.with_name(f"{path.name}.csv"))
    figure = result.plot()
    pictures = [save_figure(figure, path.with_name(path.name + ending)) for ending in (".png", ".pdf", ".svg")]
    plt.close(figure)
    return [table, npz, npz.with_suffix(".json"), *pictures]


def links(paths: Sequence[Path]) -> str:
    """Return HTML that offers files for download; they stand in it, so that it needs no server.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.csv"
        >>> _ = path.write_text("1")
        >>> links([path])
        '<a download="a.csv" href="data:text/csv;base64,MQ==">CSV</a>'
    """
    return " ".join(
        f'<a download="{html.escape(path.name)}" href="data:{KINDS[path.suffix]};base64,'
        f'{base64.b64encode(path.read_bytes()).decode()}">{path.suffix[1:].upper()}</a>'
        for path in paths
    )


def picture(path: Path, alt: str) -> str:
    """Return a picture with its caption as HTML, in its size on paper.

    Args:
        path: A .png of `utilities.plots.style.save_figure`.
        alt: What it shows, for those who do not see it.
    """
    import_libraries()
    from PIL import Image

    from utilities.plots.style import read_caption

    with Image.open(path) as opened:
        width = round(SCREEN * opened.width / opened.info.get("dpi", (DPI,))[0])
    data = base64.b64encode(path.read_bytes()).decode()
    style = f"width:{width}px;max-width:100%"
    return (
        f'<figure style="margin:1em 0"><img alt="{html.escape(alt)}" style="{style}" '
        f'src="data:image/png;base64,{data}"><figcaption>{html.escape(read_caption(path))}</figcaption></figure>'
    )
