"""Robustness to noise in one band of frequencies: which frequencies of its input does a classifier depend on?

In Park and Kim 2022, Fig. 2b (https://arxiv.org/abs/2202.06709), noise in a ring of frequencies is added to the images,
and the change in accuracy is plotted against the frequency of the ring. With a sign pattern as noise, the wider rings
of high frequencies carry more energy, and this alone would make them more harmful. By default all bands are therefore
brought to the same energy.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from utilities.analysis.predictions.paired_accuracy import contrast, right_in_both
from utilities.analysis.stream import stream
from utilities.datasets.loaders import seeded_generator
from utilities.datasets.naming import known_facts
from utilities.hooks.calls.labels import BatchCheck, check_batch, hits
from utilities.hooks.calls.merging import Total
from utilities.hooks.calls.options import check_number, check_whole
from utilities.results.result import Result
from utilities.utils import versions

NOISES = ("sign", "gaussian")
ROUNDING = 1e-9  # makes an edge of 0.35 mean 7/20, whatever the last bit of either is


def band_edges(bands: int | Sequence[float]) -> np.ndarray:
    r"""Return the edges of bands in units of :math:`\pi` radians per pixel.

    Args:
        bands: Number of bands, or their edges. A number B means bands of equal width, centred at 1/(B + 1),
            2/(B + 1) ... B/(B + 1), which leaves out half a width at both ends: 9 gives the paper's 0.1 to 0.9, each of
            half-width 0.05. Edges rise within 0..1; (0, ..., 1) leaves nothing out.

    Raises:
        ValueError: If there is no band, or edges do not rise or lie outside 0..1.

    Example:
        >>> band_edges(3).tolist()
        [0.125, 0.375, 0.625, 0.875]
    """
    if isinstance(bands, (int, np.integer)):
        if bands < 1:
            raise ValueError(f"bands should be 1 or more, or edges in units of pi, got {bands}")
        return (np.arange(bands + 1) + 0.5) / (bands + 1)
    edges = np.asarray(bands, np.float64)
    if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all() or edges[0] < 0 or edges[-1] > 1:
        raise ValueError(f"edges should be two or more numbers that rise within 0..1 (units of pi), got {bands}")
    return edges


def frequency_bands(height: int, width: int, edges: Sequence[float]) -> torch.Tensor:
    r"""Make masks of square rings in the plane of frequencies.

    Band b holds the frequencies with :math:`e_b \le \max(|f_x|, |f_y|) < e_{b+1}` of the DFT, in units of
    :math:`\pi`. An upper edge of 1 is part of its band. Masks are disjoint, and symmetric so that filtered noise is
    real. Edges from 0 to 1 leave no frequency out. Other edges leave out whatever lies outside them, including the mean
    colour if they start above 0.

    Args:
        height: Height in pixels, odd or even.
        width: Width in pixels, odd or even.
        edges: Edges of the bands in units of pi, see `band_edges`.

    Returns:
        Boolean masks in the order of ``torch.fft.fft2``, (bands, height, width).

    Raises:
        ValueError: If a band holds no frequency at this size.

    Example:
        >>> frequency_bands(4, 4, [0, 0.25, 0.75, 1]).sum((1, 2)).tolist()
        [1, 8, 7]
    """
    vertical, horizontal = (2 * torch.fft.fftfreq(size, dtype=torch.float64).abs() for size in (height, width))
    radius = torch.maximum(vertical[:, None], horizontal[None, :])
    bounds = torch.tensor([*edges[:-1], edges[-1] if edges[-1] < 1 else math.inf], dtype=torch.float64) - ROUNDING
    inside = radius >= bounds.view(-1, 1, 1)
    masks = inside[:-1] & ~inside[1:]
    empty = [f"{edges[i]:.3g} to {edges[i + 1]:.3g}" for i in (~masks.any((1, 2)).numpy()).nonzero()[0]]
    if empty:
        most = max(height, width) // 2 - 1
        raise ValueError(
            f"no frequency of {height}x{width} pixels lies in the band {', '.join(empty)} (units of pi): use fewer "
            f"bands, such as bands={max(most, 1)}, or other edges"
        )
    return masks


def filter_noise(noise: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Keep the frequencies of a symmetric mask.

    Args:
        noise: Real noise, (..., height, width).
        mask: A mask of `frequency_bands`, (height, width).

    Returns:
        Real filtered noise, in the shape of ``noise``.

    Example:
        >>> filter_noise(torch.tensor([[1.0, 3.0]]), frequency_bands(1, 2, [0, 0.5, 1])[0]).tolist()
        [[2.0, 2.0]]
    """
    height, width = noise.shape[-2:]
    half = mask[:, : width // 2 + 1]  # the other half is its mirror image
    return torch.fft.irfft2(torch.fft.rfft2(noise) * half, s=(height, width))


def draw_noise(noise: str, seed: int, first: int, shape: Sequence[int]) -> torch.Tensor:
    """Draw unit noise for each image of a batch. It depends on the seed and the image's number alone.

    Args:
        noise: ``sign`` is -1 or 1 with equal probability; ``gaussian`` is standard normal.
        seed: Seed of the noise, 0 or more.
        first: Number of the first image.
        shape: Shape of the batch, (batch, channels, height, width).

    Example:
        >>> both = draw_noise("sign", 0, 0, (2, 3, 4, 4))
        >>> bool((both[1:] == draw_noise("sign", 0, 1, (1, 3, 4, 4))).all())
        True
    """
    count, *rest = shape
    drawn = [torch.randn(rest, generator=seeded_generator(seed, first + i)) for i in range(count)]
    normal = torch.stack(drawn)
    return normal if noise == "gaussian" else torch.where(normal < 0, -1.0, 1.0)


@dataclasses.dataclass(frozen=True)
class NoiseFrequency(Result):
    """Accuracy of a classifier on clean images and with noise in each band. Errors are standard errors over images.

    Attributes:
        both_right: Number of images classified correctly in both of two versions, (1 + bands, 1 + bands). Version 0 is
            the clean one. int64, unless answers were tied.
        edges: Edges of the bands in units of pi radians per pixel, (bands + 1,).
        n: Number of images.
        provenance: What this was made from, including ``eps``, ``noise`` and ``equal_energy``.
    """

    both_right: np.ndarray
    edges: np.ndarray
    n: int
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def centres(self) -> np.ndarray:
        """Centre of each band in units of pi, (bands,)."""
        return (self.edges[:-1] + self.edges[1:]) / 2

    @property
    def clean_accuracy(self) -> float:
        """Accuracy on the same images without noise."""
        return float(self.both_right[0, 0] / self.n)

    @property
    def change(self) -> np.ndarray:
        """Accuracy with noise minus accuracy without, in percentage points, (bands,)."""
        return self.mean_change(np.eye(len(self.centres)))[0]

    @property
    def stderr(self) -> np.ndarray:
        """Standard error of each change, in percentage points, (bands,). Each image is its own control."""
        return self.mean_change(np.eye(len(self.centres)))[1]

    def mean_change(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute weighted sums of the changes in all bands, with their standard errors.

        Args:
            weights: Weight of each band, (..., bands).

        Returns:
            Sums and errors in percentage points, (...,).
        """
        weights = np.asarray(weights, np.float64)
        clean = -weights.sum(-1, keepdims=True)
        value, error = contrast(self.both_right, self.n, np.concatenate([clean, weights], -1))
        return 100 * value, 100 * error

    def to_frame(self) -> pd.DataFrame:
        """Tabulate one row per band: low, centre, high (units of pi), accuracy, change, stderr (points)."""
        edges = {"low": self.edges[:-1], "centre": self.centres, "high": self.edges[1:]}
        accuracy = np.diagonal(self.both_right)[1:] / self.n
        return pd.DataFrame(edges | {"accuracy": accuracy, "change": self.change, "stderr": self.stderr})


def noise_frequency(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    eps: float = 0.2,
    bands: int | Sequence[float] = 9,
    noise: str = "sign",
    equal_energy: bool = True,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
) -> NoiseFrequency:
    """Add noise to a loader's images in one band of frequencies after the other, and classify them.

    Noise is added to the normalised images as they come, and nothing is clipped. An image gets the same noise for all
    bands, and each band keeps its own part of it. The noise does not depend on the batches or the model.

    Args:
        model: Maps images (batch, channels, height, width) to logits (batch, classes).
        loader: Yields (images, labels) in a fixed order, see `utilities.datasets.make_loader`.
        eps: Strength of the noise in normalised units. With ``equal_energy`` it is the root mean square over channels
            and pixels, for each image in each band; 0.2 is about that of the paper's 0.7 averaged over its bands.
            Without, it is the noise's amplitude before filtering (paper: 0.7).
        bands: Number of bands, or their edges, see `band_edges`.
        noise: ``sign`` or ``gaussian``, see `draw_noise`.
        equal_energy: Whether all bands have the same energy. In the paper the energy grows with the frequency.
        seed: Seed of the noise.
        device: See `utilities.utils.resolve_device`.
        progress: Whether to show a bar.
        provenance: Facts about model and data, for captions.

    Raises:
        ValueError: If an option is out of range, weights are not finite, labels are missing or invalid, or a band holds
            no frequency of these images.

    Example:
        >>> from utilities.datasets import load_dataset
        >>> from utilities.datasets.factory import make_loader
        >>> loader = make_loader(load_dataset("digits", n_images=20), 20)
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(768, 10))
        >>> noise_frequency(model, loader, bands=7, eps=0.0, device="cpu").change.tolist()
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    if noise not in NOISES:
        raise ValueError(f"noise {noise!r} is not known; use one of {', '.join(NOISES)}")
    check_number("eps", eps, least=0)
    check_whole("seed", seed, 0)
    edges = band_edges(bands)
    both_right, n, check = Total(np.zeros((), np.int64)), Total(), BatchCheck(loader, model)
    run = {"device": device, "description": "noise", "labelled": True, "progress": progress}
    with stream(model, loader, sums=(both_right, n, check), **run) as batches:
        for images, labels in batches:
            masks = frequency_bands(*images.shape[-2:], edges).to(images.device)
            drawn = draw_noise(noise, seed, batches.served.first, images.shape).to(images.device)
            logits = model(images)
            labels = check(logits, labels)
            rows = [hits(logits, labels)]
            for mask in masks:
                noisy = model(images + eps * _in_band(drawn, mask, equal_energy))
                rows.append(hits(noisy, check_batch(noisy, labels)))
            both_right.add(right_in_both(torch.stack(rows).cpu().double().numpy()))
            n.add(len(labels))
    check.finish()
    options = {"eps": float(eps), "noise": noise, "equal_energy": equal_energy, "seed": seed}
    options["num_classes"] = check.outputs
    facts = {**known_facts(provenance, loader), "n": n.value, **options, "versions": versions()}
    return NoiseFrequency(both_right.value, edges, n.value, facts)


def _in_band(noise: torch.Tensor, mask: torch.Tensor, equal_energy: bool) -> torch.Tensor:
    """Filter noise (batch, channels, height, width), and with equal energy scale each image's to unit RMS."""
    kept = filter_noise(noise, mask)
    return kept / kept.square().mean((1, 2, 3), keepdim=True).sqrt() if equal_energy else kept
