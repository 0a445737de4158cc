"""Find state dictionaries in checkpoints of others, and remove the prefixes that wrappers put before the names.

====================================================  ==============================================================
``{"state_dict": ...}``, ``{"model": ...}``, ...        training scripts: see `HOLDERS`
``module.``, ``_orig_mod.``, ``module._orig_mod.``      DataParallel, torch.compile, and both, in any order
``model.``, ``net.``, ``backbone.``, ...                the attribute of a LightningModule, or of any wrapping class
====================================================  ==============================================================
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch

# Names under which checkpoints hold the weights, likelier ones first, and averages of the weights over training.
HOLDERS = ("model", "state_dict", "model_state_dict", "model_state", "net", "network", "module", "weights", "params")
WRAPPERS = ("_orig_mod.", "module.", "model.")  # prefixes of torch.compile, DataParallel, and classes that hold a model
_COUNTER = "num_batches_tracked"
_NAMES = {*WRAPPERS, "net.", "network."}


def state_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """Take the state dictionary out of a checkpoint, without prefixes that wrappers put before all names.

    Args:
        content: A state dictionary, or a dictionary that holds one under any name, perhaps beside an optimiser's. An
            average of the weights (``"model_ema"`` and the like) is used only if there is nothing else.

    Raises:
        ValueError: If it holds several, and no name tells which one is meant.

    Example:
        >>> state_of({"epoch": 3, "state_dict": {"module.model.fc.bias": 0}})
        {'fc.bias': 0}
    """
    found = {key: value for key, value in content.items() if _is_state(value)}
    found = found or {key: content[key] for key in HOLDERS if _is_plain(content.get(key))}
    averages = [key for key in found if "ema" in str(key).lower().split("_") or str(key).lower().endswith("ema")]
    own = [key for key in found if key not in averages]
    chosen = next((key for key in HOLDERS if key in own), None)
    if chosen is None and (own or averages):
        several = own or averages
        if len(several) > 1:
            raise ValueError(
                f"the checkpoint holds several state dictionaries, {', '.join(map(str, several))}; save the one that "
                "is meant by itself"
            )
        chosen = several[0]
    if chosen is not None:
        if averages and chosen not in averages:
            warnings.warn(f"of the checkpoint {chosen!r} is taken, not the average in {averages[0]!r}", stacklevel=3)
        return state_of(found[chosen])
    return _unwrapped(dict(content))


def _is_plain(value: Any) -> bool:
    return isinstance(value, Mapping) and "param_groups" not in value


def _is_state(value: Any) -> bool:
    """Tell whether an entry is, or holds, a dictionary of named tensors that is not an optimiser's."""
    if not _is_plain(value) or not all(isinstance(key, str) for key in value):
        return False
    return any(isinstance(entry, torch.Tensor) or _is_state(entry) for entry in value.values())


def _unwrapped(state: dict[str, Any]) -> dict[str, Any]:
    prefix = next((p for p in WRAPPERS if state and all(str(key).startswith(p) for key in state)), None)
    if prefix is None:
        return state
    return _unwrapped({key.removeprefix(prefix): value for key, value in state.items()})


def fitted(state: Mapping[str, Any], wanted: Mapping[str, torch.Tensor]) -> tuple[dict[str, Any], list[str]]:
    """Match a state dictionary to the names that a model needs, as far as only wrappers tell them apart.

    Batch counters that old versions did not save are filled in: they matter only for batch norms that average over all
    batches alike (``momentum=None``).

    Args:
        state: State dictionary from `state_of`.
        wanted: The model's own state dictionary.

    Returns:
        The entries of the model, and the names of those outside it, in the class that held the model.

    Raises:
        ValueError: If several parts of the file fit alike.

    Example:
        >>> fitted({"net.weight": 1, "loss.weight": 2}, {"weight": torch.zeros(1)})
        ({'weight': 1}, ['loss.weight'])
    """
    prefix = _prefix(state, wanted)
    inside = {key.removeprefix(prefix): value for key, value in state.items() if str(key).startswith(prefix)}
    counters = [key for key in wanted if key.endswith(_COUNTER) and key not in inside]
    counted = {key: wanted[key] for key in counters if key.replace(_COUNTER, "running_var") in inside}
    return inside | counted, [key for key in state if not str(key).startswith(prefix)]


def _prefix(state: Iterable[str], wanted: Mapping[str, Any]) -> str:
    """Find the prefix in front of the most wanted names."""
    counts: Counter[str] = Counter()
    for key in map(str, state):
        parts = key.split(".")
        for i in range(len(parts)):
            if ".".join(parts[i:]) in wanted:
                counts["".join(f"{part}." for part in parts[:i])] += 1
    best = [prefix for prefix, count in counts.items() if count == max(counts.values())]
    if "" in best or not best or 2 * counts[best[0]] < len(wanted):
        return ""
    plain = [prefix for prefix in best if all(f"{part}." in _NAMES for part in prefix.split(".")[:-1])]
    several = best if len(plain) != 1 else plain
    if len(several) > 1:
        raise ValueError(
            f"the names of the file fit the model after any of {', '.join(several)}; save the part that is meant by "
            "itself"
        )
    return several[0]
