"""Which figure of a notebook decides a claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

# Notebook -> words of a claim or its source, and the figure that decides it. The first figure decides the rest.
FIGURES: Mapping[str, Sequence[tuple[str, str]]] = {
    "Attention_Distance": [("Fig. 5", "head_windows")],
    "Class_Identifiability": [("object", "context"), ("attention raises", "changes")],
    "Compare_CNN_Hybrid_ViT": [("Fig. 2", "best_match")],
    "Data_Size": [("fine", "fine_tuned")],
    "Explainability": [("maps of importance", "maps")],
    "Feature_Map_Variance": [("relative variance", "relative")],
    "Fourier_Analysis": [("frequency", "high")],
    "Hessian_Spectra": [("early in training", "early"), ("go later on", "training")],
    "Layer_Probes": [("Fig. 11", "small"), ("Vilas", "lens")],
    "Loss_Landscape": [("estimated anew", "cuts_estimated"), ("loss", "cuts")],
    "Mechanistic_Interpretability": [
        ("class-value", "class_value"),
        ("compositionality", "compositionality"),
        ("and accuracy", "accuracy"),
        ("key-value", "key_value"),
        ("Vilas", "perturbation"),
    ],
    "Real_Weights": [("Fig. 2", "best_match")],
    "Receptive_Field": [("Fig. 6", "sizes")],
    "Skip_Connections": [("E.2", "cosines"), ("at every depth", "ratios")],
    "Smoothing": [("corruptions", "corruptions"), ("adversarial", "adversarial"), ("consistent", "consistency")],
    "Spatial_Localisation": [("Fig. 10", "small"), ("sharply", "sharpness")],
}


def deciding(notebook: str, claim: str, source: str) -> str:
    """Name the figure that decides a claim, as its file is named.

    Example:
        >>> deciding("Real_Weights", "the top is unlike any layer", "Raghu et al. 2021, Fig. 2")
        'Real_Weights_best_match'
        >>> deciding("Real_Weights", "layers are alike", "Raghu et al. 2021, Fig. 1")
        'Real_Weights'
    """
    text = f"{source}: {claim}"
    part = next((part for words, part in FIGURES.get(notebook, ()) if words in text), "")
    return f"{notebook}_{part}" if part else notebook
