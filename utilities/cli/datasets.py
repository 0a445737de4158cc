"""The verb ``datasets``: the data sets that can be named."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Sequence

from utilities.cli.arguments import options_of, parse
from utilities.cli.models import Globs
from utilities.cli.user_errors import fail, nearest

# As `utilities.datasets.factory.NAMES`, `.corrupted.CLEAN` and `.perturbed.KINDS`, which would bring torch.
DATASETS = {
    "digits": "scikit-learn's 1,797 digits, 16x16; needs no network",
    "canvas": "those digits, each on a canvas of noise, 24x24; masks; needs no network",
    "photos": "crops of ten pictures of scikit-learn and scikit-image, 224x224; needs no network",
    "cifar10": "32x32; downloaded when missing",
    "cifar100": "32x32; downloaded when missing",
    "imagenet": "class folders ROOT/imagenet/train/... and ROOT/imagenet/val/...; 224x224",
    "imagenet-s919": "ImageNet-S, with masks; 224x224",
    "imagenet-s300": "300 of its classes",
    "imagenet-s50": "50 of its classes",
    "cifar10-c": "CIFAR-10-C on disk; for analyse robustness",
    "cifar100-c": "CIFAR-100-C on disk; for analyse robustness",
    "imagenet-c": "ImageNet-C on disk; for analyse robustness",
    "cifar10-p": "CIFAR-10-P on disk; for analyse consistency",
    "imagenet-p": "ImageNet-P on disk; for analyse consistency",
    "folder:PATH": "class folders of your own: PATH/train/CLASS/* and PATH/test/CLASS/*, or PATH/CLASS/*",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Command line, less the verb.

    Example:
        >>> main(["digi*"])
        digits          scikit-learn's 1,797 digits, 16x16; needs no network
    """
    about = "List the data sets that can be named; python -m utilities fetch downloads them ahead of time."
    options = [dataclasses.replace(one, help="Such as 'cifar*'; default: all.") for one in options_of(Globs)]
    given = parse(options, arguments or [], "python -m utilities datasets", about)
    for glob in given.globs:
        if not fnmatch.filter(DATASETS, glob):
            fail(f"no data set matches {glob!r}{nearest(glob, DATASETS)}; data sets: {', '.join(DATASETS)}")
    for name, line in DATASETS.items():
        if not given.globs or any(fnmatch.fnmatchcase(name, glob) for glob in given.globs):
            print(f"{name:<16}{line}")
