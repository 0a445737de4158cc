"""The analyses that can be named: one line each, read when it is asked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Analysis:
    """What is needed to run an analysis by name; functions are named ``module:function`` below ``utilities``.

    Attributes:
        function: Takes a model, loaders and options, and gives a result; or, where its first parameter is ``call``, a
            `utilities.cli.analyse.Call`.
        figures: Ending of the file's name -> what draws it from results by model; or what gives such a dictionary.
        claims: What puts a paper's claims to results by model.
        about: What finds the models that the claims are about; where it finds none, no claim is printed.
        images: Which loaders the function takes: see `utilities.cli.loaders.LOADERS`.
        labelled: Whether it asks what class an image is of: weights for other classes are then refused.
        more: Functions and dataclasses that give the options behind ``**options``.
        without: Names of parameters that are no options.
        defaults: In place of the signature's.
        report: Given results by model and the options, prints numbers and returns more tables by the endings of
            their names.
        together: Whether the function takes all models at once.
    """

    function: str
    figures: str | Mapping[str, str] = field(default_factory=dict)
    claims: str = ""
    about: str = ""
    images: str = "test"
    labelled: bool = False
    more: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    report: str = ""
    together: bool = False


_PARK, _RAGHU, _VILAS = "claims.park_kim_2022", "claims.raghu_2021", "claims.vilas_2023"

ANALYSES: dict[str, Analysis] = {
    "fourier": Analysis(
        "analysis.blocks.fourier:fourier",
        {
            "": "plots.blocks.fourier:plot_spectra",
            "_high": "plots.blocks.fourier:plot_high_frequency",
            "_gain": "plots.blocks.fourier:plot_gain",
        },
        f"{_PARK}.blocks:claims_of_fourier",
    ),
    "variance": Analysis(
        "analysis.blocks.variance:feature_variance",
        {"": "plots.blocks.variance:plot_variance"},
        f"{_PARK}.blocks:claims_of_variance",
    ),
    "lesions": Analysis(
        "analysis.blocks.lesion:lesions",
        {"": "plots.blocks.lesion:plot_lesions"},
        f"{_PARK}.blocks:claims_of_lesions",
        labelled=True,
    ),
    "receptive_field": Analysis(
        "analysis.blocks.receptive_field:receptive_field",
        {
            "": "plots.blocks.receptive_field:plot_receptive_fields",
            "_sizes": "plots.blocks.receptive_field:plot_field_sizes",
        },
        f"{_RAGHU}.receptive_field:claims_of_receptive_field",
        defaults={"n_images": 32, "reduce_to": 56},
    ),
    "skip_ratios": Analysis(
        "analysis.blocks.skip_ratios:skip_ratios",
        {
            "": "plots.blocks.skip_ratios:plot_skip_lines",
            "_tokens": "plots.blocks.skip_ratios:plot_skip_heatmaps",
            "_cosine": "plots.blocks.skip_ratios:plot_skip_cosines",
        },
        f"{_RAGHU}.skips:claims_of_skips",
    ),
    "localisation": Analysis(
        "analysis.blocks.localisation:localisation",
        {
            "": "plots.blocks.localisation:plot_localisation",
            "_sharpness": "plots.blocks.localisation:plot_sharpness",
        },
        f"{_RAGHU}.localisation:claims_of_localisation",
    ),
    "layer_probes": Analysis(
        "analysis.blocks.layer_probes:layer_probes",
        "cli.pictures:layer_probes",
        f"{_RAGHU}.probes:claims_of_layer_probes",
        images="train and test",
    ),
    "attention": Analysis("analysis.attention.attention_maps:attention_diversity"),
    "attention_distance": Analysis(
        "analysis.attention.attention_distance:attention_distance",
        {
            "": "plots.attention.attention_distance:plot_sorted_heads",
            "_depth": "plots.attention.attention_distance:plot_distance_over_depth",
        },
        f"{_RAGHU}.attention:claims_of_attention_distance",
    ),
    "lambda_reach": Analysis(
        "analysis.attention.lambda_reach:lambda_reach", {"": "plots.attention.lambda_reach:plot_lambda_reach"}
    ),
    "classify": Analysis(
        "analysis.predictions.classification:classify",
        {
            "": "plots.predictions.classification:plot_reliability",
            "_measures": "plots.predictions.classification:plot_measures",
        },
        f"{_PARK}.classification:claims_of_classification",
        labelled=True,
    ),
    "robustness": Analysis(
        "cli.corruptions:robustness",
        {"": "plots.predictions.robustness:plot_severity", "_types": "plots.predictions.robustness:plot_kinds"},
        f"{_PARK}.robustness:claims_of_robustness",
        images="to corrupt",
        labelled=True,
        more=("analysis.predictions.robustness:robustness",),
        report="cli.corruptions:report",
    ),
    "noise_frequency": Analysis(
        "analysis.predictions.noise_frequency:noise_frequency",
        {"": "plots.predictions.noise_frequency:plot_noise_frequency"},
        f"{_PARK}.noise_frequency:claims_of_noise_frequency",
        labelled=True,
    ),
    "adversarial": Analysis(
        "analysis.predictions.adversarial:adversarial",
        {"": "plots.predictions.adversarial:plot_adversarial"},
        f"{_PARK}.smoothing:claims_of_adversarial",
        labelled=True,
        about=f"{_PARK}.smoothing:twins",
    ),
    "consistency": Analysis(
        "cli.sequences:consistency",
        {"": "plots.predictions.consistency:plot_consistency"},
        f"{_PARK}.smoothing:claims_of_consistency",
        images="to perturb",
        more=("analysis.predictions.consistency:consistency",),
        report="cli.sequences:report",
        about=f"{_PARK}.smoothing:twins",
    ),
    "landscape": Analysis(
        "cli.landscape:landscape",
        "cli.landscape:figures",
        f"{_PARK}.landscape:claims_of_landscape",
        images="augmented",
        labelled=True,
        more=("analysis.loss.landscape:loss_landscape",),
    ),
    "hessian": Analysis(
        "analysis.loss.readings:both_readings",
        "cli.hessian:figures",
        f"{_PARK}.hessian:claims_of_readings",
        images="augmented and plain",
        labelled=True,
        more=("analysis.loss.curvature:Objective", "analysis.loss.hessian:hessian_spectra"),
        defaults={"trace_probes": 1},
        report="cli.hessian:report",
    ),
    "spectral_density": Analysis(
        "analysis.loss.spectral_density:spectral_density",
        {"": "plots.loss.hessian:plot_spectral_density"},
        images="augmented, anew",
        labelled=True,
        more=("analysis.loss.curvature:Objective",),
    ),
    "layer_hessian": Analysis(
        "analysis.loss.layer_hessian:layer_hessians",
        {"": "plots.loss.layer_hessian:plot_layer_hessians"},
        images="augmented, anew",
        labelled=True,
        more=("analysis.loss.curvature:Objective",),
        defaults={"n_images": 128},
    ),
    "trajectory": Analysis(
        "cli.several:trajectory",
        {"": "plots.loss.trajectory:plot_trajectories"},
        images="none",
        defaults={"dataset": ""},
        together=True,
    ),
    "layer_matching": Analysis(
        "cli.several:layer_matching",
        images="none",
        defaults={"dataset": "digits", "n_images": 2000, "batch_size": 1000},
        report="cli.several:report_matching",
        together=True,
    ),
    "identifiability": Analysis(
        "analysis.class_embedding.identifiability:identifiability",
        {
            "": "plots.class_embedding.identifiability:plot_evolution",
            "_changes": "plots.class_embedding.identifiability:plot_changes",
            "_context": "plots.class_embedding.identifiability:plot_context",
        },
        f"{_VILAS}.identifiability:claims_of_identifiability",
        labelled=True,
    ),
    "key_value": Analysis(
        "analysis.class_embedding.key_value:key_value_agreement",
        {
            "": "plots.class_embedding.key_value:plot_key_value_agreement",
            "_compositionality": "plots.class_embedding.key_value:plot_compositionality",
        },
        f"{_VILAS}.key_value:claims_of_key_value",
        labelled=True,
    ),
    "class_value": Analysis(
        "analysis.class_embedding.agreement:class_value_agreement",
        {"": "plots.class_embedding.class_value:plot_class_value_agreement"},
        f"{_VILAS}.class_value:claims_of_class_value",
        images="none",
    ),
    "importance": Analysis(
        "analysis.class_embedding.importance:importance",
        "cli.pictures:importance",
        f"{_VILAS}.importance:claims_of_importance",
        labelled=True,
    ),
    "removal": Analysis(
        "cli.pictures:removal",
        {"": "plots.class_embedding.removal:plot_removal"},
        f"{_VILAS}.importance:claims_of_removal",
        labelled=True,
        more=("analysis.class_embedding.removal:removal_curves",),
    ),
    "lens": Analysis("analysis.class_embedding.lens:lens", "cli.pictures:lens", labelled=True),
    "logit_attribution": Analysis(
        "analysis.class_embedding.logit_attribution:logit_attribution",
        {
            "": "plots.class_embedding.logit_attribution:plot_logit_attribution",
            "_classes": "plots.class_embedding.logit_attribution:plot_class_attribution",
        },
        labelled=True,
    ),
    "tuned_lens": Analysis(
        "study.class_embedding:tuned_lens",
        {"": "plots.class_embedding.lens_distance:plot_lens_distances"},
        images="train and test",
    ),
    "probes": Analysis(
        "analysis.class_embedding.probes:linear_probes",
        {"": "plots.class_embedding.probes:plot_probes"},
        f"{_VILAS}.probes:claims_of_probes",
        images="train and test",
        labelled=True,
    ),
    "perturb": Analysis(
        "analysis.class_embedding.perturbation:perturb",
        {"": "plots.class_embedding.perturbation:plot_perturbation"},
        f"{_VILAS}.perturbation:claims_of_perturbation",
        labelled=True,
    ),
    "perturb_each_block": Analysis(
        "analysis.class_embedding.perturbation:perturb_each_block",
        {"": "plots.class_embedding.perturbation:plot_perturbation_of_blocks"},
        labelled=True,
        more=("analysis.class_embedding.perturbation:perturb",),
        without=("kinds", "one_at_a_time"),
    ),
}


def find(name: str) -> Callable[..., Any]:
    """Import what is named ``module:function`` below ``utilities``."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(f"utilities.{module}"), attribute)


def summary(name: str) -> str:
    """Read the first sentence of an analysis' docstring without importing it.

    Example:
        >>> summary("analysis.blocks.lesion:lesions").endswith(".")
        True
    """
    module, _, attribute = name.partition(":")
    text = PACKAGE.joinpath(*module.split(".")).with_suffix(".py").read_text()
    found = re.search(rf'^(?:def|class) {attribute}\b.*?r?"""(.*?)(?:\n|""")', text, re.M | re.S)
    return found[1].partition("`utilities")[0] if found else ""
