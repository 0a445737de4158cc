"""What all linear probes share: their sums and solutions, their scores, and checks before the work.

Ridge probes are fitted to training images in one pass and read test images in another. See
`utilities.analysis.class_embedding.probes` for tokens beside a lens, and `utilities.analysis.blocks.layer_probes` for
the layers of any model.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np
import torch

from utilities.analysis.ridge import RidgeSums
from utilities.analysis.stream import readable_twice
from utilities.datasets.images import ImageDataset
from utilities.hooks.calls.merging import Sums
from utilities.hooks.calls.options import check_number

Probe = tuple[torch.Tensor, torch.Tensor]  # weights (problems, width, classes) and intercepts (problems, classes)


class ProbeSums(Sums):
    """Sums of several sets of probes, each with its own width, by key.

    Attributes:
        sums: Key -> sums.

    Example:
        >>> probes = ProbeSums(num_classes=2)
        >>> probes.add("layer", torch.tensor([[[-1.0]], [[1.0]]]), torch.tensor([0, 1]))
        >>> scores(torch.tensor([[[3.0]]]), probes.solve("layer", 1.0)).argmax().item()
        1
    """

    KEEPS = ("num_classes",)

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.sums: dict[Hashable, RidgeSums] = {}

    def add(self, key: Hashable, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Add samples.

        Args:
            key: Set of probes.
            features: Features, (samples, problems, width).
            labels: Class of each sample, (samples,).
        """
        if key not in self.sums:
            device = "cpu" if features.device.type == "mps" else features.device  # Apple's GPUs have no float64
            self.sums[key] = RidgeSums(features.shape[1], features.shape[2], self.num_classes, device)
        self.sums[key].add(features, labels)

    def solve(self, key: Hashable, alpha: float | list[float]) -> Probe:
        """Solve for weights and intercepts of one set of probes, and free its sums."""
        return self.sums.pop(key).solve(alpha)

    def warn_of_missing(self, whose: str, stacklevel: int) -> None:
        """Refuse images of one class, and warn of classes without any, see `check_classes`."""
        check_classes(next(iter(self.sums.values())).counts, whose, stacklevel + 1)


def check_classes(counts: torch.Tensor, whose: str, stacklevel: int) -> None:
    """Refuse training images of one class, and warn of classes without any, which probes cannot learn to name.

    Args:
        counts: Number of training images of each class.
        whose: Whose classes they are, for the message.
        stacklevel: As in `warnings.warn`, from where this function is called.

    Raises:
        ValueError: If there are images of one class alone.
    """
    refuse_one_class(counts)
    missing = int((counts == 0).sum())
    if missing:
        warnings.warn(
            f"{missing} of {whose} {len(counts)} classes have no training image; probes cannot learn to name them",
            stacklevel=stacklevel + 1,
        )


def refuse_one_class(counts: torch.Tensor | np.ndarray) -> None:
    """Refuse training images of a single class: a probe would name it whatever it is shown.

    Args:
        counts: Number of training images of each class.

    Raises:
        ValueError: If fewer than two classes have images.

    Example:
        >>> refuse_one_class(np.array([0, 0, 8]))
        Traceback (most recent call last):
        ValueError: all 8 training images are of class 2; a probe tells classes apart: let the training loader serve ...
    """
    counts = np.asarray(counts)
    if (counts > 0).sum() < 2:
        raise ValueError(
            f"all {int(counts.sum()):,} training images are of class {int(counts.argmax())}; a probe tells classes "
            "apart: let the training loader serve images of two classes or more. The first images of a folder that is "
            "sorted by class are of one class; load_dataset(..., n_images=N) draws from all of them"
        )


def warn_of_still(sums: Iterable[tuple[str, RidgeSums]], stacklevel: int) -> None:
    """Warn of layers that are the same for all training images: a probe of them can only guess.

    Args:
        sums: Name of what was read, and its sums over the training images.
        stacklevel: As in `warnings.warn`, from where this function is called.
    """
    names = list(dict.fromkeys(name for name, one in sums if not one.varies()))
    if names:
        warnings.warn(
            f"the same for all training images, up to rounding, so that probes can only guess: {', '.join(names)}; "
            "give other images, or look at the model's weights",
            stacklevel=stacklevel + 1,
        )


def scores(features: torch.Tensor, probe: Probe) -> torch.Tensor:
    """Compute the scores of all classes, (samples, positions, classes).

    Args:
        features: Features, (samples, positions, width).
        probe: Weights and intercepts of a probe for each position, or of one for all.

    Example:
        >>> scores(torch.ones(2, 3, 4), (torch.ones(1, 4, 5), torch.zeros(1, 5))).shape
        torch.Size([2, 3, 5])
    """
    weights, intercept = probe
    inputs = features.to(weights)
    if len(weights) == 1:
        return inputs @ weights[0] + intercept[0]
    return torch.baddbmm(intercept[:, None], inputs.transpose(0, 1), weights).transpose(0, 1)


def check_splits(train: Iterable[Any], test: Iterable[Any], what: str = "probes") -> None:
    """Refuse to test what is fitted on the images that it was fitted to, and to fit probes to images of one class.

    Args:
        train: Loader of the images to fit to.
        test: Loader of the images to test on.
        what: What is fitted.

    Raises:
        ValueError: If both loaders serve the same set, images of one are among those of the other, or the training set
            says that all its images are of one class.
        TypeError: If the training images can be read only once.

    Example:
        >>> check_splits([1], [2])
    """
    readable_twice(train, f"the training of {what}")
    if train is test or getattr(train, "dataset", train) is getattr(test, "dataset", test):
        raise ValueError(
            f"train_loader and test_loader serve the same images, on which {what} look better than they are; pass "
            "loaders of two splits, such as load_dataset(..., split='train') and split='test'"
        )
    one, two = (getattr(loader, "dataset", None) for loader in (train, test))
    if isinstance(one, ImageDataset) and isinstance(two, ImageDataset):
        same = (one.name, one.split) == (two.name, two.split)
        shared = len(np.intersect1d(one.indices, two.indices)) if same else 0
        if shared:
            raise ValueError(f"{shared:,} of the images to test {what} on ({two}) are among those to fit them ({one})")
    if isinstance(one, ImageDataset) and what == "probes":
        refuse_one_class(np.bincount(one.targets))


def check_memory_limit(limit: float) -> None:
    """Refuse a limit that is no number of bytes.

    Raises:
        ValueError: If it is refused.

    Example:
        >>> check_memory_limit(0)
        Traceback (most recent call last):
        ValueError: memory_limit=0 should be a number above 0, in bytes, such as 4e9
    """
    check_number("memory_limit", limit, above=0, below=None, hint=", in bytes, such as 4e9")


def refuse_large_sums(count: int, needed: int, limit: float, remedy: str, what: str = "probes") -> None:
    """Refuse sums of so many probes, or of what else is fitted, that take more memory than the limit.

    Raises:
        ValueError: If they do; the message states both sizes and the remedy.

    Example:
        >>> refuse_large_sums(3, 2 * 10**9, 1e9, "choose fewer layers=")
        Traceback (most recent call last):
        ValueError: the sums of 3 probes take 2 GB, above memory_limit=1 GB; choose fewer layers=, or raise memory_limit
    """
    if needed > limit:
        raise ValueError(
            f"the sums of {count:,} {what} take {needed / 1e9:.3g} GB, above memory_limit={limit / 1e9:.3g} GB; "
            f"{remedy}, or raise memory_limit"
        )
