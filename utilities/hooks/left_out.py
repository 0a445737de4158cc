"""Name the layers of a model that are left out of a recording, and why."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

from torch import nn

from utilities.hooks.selection import kind_of


def refuse_left_out(left_out: Mapping[str, str]) -> None:
    """Raise ValueError with the reason of the first layer that is left out, if there is one."""
    for name, reason in left_out.items():
        more = f" (and {len(left_out) - 1} more such layers)" if len(left_out) > 1 else ""
        raise ValueError(f"layer {name!r}{reason}{more}")


def refuse_silent(model: nn.Module, silent: Sequence[str]) -> None:
    """Raise ValueError if layers did not run."""
    if silent:
        more = f" and {len(silent) - 5} more" if len(silent) > 5 else ""
        raise ValueError(
            f"layers that did not run in the forward pass of {kind_of(model)}: {', '.join(silent[:5])}{more}; "
            "leave them out"
        )


def warn_of_left_out(model: nn.Module, left_out: Mapping[str, str]) -> None:
    """Name the layers that are left out in one warning, by reason."""
    if left_out:
        reasons: dict[str, list[str]] = {}
        for name, reason in left_out.items():
            reasons.setdefault(reason.lstrip(": ").partition(". Leave")[0].partition("; leave")[0], []).append(name)
        text = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in reasons.items())
        warnings.warn(f"layers of {kind_of(model)} that cannot be compared are left out: {text}", stacklevel=2)
