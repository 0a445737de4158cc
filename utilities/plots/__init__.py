"""Results to figures, in the wings of `utilities.analysis`; `style` decides fonts, widths and how files are saved."""
