"""Test claims of Raghu et al. 2021 on how models are trained: skips, the number of images, fine-tuning, and MLP-Mixer.

Values of CKA come with standard errors over images. Those of neighbouring layers go together, so the error of a mean
over layers is taken to be the mean of their errors, which is the largest that it can be. Errors do not cover the spread
between trainings: each verdict is on one training of each model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from utilities.claims.claim import Claim, judge
from utilities.claims.evidence import weigh
from utilities.claims.raghu_2021.sides import sides
from utilities.claims.raghu_2021.two_blocks import two_blocks
from utilities.results.formatting import percent_points, with_error
from utilities.results.similarity import Similarity

PAPER = "Raghu et al. 2021"
UNTRAINED = "untrained"  # label of the model that has seen no image
PRESERVED = 0.9  # CKA of a block before and after fine-tuning above which it counts as preserved
MARGIN = 0.05  # difference between two shares of variance that is too small for a verdict
_NUMBER = re.compile(r"blocks\.([0-9]+)\.")
Value = tuple[float, float]  # a mean and its error


def claims_of_missing_skip(ordinary: Similarity, without: Similarity, block: int) -> list[Claim]:
    """Test what a model loses with the skip connections of one block.

    Args:
        ordinary: Self-similarity of a ViT.
        without: Self-similarity of the same ViT, trained without the skips of one block.
        block: Number of this block, from 1. Its own layers count neither as before nor as after it.

    Returns:
        The claims: the heatmap splits into the layers before the block and those after it; accuracy falls.
    """
    where, results = f"{PAPER}, Fig. 8", {"ordinary": ordinary, f"without skips in block {block}": without}
    text = "without the skips of a block, layers before it and after it have little in common"
    if ordinary.layers1 != without.layers1:
        raise ValueError("both models need the same layers")
    parts = _before_and_after(without.layers1, block)
    if min(map(len, parts)) < 2:
        claims = [Claim(text, where, f"there are not two layers before and after block {block}", None)]
    else:
        (usual, usual_error), (split, split_error) = (_split(result, *parts) for result in (ordinary, without))
        (within, between) = _parts(without, *parts)
        found = (
            f"CKA within the two parts less that between them is {with_error(split, split_error, '.2f')} "
            f"without the skips of block {block} ({within[0]:.2f} within, {between[0]:.2f} between), and "
            f"{with_error(usual, usual_error, '.2f')} in the ordinary model, for the same layers"
        )
        claims = [Claim(text, where, found, judge(split - usual, split_error + usual_error))]
    return [weigh(claim, results) for claim in [*claims, _accuracy_falls(ordinary, without, block, where)]]


def _accuracy_falls(ordinary: Similarity, without: Similarity, block: int, where: str) -> Claim:
    """Compare accuracies; both are of the same images, so the error of independent ones is on the safe side."""
    text = "a model without the skips of a middle block is some 4 percent points less accurate"
    one, two = (result.provenance.get("accuracy") for result in (ordinary, without))
    if one is None or two is None:
        return Claim(text, where, "an accuracy is not known", None)
    count = min(_tested(result) for result in (ordinary, without))
    error = math.sqrt((one * (1 - one) + two * (1 - two)) / count)
    found = (
        f"{100 * one:.1f}% in the ordinary model, {100 * two:.1f}% without the skips of block {block}: the loss is "
        f"{percent_points(one - two, error)}, in one training of each on few classes"
    )
    return Claim(text, where, found, judge(one - two, error))


def claims_of_data_size(results: Mapping[str, Mapping[str, Similarity]]) -> list[Claim]:
    """Test which blocks are alike in models that were trained on a share of the images and on all of them.

    Args:
        results: Model -> label of the share -> similarity of the blocks (the model trained on the share) to those of
            the model trained on all images. The smallest share comes first. ``untrained``, optional: that of an
            untrained model, which the smallest share has to exceed in the lower blocks.

    Returns:
        Claims for each model: with the smallest share, lower blocks are more similar than upper ones; upper blocks gain
        more from further images.
    """
    claims, where = [], f"{PAPER}, Fig. 12"
    for model, shares in results.items():
        trained = {label: one for label, one in shares.items() if label != UNTRAINED}
        labels, curves = list(trained), list(trained.values())
        evidence = {f"{model}, {label}": side for label, one in trained.items() for side in sides(one)[:1]}
        evidence[f"{model}, all"] = sides(curves[0])[1]
        (lower, upper), (late_lower, late_upper) = (_halves(curve) for curve in (curves[0], curves[-1]))
        found = (
            f"{model}, trained on {labels[0]}: CKA is {_with(lower)} in the lower half of the blocks, "
            f"{_with(upper)} in the upper"
        )
        holds = judge(*_less(lower, upper))
        if UNTRAINED in shares:
            holds, found = _above(holds, found, lower, _halves(shares[UNTRAINED])[0], "an untrained model, lower half")
        text = "few images suffice for the lower blocks to resemble those of a model trained on all"
        claims.append(weigh(Claim(text, where, found, holds), evidence))
        text = "upper blocks need more images than lower ones"
        if len(curves) < 2:
            claims.append(weigh(Claim(text, where, f"{model}: there is one share alone", None), evidence))
            continue
        gains = _less(late_lower, lower), _less(late_upper, upper)
        found = (
            f"{model}, from {labels[0]} to {labels[-1]}: CKA changes by {_with(gains[0], '+.2f')} in the lower half of "
            f"the blocks, by {_with(gains[1], '+.2f')} in the upper"
        )
        claims.append(weigh(Claim(text, where, found, judge(*_less(gains[1], gains[0]))), evidence))
    return claims


def claims_of_fine_tuning(results: Mapping[str, Similarity]) -> list[Claim]:
    """Test which blocks fine-tuning preserves.

    Args:
        results: ``fine-tuned``: similarity of a model's blocks before (rows) and after fine-tuning (columns). ``from
            scratch``, optional: similarity to a model that was trained on the new images alone. What is no more alike
            than that has not been preserved.

    Returns:
        The claims: the first third of the blocks is preserved, with a CKA above `PRESERVED`; later blocks change more.
    """
    where, tuned = f"{PAPER}, Fig. G.1", results["fine-tuned"]
    diagonal, error = _diagonal(tuned)
    third = max(1, len(diagonal) // 3)
    first, last = (
        (float(diagonal[part].mean()), float(error[part].mean())) for part in (slice(third), slice(-third, None))
    )
    found = f"CKA before and after is {_with(first)} in the first {third} of {len(diagonal)} blocks"
    holds = judge(first[0] - PRESERVED, first[1])
    if "from scratch" in results:
        other = tuple(float(part[:third].mean()) for part in _diagonal(results["from scratch"]))
        holds, found = _above(holds, found, first, other, "a model trained on the new images alone")
    evidence = dict(zip(("before", "after"), sides(tuned), strict=True))
    claims = [
        Claim("fine-tuning preserves the first blocks", where, found, holds),
        Claim(
            "fine-tuning changes late blocks more than early ones",
            where,
            f"CKA before and after is {_with(first)} in the first {third} blocks, {_with(last)} in the last {third}",
            judge(*_less(first, last)),
        ),
    ]
    return [weigh(claim, evidence) for claim in claims]


def claims_of_mixer(mixer: Similarity, vit: Similarity, cnn: Similarity) -> list[Claim]:
    """Test what the heatmap of an MLP-Mixer looks like.

    Args:
        mixer: Self-similarity of an MLP-Mixer.
        vit: Self-similarity of a ViT.
        cnn: Self-similarity of a ResNet.

    Returns:
        The claims: two blocks of layers, the first one smaller; the heatmap is closer to that of the ViT.
    """
    where, results = f"{PAPER}, Fig. H.1", {"mixer": mixer, "vit": vit, "cnn": cnn}
    place, blocks, distance = two_blocks(mixer.matrix)
    count = len(mixer.layers1)
    found = (
        f"the best split comes after layer {place} of {count} ({mixer.layers1[place - 1]}); two blocks account for "
        f"{100 * blocks:.0f}% of the variance between pairs of layers, a fall with their distance for "
        f"{100 * distance:.0f}%"
    )
    clear = judge(blocks - distance, MARGIN / 2)
    holds = clear if clear is not True else place < count / 2
    text = "the heatmap of an MLP-Mixer has two blocks, a small early and a large late one"
    claims = [Claim(text, where, found, holds)]
    near, far = (_apart(mixer, other) for other in (vit, cnn))
    found = (
        f"at the same relative depths, the heatmap is {_with(near)} from that of the ViT, {_with(far)} from the CNN's"
    )
    text = "the heatmap of an MLP-Mixer is closer to that of a ViT than to that of a ResNet"
    claims.append(Claim(text, where, f"{found} on average", judge(*_less(far, near))))
    return [weigh(claim, results) for claim in claims]


def _before_and_after(layers: Sequence[str], block: int) -> tuple[list[int], list[int]]:
    """List the layers before a block and those after it; the classifier is left out."""
    numbers = [match and int(match.group(1)) + 1 for match in map(_NUMBER.search, layers)]
    first = next((i for i, number in enumerate(numbers) if number == block), None)
    if first is None:
        raise ValueError(f"there is no block {block} among the layers")
    before = [i for i in range(first) if layers[i] != "head"]
    after = [i for i in range(first, len(layers)) if numbers[i] != block and layers[i] != "head"]
    return before, after


def _parts(result: Similarity, before: Sequence[int], after: Sequence[int]) -> tuple[Value, Value]:
    """Average the similarity of different layers within the two parts, and between them."""
    within = np.zeros(result.matrix.shape, bool)
    for part in (before, after):
        within[np.ix_(part, part)] = True
    between = np.zeros_like(within)
    between[np.ix_(before, after)] = True
    return _mean(result, np.triu(within, 1)), _mean(result, between)


def _split(result: Similarity, before: Sequence[int], after: Sequence[int]) -> Value:
    return _less(*_parts(result, before, after))


def _mean(result: Similarity, where: np.ndarray) -> Value:
    return float(np.nanmean(result.matrix[where])), _error(None if result.stderr is None else result.stderr[where])


def _error(errors: np.ndarray | None) -> float:
    """Return the mean of errors that are known; NaN, which gives no verdict, if there is none."""
    known = np.empty(0) if errors is None else errors[np.isfinite(errors)]
    return float(known.mean()) if known.size else math.nan


def _diagonal(result: Similarity) -> tuple[np.ndarray, np.ndarray]:
    """Return the similarity of corresponding layers, and its errors."""
    values = np.diagonal(result.matrix)
    return values, np.full(len(values), np.nan) if result.stderr is None else np.diagonal(result.stderr)


def _halves(result: Similarity) -> tuple[Value, Value]:
    """Average the similarity of corresponding blocks over the lower and the upper half; a middle one is left out."""
    values, errors = _diagonal(result)
    half = len(values) // 2
    lower, upper = ((float(values[part].mean()), _error(errors[part])) for part in (slice(half), slice(-half, None)))
    return lower, upper


def _apart(one: Similarity, two: Similarity, points: int = 50) -> Value:
    """Average the absolute difference of two heatmaps at the same relative depths."""
    depth, found, errors = np.linspace(0, 1, points), [], []
    for result in (one, two):
        places = (depth * (len(result.layers1) - 1)).round().astype(int)
        found.append(result.matrix[np.ix_(places, places)])
        errors.append(_error(result.stderr))
    return float(np.nanmean(np.abs(found[0] - found[1]))), sum(errors)


def _above(holds: bool | None, found: str, value: Value, other: Value, what: str) -> tuple[bool | None, str]:
    """Take back that a similarity is high, if it is no higher than that with a model that has nothing to share."""
    found += f"; for {what}, it is {_with(other)}"
    if holds is not True or judge(*_less(value, other)) is True:
        return holds, found
    return None, f"{found}, so that this similarity needs no further cause"


def _less(one: Value, two: Value) -> Value:
    """Subtract two means; errors add up, as those of the same images may."""
    return one[0] - two[0], one[1] + two[1]


def _with(value: Value, form: str = ".2f") -> str:
    return with_error(*value, form)


def _tested(result: Similarity) -> int:
    """Return the number of images that the accuracy was measured on, as far as that is known."""
    return int(result.provenance.get("n_test", result.n))
