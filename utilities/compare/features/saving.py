"""Run a model once, and keep the features of its layers on disk, with the names of the images."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from utilities.compare.features.folder import KeptFeatures, open_features
from utilities.compare.features.plan import Plan
from utilities.compare.features.writing import UnfinishedFolder
from utilities.datasets.naming import known_facts
from utilities.hooks.calls.batch_parts import first_images, split_batch
from utilities.hooks.calls.input_type import input_type
from utilities.hooks.calls.nested import map_tensors
from utilities.hooks.calls.processes import Processes
from utilities.hooks.calls.weights import check_module
from utilities.hooks.features import as_real
from utilities.hooks.layout import Layout
from utilities.hooks.precision import choose_precision
from utilities.hooks.recorder import BatchAxis, Forward, Layers, Recorder
from utilities.hooks.views import View, check_view, make_view
from utilities.results.formatting import counted
from utilities.results.unfinished import code_of, fingerprint
from utilities.results.writing import check_writable, in_bytes
from utilities.utils import evaluating, versions

DTYPES = ("float16", "float32", "float64")
ROUGH = 2e-3  # rounding that is this share of the spread over images: more than random rounding of 11 bits makes


@dataclass(frozen=True)
class _Kept:
    """Hold one layer's batch, and what is told about its axes."""

    values: torch.Tensor
    facts: dict[str, Any]


class _Outputs(Recorder):
    """Copy outputs, or the view of them, to main memory."""

    def __init__(self, model: nn.Module, layers: Layers | None, view: View, **options: Any) -> None:
        super().__init__(model, layers, innermost=True, **options)
        self._view = None if view == "flatten" else make_view(view, model)
        self._layout = Layout(model)

    def keep(self, value: torch.Tensor, module: nn.Module) -> _Kept:
        facts = self._layout.facts_of(value.shape, module) | {"shape": list(value.shape[1:])}
        if self._view is None and value.is_complex() and value.ndim > 2:
            raise ValueError("complex outputs are kept by a view, such as view='gap', or as a row for each image alone")
        value = as_real(value.detach()) if self._view is None else self._view(value, module)
        return _Kept(value.to("cpu", copy=True), facts)


