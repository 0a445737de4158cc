"""The analyses whose figures show images or depend on what was read: importance, removal, the lens, layer probes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from utilities.analysis.blocks.layer_probes import LayerProbes
from utilities.analysis.class_embedding.importance import Importance
from utilities.analysis.class_embedding.lens import Lens
from utilities.analysis.class_embedding.removal import RemovalCurves, removal_curves
from utilities.cli.analyse import Call
from utilities.datasets.loaders import Loader
from utilities.plots.blocks.layer_probes import plot_layer_probes, plot_token_probes
from utilities.plots.class_embedding.importance import plot_heatmaps
from utilities.plots.class_embedding.lens import plot_lens
from utilities.study.class_embedding import explanations, pictures

SHOWN = 4  # images in a figure of maps


def importance(results: Mapping[str, Importance], loaders: Mapping[str, Sequence[Loader]]) -> dict[str, Figure]:
    """Draw the first images, with each model's map of them."""
    return _each(results, loaders, _heatmaps)


def lens(results: Mapping[str, Lens], loaders: Mapping[str, Sequence[Loader]]) -> dict[str, Figure]:
    """Draw the first image, with what each block says of its tokens."""
    return _each(results, loaders, _lens)


def layer_probes(results: Mapping[str, LayerProbes], _: Mapping[str, Sequence[Loader]]) -> dict[str, Figure]:
    """Draw accuracies over depth, and maps of single positions where these were probed."""
    figures = {"": plot_layer_probes(results)}
    tokens = {label: result for label, result in results.items() if "tokens" in result.views}
    return figures | ({"_tokens": plot_token_probes(tokens)} if tokens else {})


def _each(results: Mapping[str, Any], loaders: Mapping[str, Sequence[Loader]], draw: Any) -> dict[str, Figure]:
    """Draw a figure for each model: models differ in the size of their images."""
    endings = [""] if len(results) == 1 else [f"_{label}".replace("/", "-") for label in results]
    return {
        ending: draw(label, result, loaders[label][0])
        for ending, (label, result) in zip(endings, results.items(), strict=True)
    }


def _heatmaps(label: str, result: Importance, loader: Loader) -> Figure:
    _, shown, titles = pictures(loader, SHOWN)
    return plot_heatmaps(shown, {label: result.heatmaps[: len(shown)]}, titles=titles, provenance=result.provenance)


def _lens(label: str, result: Lens, loader: Loader) -> Figure:
    return plot_lens(result, pictures(loader, 1)[1][0], classes=loader.dataset.classes)


def removal(call: Call, *, methods: Sequence[str] = ("gradient", "relevance"), **options: Any) -> RemovalCurves:
    """Remove image tokens by importance, and at random, and see how accuracy falls.

    Args:
        call: The command.
        methods: Which maps of importance: gradient, double softmax, relevance.
        **options: Options of `utilities.analysis.class_embedding.removal.removal_curves`.
    """
    model, facts = call.open()
    (loader,), given = call.loaders, call.given
    run = {"seed": given.seed, "device": given.device}
    maps = explanations(model, loader, methods, target=options["target"], **run)
    return removal_curves(model, loader, maps, provenance=facts, **options, **run)
