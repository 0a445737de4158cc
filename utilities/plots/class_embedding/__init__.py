"""Figures of the analyses in class-embedding space."""

from utilities.plots.class_embedding.class_value import plot_class_value_agreement
from utilities.plots.class_embedding.identifiability import (
    plot_changes,
    plot_composition,
    plot_context,
    plot_distribution,
    plot_evolution,
)
from utilities.plots.class_embedding.importance import plot_heatmaps
from utilities.plots.class_embedding.key_value import (
    plot_agreement_and_accuracy,
    plot_compositionality,
    plot_key_value_agreement,
)
from utilities.plots.class_embedding.lens import plot_lens
from utilities.plots.class_embedding.lens_distance import plot_lens_distances
from utilities.plots.class_embedding.logit_attribution import plot_class_attribution, plot_logit_attribution
from utilities.plots.class_embedding.perturbation import plot_perturbation, plot_perturbation_of_blocks
from utilities.plots.class_embedding.probes import plot_probes
from utilities.plots.class_embedding.removal import plot_removal

__all__ = [
    "plot_agreement_and_accuracy",
    "plot_changes",
    "plot_class_attribution",
    "plot_class_value_agreement",
    "plot_composition",
    "plot_compositionality",
    "plot_context",
    "plot_distribution",
    "plot_evolution",
    "plot_heatmaps",
    "plot_key_value_agreement",
    "plot_lens",
    "plot_lens_distances",
    "plot_logit_attribution",
    "plot_perturbation",
    "plot_perturbation_of_blocks",
    "plot_probes",
    "plot_removal",
]
