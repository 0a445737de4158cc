"""Figures of accuracy, calibration, build-up, robustness and noise."""
