"""The calls of torch_cka, so that its users change one import."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utilities.compare.two_models import compare
from utilities.results.similarity import Similarity


class CKA:
    """Compare two models with the calls of the torch_cka package: its users change one import.

    Differences: rows and labels are in the order of execution, layers are by default the innermost ones, values
    are debiased sums over all batches in `compare`'s precision, hooks are gone afterwards, and nothing is shown on
    screen. `compare` in this module is the fuller interface; ``cka.result`` is what it returned.

    Args:
        model1: Model of the rows.
        model2: Model of the columns.
        model1_name: Name for labels; default: the class's name.
        model2_name: The same for ``model2``.
        model1_layers: Names or globs; default: see `compare`.
        model2_layers: The same for ``model2``.
        device: See `utilities.utils.resolve_device`.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> cka = CKA(nn.Sequential(nn.Linear(8, 16)), nn.Sequential(nn.Linear(8, 9)), "wide", "narrow", device="cpu")
        >>> cka.compare(torch.utils.data.DataLoader(torch.randn(64, 8), batch_size=32))
        >>> list(cka.export()), cka.export()["CKA"].shape
        (['model1_name', 'model2_name', 'CKA', 'model1_layers', 'model2_layers', 'dataset1_name', 'dataset2_name'],
         torch.Size([1, 1]))
    """

    def __init__(
        self,
        model1: nn.Module,
        model2: nn.Module,
        model1_name: str | None = None,
        model2_name: str | None = None,
        model1_layers: Sequence[str] | None = None,
        model2_layers: Sequence[str] | None = None,
        device: str | torch.device = "auto",
    ) -> None:
        self.model1, self.model2, self.device = model1, model2, device
        self.names = (model1_name or type(model1).__name__, model2_name or type(model2).__name__)
        if self.names[0] == self.names[1] and model1 is not model2:
            warnings.warn(f"both models are called {self.names[0]}: give model1_name and model2_name", stacklevel=2)
        self.layers = (model1_layers, model2_layers)
        self.result: Similarity | None = None
        self.datasets: tuple[str, str] = ("", "")
        self.pair: tuple[str, str] | None = None  # the layers of `compare_minibatches`, if it was called last

    def compare(self, dataloader1: Iterable[Any], dataloader2: Iterable[Any] | None = None, **options: Any) -> None:
        """Run both models over the data.

        Args:
            dataloader1: Images for both models, or for ``model1``.
            dataloader2: Images for ``model2``, paired with the first; pairs are cut to the shorter loader.
            **options: Options of the function `compare`.
        """
        loaders = (dataloader1, dataloader1 if dataloader2 is None else dataloader2)
        self.datasets = tuple(_name_of(one) for one in loaders)
        facts = {"model1": self.names[0], "model2": self.names[1]}
        options = {"layers1": self.layers[0], "layers2": self.layers[1], "device": self.device, **options}
        options["provenance"] = facts | dict(options.get("provenance") or {})
        self.result = compare(self.model1, self.model2, dataloader1, dataloader2, **options)
        self.pair = None

    def compare_minibatches(
        self,
        dataloader1: Iterable[Any],
        dataloader2: Iterable[Any] | None = None,
        layers: str | tuple[str, str] | None = None,
        **options: Any,
    ) -> None:
        """Compute a value for each batch by itself, for one pair of layers; `export` then returns them as a vector.

        Args:
            dataloader1: See `compare`.
            dataloader2: See `compare`.
            layers: A layer of each model, or the name that both have. The default is the last of the layers that each
                model was given.
            **options: Options of the function `compare`.

        Raises:
            ValueError: If a name fits several layers.
        """
        if layers is not None:
            pair = (layers, layers) if isinstance(layers, str) else tuple(layers)
            if len(pair) != 2:
                raise ValueError(f"layers should be two names, one of each model, or one for both, not {layers!r}")
            options = {**options, "layers1": [pair[0]], "layers2": [pair[1]]}
        self.compare(dataloader1, dataloader2, per_batch=True, **options)
        result = self._done()
        if layers is not None and result.matrix.size > 1:
            raise ValueError(f"layers {layers!r} stand for {result.layers1} and {result.layers2}: name one pair")
        self.pair = result.layers1[-1], result.layers2[-1]

    def _done(self) -> Similarity:
        if self.result is None:
            raise RuntimeError("nothing has been compared yet: call compare(dataloader) first")
        return self.result

    def export(self) -> dict[str, Any]:
        """Return names, layers and values as a dictionary.

        Returns:
            A dictionary. ``CKA`` is a float64 tensor: the matrix, or after `compare_minibatches` a value for each
            batch, in the loader's order, for the one layer of each model that is listed.

        Raises:
            RuntimeError: Before `compare`.
        """
        result = self._done()
        values, layers1, layers2 = result.matrix, result.layers1, result.layers2
        if self.pair is not None:
            values, layers1, layers2 = result.per_batch[:, -1, -1].copy(), *([name] for name in self.pair)
        return {
            "model1_name": self.names[0],
            "model2_name": self.names[1],
            "CKA": torch.from_numpy(values),
            "model1_layers": layers1,
            "model2_layers": layers2,
            "dataset1_name": self.datasets[0],
            "dataset2_name": self.datasets[1],
        }

    def plot_results(self, save_path: str | Path | None = None, title: str | None = None, **options: Any) -> Any:
        """Draw the heatmap, or the batches after `compare_minibatches`; save the figure to a path, and return it.

        Args:
            save_path: Path that ends in .png, .pdf, .svg or .eps.
            title: Title above the heatmap.
            **options: ``width``, ``caption``, ``ticks`` and others of
                `utilities.plots.similarity.heatmap.plot_similarity`.

        Raises:
            RuntimeError: Before `compare`.
        """
        result = self._done()
        if self.pair is None:
            figure = result.plot(title=title, **options)
        else:
            from utilities.plots.similarity.batches import plot_batches

            figure = plot_batches(result, *self.pair, titles=None if title is None else [title], **options)
        if save_path is not None:
            from utilities.plots.style import save_figure  # imports matplotlib

            save_figure(figure, save_path)
        return figure


def _name_of(loader: Any) -> str:
    """Name a loader's data set by what it prints, or by its class if that is a memory address or its contents."""
    dataset = getattr(loader, "dataset", loader)
    if isinstance(dataset, (list, tuple, torch.Tensor)):
        forms = ("batch", "batches") if dataset is loader else ("image", "images")
        return f"{type(dataset).__name__} of {len(dataset)} {forms[len(dataset) != 1]}"
    text = str(dataset).partition("\n")[0]
    return type(dataset).__name__ if " at 0x" in text or len(text) > 200 else text
