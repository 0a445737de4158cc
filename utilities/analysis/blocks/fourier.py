"""Fourier analysis of feature maps: does a block raise or lower high frequencies?

See Park & Kim 2022, https://arxiv.org/abs/2202.06709, Fig. 2a and 8. Every map (H, W) after a block has a
two-dimensional discrete Fourier transform F. Its log amplitude A = ln |F| is averaged over channels and images, which
is the logarithm of a geometric mean. The curve Delta(f) = A(f) - A(0) is shown along the diagonal frequencies (f, f).
It compares a block's frequencies with that block's own mean, never with another block.

A frequency of 1.0 pi is the highest that the block's own grid can hold. Measured in pixels of the image, it is eight
times lower at 7x7 positions than at 56x56. ``pixel_frequency`` puts all blocks on one axis.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from utilities.analysis.blocks.spectra import PATHS, REFERENCES, WINDOWS, frequencies, log_curves
from utilities.analysis.stream import stream
from utilities.datasets.naming import known_facts
from utilities.hooks.block import Block
from utilities.hooks.block_sequence import BlockSequence, blocks
from utilities.hooks.calls.merging import Sums
from utilities.hooks.recorder import Forward
from utilities.results.moments import Moments
from utilities.results.result import Result
from utilities.utils import versions


@dataclass(frozen=True)
class Fourier(Result):
    """Spectra after each block.

    Arrays have one row per block, padded with NaN for blocks with fewer frequencies.

    Attributes:
        names: Names of the blocks, without the classifier.
        kinds: Kinds of the blocks, see `utilities.hooks.block.BLOCK_KINDS`.
        stages: Stage of each block: 0 for the stem, then from 1.
        size: Rows and columns of the maps, (blocks, 2).
        frequency: Frequency in units of pi per position of the block's own grid, (blocks, frequencies).
        pixel_frequency: Frequency in units of pi per pixel of the image, (blocks, frequencies).
        log_amplitude: ln(|F| / (H W)), mean over images and channels; 0 is a mean amplitude of 1.
        delta: log_amplitude minus its value at the reference frequency.
        delta_stderr: Standard error of ``delta`` over images.
        gain: ln of output over input amplitude at the same frequency of the image. The first block's input is the
            image itself.
        gain_stderr: Standard error of ``gain`` over images.
        change: How the block changed delta at its highest frequency, (blocks,); NaN where the grid changed.
        change_stderr: Standard error of ``change`` over images, paired.
        provenance: What it was made from.
    """

    names: list[str]
    kinds: list[str]
    stages: list[int]
    size: np.ndarray
    frequency: np.ndarray
    pixel_frequency: np.ndarray
    log_amplitude: np.ndarray
    delta: np.ndarray
    delta_stderr: np.ndarray
    gain: np.ndarray
    gain_stderr: np.ndarray
    change: np.ndarray
    change_stderr: np.ndarray
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def depth(self) -> np.ndarray:
        """Relative position of each block, from 0 for the first to 1 for the last."""
        return np.linspace(0, 1, len(self.names))

    @property
    def high(self) -> np.ndarray:
        """Delta at each block's highest frequency, (blocks,)."""
        return _last(self.delta)

    @property
    def high_stderr(self) -> np.ndarray:
        """Standard error of `high`, (blocks,)."""
        return _last(self.delta_stderr)

    def to_frame(self) -> pd.DataFrame:
        """Tabulate the spectra, one row per block and frequency."""
        rows, columns = np.nonzero(np.isfinite(self.frequency))
        values = ("frequency", "pixel_frequency", "log_amplitude", "delta", "delta_stderr", "gain", "gain_stderr")
        blocks_ = {name: [getattr(self, name)[i] for i in rows] for name in ("names", "kinds", "stages")}
        columns_ = {name: getattr(self, name)[rows, columns] for name in values}
        return pd.DataFrame(blocks_ | columns_).rename(columns={"names": "block", "kinds": "kind", "stages": "stage"})


