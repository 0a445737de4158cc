"""Meaning of each severity: the published parameters of CIFAR-10-C (32 pixels) and ImageNet-C (224 pixels).

The sources are Hendrycks and Dietterich 2019, https://arxiv.org/abs/1903.12261, and the scripts that made the two sets,
https://github.com/hendrycks/robustness. Lengths are in pixels; noise and colour are in units of the whole range. The
lengths of ``elastic_transform`` are an exception: both sets give them as fractions of the image's side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

CORRUPTIONS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
EXTRA_CORRUPTIONS = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
SEVERITIES = (1, 2, 3, 4, 5)
LARGEST_SMALL = 64  # pixels; the sets' authors used a separate table for 64-pixel images, close to that of CIFAR-10-C


def _zooms(*stops_and_steps: tuple[float, float]) -> list[tuple[float, ...]]:
    return [tuple(np.arange(1, stop, step).tolist()) for stop, step in stops_and_steps]


def _fractions(scale: float, *rows: tuple[float, float, float]) -> list[tuple[float, ...]]:
    return [tuple(scale * value for value in row) for row in rows]


PARAMETERS: dict[str, dict[str, list[Any]]] = {
    "32": {
        "gaussian_noise": [0.04, 0.06, 0.08, 0.09, 0.10],  # standard deviation
        "shot_noise": [500, 250, 100, 75, 50],  # photons of a white pixel
        "impulse_noise": [0.01, 0.02, 0.03, 0.05, 0.07],  # fraction of values
        "defocus_blur": [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)],  # radius, sigma of its smoothing
        "glass_blur": [(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)],  # sigma, reach, passes
        "motion_blur": [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)],  # radius, sigma
        "zoom_blur": _zooms((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),  # factors
        # mean and deviation of the flakes' noise, its zoom, threshold; radius and sigma of the motion; weight of image
        "snow": [
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ],
        "frost": [(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)],  # weights of image and frost
        "fog": [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)],  # height, decay of its roughness
        "brightness": [0.05, 0.1, 0.15, 0.2, 0.3],  # added to the value of HSV
        "contrast": [0.75, 0.5, 0.4, 0.3, 0.15],  # fraction that is left
        "elastic_transform": _fractions(  # displacement, its sigma, jitter of the affine map (fractions of the side)
            1, (0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)
        ),
        "pixelate": [0.95, 0.9, 0.85, 0.75, 0.65],  # fraction of the side's pixels that is left
        "jpeg_compression": [80, 65, 58, 50, 40],  # quality
        "speckle_noise": [0.06, 0.1, 0.12, 0.16, 0.2],  # standard deviation
        "gaussian_blur": [0.4, 0.6, 0.7, 0.8, 1],  # sigma
        # mean and deviation of the liquid's noise, its sigma, threshold; strength (water) or sigma (mud); 1 for mud
        "spatter": [
            (0.62, 0.1, 0.7, 0.7, 0.5, 0),
            (0.65, 0.1, 0.8, 0.7, 0.5, 0),
            (0.65, 0.3, 1, 0.69, 0.5, 0),
            (0.65, 0.1, 0.7, 0.69, 0.6, 1),
            (0.65, 0.1, 0.5, 0.68, 0.6, 1),
        ],
        "saturate": [(0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)],  # factor and offset of the saturation
    },
    "224": {
        "gaussian_noise": [0.08, 0.12, 0.18, 0.26, 0.38],
        "shot_noise": [60, 25, 12, 5, 3],
        "impulse_noise": [0.03, 0.06, 0.09, 0.17, 0.27],
        "defocus_blur": [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)],
        "glass_blur": [(0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)],
        "motion_blur": [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)],
        "zoom_blur": _zooms((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
        "snow": [
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ],
        "frost": [(1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)],
        "fog": [(1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)],
        "brightness": [0.1, 0.2, 0.3, 0.4, 0.5],
        "contrast": [0.4, 0.3, 0.2, 0.1, 0.05],
        "elastic_transform": _fractions(  # published as fractions of 244, for images of 224
            244 / 224, (2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)
        ),
        "pixelate": [0.6, 0.5, 0.4, 0.3, 0.25],
        "jpeg_compression": [25, 18, 15, 10, 7],
        "speckle_noise": [0.15, 0.2, 0.35, 0.45, 0.6],
        "gaussian_blur": [1, 2, 3, 4, 6],
        "spatter": [
            (0.65, 0.3, 4, 0.69, 0.6, 0),
            (0.65, 0.3, 3, 0.68, 0.6, 0),
            (0.65, 0.3, 2, 0.68, 0.5, 0),
            (0.65, 0.3, 1, 0.65, 1.5, 1),
            (0.67, 0.4, 1, 0.65, 1.5, 1),
        ],
        "saturate": [(0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)],
    },
}


def choose_table(height: int, width: int) -> str:
    """Name the table for images of a size: ``"32"`` up to a longer side of 64 pixels, and ``"224"`` above.

    Example:
        >>> choose_table(32, 32), choose_table(64, 48), choose_table(96, 96)
        ('32', '32', '224')
    """
    return "32" if max(height, width) <= LARGEST_SMALL else "224"


FAMILIES = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    "extra": ("speckle_noise", "gaussian_blur", "spatter", "saturate"),
}


def check_sets(kinds: Sequence[str], severities: Sequence[int]) -> tuple[list[str], list[int]]:
    """Check names and severities of corruptions.

    Raises:
        ValueError: If one is not known or occurs twice, or there is none.

    Example:
        >>> check_sets(["fog"], [1, 5])
        (['fog'], [1, 5])
    """
    for name, given, known in (
        ("kinds", kinds, (*CORRUPTIONS, *EXTRA_CORRUPTIONS)),
        ("severities", severities, SEVERITIES),
    ):
        chosen = set() if isinstance(given, (str, int)) else set(given)
        if not chosen or len(chosen) < len(given) or not chosen <= set(known):
            raise ValueError(f"{name} should be some of {', '.join(map(str, known))}, each once; got {given!r}")
    return list(kinds), [int(severity) for severity in severities]
