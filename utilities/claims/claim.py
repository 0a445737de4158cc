"""A paper's claim, what a run shows about it, and whether it holds there."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from utilities.utils import write_whole
from utilities.zoo.families import family

WIDTH = 110
OPTIONAL = ("about", "reason", "weights", "models", "data", "short")
BRANCHES = {"attn": "attention", "mlp": "MLP"}  # of a transformer's block
VERDICTS = {True: "holds on what was run", False: "does NOT hold on what was run", None: "cannot be told from this run"}


@dataclass(frozen=True)
class Claim:
    """A claim, and what a run shows about it.

    Attributes:
        claim: The paper's claim, in our words.
        source: Paper and figure that make the claim.
        found: Findings of the run, in numbers with their errors.
        holds: Whether the claim holds in the run; None if the run cannot tell (within the errors, or not tried).
        about: What the findings are based on: models, whether they are trained, their accuracy, the data set, the
            number of images. See `utilities.claims.evidence.weigh`.
        reason: Reason why these cannot support a verdict.
        weights: Whose weights these are, see `utilities.claims.basis.kind_of_weights`; several kinds with ``" + "``
            between them.
        models: The models and their weights, in few words.
        data: The data set and the number of images, or several of them.
        short: The findings in few words, for tables; empty if ``found`` is short.

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
    weights: str = ""
    models: str = ""
    data: str = ""
    short: str = ""

    def __str__(self) -> str:
        lines = [("Paper: ", f"{self.claim} ({self.source})."), ("Here:  ", f"{self.found}.")]
        lines += [("About: ", f"{self.about}.")] if self.about else []
        texts = [textwrap.fill(text, WIDTH, initial_indent=head, subsequent_indent=7 * " ") for head, text in lines]
        verdict = f"The claim {VERDICTS[self.holds]}{f': {self.reason}' if self.reason else ''}."
        return "\n".join([*texts, textwrap.fill(verdict, WIDTH, subsequent_indent=7 * " ")])


def branch(part: str) -> str:
    """Name a branch of a transformer's block within a sentence.

    Example:
        >>> branch("attn"), branch("mlp")
        ('attention', 'the MLP')
    """
    return f"the {BRANCHES[part]}" if part == "mlp" else BRANCHES[part]


def judge(difference: float, error: float) -> bool | None:
    """Tell whether a difference is two standard errors above 0 (True), two below 0 (False), or neither (None).

    Args:
        difference: Difference, positive in the direction of the claim.
        error: Standard error of the difference. If it is NaN, the verdict is None.

    Example:
        >>> judge(3.0, 1.0), judge(-3.0, 1.0), judge(1.0, 1.0), judge(1.0, float("nan"))
        (True, False, None, None)
    """
    return True if difference > 2 * error else False if difference < -2 * error else None


def all_hold(verdicts: Sequence[bool | None]) -> bool | None:
    """Tell whether several verdicts hold together: False if one is False, None if one is None or there is none.

    Example:
        >>> all_hold([True, True]), all_hold([None, False]), all_hold([True, None])
        (True, False, None)
    """
    return False if False in verdicts else None if None in verdicts or not verdicts else True


def by_family(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first result of each family among ``cnn``, ``hybrid`` and ``vit``; missing families are left out.

    Example:
        >>> by_family({"resnet18": 1, "resnet34": 2, "vit_tiny_patch2_16": 3})
        {'cnn': 1, 'vit': 3}
    """
    found: dict[str, Any] = {}
    for model, result in results.items():
        found.setdefault(family(model), result)
    return found


def state_claims(claims: Sequence[Claim], path: str | Path | None = None) -> str:
    """Format claims as text, and write them as a table if a path is given.

    Args:
        claims: One or more claims.
        path: Path of a CSV file with columns ``claim, source, found, holds``, and `OPTIONAL` ones if claims have them.
            Its suffix is corrected if necessary.

    Returns:
        The claims as text.
    """
    if path is not None:
        table = pd.DataFrame([asdict(claim) for claim in claims])
        empty = [name for name in OPTIONAL if claims and not table[name].any()]
        table = table.drop(columns=empty)
        write_whole(Path(path).with_name(Path(path).name + ".csv"), lambda file: table.to_csv(file, index=False))
    return "\n\n".join(map(str, claims))
