"""One pass over images that sums how the features at each position go with the pixels of each patch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from utilities.analysis.blocks.localisation_sums import LocalisationSums, centred_grams, usable
from utilities.analysis.blocks.patch_grid import PatchGrid, choose_patch
from utilities.hooks.calls.merging import Sums
from utilities.hooks.positions import PositionRecorder, Positions
from utilities.metrics import MIN_IMAGES


class LocalisationPass(Sums):
    """Sum HSIC of all layers while images stream by.

    Args:
        recorder: Records the layers.
        patch: Side of the patches, see `utilities.analysis.blocks.patch_grid.choose_patch`.
        memory_limit: Largest size of Gram matrices and sums in bytes.

    Attributes:
        grid: The patches, once an image was seen.
        sums: Layer -> sums.
        where: Layer -> its positions, without their features.
        n: Number of images.
        index: Number of batches.
        left_out: Number of images in batches that were too small.
    """

    ADDS, KEEPS, OWN = ("n", "count", "left_out"), ("grid", "where"), ("patch", "limit", "start")

    def __init__(self, recorder: PositionRecorder, patch: int | None, memory_limit: float) -> None:
        self.recorder, self.patch, self.limit = recorder, patch, memory_limit
        self.grid: PatchGrid | None = None
        self.sums: dict[str, LocalisationSums] = {}
        self.where: dict[str, Positions] = {}
        self.n = self.count = self.left_out = self.start = 0

    def begin(self, before: Sequence[int]) -> None:
        """Begin behind batches of other processes.

        Args:
            before: Number of images of each of these.
        """
        self.start = sum(usable(count, place) for place, count in enumerate(before))

    @property
    def index(self) -> int:
        """Number of the next batch, among those of all processes that are large enough."""
        return self.start + self.count

    def add(self, images: torch.Tensor) -> None:
        """Add a batch."""
        if images.ndim != 4:
            raise ValueError(f"images should be (batch, channels, height, width), got {tuple(images.shape)}")
        size = tuple(images.shape[-2:])
        if self.grid is None:
            self.grid = choose_patch(self.recorder.model, size, self.patch)
        if size != self.grid.size:
            sizes = " and ".join(f"{height}x{width}" for height, width in (self.grid.size, size))
            raise ValueError(f"images have several sizes, {sizes} pixels; bring them to one")
        if not usable(len(images), self.index):
            self.left_out += len(images)
            return
        self._check_memory(len(images))
        self.recorder.size = images.shape[-2:]
        pixels = centred_grams(self.grid.cut(images))
        self.recorder.run(images)
        found, self.recorder.activations = self.recorder.activations, {}
        if not self.sums:
            self._begin(found, len(images))
        for name, positions in found.items():
            self.sums[name].add(self.index, positions.values[:, positions.prefix :].transpose(0, 1), pixels)
        self.n, self.count = self.n + len(images), self.count + 1

    def _check_memory(self, n: int) -> None:
        count = len(self.grid.centres)
        if 8 * count * n**2 > self.limit:
            fits = int((self.limit / 8 / count) ** 0.5)
            smaller = f"choose batches of {fits} images or fewer, " if fits >= MIN_IMAGES["debiased"] else "choose "
            raise ValueError(
                f"Gram matrices of {count} patches and {n} images take {8 * count * n**2 / 1e9:.3g} GB, above "
                f"memory_limit={self.limit / 1e9:.3g} GB; {smaller}larger patches (patch=), or raise memory_limit"
            )

    def _begin(self, found: Mapping[str, Positions], n: int) -> None:
        patches = len(self.grid.centres)
        counts = {name: len(positions.places) for name, positions in found.items()}
        needed = sum(LocalisationSums.bytes_needed(count, patches) for count in counts.values())
        if needed + 8 * patches * n**2 > self.limit:
            raise ValueError(
                f"the sums of {len(counts)} layers take {needed / 1e9:.3g} GB beside the Gram matrices, above "
                f"memory_limit={self.limit / 1e9:.3g} GB; choose fewer layers=, a smaller most=, or raise memory_limit"
            )
        self.sums = {name: LocalisationSums(count, patches) for name, count in counts.items()}
        self.where = {name: Positions(p.values[:0], p.prefix, p.grid, p.places) for name, p in found.items()}
