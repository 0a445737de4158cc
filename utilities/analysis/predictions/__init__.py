"""From logits alone: accuracy, calibration, uncertainty, and robustness to corruption and noise."""
