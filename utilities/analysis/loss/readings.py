"""A model's Hessian spectra in the settings of two papers that contradict each other.

Park & Kim 2022 (https://arxiv.org/abs/2202.06709) find ViTs flatter than ResNets: smaller eigenvalues on mini-batches
of augmented training images, the L2 penalty included. Chen et al. 2022 (https://arxiv.org/abs/2106.01548) find them
sharper: a larger dominant eigenvalue of the loss over images as they are, of models trained without strong
augmentation. These are other matrices. Both are computed here, and the table says of each what it is of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from torch import nn

from utilities.analysis.loss.hessian import HessianSpectra, hessian_spectra
from utilities.analysis.loss.mini_batches import SeededMixFunction
from utilities.hooks.calls.batch_parts import known_length

STATED = ("weights", "epoch", "reading", "mode", "augmentation", "mix", "weight_decay", "batch_size", "n_batches")


def both_readings(
    model: nn.Module,
    augmented_loader: Iterable[Any],
    clean_loader: Iterable[Any],
    *,
    k: int = 5,
    batch_size: int = 16,
    n_batches: int = 16,
    ends: Sequence[str] = ("magnitude",),
    weight_decay: float = 0.05,
    mix: SeededMixFunction | None = None,
    label_smoothing: float = 0.0,
    full_images: int = 512,
    full_sets: int = 2,
    chunk: int = 64,
    provenance: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[str, HessianSpectra]:
    """Compute a model's Hessian eigenvalues in the setting of Park & Kim 2022 and in that of Chen et al. 2022.

    Args:
        model: Maps images to logits.
        augmented_loader: Training images, augmented as in training, for ``mini-batch``.
        clean_loader: Training images as they are, for ``full``.
        k: Eigenvalues of each mini-batch and end.
        batch_size: Images in a mini-batch.
        n_batches: How many mini-batches.
        ends: Which ends of the mini-batches' spectra, with ``"magnitude"``.
        weight_decay: lambda of the L2 penalty, in ``mini-batch`` alone.
        mix: Mixes the mini-batches, see `utilities.training.augmentation.MixupCutmix`; in ``mini-batch`` alone.
        label_smoothing: The same.
        full_images: Images over which the loss of ``full`` is averaged.
        full_sets: So many sets of that many other images each, for an error.
        chunk: Images of a mini-batch that are computed at once.
        provenance: What is known of model and images.
        **options: Options of `utilities.analysis.loss.hessian.hessian_spectra`, for both readings.

    Returns:
        ``mini-batch``: the k eigenvalues largest in magnitude of each mini-batch, with NEP and APE. ``full``: the
        largest eigenvalue of the loss over many images, not augmented, without penalty. The provenance of each says
        what it is of.

    Raises:
        ValueError: As `utilities.analysis.loss.hessian.hessian_spectra` does.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> batch = torch.ones(8, 1, 2, 2), torch.tensor([0, 1] * 4)
        >>> sizes = {"batch_size": 4, "n_batches": 2, "full_images": 8, "full_sets": 1}
        >>> readings = both_readings(model, [batch], [batch], k=1, device="cpu", **sizes)
        >>> {name: (spectra.ends, spectra.provenance["weight_decay"]) for name, spectra in readings.items()}
        {'mini-batch': (['magnitude'], 0.05), 'full': (['largest'], 0.0)}
    """
    there = known_length(getattr(clean_loader, "dataset", None))
    if there is not None and there < full_images * full_sets:
        raise ValueError(
            f"full_sets={full_sets} sets of full_images={full_images} are more than the {there} images of the loader: "
            "take fewer or smaller sets"
        )
    facts, largest = dict(provenance or {}), ("largest",)
    own = {"k": k, "batch_size": batch_size, "n_batches": n_batches, "ends": ends, "mix": mix}
    own |= {"weight_decay": weight_decay, "label_smoothing": label_smoothing}
    mode = options.get("mode", "eval")  # in mode "train" the images of a set have to be there at once
    rest = {"k": 1, "batch_size": full_images, "n_batches": full_sets, "ends": largest, "weight_decay": 0.0}
    rest |= {"chunk": chunk if mode == "eval" else None}
    settings = {"mini-batch": (augmented_loader, own), "full": (clean_loader, rest)}
    return {
        name: hessian_spectra(model, loader, provenance=facts | {"reading": name}, **setting, **options)
        for name, (loader, setting) in settings.items()
    }


def readings_table(results: Mapping[str, Mapping[str, HessianSpectra]]) -> pd.DataFrame:
    """Tabulate models and readings, a row each: what the Hessian is of, and what its eigenvalues sum up to.

    Args:
        results: Name of the model -> reading -> spectra, as of `both_readings`.

    Returns:
        ``model``, what `STATED` names, and the columns of `utilities.analysis.loss.hessian.HessianSpectra.summary`,
        with sharpness over the number of parameters and over the trace; NaN where a reading has no such number.
    """
    rows = []
    for model, readings in results.items():
        for reading, spectra in readings.items():
            stated = {name: spectra.provenance.get(name) for name in STATED}
            stated |= {name: stated[name] or "none" for name in ("augmentation", "mix")}
            rows.append({"model": model, **stated, "reading": reading, **spectra.summary()})
    return pd.DataFrame(rows)
