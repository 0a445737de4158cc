"""The pictures of README and docs: from which results each is drawn, and how."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from utilities.analysis.attention.attention_distance import AttentionDistance
from utilities.analysis.blocks.fourier import Fourier
from utilities.analysis.blocks.layer_probes import LayerProbes
from utilities.analysis.blocks.lesion import Lesions
from utilities.analysis.blocks.localisation import Localisation
from utilities.analysis.blocks.receptive_field import ReceptiveField
from utilities.analysis.blocks.skip_ratios import SkipRatios
from utilities.analysis.blocks.variance import Variance
from utilities.analysis.class_embedding.identifiability import Identifiability
from utilities.analysis.loss.hessian import HessianSpectra
from utilities.analysis.loss.landscape import Landscape
from utilities.analysis.predictions.robustness import Robustness
from utilities.plots.attention import plot_head_windows, plot_sorted_heads
from utilities.plots.blocks import (
    plot_field_sizes,
    plot_high_frequency,
    plot_layer_probes,
    plot_lesions,
    plot_localisation,
    plot_receptive_fields,
    plot_skip_lines,
    plot_variance,
)
from utilities.plots.class_embedding import plot_evolution
from utilities.plots.loss import plot_cuts, plot_spectra
from utilities.plots.predictions import plot_severity
from utilities.plots.similarity import plot_best_match, plot_panels
from utilities.results.head_windows import HeadWindowSimilarity
from utilities.results.result import Result
from utilities.results.similarity import Similarity
from utilities.results.writing import write_whole

LARGE = 2**14  # entries of an array that is kept in half precision
CNN, VIT = "tf_efficientnet_lite0", "vit_small_patch14_dinov2"
SMALL_VIT, LAMBDA = "vit_tiny_patch4_32", "lambda_resnet26"


@dataclass(frozen=True)
class Picture:
    """One picture.

    Attributes:
        kind: Class of its results.
        files: Label -> name of a result's files, without their ending.
        draw: Takes the results by label, and gives the figure.
        few_maps: Whether maps of the first, the middle and the last layer are all that is drawn, and kept.
    """

    kind: type[Result]
    files: Mapping[str, str]
    draw: Callable[[dict[str, Any]], Figure]
    few_maps: bool = False

    def missing(self, folder: Path) -> list[str]:
        """List the files that are not in a folder."""
        return [name for name in self.files.values() if not (folder / f"{name}.npz").is_file()]

    def load(self, folder: Path) -> dict[str, Any]:
        """Read the results by label."""
        return {label: self.kind.load(folder / name) for label, name in self.files.items()}


def _columns(*columns: Sequence[str]) -> Picture:
    """Draw columns of results, those of untrained models above those of trained ones."""
    files = {name: name for column in columns for name in column}
    draw = lambda results: plot_panels([[results[name] for name in column] for column in columns])  # noqa: E731
    return Picture(Similarity, files, draw)


def _of_both(kind: type[Result], notebook: str, draw: Callable[[dict[str, Any]], Figure]) -> Picture:
    """Draw the results of the CNN and the ViT with real weights together."""
    return Picture(kind, {CNN: notebook, VIT: f"{notebook}_{VIT}"}, draw)


def _of_three(kind: type[Result], notebook: str, draw: Callable[[dict[str, Any]], Figure]) -> Picture:
    """Draw the results of the CNN, the hybrid and the ViT that were trained on natural images together."""
    others = {name: f"{notebook}_{name}" for name in ("alternet18", SMALL_VIT)}
    return Picture(kind, {"resnet18": notebook} | others, draw)


def _best_matches(trained: str, untrained: str, names: Sequence[str]) -> Picture:
    """Draw where the layers of ResNet-18 have their best match in other models, trained and untrained."""
    files = {
        f"in {name}{note}": f"{stem}_resnet18_{name}"
        for stem, note in ((trained, ""), (untrained, ", untrained"))
        for name in names
    }
    draw = lambda results: plot_best_match(list(results.values()), labels=list(results))  # noqa: E731
    return Picture(Similarity, files, draw)


def _of_ten_thousand(kind: type[Result], analysis: str, draw: Callable[[dict[str, Any]], Figure]) -> Picture:
    """Draw what one analysis found of the models that learnt from 10,000 images together."""
    return Picture(kind, {name: f"{analysis}_{name}" for name in ("resnet18", LAMBDA, "alternet18")}, draw)


SMALL: dict[str, Picture] = {
    "resnet": _columns(*((f"R{d}_CIFAR100_RANDOM", f"R{d}_CIFAR100_PRETRAINED") for d in (18, 34, 50))),
    "lambda": _columns(*((f"Lambda_R{d}_CIFAR100_RANDOM", f"Lambda_R{d}_CIFAR100_PRETRAINED") for d in (26, 38, 50))),
    "vit": _columns(("ViT_ImageNet_RANDOM", "ViT_ImageNet_PRETRAINED")),
}
REAL: dict[str, Picture] = {
    "real_weights": _columns(
        (f"Real_Weights_untrained_{CNN}_{CNN}", "Real_Weights"),
        (f"Real_Weights_untrained_{VIT}_{VIT}", f"Real_Weights_trained_{VIT}_{VIT}"),
    ),
    "cnn_and_vit": _columns((f"Real_Weights_untrained_{CNN}_{VIT}", f"Real_Weights_trained_{CNN}_{VIT}")),
    "best_match": Picture(
        Similarity,
        {"trained": f"Real_Weights_trained_{CNN}_{VIT}", "untrained": f"Real_Weights_untrained_{CNN}_{VIT}"},
        lambda results: plot_best_match(list(results.values()), labels=list(results)),
    ),
    "attention_distance": Picture(AttentionDistance, {VIT: "Attention_Distance"}, plot_sorted_heads),
    "head_windows": Picture(
        HeadWindowSimilarity,
        {
            f"heads of the {which} block": f"Attention_Distance_heads-of-the-{which}-block"
            for which in ("first", "second")
        },
        plot_head_windows,
    ),
    "receptive_fields": _of_both(ReceptiveField, "Receptive_Field", plot_receptive_fields),
    "field_sizes": _of_both(ReceptiveField, "Receptive_Field", plot_field_sizes),
    "skips": Picture(SkipRatios, {CNN: "Skip_Connections", VIT: f"Skip_Connections_real_{VIT}"}, plot_skip_lines),
    "localisation": Picture(
        Localisation, {VIT: "Spatial_Localisation", CNN: f"Spatial_Localisation_real_{CNN}"}, plot_localisation, True
    ),
    "layer_probes": Picture(LayerProbes, {VIT: "Layer_Probes", CNN: f"Layer_Probes_real_{CNN}"}, plot_layer_probes),
    "lens": Picture(Identifiability, {VIT: f"Layer_Probes_lens_{VIT}"}, plot_evolution),
}
# Models trained here on natural images, by the notebooks' natural profile.
NATURAL: dict[str, Picture] = {
    "natural_similarity": _columns(
        ("Compare_CNN_Hybrid_ViT",),
        *((f"Compare_CNN_Hybrid_ViT_trained_{one}_{two}",) for one, two in (("alternet18",) * 2, (SMALL_VIT,) * 2)),
    ),
    "natural_cnn_and_vit": _columns(
        tuple(f"Compare_CNN_Hybrid_ViT_{kind}_resnet18_{SMALL_VIT}" for kind in ("untrained", "trained"))
    ),
    "natural_best_match": _best_matches(
        "Compare_CNN_Hybrid_ViT_trained", "Compare_CNN_Hybrid_ViT_untrained", ("alternet18", SMALL_VIT)
    ),
    "natural_fourier": _of_three(Fourier, "Fourier_Analysis", plot_high_frequency),
    "natural_variance": _of_three(Variance, "Feature_Map_Variance", plot_variance),
    "natural_lesions": _of_three(Lesions, "Lesion_Study", plot_lesions),
    "natural_landscape": _of_three(Landscape, "Loss_Landscape", plot_cuts),
    "natural_landscape_estimated": Picture(
        Landscape,
        {
            name: f"Loss_Landscape_estimated_{kind}"
            for name, kind in {"resnet18": "cnn", "alternet18": "hybrid", SMALL_VIT: "vit"}.items()
        },
        plot_cuts,
    ),
    "natural_hessian": _of_three(HessianSpectra, "Hessian_Spectra", plot_spectra),
    "natural_hessian_early": Picture(
        HessianSpectra,
        {
            name: f"Hessian_Spectra_{name}_epoch_{epoch}"
            for name, epoch in {"resnet18": 1, "alternet18": 1, SMALL_VIT: 5}.items()
        },
        plot_spectra,
    ),
    "natural_robustness": _of_three(Robustness, "Robustness", plot_severity),
    "natural_lens": Picture(
        Identifiability,
        {name: f"Class_Identifiability_conv_{name}" for name in ("resnet18", "alternet18")}
        | {SMALL_VIT: "Class_Identifiability"},
        plot_evolution,
    ),
}
# Models trained here on the same 10,000 natural images, each from a seed of its own; docs/findings.md has the commands.
TEN_THOUSAND: dict[str, Picture] = {
    "lambda_natural": _columns(
        *((f"similarity_{pair}",) for pair in ("resnet18_resnet18", f"resnet18_{LAMBDA}", f"{LAMBDA}_{LAMBDA}"))
    ),
    "lambda_natural_best_match": _best_matches("similarity", "untrained", (LAMBDA, "alternet18")),
    "lambda_natural_fourier": _of_ten_thousand(Fourier, "fourier", plot_high_frequency),
    "lambda_natural_variance": _of_ten_thousand(Variance, "variance", plot_variance),
    "lambda_natural_lesions": _of_ten_thousand(Lesions, "lesions", plot_lesions),
}


def keep(runs: Path, results: Path, pictures: Mapping[str, Picture], weights: str | None = None) -> list[Path]:
    """Copy what pictures are drawn from, as small files, and claims.

    Large arrays are rounded to half precision, 11 bits.

    Args:
        runs: Folder of the notebooks' results.
        results: Folder of the copies.
        pictures: Name -> picture.
        weights: Keep only the claims that rest on such weights, ``"real"`` say, alone or among others; None keeps all.

    Returns:
        The files.

    Raises:
        FileNotFoundError: If a result is missing.
    """
    for name, picture in pictures.items():
        if missing := picture.missing(runs):
            raise FileNotFoundError(
                f"{runs} lacks {', '.join(missing)}, of which {name}.png is made; docs/findings.md says how"
            )
    paths = []
    for picture in pictures.values():
        for name in picture.files.values():
            result = picture.kind.load(runs / name)
            paths.append(_smaller(result, picture.few_maps).save(results / name))
    for path in sorted(runs.glob("*_claims.csv")):
        claims = pd.read_csv(path, dtype=str)
        if weights is not None:
            kinds = claims.get("weights", pd.Series("", claims.index)).fillna("").str.split(" + ", regex=False)
            claims = claims[kinds.map(lambda found: weights in found)]
        if len(claims):
            paths.append(write_whole(results / path.name, lambda place, kept=claims: kept.to_csv(place, index=False)))
    return paths


def _smaller(result: Result, few_maps: bool) -> Result:
    """Round large arrays, and leave out the maps of all layers but three if they are all that is drawn."""
    if few_maps:
        count = len(result.names)
        result = result.with_maps_of(sorted({0, count // 2, count - 1}))
    values = {field.name: getattr(result, field.name) for field in fields(result)}
    large = {
        key: value.astype(np.float16)
        for key, value in values.items()
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.size > LARGE
    }
    return replace(result, **large)
