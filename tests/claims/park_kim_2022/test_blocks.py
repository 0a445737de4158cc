"""Each verdict comes out where the numbers say so."""

import dataclasses

import numpy as np
import pytest

from utilities.analysis.blocks.fourier import Fourier
from utilities.analysis.blocks.lesion import Lesions
from utilities.analysis.blocks.variance import Variance
from utilities.claims.claim import Claim, state_claims
from utilities.claims.park_kim_2022.blocks import claims_of_fourier, claims_of_lesions, claims_of_variance

KINDS = ["stem", "msa", "mlp", "msa", "mlp"]
STAGES = [0, 1, 1, 1, 1]
TRAINED = {"weights": "trained for 9 epochs", "accuracy": 0.97}


def spectrum(changes, high, error=0.01, kinds=KINDS):
    table = np.full((5, 2), np.nan)
    delta = np.stack([np.zeros(5), np.full(5, high)], 1)
    errors = np.full((5, 2), error)
    change = np.array([np.nan, *changes])
    size, pixels = np.full((5, 2), 4), np.tile([0, 0.5], (5, 1))
    return Fourier(
        list("abcde"),
        kinds,
        STAGES,
        *(size, table, pixels, table, delta, errors, table, table, change, errors[:, 0]),
        provenance=TRAINED,
    )


def variance(changes, kinds=KINDS, error=0.01, values=(1.0, 2.0, 3.0, 4.0, 5.0)):
    one = np.full(5, error)
    change = np.array([np.nan, *changes])
    arrays = {field.name: one for field in dataclasses.fields(Variance) if field.type == "np.ndarray"}
    arrays |= {"variance": np.array(values), "change": change, "relative_change": -change}
    return Variance(list("abcde"), kinds, STAGES, **arrays, provenance=TRAINED)


def removed(drops, error=0.01, kinds=("msa", "mlp", "msa", "mlp")):
    depth, one = np.array([0.2, 0.4, 0.6, 0.8]), np.full(4, error)
    return Lesions(list("abcd"), list(kinds), [1, 1, 1, 1], depth, np.array(drops), one, one, one, 0.9)


@pytest.mark.parametrize(
    ("changes", "lowers", "raises"),
    [
        ((-1, 1, -1, 1), True, True),
        ((1, -1, 1, -1), False, False),
        ((-1, 1, 0, 0), None, None),
    ],
)
def test_attention_lowers_and_mlps_raise_high_frequencies(changes, lowers, raises):
    verdicts = [claim.holds for claim in claims_of_fourier({"vit_tiny": spectrum(changes, -2.0)})]
    assert verdicts == [lowers, raises]


def test_what_attention_does_is_set_beside_what_other_blocks_do():
    """A convolution that lowers the highest frequency as well says that this is no mark of attention."""
    cnn = spectrum((-1, -1, 1, 0), -2.0, kinds=["stem", "conv", "conv", "conv", "conv"])
    lowers, raises, _ = claims_of_fourier({"resnet18": cnn, "vit_tiny": spectrum((-1, 1, -1, -1), -2.0)})
    assert lowers.found.endswith("2 of 2 blocks in vit_tiny; so do 2 of 4 blocks of convolution and 1 of 2 MLPs")
    assert raises.found.endswith("1 of 2 blocks in vit_tiny; so do 0 of 2 blocks of attention")


@pytest.mark.parametrize(("vit", "verdict"), [(-3.0, True), (-1.0, False), (-2.01, None)])
def test_high_frequencies_at_the_end(vit, verdict):
    cnn = spectrum((1, 1, 1, 1), -2.0, kinds=["stem", "conv", "conv", "conv", "conv"])
    claim = claims_of_fourier({"resnet18": cnn, "vit_tiny": spectrum((-1, 1, -1, 1), vit)})[-1]
    assert claim.holds is verdict
    assert "-2.00 ± 0.01 in the CNN" in claim.found


def test_high_frequencies_are_compared_where_both_grids_have_them():
    """A finer grid that has little at its own end, but more where the coarse one ends, does not have less."""
    cnn = spectrum((1, 1, 1, 1), -1.0, kinds=["stem", "conv", "conv", "conv", "conv"])
    coarse = dataclasses.replace(cnn, pixel_frequency=np.tile([0, 0.125], (5, 1)))
    vit = spectrum((-1, 1, -1, 1), -3.0)
    middle = np.tile([0, 0.125, 0.5], (5, 1))
    delta = np.tile([0, -0.5, -3.0], (5, 1))
    fine = dataclasses.replace(vit, pixel_frequency=middle, delta=delta, delta_stderr=np.full((5, 3), 0.01))
    assert claims_of_fourier({"resnet18": coarse, "vit_tiny": fine})[-1].holds is False
    apart = dataclasses.replace(cnn, pixel_frequency=np.tile([0, 0.3], (5, 1)))
    assert claims_of_fourier({"resnet18": apart, "vit_tiny": fine})[-1].holds is None


def test_one_pair_a_stage_makes_one_claim_not_two():
    pair = removed((0.1, 0.5, 0.3, 0.0), kinds=("conv", "msa", "conv", "msa"))
    pair = dataclasses.replace(pair, stages=[1, 1, 2, 2])
    assert len(claims_of_lesions({"alternet18": pair})) == 2  # early and late, and the one comparison


def test_without_such_blocks_nothing_can_be_told():
    cnn = spectrum((1, 1, 1, 1), -2.0, kinds=["stem", "conv", "conv", "conv", "conv"])
    first, second = claims_of_fourier({"resnet18": cnn})
    assert first.holds is None
    assert second.holds is True


def test_variance_raw_and_relative_are_judged_apart():
    raw, others, relative = claims_of_variance({"vit_tiny": variance((-1, 1, -1, 1))})
    assert (raw.holds, others.holds, relative.holds) == (True, True, False)


@pytest.mark.parametrize(("values", "verdict"), [((9, 1, 2, 3, 4), True), ((9, 4, 3, 2, 1), False)])
def test_variance_peaks_at_the_end_of_stages(values, verdict):
    kinds = ["stem", "conv", "conv", "conv", "conv"]
    assert claims_of_variance({"resnet18": variance((1, 1, 1, 1), kinds, values=values)})[-1].holds is verdict


@pytest.mark.parametrize(
    ("drops", "verdicts"),
    [
        ((0.1, 0.5, 0.3, 0.0), (True, True, True)),
        ((0.5, 0.1, 0.6, 0.7), (False, False, False)),
        ((0.1, 0.1, 0.1, 0.1), (None, None, None)),
    ],
)
def test_lesions(drops, verdicts):
    assert tuple(claim.holds for claim in claims_of_lesions({"vit_tiny": removed(drops)})) == verdicts


def test_cnns_are_not_asked_about_attention():
    assert len(claims_of_lesions({"resnet18": removed((0.2, 0.2, 0.1, 0.1), kinds=["conv"] * 4)})) == 1


def test_claims_are_written_as_a_table(tmp_path):
    claims = [Claim("a", "b", "c", None), Claim("d", "e", "f", False)]
    text = state_claims(claims, tmp_path / "x_claims")
    assert "cannot be told" in text
    assert "does NOT hold" in text
    assert (tmp_path / "x_claims.csv").read_text().splitlines() == ["claim,source,found,holds", "a,b,c,", "d,e,f,False"]
