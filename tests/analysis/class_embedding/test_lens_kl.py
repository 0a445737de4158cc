"""Divergence of lenses: of distributions, across grids, and averaged over images."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.analysis.class_embedding.test_tuned_fit import CPU, all_tokens, images, toy
from utilities.analysis.class_embedding.lens_kl import divergence, on_grid, tuned_lens_kl
from utilities.analysis.class_embedding.spaces import class_space
from utilities.analysis.class_embedding.tuned_fit import fit_tuned_lens


def test_divergence_is_that_of_the_distributions():
    final, logits = torch.randn(2, 6, 5, dtype=torch.float64).unbind()
    p, q = final.softmax(-1), logits.softmax(-1)
    torch.testing.assert_close(divergence(final, logits), (p * (p / q).log()).sum(-1))
    torch.testing.assert_close(divergence(final, logits).sum(), F.kl_div(q.log(), p, reduction="sum"))
    assert (divergence(final, final) == 0).all()
    assert (divergence(final, logits) > 0).all()


def test_the_measure_is_independent_of_batches_and_has_errors_by_image():
    model, x = toy(), images(12)
    tuned = fit_tuned_lens(model, [x], epochs=1, **CPU)
    whole, parts = (tuned_lens_kl(model, tuned, loader, **CPU) for loader in ([x], [x[:5], x[5:6], x[6:]]))
    np.testing.assert_allclose(whole.kl, parts.kl, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(whole.stderr, parts.stderr, rtol=1e-4, atol=1e-9)
    space = class_space(model)
    first, *_, last = all_tokens(space, x)
    with torch.no_grad():
        gaps = divergence(space.project(last), space.project(first))[:, 1:].mean(1).double()
    assert whole.kl[0, 0, 1] == pytest.approx(gaps.mean().item(), rel=1e-5)
    assert whole.stderr[0, 0, 1] == pytest.approx(gaps.std().item() / 12**0.5, rel=1e-5)


def test_nearest_positions_of_another_grid():
    logits = torch.arange(2 + 4.0).view(1, 6, 1)  # two prefix tokens, 2x2 image tokens
    finer = on_grid(logits, 2, (2, 2), (4, 4))[0, :, 0]
    assert finer[:2].tolist() == [0, 1]
    assert finer[2:].view(4, 4).tolist() == [[2, 2, 3, 3]] * 2 + [[4, 4, 5, 5]] * 2
    assert on_grid(logits, 2, (2, 2), (2, 2)) is logits
