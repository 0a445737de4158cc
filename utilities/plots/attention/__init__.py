"""Figures of attention distance: sorted heads, all heads over depth, heads against a CNN, lambda layers."""

from utilities.plots.attention.attention_distance import plot_distance_over_depth, plot_sorted_heads
from utilities.plots.attention.head_windows import plot_head_windows
from utilities.plots.attention.lambda_reach import plot_lambda_reach

__all__ = ["plot_distance_over_depth", "plot_head_windows", "plot_lambda_reach", "plot_sorted_heads"]