def fourier(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    path: str | None = None,
    reference: str = "dc",
    window: str = "none",
    layers: Mapping[str, str] | Sequence[str] | None = None,
    forward: Forward | None = None,
    device: str | torch.device = "auto",
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
) -> Fourier:
    """Measure the spectrum of the feature maps after every block.

    Args:
        model: See `utilities.hooks.blocks`; it runs in eval mode.
        loader: Yields images, or (images, labels); means and errors are over all of them.
        path: The frequencies to read. None is ``"diagonal"`` where all maps are square and ``"radial"`` otherwise; the
            provenance records the choice. ``"diagonal"`` is the frequencies (f, f) and (f, -f) from 0 to Nyquist.
            ``"radial"`` is the mean over rings of equal |f| from 0 to Nyquist. ``"paper"`` is the published curve: one
            diagonal, without the Nyquist frequency where H is even, and with 1e-6 added to |F|. Its axis labels the
            last point 1.0 pi, which is really 0.96 pi at 56x56 and 0.75 pi at 8x8.
        reference: Reference of delta. ``"dc"`` is the map's mean, as in the paper. ``"ac"`` is the mean log amplitude
            over all other frequencies, because ReLUs and class tokens give maps a large mean.
        window: ``"hann"`` tapers maps towards their borders, where the transform sees a jump that is not there.
        layers: Names or globs of layers in place of the model's blocks, or of a model whose blocks are not known; with
            their kinds where these cannot be told. See `utilities.hooks.blocks`.
        forward: Function that runs such a model, if not ``model(images)``. See `utilities.hooks.Recorder`.
        device: See `utilities.utils.resolve_device`.
        progress: Whether to show a bar.
        provenance: Facts to keep with the result.

    Returns:
        The spectra. Maps that are zero everywhere have no spectrum and are left out of the mean over channels.

    Raises:
        ValueError: If an option is unknown, the model's blocks are not known, or there are no images.

    Example:
        >>> from utilities.resnet import resnet18
        >>> images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> result = fourier(resnet18(), [images], device="cpu")
        >>> result.names[:2], result.size[0].tolist(), result.frequency[0].tolist()[:3]
        (['stem', 'layer1.0'], [16, 16], [0.0, 0.125, 0.25])
    """
    options = {"path": (path or PATHS[0], PATHS), "reference": (reference, REFERENCES), "window": (window, WINDOWS)}
    for name, (value, known) in options.items():
        if value not in known:
            raise ValueError(f"{name} {value!r} is not known; choose from {', '.join(known)}")
    sequence, spectra = blocks(model, layers, forward), {}
    run = {"device": device, "description": "Fourier", "progress": progress}
    with stream(model, loader, sums=spectra, **run) as batches:
        for images, maps_of_blocks in sequence.walk(batches):
            path, size = path or _fitting_path(sequence, images[:1]), images.shape[-2:]
            previous = (size, log_curves(images, path, reference, window))
            for block, maps in maps_of_blocks:
                curves = log_curves(maps, path, reference, window)
                spectrum = spectra.setdefault(block.name, _Spectrum(block, maps.shape[-2:], size, path))
                spectrum.add(curves, previous)
                previous = (maps.shape[-2:], curves)
    facts = {"n": next(iter(spectra.values())).delta.n, "path": path, "reference": reference, "window": window}
    return _collect(list(spectra.values()), known_facts(provenance, loader) | facts | {"versions": versions()})


def _fitting_path(sequence: BlockSequence, images: torch.Tensor) -> str:
    """Choose the diagonal if all maps are square. Otherwise choose rings, as few or no frequencies (f, f) are left."""
    sizes = [images.shape[-2:], *(maps.shape[-2:] for _, maps in sequence.maps(images))]
    return "diagonal" if all(height == width for height, width in sizes) else "radial"


class _Spectrum(Sums):
    """Sums over images of one block's curves."""

    KEEPS = ("size", "frequency", "image", "path")

    def __init__(self, block: Block, size: Iterable[int], image: Iterable[int], path: str) -> None:
        self.block, self.size = block, tuple(size)
        self.frequency = frequencies(*self.size, path)
        self.image, self.path = tuple(image), path
        self.log, self.delta, self.gain, self.change = Moments(), Moments(), Moments(), Moments()

    @property
    def pixel_frequency(self) -> np.ndarray:
        return self._in_pixels(self.size)

    def _in_pixels(self, size: tuple[int, int]) -> np.ndarray:
        """Return a grid's true frequencies in units of pi per pixel of the image, also for the published axis."""
        true = frequencies(*size, self.path)
        if self.path == "paper":
            true = np.arange(len(true)) * 2 / size[0]
        return true * max(size) / max(self.image)

    def add(self, curves: torch.Tensor, previous: tuple[Iterable[int], torch.Tensor]) -> None:
        """Add a batch, paired with the same images' curves before the block."""
        size, before = previous
        delta = curves[:, :-1] - curves[:, -1:]
        self.log.add(curves[:, :-1])
        self.delta.add(delta)
        if tuple(size) == self.size and max(size) > 1:
            self.change.add(delta[:, -1] - (before[:, -2] - before[:, -1]))
        mine, other = self._shared(tuple(size))
        gain = torch.full_like(delta, torch.nan)
        gain[:, mine] = curves[:, mine] - before[:, other]
        self.gain.add(gain)

    def _shared(self, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Find the image frequencies that both grids hold, as indices into both curves."""
        pixels = [self._in_pixels(grid).round(9) for grid in (self.size, size)]
        _, mine, other = np.intersect1d(*pixels, return_indices=True)
        return mine, other


def _collect(spectra: list[_Spectrum], provenance: dict[str, Any]) -> Fourier:
    width = max(len(spectrum.frequency) for spectrum in spectra)

    def table(rows: Iterable[np.ndarray]) -> np.ndarray:
        return np.stack([np.pad(row, (0, width - len(row)), constant_values=np.nan) for row in rows])

    changes = [spectrum.change for spectrum in spectra]
    return Fourier(
        names=[spectrum.block.name for spectrum in spectra],
        kinds=[spectrum.block.kind for spectrum in spectra],
        stages=[spectrum.block.stage for spectrum in spectra],
        size=np.array([spectrum.size for spectrum in spectra]),
        frequency=table(spectrum.frequency for spectrum in spectra),
        pixel_frequency=table(spectrum.pixel_frequency for spectrum in spectra),
        log_amplitude=table(spectrum.log.mean for spectrum in spectra),
        delta=table(spectrum.delta.mean for spectrum in spectra),
        delta_stderr=table(spectrum.delta.stderr for spectrum in spectra),
        gain=table(spectrum.gain.mean for spectrum in spectra),
        gain_stderr=table(spectrum.gain.stderr for spectrum in spectra),
        change=np.array([float(change.mean) if change.n else np.nan for change in changes]),
        change_stderr=np.array([float(change.stderr) if change.n else np.nan for change in changes]),
        provenance=provenance,
    )


def _last(table: np.ndarray) -> np.ndarray:
    """Return the last finite value of each row; NaN where only frequency 0 is finite."""
    places = np.isfinite(table).sum(1) - 1
    return np.where(places > 0, table[np.arange(len(table)), places], np.nan)
