"""Calibration: unrelated features give 0 whatever their width, p-values hold their level, and a brute-force twin."""

import numpy as np
import pytest
import torch
from torch import nn

from utilities.compare.calibration import calibrate
from utilities.compare.measures import SIMILARITY_MEASURES
from utilities.compare.measures.measure import centered
from utilities.hooks.features import unit_scale
from utilities.metrics import cka


class Parts(nn.Module):
    """Cut an input into layers of given widths, so that features can be compared as if a model had made them."""

    def __init__(self, *widths):
        super().__init__()
        self.widths, self.parts = widths, nn.ModuleList(nn.Identity() for _ in widths)

    def forward(self, x):
        return torch.cat([part(one) for part, one in zip(self.parts, x.split(self.widths, 1), strict=True)], 1)


def run(x, y, widths1, widths2, **options):
    how = {"layers1": "parts.*", "layers2": "parts.*", "device": "cpu", "progress": False, "permutations": 99}
    return calibrate(Parts(*widths1), Parts(*widths2), x, y, **{**how, **options})


def draws(seed, n, *widths):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, width, generator=generator, dtype=torch.float64) for width in widths]


def value(measure, x, y, estimator):
    if measure == "cka":
        return cka(x, y, estimator=estimator)
    one = SIMILARITY_MEASURES[measure]
    row, column = (centered(unit_scale(side)[0]) for side in (x, y))
    return one.pairs([one.prepare_row(row)], [one.prepare_column(column)]).item()


@pytest.mark.parametrize(
    ("measure", "estimator"), [("cka", "biased"), *((name, "debiased") for name in ("cka", *SIMILARITY_MEASURES))]
)
def test_null_is_that_of_permuted_feature_rows(measure, estimator):
    """The twin permutes rows of the features, in float64, in the same orders; CKA under permutations is float32."""
    widths1, widths2, n, count = (3, 5, 4), (4, 6), 16, 19
    x, y = draws(3, n, sum(widths1), sum(widths2))
    y[:, :4] += x[:, :4]
    options = {"estimator": estimator, "measure": measure, "permutations": count}
    result = run([x], [y], widths1, widths2, **options)
    rows, columns = x.split(widths1, 1), y.split(widths2, 1)
    generator = np.random.default_rng([0, 0])
    orders = [torch.from_numpy(generator.permutation(n)) for _ in range(count)]
    null = np.array([[[value(measure, a, b[order], estimator) for b in columns] for a in rows] for order in orders])
    matrix = np.array([[value(measure, a, b, estimator) for b in columns] for a in rows])
    np.testing.assert_allclose(result.matrix, matrix, atol=1e-9)
    np.testing.assert_allclose(result.null_mean, null.mean(0), atol=1e-5)
    np.testing.assert_allclose(result.null_best, null.max(2), atol=1e-5)


def test_raw_values_rise_with_width_and_calibrated_ones_stay_at_zero():
    """Biased CKA of unrelated normal features is near p / (n + p), see `utilities.metrics.cka`."""
    widths = (4, 16, 64, 256)
    raw, calibrated = [], []
    for seed in range(20):
        x, y = draws(seed, 32, sum(widths), sum(widths))
        result = run([x], [y], widths, widths, estimator="biased")
        raw.append(result.matrix.diagonal())
        calibrated.append(result.calibrated.diagonal())
    np.testing.assert_allclose(np.mean(raw, 0), [p / (32 + p) for p in widths], atol=0.03)
    # One in twenty is above 0, and by little; a mean over 20 draws of 0.02 would be 0.4 in one of them.
    assert np.mean(calibrated, 0).max() < 0.02


def test_depth_raises_the_maximum_and_its_threshold_alike():
    raw, thresholds, above = {2: [], 12: []}, {2: [], 12: []}, 0
    for depth in raw:
        for seed in range(20):
            x, y = draws(100 * depth + seed, 24, 3 * depth, 3 * depth)
            found = run([x], [y], (3,) * depth, (3,) * depth, estimator="biased").maximum()
            raw[depth].append(found["similarity"])
            thresholds[depth].append(found["threshold"])
            above += found["calibrated"] > 0
    assert np.mean(raw[12]) > np.mean(raw[2]) + 0.1
    assert np.mean(thresholds[12]) > np.mean(thresholds[2]) + 0.1
    assert above <= 8  # 2 of 40 are expected; more than 8 come about in one of 7000 runs


@pytest.mark.parametrize("measure", ["cka", "mutual_knn"])
def test_p_holds_its_level(measure):
    """Of 300 pairs of unrelated features, 15 are expected at 5 %; 3 to 30 hold in all but one of 2000 runs."""
    rejected = 0
    for seed in range(10):
        x, y = draws(seed, 24, 30 * 4, 30 * 4)
        result = run([x], [y], (4,) * 30, (4,) * 30, measure=measure)
        rejected += (result.p_value.diagonal() <= 0.05).sum()
    assert 3 <= rejected <= 30


def test_a_shared_signal_is_kept():
    (shared,) = draws(0, 64, 5)
    x, y = (torch.cat([shared, 0.1 * noise], 1) for noise in draws(1, 64, 200, 200))
    result = run([x], [y], (205,), (205,), estimator="biased")
    assert result.calibrated[0, 0] > 0.5
    assert result.p_value[0, 0] == 0.01


def test_batches_are_permuted_each_by_itself():
    x, y = draws(0, 60, 6, 6)
    result = run(list(x.split(20)), list(y.split(20)), (3, 3), (3, 3), measure="rsa")
    assert result.n == 60
    assert abs(result.null_mean).max() < 0.05  # the mean of 99 orders of three batches


def test_what_cannot_be_is_refused():
    x, y = draws(0, 16, 4, 4)
    with pytest.raises(ValueError, match="cannot show anything"):
        run([x], [y], (4,), (4,), permutations=10)
    with pytest.raises(ValueError, match="choose 'exact'"):
        run([x], [y], (4,), (4,), precision="auto")
    with pytest.raises(ValueError, match="goes with measure='cka' only"):
        run([x], [y], (4,), (4,), measure="rsa", estimator="biased")
