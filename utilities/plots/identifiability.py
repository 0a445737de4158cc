"""The functions of the wing `class_embedding`, module `identifiability`, under the path they had before."""

from utilities.plots.class_embedding.identifiability import (
    plot_changes,
    plot_composition,
    plot_context,
    plot_distribution,
    plot_evolution,
)

__all__ = ["plot_changes", "plot_composition", "plot_context", "plot_distribution", "plot_evolution"]