def save_features(
    model: nn.Module,
    loader: Iterable[Any],
    path: str | Path,
    *,
    layers: Layers | None = None,
    view: View = "flatten",
    forward: Forward | None = None,
    batch_axis: BatchAxis | None = None,
    strict: bool | None = None,
    ids: Sequence[Any] | None = None,
    dtype: str = "float32",
    device: str | torch.device = "auto",
    provenance: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> KeptFeatures:
    """Keep the features of a model's layers in a folder of memory maps, for `compare` in other processes and later.

    The model runs once, exactly, batch by batch. The folder is there whole or not at all: until the end it has another
    name, from which the same call goes on after an interruption. The disk that it takes is said, and looked for,
    before anything is written.

    Args:
        model: Any module.
        loader: See `utilities.compare.compare`; in one order, for the batches are those of later comparisons.
        path: The folder to make.
        layers: See `utilities.hooks.select_layers`; None takes all that `compare` would.
        view: What to keep of each output, see `utilities.hooks.views.make_view`. ``"flatten"`` keeps all, and any view
            can be taken later; others take less disk, and only they can be compared.
        forward: See `utilities.compare.compare`.
        batch_axis: See `utilities.compare.compare`.
        strict: See `utilities.compare.compare`.
        ids: Names of the images in the loader's order, where neither its data set (``ids``, or the files in
            ``samples``) nor its batches have them.
        dtype: Type on disk: ``"float16"``, which ends at 65504 and rounds to 3 digits of the values, not of their
            spread (a warning names layers where that matters), ``"float32"`` or ``"float64"``.
        device: See `utilities.utils.resolve_device`.
        provenance: Facts to keep with the features, such as ``{"model": "resnet18", "weights": "r18.pth"}``.
        progress: Whether to say the size and show a bar.

    Returns:
        The features, opened.

    Raises:
        FileExistsError: If the folder is there.
        ValueError: For images without names or of unknown number, a type that is not known or does not hold the values,
            what `compare` refuses, several processes, or an unfinished folder of another call.
        OSError: If there is no room.

    Example:
        >>> import tempfile
        >>> from utilities.compare import compare
        >>> _ = torch.manual_seed(0)
        >>> model, batches = nn.Sequential(nn.Linear(8, 16), nn.ReLU()), [torch.randn(64, 8) for _ in range(2)]
        >>> folder = Path(tempfile.mkdtemp()) / "mlp"
        >>> kept = save_features(model, batches, folder, ids=range(128), device="cpu", progress=False)
        >>> compare(kept, folder).matrix.round(3).tolist() == compare(model, model, batches).matrix.round(3).tolist()
        True
    """
    check_module(model)
    path, plan = Path(path), Plan.of(loader, ids)
    _check(path, dtype, view)
    key = fingerprint(
        [model], (_plain(layers), code_of(view), code_of(forward), batch_axis, dtype, plan.sizes, plan.names)
    )
    folder = UnfinishedFolder(path, key)
    with _running(model, layers, view, forward, batch_axis, strict, device) as run:
        rest = plan.read(len(folder.batches))
        bar = tqdm(
            rest, "keeping features", len(plan.sizes), initial=len(folder.batches), delay=2, disable=not progress
        )
        for batch, names in bar:
            outputs = run(batch)
            if folder.layers is None:
                _begin(folder, outputs, plan.total, dtype, progress)
                _warn_of_rounding(outputs, dtype)
            folder.add(names, {name: kept.values for name, kept in outputs.items()})
    facts = {"model": type(model).__name__, **known_facts(provenance, loader), "n": plan.total, "versions": versions()}
    about = {"view": _word(view), "dtype": dtype, "layout": Layout(model).facts(), "provenance": facts}
    return open_features(folder.finish(about), verify=False)


def disk_needed(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    layers: Layers | None = None,
    view: View = "flatten",
    forward: Forward | None = None,
    batch_axis: BatchAxis | None = None,
    strict: bool | None = None,
    dtype: str = "float32",
    device: str | torch.device = "auto",
) -> int:
    """Compute how many bytes `save_features` would take, from a few images.

    Args:
        model: See `save_features`, as for all others.
        loader: See there.
        layers: See there.
        view: See there.
        forward: See there.
        batch_axis: See there.
        strict: See there.
        dtype: See there.
        device: See there.

    Example:
        >>> disk_needed(nn.Sequential(nn.Linear(8, 16), nn.ReLU()), [torch.zeros(64, 8)], device="cpu")
        8192
    """
    check_module(model)
    _check(None, dtype, view)
    plan = Plan.of(loader)
    with _running(model, layers, view, forward, batch_axis, strict, device) as run:
        outputs = run(first_images(next(iter(loader)), 4))
    return _bytes_of(outputs, plan.total, dtype)


def _check(path: Path | None, dtype: str, view: View) -> None:
    check_view(view)
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is not known; choose from {', '.join(DTYPES)}")
    if path is None:
        return
    if Processes.now().count > 1:
        raise ValueError(
            "features are kept by one process, which writes the rows in their order: start it without torchrun; "
            "comparisons of what it kept can be shared"
        )
    if path.exists():
        raise FileExistsError(f"{path} is there already; delete it, or write elsewhere")
    check_writable(path)


@contextmanager
def _running(
    model: nn.Module,
    layers: Layers | None,
    view: View,
    forward: Forward | None,
    batch_axis: BatchAxis | None,
    strict: bool | None,
    device: str | torch.device,
) -> Iterator[Callable[[Any], dict[str, _Kept]]]:
    """Hand over a function from a batch to what is kept of each layer."""
    with evaluating(model, device) as where:
        recorder = _Outputs(model, layers, view, strict=strict, forward=forward, batch_axis=batch_axis)
        precision, wanted = choose_precision("exact", model, where), input_type(model)

        def run(batch: Any) -> dict[str, _Kept]:
            images = batch if callable(forward) else split_batch(batch)[0]
            with precision.running(where), recorder:
                recorder.run(map_tensors(lambda x: precision.prepare(x, where, wanted), images))
            return recorder.activations

        yield run


def _begin(folder: UnfinishedFolder, outputs: Mapping[str, _Kept], total: int, dtype: str, progress: bool) -> None:
    """State what disk is needed, check that it is there, and make the files."""
    needs = _bytes_of(outputs, total, dtype)
    if progress:
        free = shutil.disk_usage(folder.path.absolute().parent).free
        tqdm.write(
            f"{folder.path} takes {in_bytes(needs)} of {in_bytes(free)} that are free: "
            f"{counted(len(outputs), 'layer')}, {counted(total, 'image')}, {dtype}"
        )
    check_writable(folder.path, needs)
    layers = [{"name": name, "shape": one.values.shape[1:], "facts": one.facts} for name, one in outputs.items()]
    folder.begin(layers, total, dtype)


def _warn_of_rounding(outputs: Mapping[str, _Kept], dtype: str) -> None:
    """Name the layers whose spread over the images is small beside their values, which rounding is relative to."""
    rough = {}
    for name, kept in outputs.items() if dtype == "float16" else ():
        values = kept.values.float()
        error, spread = (values.half().float() - values).norm(), (values - values.mean(0)).norm()
        if error > ROUGH * spread:
            rough[name] = float(error / spread)
    if rough:
        worst = max(rough, key=rough.get)
        warnings.warn(
            f"float16 rounds {counted(len(rough), 'layer')} by more than {ROUGH:.1%} of the spread over the first "
            f"images, {worst!r} by {rough[worst]:.1%}: similarities may move in the third digit; take dtype='float32'",
            stacklevel=3,
        )


def _bytes_of(outputs: Mapping[str, _Kept], total: int, dtype: str) -> int:
    return sum(prod(kept.values.shape[1:]) for kept in outputs.values()) * total * np.dtype(dtype).itemsize


def _plain(layers: Layers | None) -> Any:
    """State which layers were asked for, the same in every process."""
    several = isinstance(layers, (list, tuple, set, frozenset))
    return [code_of(one) for one in layers] if several else code_of(layers)


def _word(view: View) -> str:
    return view if isinstance(view, str) else f"function {getattr(view, '__name__', type(view).__name__)}"
