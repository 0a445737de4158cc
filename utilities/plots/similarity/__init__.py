"""Figures of similarities: heatmaps on one scale, trends over depth, spread over batches."""
