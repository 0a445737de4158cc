"""Hessian spectra along the training of a study's models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.nn.modules.batchnorm import _BatchNorm

from utilities.analysis.loss.hessian import HessianSpectra, over_training
from utilities.study.study import Study
from utilities.training.trainer import estimate_batch_norm


def along_training(
    studies: Sequence[Study],
    every: int | None,
    finals: Mapping[str, HessianSpectra],
    *,
    train: Mapping[str, Any] | None = None,
    mixing: bool = False,
    start: bool = True,
    **options: Any,
) -> dict[str, dict[int, HessianSpectra]]:
    """Compute the spectra of each study's model at the start, at the end of the warm-up, and put the final ones to it.

    Batch norms of an untrained model do not normalise: before the last epoch, their statistics are estimated anew on
    training images, as `utilities.study.study.Study.random_model` does.

    Args:
        studies: One for each model.
        every: See `utilities.study.study.Study.snapshots`. Without a warm-up, the first of these stands for its end.
        finals: Name of the model -> spectra after training, on the same images.
        train: Options of `utilities.study.study.Study.training_loader`.
        mixing: Whether images are mixed as in training, see `utilities.study.study.Study.mixing`.
        start: Whether the initial weights are among the snapshots.
        **options: Options of `utilities.analysis.loss.hessian.hessian_spectra`.

    Returns:
        Name of the model -> epoch -> spectra.
    """
    history = {}
    for study in studies:
        snapshots = study.snapshots(every)
        last, warm = max(snapshots), int(study.recipe.warmup)
        chosen = {epoch: snapshots[epoch] for epoch in (0, warm if 0 < warm < last else every) if epoch in snapshots}
        chosen.pop(last, None)
        if not start:
            chosen.pop(0, None)
        for model in chosen.values():
            if any(isinstance(module, _BatchNorm) for module in model.modules()):
                estimate_batch_norm(model, study.loader("train"))
        loader = study.training_loader(**(train or {}))
        facts = study.shared_facts(loader) | {"model": study.model}
        own = {"mix": study.mixing()} if mixing else {}
        found = over_training(chosen, loader, provenance=facts, **options, **own)
        history[study.model] = found | {last: finals[study.model]}
    return history


def by_epoch(history: Mapping[str, Mapping[int, HessianSpectra]]) -> dict[str, HessianSpectra]:
    """Name the spectra of all snapshots but the last ones, to save them.

    Example:
        >>> list(by_epoch({"cnn": {0: None, 2: None, 6: None}}))
        ['cnn_epoch_0', 'cnn_epoch_2']
    """
    return {
        f"{label}_epoch_{epoch}": snapshots[epoch]
        for label, snapshots in history.items()
        for epoch in sorted(snapshots)[:-1]
    }
