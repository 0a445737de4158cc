"""Pictures of the index: a small figure of what a notebook or a command has left."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import IO

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from PIL import Image

from utilities.analysis.class_embedding.perturbation import Perturbation
from utilities.plots.resizing import resize_figure
from utilities.results.result import Result
from utilities.results.similarity import Similarity

THUMBNAIL = (480, 320)  # pixels, at most
# Kind of result -> its plot, ``module:function`` below `utilities.plots`: the first figure of ``analyse``, where it has
# one. Kinds whose figures show images, which a result does not hold, have none.
PLOTS: Mapping[str, str] = {
    "Adversarial": "predictions.adversarial:plot_adversarial",
    "AttentionDistance": "attention.attention_distance:plot_sorted_heads",
    "ClassValueAgreement": "class_embedding.class_value:plot_class_value_agreement",
    "Classification": "predictions.classification:plot_reliability",
    "Consistency": "predictions.consistency:plot_consistency",
    "Fourier": "blocks.fourier:plot_spectra",
    "HessianSpectra": "loss.hessian:plot_spectra",
    "Identifiability": "class_embedding.identifiability:plot_evolution",
    "ImageContributions": "similarity.contributions:plot_without",
    "KeyValueAgreement": "class_embedding.key_value:plot_key_value_agreement",
    "LambdaReach": "attention.lambda_reach:plot_lambda_reach",
    "Landscape": "loss.landscape:plot_cuts",
    "LayerHessians": "loss.layer_hessian:plot_layer_hessians",
    "LayerProbes": "blocks.layer_probes:plot_layer_probes",
    "Lesions": "blocks.lesion:plot_lesions",
    "LensKL": "class_embedding.lens_distance:plot_lens_distances",
    "LinearProbes": "class_embedding.probes:plot_probes",
    "Localisation": "blocks.localisation:plot_localisation",
    "LogitAttribution": "class_embedding.logit_attribution:plot_logit_attribution",
    "MatrixDifference": "similarity.nearness_matrix:plot_nearness_matrix",
    "NoiseFrequency": "predictions.noise_frequency:plot_noise_frequency",
    "Perturbation": "class_embedding.perturbation:plot_perturbation",
    "ReceptiveField": "blocks.receptive_field:plot_receptive_fields",
    "RemovalCurves": "class_embedding.removal:plot_removal",
    "Robustness": "predictions.robustness:plot_severity",
    "SimilarityDifference": "similarity.nearness:plot_nearness",
    "SkipRatios": "blocks.skip_ratios:plot_skip_lines",
    "SpectralDensity": "loss.hessian:plot_spectral_density",
    "Trajectory": "loss.trajectory:plot_trajectories",
    "Variance": "blocks.variance:plot_variance",
}  # fmt: skip


def has_picture(result: Result | None) -> bool:
    """Tell whether `draw_small` draws this kind of result.

    Example:
        >>> has_picture(Similarity(np.eye(2), ["a", "b"], ["a", "b"], 10)), has_picture(None)
        (True, False)
    """
    return isinstance(result, Similarity) or type(result).__name__ in PLOTS


def draw_small(result: Result, path: Path) -> None:
    """Draw a result as a PNG of at most `THUMBNAIL` pixels: a heatmap without words, or the plot of its kind.

    Raises:
        ValueError: If the plot refuses the result.
    """
    if isinstance(result, Similarity):
        side = max(1, THUMBNAIL[1] // max(result.matrix.shape))
        values = np.kron(result.matrix, np.ones((side, side)))
        plt.imsave(path, values, vmin=0, vmax=1, cmap=sns.color_palette("rocket", as_cmap=True), origin="lower")
        return
    module, _, function = _plot_of(result).partition(":")
    figure = getattr(import_module(f"utilities.plots.{module}"), function)(result)
    resize_figure(figure, None, caption=False)
    whole = BytesIO()
    figure.savefig(whole, format="png", dpi=200)
    plt.close(figure)
    shrink(whole, path, THUMBNAIL)


def _plot_of(result: Result) -> str:
    if isinstance(result, Perturbation) and len(set(result.kinds)) < len(result.kinds):  # one block at a time
        return "class_embedding.perturbation:plot_perturbation_of_blocks"
    return PLOTS[type(result).__name__]


def shrink(source: Path | IO[bytes], path: Path, most: tuple[int, int]) -> None:
    """Write a picture again as a PNG of at most so many pixels, (width, height), and 256 colours."""
    with Image.open(source) as picture:
        small = picture.convert("RGB").resize(_fitted(picture.size, most), Image.Resampling.LANCZOS)
        small.quantize(256, dither=Image.Dither.NONE).save(path, format="png", optimize=True)


def _fitted(size: tuple[int, int], limits: tuple[int, int]) -> tuple[int, int]:
    scale = min(1.0, *(most / own for most, own in zip(limits, size, strict=True)))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
