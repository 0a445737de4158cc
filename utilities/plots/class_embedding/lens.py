"""Figure of what one image's tokens say about its class, on the image's grid (Vilas et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utilities.analysis.class_embedding.lens import NO_LABEL, Lens
from utilities.analysis.class_embedding.ranks import chance_score
from utilities.plots.labelled_figure import finish, named, new_figure
from utilities.plots.paper import TEXT_WIDTH
from utilities.plots.text_fitting import wrap

COLUMNS = 5  # number of maps in a row
PART_TITLES = {"block": "after the block", "attn": "of what attention adds", "mlp": "of what the MLP adds"}
TEXT_TOKENS = 64  # with more tokens there is no room for names of classes


def plot_lens(
    result: Lens,
    image: np.ndarray | torch.Tensor,
    index: int = 0,
    part: str = "block",
    blocks: Sequence[int] | None = None,
    classes: Sequence[str] | None = None,
    names: bool = False,
) -> Figure:
    """Draw an image beside maps of its tokens' scores, one for each block.

    Args:
        result: Result for one or more images.
        image: Picture, (height, width, 3) or a tensor (3, height, width), values 0 to 1.
        index: Index of the picture among the result's images.
        part: Part whose scores are drawn: ``"block"``, ``"attn"`` or ``"mlp"``.
        blocks: Indices of the blocks from 0, negative ones from the end; None takes all.
        classes: Names of the classes; None numbers them.
        names: Whether to write the first class into each token, for at most `TEXT_TOKENS` tokens.

    Returns:
        The figure.

    Raises:
        ValueError: If the image, a block or the part is missing, names do not match, or the picture is not RGB.

    Example:
        >>> tokens = np.zeros((1, 1, 1, 4), np.int16)
        >>> one = np.array([2])
        >>> result = Lens(["b"], ["block"], tokens, tokens, tokens[..., None], one, one, one, 0, False, [2, 2], 10)
        >>> [axis.get_title() for axis in plot_lens(result, np.zeros((4, 4, 3))).axes[:2]]
        ['2', 'block 1']
    """
    blocks = _check(result, index, part, blocks, names)
    classes = _class_names(result, classes)
    picture, p = _picture(image), result.parts.index(part)
    columns = min(COLUMNS, len(blocks) + 1)
    rows = -(-(len(blocks) + 1) // columns)
    side = (TEXT_WIDTH - 0.7) / columns
    figure, axes = new_figure(TEXT_WIDTH, rows * (side + 0.2), rows, columns, squeeze=False)
    axes = list(axes.ravel())
    axes[0].imshow(picture, interpolation="nearest")
    axes[0].set_title(_name(classes, result.target[index]))
    scores = result.image_map(result.score[index, p])
    first = result.image_map(result.top[index, p, ..., 0])
    for ax, b in zip(axes[1:], blocks, strict=False):
        drawn = ax.imshow(scores[b], vmin=0, vmax=1, cmap="viridis")
        ax.set_title(_title(result, index, p, b))
        if names:
            _write(ax, scores[b], first[b], classes, side)
    for ax in axes:
        ax.set_axis_off()
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8, aspect=25, pad=0.02)
    bar.set_label(f"class identifiability\n{PART_TITLES[part]}")
    return finish(figure, named(result), _note(result, index, classes, names), legend=False)


def _check(result: Lens, index: int, part: str, blocks: Sequence[int] | None, names: bool) -> list[int]:
    """Refuse what the result does not hold, and return the blocks' indices from 0."""
    n, depth = len(result.rank), len(result.names)
    if not 0 <= index < n:
        raise ValueError(f"index={index} should be from 0 to {n - 1}, one of the result's {n} images")
    if part not in result.parts:
        raise ValueError(f"part {part!r} was not read; there are {', '.join(result.parts)}")
    blocks = list(range(depth)) if blocks is None else list(blocks)
    if not blocks or any(not -depth <= b < depth for b in blocks):
        raise ValueError(f"blocks {blocks} should be one or more from 0 to {depth - 1}")
    tokens = int(np.prod(result.grid))
    if names and tokens > TEXT_TOKENS:
        raise ValueError(f"names do not fit into {tokens} tokens, {TEXT_TOKENS} is the most; pass names=False")
    return [b % depth for b in blocks]


def _class_names(result: Lens, classes: Sequence[str] | None) -> list[str]:
    """Return a name for each class."""
    if classes is None:
        return [str(c) for c in range(result.num_classes)]
    if len(classes) != result.num_classes:
        raise ValueError(f"there are {len(classes)} names for {result.num_classes} classes")
    return [str(name) for name in classes]


def _picture(image: np.ndarray | torch.Tensor) -> np.ndarray:
    """Convert a picture to (height, width, 3)."""
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu().movedim(0, -1).numpy()
    if image.ndim != 3 or image.shape[2] != 3 or not (image.min() >= 0 and image.max() <= 1):
        raise ValueError(
            f"image should be RGB in 0..1, an array (height, width, 3) or a tensor (3, height, width); got "
            f"{image.shape} from {image.min():.3g} to {image.max():.3g}: undo its normalisation"
        )
    return image


def _title(result: Lens, index: int, p: int, b: int) -> str:
    """Name a block, with the class token's score if there is one."""
    if not result.class_token:
        return f"block {b + 1}"
    return f"block {b + 1}, [CLS] {result.score[index, p, b, 0]:.2f}"


def _write(ax: Axes, scores: np.ndarray, first: np.ndarray, classes: Sequence[str], side: float) -> None:
    """Write each token's first class into it, in a size that fits."""
    room = 72 * 0.9 * side / scores.shape[1]  # points
    for (row, column), c in np.ndenumerate(first):
        text = classes[c]
        size = min(6.0, room / (0.6 * max(len(text), 1)))
        colour = "white" if scores[row, column] < 0.6 else "black"
        ax.text(column, row, text, ha="center", va="center", fontsize=size, color=colour, clip_on=True)


def _name(classes: Sequence[str], index: int) -> str:
    return wrap(classes[index], 1.1)


def _note(result: Lens, index: int, classes: Sequence[str], names: bool) -> str:
    truth = result.labels[index]
    known = [f"class looked at: {classes[result.target[index]]}"]
    if truth != NO_LABEL and truth != result.target[index]:
        known.append(f"true class: {classes[truth]}")
    known.append(f"prediction: {classes[result.predictions[index]]}")
    first = " Written into each token: its first class." if names else ""
    return (
        f"Shown is image {index + 1}: {', '.join(known)}. 1: the class comes first among {result.num_classes:,}; mean "
        f"over ranks at random: {chance_score(result.num_classes):.3g}.{first}"
    )
