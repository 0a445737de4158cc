"""The tuned lens itself: the identity before a fit, and its files."""

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import ResPostBlock

from tests.analysis.class_embedding.test_tuned_fit import CPU, all_tokens, images, toy
from utilities.analysis.class_embedding.lens_kl import LensKL, tuned_lens_kl
from utilities.analysis.class_embedding.space import LensOptions
from utilities.analysis.class_embedding.spaces import class_space
from utilities.analysis.class_embedding.tuned import TunedLens
from utilities.analysis.class_embedding.tuned_fit import fit_tuned_lens


@pytest.mark.parametrize("options", [{}, {"global_pool": "avg", "class_token": False}, {"block_fn": ResPostBlock}])
def test_before_it_is_fitted_it_is_the_raw_lens_exactly(options):
    model = toy(**options)
    tuned = TunedLens([16, 16, 16])
    raw, learned = class_space(model), class_space(model, LensOptions(tuned=tuned))
    for index, tokens in enumerate(all_tokens(raw, images(4))):
        with torch.no_grad():
            assert torch.equal(raw.project(tokens, index), learned.project(tokens, index))
    kl = tuned_lens_kl(model, tuned, [images(4)], **CPU).kl
    np.testing.assert_array_equal(kl[0], kl[1])


def test_files(tmp_path):
    model = toy()
    tuned = fit_tuned_lens(model, [images(8)], epochs=1, **CPU)
    loaded = TunedLens.load(tuned.save(tmp_path / "lens.pt"))
    assert loaded.facts == tuned.facts
    assert all(torch.equal(a, b) for a, b in zip(tuned.parameters(), loaded.parameters(), strict=True))
    result = tuned_lens_kl(model, loaded, [images(8)], provenance={"model": "toy"}, **CPU)
    assert LensKL.load(result.save(tmp_path / "kl")).to_frame().equals(result.to_frame())
    assert len(result.to_frame()) == 2 * 2 * 3
    with pytest.raises(FileNotFoundError, match="fit_tuned_lens"):
        TunedLens.load(tmp_path / "none.pt")
    (tmp_path / "bad.pt").write_text("no")
    with pytest.raises(ValueError, match="holds no tuned lens"):
        TunedLens.load(tmp_path / "bad.pt")
