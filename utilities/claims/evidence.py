"""Weigh what a claim rests on: its models, whether they have learnt anything, and the number of images.

A verdict on a network that has not learnt, or on a handful of images, says nothing about the claim. So each claim is
weighed with the results that it was judged by. They state what they were made from. If they cannot support a verdict,
it is taken back, with the reason.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from utilities.claims.basis import UNTRAINED, accuracy_of, count_images, provenance_of, rest_on
from utilities.claims.claim import Claim
from utilities.results.formatting import counted

IMAGES = 50  # with fewer, standard errors are hardly known, and shares move in steps of two points or more
NOT_TRIED = "not tried"
ERRORS = 2  # number of standard errors above chance at which a model counts as having learnt
TRAINED = re.compile(r"trained|epochs_[1-9]|after [1-9]")  # pretrained, trained for 9 epochs, ..._epochs_9.pth


def weigh(claim: Claim, results: Mapping[str, Any], *, learnt: bool = True, shown: bool = False) -> Claim:
    """State what a claim is about, and take its verdict back if the results cannot support one.

    Args:
        claim: Claim with its verdict.
        results: Name of the model -> the result that the claim was judged by.
        learnt: Whether the claim is about models that have learnt; False for a claim about untrained models.
        shown: Whether the claim's own numbers show that the models have learnt, so that results need not state it.

    Example:
        >>> from types import SimpleNamespace
        >>> result = SimpleNamespace(n=18, provenance={"weights": "trained for 9 epochs", "accuracy": 0.9})
        >>> print(weigh(Claim("a", "b", "c", False), {"vit": result}))
        Paper: a (b).
        Here:  c.
        About: vit (trained for 9 epochs, accuracy 90.0%, 18 images).
        The claim cannot be told from this run: 18 images of vit are fewer than 50.
    """
    doubts = [find_doubt(name, result, learnt=learnt, shown=shown) for name, result in results.items()]
    reason = "; ".join(dict.fromkeys(one for one in doubts if one))
    return dataclasses.replace(rest_on(claim, results), holds=None if reason else claim.holds, reason=reason)


def not_told(text: str, source: str, why: str, results: Mapping[str, Any]) -> Claim:
    """Return a claim that was not put to the test, with what was run instead.

    Args:
        text: The paper's claim.
        source: Paper and figure that make it.
        why: What was not run, or not read.
        results: Name of the model -> result of what was run.

    Example:
        >>> from types import SimpleNamespace
        >>> cnn = SimpleNamespace(n=9, provenance={"weights": "pretrained"})
        >>> claim = not_told("a", "b", "no ViT was run", {"cnn": cnn})
        >>> claim.holds, claim.reason, claim.weights
        (None, 'not tried', 'real')
    """
    return rest_on(Claim(text, source, why, None, reason=NOT_TRIED), results)


def keep_sound(results: Mapping[str, Any], *, learnt: bool = True) -> tuple[dict[str, Any], str]:
    """Keep the results that can support a verdict, and explain why the others cannot.

    If none can, all are kept, and `weigh` reports it.

    Example:
        >>> from types import SimpleNamespace
        >>> good, bad = (SimpleNamespace(n=99, provenance={"weights": w}) for w in ("pretrained", "untrained, seed 0"))
        >>> kept, why = keep_sound({"a": good, "b": bad})
        >>> list(kept), why
        (['a'], 'b is untrained')
    """
    doubts = {name: find_doubt(name, result, learnt=learnt) for name, result in results.items()}
    kept = {name: result for name, result in results.items() if not doubts[name]}
    return (kept, "; ".join(filter(None, doubts.values()))) if kept else (dict(results), "")


def find_doubt(name: str, result: Any, *, learnt: bool = True, shown: bool = False) -> str:
    """Explain why a result cannot support a verdict; return an empty string if it can.

    Args:
        name: Name of the model.
        result: Result of an analysis.
        learnt: Whether the model must have learnt.
        shown: Whether something else shows that it has learnt, so that a result that does not state it is accepted.
    """
    count = count_images(result)
    if count is not None and count < IMAGES:
        return f"{counted(count, 'image')} of {name} {'is' if count == 1 else 'are'} fewer than {IMAGES}"
    if not learnt:
        return ""
    weights, accuracy, chance = provenance_of(result).get("weights"), accuracy_of(result), _chance(result)
    if weights and UNTRAINED.match(str(weights)):
        return f"{name} is untrained"
    # If the number of classes is unknown, assume two, the fewest possible.
    level = 0.5 if chance is None else chance
    error = math.sqrt(level * (1 - level) / (count or IMAGES))
    if accuracy is not None and accuracy > level + ERRORS * error:
        return ""
    if accuracy is not None and chance is not None:
        return f"{name} has not learnt: its accuracy of {accuracy:.1%} is not above chance, {chance:.1%}, by two errors"
    if shown or (weights and TRAINED.search(str(weights))):
        return ""
    return f"nothing says that {name} has learnt; give its weights and accuracy in provenance"


def _chance(result: Any) -> float | None:
    """Return the accuracy of guessing, or of always choosing the most frequent class if labels are known."""
    classes = getattr(result, "num_classes", None) or provenance_of(result).get("num_classes")
    if not classes:
        return None
    counts = np.unique(getattr(result, "labels", np.zeros(0)), return_counts=True)[1]
    return max(1 / classes, counts.max() / counts.sum() if len(counts) > 1 else 0.0)
