"""The loop shows every batch once, and refuses to begin or to end without what it needs."""

from types import SimpleNamespace

import pytest
import torch

from utilities.compare.batch_loop import run_batches
from utilities.compare.paired_batches import PairedBatches


class Sums:
    n = 0

    def cpu(self):
        return self


class Sees:
    """Stands for a comparison: notes what it is shown."""

    def __init__(self):
        self.devices, self.sums, self.seen = [torch.device("cpu")] * 2, Sums(), []
        self.undecided = False

    def add(self, index, batch1, batch2):
        self.sums.n += len(batch1)
        self.seen.append((index, batch1.tolist(), batch2.tolist()))


def test_every_batch_is_shown_once_in_order():
    comparison, loader = Sees(), [torch.arange(4.0), torch.arange(4.0, 8.0)]
    saved = run_batches(comparison, PairedBatches(loader, None, min_images=2), False, None, False)
    assert comparison.seen == [(i, batch.tolist(), batch.tolist()) for i, batch in enumerate(loader)]
    assert saved is None


def test_no_batch_that_is_large_enough_is_refused():
    nothing = SimpleNamespace(length=0, min_images=4, read=lambda indices: iter(()))
    with pytest.raises(ValueError, match="the loader has no batch of 4 images or more"):
        run_batches(Sees(), nothing, False, None, False)


def test_sharing_needs_processes_that_know_of_each_other():
    with pytest.raises(ValueError, match="start with torchrun"):
        run_batches(Sees(), None, True, None, False)
