"""A claim of a paper, what a run shows of it, and whether it holds there."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from utilities.utils import write_whole

WIDTH = 110
LEVEL = 0.05  # of p-values
LAYERS = {"attn": "attention", "mlp": "the MLP"}
VERDICTS = {True: "holds on what was run", False: "does NOT hold on what was run", None: "cannot be told from this run"}


@dataclass(frozen=True)
class Claim:
    """A claim, and what a run shows of it.

    Attributes:
        claim: What the paper says, in our words.
        source: Where: paper and figure.
        found: What the run shows, in numbers with their errors.
        holds: Whether the claim holds there; None where the run cannot tell (within the errors, or not tried).
        about: Of what that speaks: models, whether they are trained, their accuracy, the number of images. See
            `utilities.claims.evidence.weigh`.
        reason: Why these can bear no verdict.

    Example:
        >>> print(Claim("attention lowers the variance", "Park & Kim 2022, Fig. 9", "6 of 6 blocks lower it", True))
        Paper: attention lowers the variance (Park & Kim 2022, Fig. 9).
        Here:  6 of 6 blocks lower it.
        The claim holds on what was run.
    """

    claim: str
    source: str
    found: str
    holds: bool | None
    about: str = ""
    reason: str = ""

    def __str__(self) -> str:
        lines = [("Paper: ", f"{self.claim} ({self.source})."), ("Here:  ", f"{self.found}.")]
        lines += [("Of:    ", f"{self.about}.")] if self.about else []
        texts = [textwrap.fill(text, WIDTH, initial_indent=head, subsequent_indent=7 * " ") for head, text in lines]
        verdict = f"The claim {VERDICTS[self.holds]}{f': {self.reason}' if self.reason else ''}."
        return "\n".join([*texts, textwrap.fill(verdict, WIDTH, subsequent_indent=7 * " ")])


def percent_points(value: float, error: float) -> str:
    """Put a difference of two shares, and its standard error, into words.

    Example:
        >>> percent_points(0.123, 0.01)
        '12.3 +- 1.0 percent points'
    """
    return f"{100 * value:.1f} +- {100 * error:.1f} percent points"


def judge(difference: float, error: float) -> bool | None:
    """Tell whether a difference is above 0 by two standard errors (True), below 0 by two (False), or neither (None).

    Args:
        difference: In the direction of the claim.
        error: Its standard error; without one (NaN) nothing can be told.

    Example:
        >>> judge(3.0, 1.0), judge(-3.0, 1.0), judge(1.0, 1.0), judge(1.0, float("nan"))
        (True, False, None, None)
    """
    return True if difference > 2 * error else False if difference < -2 * error else None


def all_hold(verdicts: Sequence[bool | None]) -> bool | None:
    """Tell whether several verdicts hold together: not if one does not, unknown if one is or there is none.

    Example:
        >>> all_hold([True, True]), all_hold([None, False]), all_hold([True, None])
        (True, False, None)
    """
    return False if False in verdicts else None if None in verdicts or not verdicts else True


def by_family(results: Mapping[str, Any]) -> dict[str, Any]:
    """Give the first result of each family, ``cnn``, ``hybrid`` and ``vit``; families that are not there are left out.

    Example:
        >>> by_family({"resnet18": 1, "resnet34": 2, "vit_tiny_patch2_16": 3})
        {'cnn': 1, 'vit': 3}
    """
    found: dict[str, Any] = {}
    for model, result in results.items():
        found.setdefault(family(model), result)
    return found


def family(model: str) -> str:
    """Tell attention-free CNNs, hybrids and Vision Transformers apart by their names.

    Example:
        >>> [family(name) for name in ("resnet18", "alternet18", "timm/vit_tiny_patch16_224", "pit_tiny")]
        ['cnn', 'hybrid', 'vit', 'vit']
    """
    bare = re.split("[/:]", model)[-1]  # of a function of one's own, its name
    if bare.startswith(("alternet", "lambda")):
        return "hybrid"
    return "vit" if bare.startswith(("vit", "deit", "pit", "swin", "mixer")) else "cnn"


def state_claims(claims: Sequence[Claim], path: str | Path | None = None) -> str:
    """Put claims into words, and write them as a table where a path is given.

    Args:
        claims: One or more.
        path: Of a CSV file, columns ``claim, source, found, holds``, and ``about`` and ``reason`` where claims have
            them; its ending is put right.

    Returns:
        The text.
    """
    if path is not None:
        table = pd.DataFrame([asdict(claim) for claim in claims])
        empty = [name for name in ("about", "reason") if claims and not table[name].any()]
        table = table.drop(columns=empty)
        write_whole(Path(path).with_name(Path(path).name + ".csv"), lambda file: table.to_csv(file, index=False))
    return "\n\n".join(map(str, claims))
