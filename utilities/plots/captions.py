"""Captions and titles: what results were made from, said once for all figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from matplotlib.figure import Figure

from utilities.plots.paper import DARK, SMALLEST
from utilities.plots.text_fitting import write_wrapped
from utilities.results.formatting import counted
from utilities.results.images import describe_images
from utilities.results.similarity import Similarity

# Options of a comparison that change its values, and their names in captions.
CHANGES = {
    "bandwidth": "bandwidth",
    "sigma": "σ",
    "view1": "view of rows:",
    "view2": "view of columns:",
    "confounder": "regressed out:",
    "remove_top_pc": "leading components removed:",
}


class HasProvenance(Protocol):
    """A result that holds what it was made from."""

    provenance: Mapping[str, Any]


def describe_model(facts: Mapping[str, Any], which: str = "", *, name: bool = True) -> str:
    """State a model, its weights and its accuracy, as far as they are known.

    Args:
        facts: Provenance of a result.
        which: ``"1"`` for the model of the rows, ``"2"`` for that of the columns, ``""`` for the only one.
        name: Whether to name the model.

    Example:
        >>> describe_model({"model": "resnet18", "weights": "untrained, seed 0", "accuracy": 0.1})
        'resnet18, untrained, seed 0, accuracy 10.0%'
    """
    known = [
        facts.get(f"model{which}") if name else None,
        facts.get(f"weights{which}"),
        describe_accuracy(facts, which),
    ]
    return ", ".join(part for part in known if part)


def describe_accuracy(facts: Mapping[str, Any], which: str = "") -> str:
    """State the accuracy of a model in percent; empty where it is not known.

    Example:
        >>> describe_accuracy({"accuracy": 0.974, "accuracy_n": 540})
        'accuracy 97.4% of 540 images'
    """
    accuracy, count = facts.get(f"accuracy{which}"), facts.get(f"accuracy_n{which}")
    if accuracy is None:
        return ""
    return f"accuracy {100 * accuracy:.1f}%" + (f" of {count:,} images" if count else "")


def describe_models(facts: Mapping[str, Any], first: str, second: str) -> list[str]:
    """Describe the two models of a comparison, one sentence each, and that they have weights in common.

    Models of the same description have a single sentence.

    Args:
        facts: Provenance of the result.
        first: What the first model is called in front of its description.
        second: The same for the second.

    Example:
        >>> describe_models({"model1": "resnet18", "model2": "resnet34"}, "rows", "columns")
        ['rows: resnet18', 'columns: resnet34']
    """
    model, one, two = (describe_model(facts, which) for which in ("", "1", "2"))
    if model:
        return [model]
    described, common = [one] if one == two else [f"{first}: {one}", f"{second}: {two}"], facts.get("common_weights")
    if common:
        described.append(f"in {counted(common, 'layer')} both have nearly the same weights, as from one seed")
    return described


def describe_similarity(result: Similarity) -> str:
    """State what a result was made from: model, weights, accuracy, data, number of images, estimator.

    Args:
        result: Result to describe. Facts missing from its provenance are left out.

    Example:
        >>> result = Similarity(np.eye(1), ["a"], ["a"], 540, provenance={"model": "resnet18", "accuracy": 0.974})
        >>> describe_similarity(result)
        'resnet18, accuracy 97.4%. n = 540 images.'
    """
    facts = result.provenance
    sentences = describe_models(facts, "rows", "columns")
    batch = f" in batches of {facts['batch_size']}" if facts.get("batch_size") else ""
    sentences.append(f"{describe_images(facts, result.n)}{batch}")
    measure = ", ".join(str(facts[key]) for key in ("measure", "estimator") if facts.get(key))
    changes = [f"{text} {facts[key]}" for key, text in CHANGES.items() if facts.get(key)]
    measure = ", ".join(([measure] if measure else []) + changes + _range(result))
    sentences.append(f"{measure[:1].upper()}{measure[1:]}")
    sentences.append(_rounding(facts))
    if result.stderr is not None and np.isfinite(result.stderr).any():
        sentences.append(
            f"Standard errors {np.nanmean(result.stderr):.3f} on average, {np.nanmax(result.stderr):.3f} at most"
        )
    if facts.get("profile") in ("quick", "natural"):
        sentences.append(f"{facts['profile'].capitalize()} profile: not comparable with published figures")
    return ". ".join(s for s in sentences if s) + "."


def _rounding(facts: Mapping[str, Any]) -> str:
    """State how far forward passes in bfloat16 were from exact ones, if the result was made in them by measurement."""
    decided = facts.get("auto_precision")
    if not isinstance(decided, Mapping) or decided["chosen"] not in ("half", "centred"):
        return ""
    return (
        f"Forward passes in bfloat16: within {decided['differences'][decided['chosen']]:.4f} of exact ones on "
        f"{decided['images']} images (tolerance {decided['tolerance']:g})"
    )


def _range(result: Similarity) -> list[str]:
    """State the least and the largest value between different layers, which a scale from 0 to 1 may not show."""
    different = np.not_equal.outer(result.layers1, result.layers2)
    values = result.matrix[different & np.isfinite(result.matrix)]
    return [f"{values.min():.2f} to {values.max():.2f} between different layers"] if values.size else []


def made_from(results: Mapping[str, HasProvenance]) -> str:
    """State what results were made from: each model once, then what all share.

    Args:
        results: Label -> result. These keys of each provenance are used: ``model, weights, accuracy, dataset, n,
            profile``.

    Example:
        >>> from types import SimpleNamespace
        >>> facts = {"model": "vit", "weights": "untrained", "dataset": "digits (test)", "n": 540, "profile": "quick"}
        >>> made_from({"ViT": SimpleNamespace(provenance=facts)})
        'ViT: vit, untrained. digits (test), n = 540 images, quick profile.'
    """
    models, images = {}, {}
    for label, result in results.items():
        facts = result.provenance
        models[label] = describe_model(facts, name=not label.startswith(str(facts.get("model"))))
        profile = f"{facts['profile']} profile" if facts.get("profile") else ""
        images[label] = ", ".join(part for part in (describe_images(facts, facts.get("n")), profile) if part)
    sentences = [f"{label}: {text}." for label, text in models.items() if text]
    if len(set(images.values())) > 1:
        sentences += [f"{label}: {text}." for label, text in images.items() if text]
    else:
        sentences += [f"{text}." for text in set(images.values()) if text]
    return " ".join(sentences)


def shared_fact(results: Sequence[Any], name: str) -> str:
    """Return a fact that all results share, or an empty string.

    Example:
        >>> from types import SimpleNamespace
        >>> shared_fact([SimpleNamespace(provenance={"path": "diagonal"})], "path")
        'diagonal'
    """
    values = {str(result.provenance.get(name, "")) for result in results}
    return values.pop() if len(values) == 1 else ""


def basis(results: Sequence[Similarity]) -> str:
    """State what results were made from, except for the models; only once if it is the same for all.

    Args:
        results: One or more results.

    Example:
        >>> one, two = (Similarity(np.eye(1), ["a"], ["a"], n) for n in (10, 20))
        >>> basis([one, one]), basis([one, two, one])
        ('n = 10 images.', 'Results 1, 3: n = 10 images. Result 2: n = 20 images.')
    """
    groups: dict[str, list[str]] = {}
    several = len({result.provenance.get("measure") for result in results}) > 1  # the titles tell them apart
    left_out = ("model", "weights", "accuracy", *(("measure", "estimator") if several else ()))
    for number, result in enumerate(results, 1):
        facts = {k: v for k, v in result.provenance.items() if not k.startswith(left_out)}
        bare = dataclasses.replace(result, matrix=np.full_like(result.matrix, np.nan), stderr=None, provenance=facts)
        groups.setdefault(describe_similarity(bare), []).append(str(number))
    text = " ".join(f"Result{'s' * (len(n) > 1)} {', '.join(n)}: {text}" for text, n in groups.items())
    text = next(iter(groups)) if len(groups) == 1 else text
    errors = [result.stderr[np.isfinite(result.stderr)] for result in results if result.stderr is not None]
    flat = np.concatenate(errors) if errors else np.array([])
    return text + (f" Standard errors {flat.mean():.3f} on average, {flat.max():.3f} at most." if flat.size else "")


def heading(result: Similarity, missing: str = "similarity of layers") -> str:
    r"""Name the models of a result, with weights and accuracy on lines of their own.

    Args:
        result: Result to name. Facts missing from its provenance are left out.
        missing: Text to use if the model's name is not known.

    Example:
        >>> facts = {"model1": "resnet18", "weights1": "untrained", "model2": "vit", "accuracy2": 0.9}
        >>> heading(Similarity(np.eye(1), ["a"], ["b"], 10, provenance=facts)).split("\n")
        ['resnet18 x vit', 'rows: untrained', 'columns: accuracy 90.0%']
    """
    facts = result.provenance
    lines = [" x ".join(name for name in model_names(result) if name)] if not facts.get("model") else [facts["model"]]
    for which, side in (("", ""), ("1", "rows: "), ("2", "columns: ")):
        text = describe_model(facts, which, name=False)
        lines.append(side + text if text else "")
    return "\n".join(line for line in lines if line) or missing


def model_names(result: Similarity) -> tuple[str, str]:
    """Return the names of the row and column models; empty where they are not known."""
    facts = result.provenance
    return facts.get("model1") or facts.get("model", ""), facts.get("model2") or facts.get("model", "")


def titles_of(results: Sequence[Similarity], titles: Sequence[str] | None) -> tuple[list[str], str]:
    """Return a title for each result, and a sentence on the models if the given titles do not name them.

    Raises:
        ValueError: If there is no result, or the number of titles differs.
    """
    if not results:
        raise ValueError("there are no results to draw")
    if titles is None:
        return [heading(result, f"result {i}") for i, result in enumerate(results, 1)], ""
    if len(titles) != len(results):
        raise ValueError(f"there are {len(results)} results, but {len(titles)} titles")
    models = [heading(result, "").replace("\n", ", ") for result in results]
    if len(set(models)) == 1:
        return list(titles), f"{models[0]}. " if models[0] else ""
    return list(titles), "".join(f"{t}: {m}. " for t, m in zip(titles, models, strict=True) if m)


def origin(results: Iterable[HasProvenance]) -> str:
    """State in a line what a figure was made from: data, number of images, and whether these were few.

    Example:
        >>> facts = {"dataset": "digits (test)", "profile": "quick"}
        >>> origin([Similarity(np.eye(1), ["a"], ["a"], n, provenance=facts) for n in (540, 540, 20)])
        'digits (test), n = 540 images, quick; digits (test), n = 20 images, quick'
    """
    lines = {}
    for result in results:
        facts = result.provenance
        profile = facts.get("profile") if facts.get("profile") in ("quick", "natural") else None
        parts = [describe_images(facts, facts.get("n") or getattr(result, "n", None)), profile]
        lines[", ".join(part for part in parts if part)] = None
    return "; ".join(line for line in lines if line)


def caption_figure(figure: Figure, caption: str, line: str) -> None:
    """Keep a caption with its figure, and write a line below that says what the figure was made from."""
    figure.caption, figure.line = caption, line
    write_line(figure)


def write_line(figure: Figure) -> None:
    """Write a figure's line below it, broken where the figure is too narrow, and enlarge the figure to hold it."""
    if not figure.line:
        return
    artist = figure.supxlabel(figure.line, fontsize=SMALLEST, color=DARK, x=0.02, ha="left")
    lines = write_wrapped(artist, figure.line, 0.96 * figure.get_figwidth()).splitlines()
    figure.set_figheight(figure.get_figheight() + line_height(len(lines)))


def line_height(lines: int) -> float:
    """Return the height in inches of ``lines`` lines below a figure."""
    return 0.1 + 0.12 * lines if lines else 0.0


def measure_of(results: Sequence[Similarity]) -> str:
    """Name the measure of the results, or ``similarity`` if they have different ones."""
    names = {str(r.provenance.get("measure", "similarity")) for r in results}
    return names.pop() if len(names) == 1 else "similarity"


def extremes(matrices: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return the least and the largest finite value; NaN if there is none."""
    values = np.concatenate([matrix[np.isfinite(matrix)] for matrix in matrices])
    return (float(values.min()), float(values.max())) if values.size else (np.nan, np.nan)
