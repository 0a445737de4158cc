"""On which images do two layers agree? Each image's share in their CKA, and the CKA without the most dominant ones.

CKA is a sum over pairs of images: with centred Gram matrices K and L of each batch, it is the sum of K_ij L_ij over
batches, divided by the roots of the sums of K_ij² and of L_ij². The share of image i is the sum over j alone, so that
shares sum to the similarity.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from utilities.compare.common_weights import model_facts
from utilities.compare.gram_matrices import without_top_components
from utilities.compare.gram_shares import Grams, shares_of, without_images
from utilities.compare.kept_grams import KeptGrams
from utilities.compare.options import ComparisonOptions
from utilities.compare.paired_batches import PairedBatches, prefetched
from utilities.datasets.naming import known_facts
from utilities.hooks.calls.batch_lists import batch_indices
from utilities.hooks.calls.memory import keeping_freed_memory
from utilities.hooks.recorder import BatchAxis
from utilities.hooks.views import View
from utilities.metrics import Estimator
from utilities.results.image_contributions import ImageContributions
from utilities.utils import evaluating, versions

Pair = tuple[str, str]
REMOVED = (0, 1, 2, 5, 10, 20, 50)


def image_contributions(
    model1: nn.Module,
    model2: nn.Module,
    loader: Iterable[Any],
    loader2: Iterable[Any] | None = None,
    *,
    pairs: Sequence[Pair],
    estimator: Estimator = "debiased",
    view: View = "flatten",
    view2: View | None = None,
    batch_axis: BatchAxis | None = None,
    precision: str = "exact",
    removed: Sequence[int] = REMOVED,
    device: str | torch.device = "auto",
    provenance: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> ImageContributions:
    """Compute each image's share in the linear CKA of pairs of layers, in one pass of each model over the data.

    Of each layer, the Gram matrices of all batches are kept: 8 bytes times the number of images times the size of a
    batch. Dominant images are those with the largest absolute shares; without them, Gram matrices are centred anew.

    Args:
        model1: Model of the first layers.
        model2: Model of the second layers; may be ``model1``.
        loader: See `utilities.compare.compare`.
        loader2: See `utilities.compare.compare`.
        pairs: Pairs of layers: a name in the first model and one in the second.
        estimator: See `utilities.compare.compare`.
        view: See `utilities.compare.compare`.
        view2: The same for ``model2``; default: ``view``.
        batch_axis: See `utilities.compare.compare`.
        precision: ``"exact"``, ``"fast"``, ``"centred"`` or ``"half"``, see `utilities.compare.compare`.
        removed: Numbers of dominant images without which the similarity is computed again. Numbers above a quarter of
            the images are left out.
        device: See `utilities.compare.compare`.
        provenance: Facts to keep with the result; facts that are known here are added.
        progress: Whether to show a progress bar once the work takes more than two seconds.

    Returns:
        The shares. A pair with a layer without variance is NaN.

    Raises:
        ValueError: As in `utilities.compare.compare`, or for no pair, or a wrong number of images to remove.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> batches = list(torch.randn(4, 64, 8))
        >>> result = image_contributions(model, model, batches, pairs=[("0", "2")], device="cpu", progress=False)
        >>> from utilities.compare import compare
        >>> same = compare(model, model, batches, layers1="0", layers2="2", device="cpu", precision="exact")
        >>> result.shares.shape, bool(abs(result.similarity[0] - same.matrix[0, 0]) < 1e-8)
        ((1, 256), True)
    """
    pairs = [_pair(pair) for pair in pairs]
    if not pairs:
        raise ValueError("pairs names no pair of layers; write pairs=[('layer3', 'layer4')]")
    if precision == "auto":
        raise ValueError("precision='auto' looks at similarities; choose 'exact', 'fast', 'centred' or 'half' here")
    options = ComparisonOptions(
        estimator=estimator, view1=view, view2=view if view2 is None else view2, precision=precision,
        batch_axis=batch_axis,
    )  # fmt: skip
    counts = _counts(removed)
    batches = PairedBatches(loader, loader2, min_images=options.min_images, whole=(True, True))
    layers = [list({name.partition("#")[0]: None for name in names}) for names in zip(*pairs, strict=True)]
    with keeping_freed_memory(), evaluating(model1, device) as device1, evaluating(model2, device) as device2:
        seen = KeptGrams(model1, model2, *layers, options, (device1, device2), batches.two_loaders)
        read = prefetched(batches.read(), device1)
        for index, one, two in tqdm(read, total=batches.length, desc="images", delay=2, disable=not progress):
            seen.add_batch(index, one, two)
    if not seen.labels:
        raise ValueError(f"the loader has no batch of {batches.min_images} images or more")
    seen.refuse_non_finite()
    return _result(seen, pairs, counts, loader, known_facts(provenance, loader, loader2))


def _pair(pair: Any) -> Pair:
    if isinstance(pair, str) or len(pair) != 2 or not all(isinstance(name, str) for name in pair):
        raise ValueError(f"a pair should be the names of two layers, such as ('layer3', 'layer4'), not {pair!r}")
    return tuple(pair)


def _counts(removed: Sequence[int]) -> list[int]:
    wrong = [count for count in removed if isinstance(count, bool) or not isinstance(count, int) or count < 0]
    if wrong:
        raise ValueError(f"removed should hold whole numbers, 0 or more, not {wrong[0]!r}")
    return sorted({0, *removed})


def _of_pair(batches: list[Grams], counts: list[int], estimator: Estimator) -> dict[str, Any]:
    """Compute all that is known of one pair of layers."""
    shares, agreement = shares_of(batches, estimator)
    order = np.argsort(-np.abs(shares), kind="stable")
    reduced = [tuple(without_top_components(side[None], 1)[0] for side in batch) for batch in batches]
    return {
        "shares": shares,
        "agreement": agreement,
        "without": np.array([_sum(without_images(batches, order[:count]), estimator) for count in counts]),
        "without_top_pc": _sum(reduced, estimator),
    }


def _sum(batches: list[Grams], estimator: Estimator) -> float:
    return float(shares_of(batches, estimator)[0].sum()) if batches else float("nan")


def _result(
    seen: KeptGrams, pairs: list[Pair], counts: list[int], loader: Any, provenance: dict[str, Any]
) -> ImageContributions:
    labels = np.concatenate(seen.labels)
    counts = [count for count in counts if 4 * count <= len(labels)]
    found = [_of_pair(seen.of_pair(pair), counts, seen.options.estimator) for pair in pairs]
    names = model_facts(*seen.models, provenance)
    facts = seen.options.facts(seen.sums.largest) | {"precision": seen.precisions[0].facts(), "versions": versions()}
    return ImageContributions(
        pairs=[list(pair) for pair in pairs],
        places=_places(loader, seen.indices, [len(part) for part in seen.labels]),
        labels=labels,
        removed=np.array(counts),
        provenance=names | provenance | facts,
        **{name: np.array([one[name] for one in found]) for name in found[0]},
    )


def _places(loader: Any, indices: list[int], sizes: list[int]) -> np.ndarray:
    """Return the images' numbers in the data set, or, where the loader cannot tell, in the order it served them."""
    try:
        listed = batch_indices(loader)
    except ValueError:
        return np.arange(sum(sizes))
    return np.concatenate([listed[index][:size] for index, size in zip(indices, sizes, strict=True)])
