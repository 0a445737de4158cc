"""Every number of a difference of similarities, written out: sums over four images, loops over resamples and models."""

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy import stats

from utilities.compare.gram_differences import difference_of_grams
from utilities.compare.resampled_grams import draw_weights

N, RESAMPLES, LEVEL = 12, 100, 0.9
I, J, Q, R = np.array(list(permutations(range(N), 4))).T


def grams(layers, counts, seed=0):
    """Gram matrices of features that share a hidden variable, not centred, with zero diagonals."""
    rng = np.random.default_rng(seed)
    hidden, found = rng.standard_normal((N, 3)), {}
    for side, (own, count) in enumerate(zip(layers, counts, strict=True)):
        for number in range(count):
            for k in range(own):
                x = hidden + (0.4 + 0.3 * side + 0.1 * k) * rng.standard_normal((N, 3))
                found[side, number, f"layer{k}"] = x @ x.T - np.diag((x**2).sum(1))
    return found


def hsic(K, L, w):
    weight = w[I] * w[J] * w[Q] * w[R]
    return (weight * K[I, J] * (L[I, J] + L[Q, R] - 2 * L[I, Q])).sum() / weight.sum()


class Twin:
    """Similarities of all pairs of models and layers for given weights of the images, each computed once."""

    def __init__(self, kept, weights):
        self.kept, self.rows, self.known = kept, weights, {}

    def hsic(self, one, two, row):
        if (one, two, row) not in self.known:
            self.known[one, two, row] = hsic(self.kept[one], self.kept[two], self.rows[row])
        return self.known[one, two, row]

    def cka(self, one, two, row):
        return self.hsic(one, two, row) / np.sqrt(self.hsic(one, one, row) * self.hsic(two, two, row))

    def difference(self, cell, row, weights):
        """Σ over models of weight times weight times similarity, of B less that of C."""
        layer, other = cell
        sides = [0.0, 0.0]
        for s in (1, 2):
            for r, w0 in enumerate(weights[0]):
                for k, w in enumerate(weights[s]):
                    if w0 * w:
                        sides[s - 1] += w0 * w * self.cka((0, r, layer), (s, k, other), row)
        return sides[0] - sides[1]


def rows_of(resamples):
    """The images as they are, the resamples, and all but one image each."""
    return np.vstack([resamples, 1 - np.eye(N)])


def by_t(difference, variance, freedom):
    error = np.sqrt(variance)
    half = stats.t.ppf(0.5 + LEVEL / 2, freedom) * error
    return {
        "difference": difference,
        "stderr": error,
        "low": difference - half,
        "high": difference + half,
        "p_value": 2 * stats.t.sf(abs(difference) / error, freedom),
        "score": np.sign(difference) * stats.norm.isf(stats.t.sf(abs(difference) / error, freedom)),
    }


def corrected(values, without):
    """Twice the jackknife's variance less the bootstrap's, between a third of this and all of it."""
    bootstrap = N / (N - 1) * np.var(values, ddof=1)
    jackknife = (N - 1) / N * sum((one - np.mean(without)) ** 2 for one in without)
    return min(max(2 * jackknife - bootstrap, bootstrap / 3), bootstrap)


def test_a_whole_matrix_is_written_out():
    kept = grams([2, 3, 3], [1, 1, 1])
    weights = draw_weights([N], RESAMPLES, 4)[0].numpy()
    given = {key: [torch.from_numpy(K)] for key, K in kept.items()}
    found = difference_of_grams(given, match="all", resamples=RESAMPLES, confidence=LEVEL, seed=4)
    assert found.difference.shape == (2, 3)
    twin, draws = Twin(kept, rows_of(weights)), {}
    for place in np.ndindex(2, 3):
        cell = tuple(f"layer{k}" for k in place)
        values = [twin.difference(cell, row, [[1]] * 3) for row in range(1 + RESAMPLES + N)]
        draws[place] = np.array(values[1 : 1 + RESAMPLES])
        expected = by_t(values[0], corrected(draws[place], values[1 + RESAMPLES :]), N - 1)
        for name, value in expected.items():
            assert getattr(found, name)[place] == pytest.approx(value, rel=1e-9, abs=1e-12), name
    largest = [max(abs(d[b] - d.mean()) / d.std(ddof=1) for d in draws.values()) for b in range(RESAMPLES)]
    np.testing.assert_allclose(found.null_largest, largest, rtol=1e-9)
    assert found.critical == pytest.approx(np.quantile(largest, LEVEL))
    for place in draws:
        reached = sum(one >= abs(found.score[place]) for one in largest)
        assert found.p_family[place] == (1 + reached) / (1 + RESAMPLES)
        half = stats.t.isf(stats.norm.sf(found.critical), N - 1) * found.stderr[place]
        assert found.band_low[place] == pytest.approx(found.difference[place] - half)
    assert found.whole["difference"] == pytest.approx(found.difference.mean())


def test_the_best_of_layers_that_are_about_as_near_is_written_out():
    kept = grams([1, 4, 3], [1, 1, 1], seed=2)
    weights = draw_weights([N], RESAMPLES, 4)[0].numpy()
    given = {key: [torch.from_numpy(K)] for key, K in kept.items()}
    found = difference_of_grams(given, match="best", resamples=RESAMPLES, confidence=LEVEL, seed=4)
    twin, fixed, moved, selected = Twin(kept, rows_of(weights)), [], [], []
    for side, count in ((1, 4), (2, 3)):
        table = [[twin.cka((0, 0, "layer0"), (side, 0, f"layer{k}"), row) for k in range(count)]
                 for row in range(1 + RESAMPLES + N)]  # fmt: skip
        best = int(np.argmax(table[0]))
        near = []
        for k in range(count):
            apart = [table[b][best] - table[b][k] for b in range(1, 1 + RESAMPLES)]
            if k == best or table[0][best] - table[0][k] <= 1.25 * np.std(apart, ddof=1):
                near.append(k)
        fixed.append([row[best] for row in table])
        moved.append([table[0][best] + max(row[k] - table[0][k] for k in near) for row in table])
        selected.append(len(near))
    assert max(selected) > 1  # there is something to tell
    assert selected != [4, 3]
    fixed, moved = (np.subtract(*both) for both in (fixed, moved))
    resampled = slice(1, 1 + RESAMPLES)
    ratio = np.var(moved[resampled]) / np.var(fixed[resampled])
    variance = ratio * corrected(fixed[resampled], fixed[1 + RESAMPLES :])
    for name, value in by_t(fixed[0], variance, N - 1).items():
        assert getattr(found, name)[0] == pytest.approx(value, rel=1e-9, abs=1e-12), name
    centred = moved[resampled] - moved[resampled].mean()
    np.testing.assert_allclose(found.null_largest, abs(centred) / centred.std(ddof=1), rtol=1e-9)


@pytest.mark.parametrize("counts", [[3, 1, 1], [3, 1, 2], [2, 4, 3]])
def test_seeds_of_each_side_are_written_out(counts):
    kept = grams([1, 1, 1], counts)
    drawn, rng = draw_weights([N], RESAMPLES, 4)[0].numpy(), np.random.default_rng([4, 1])
    seeds = [rng.multinomial(k, np.full(k, 1 / k), size=RESAMPLES) / k for k in counts]
    equal = [np.full(k, 1 / k) for k in counts]
    given = {key: [torch.from_numpy(K)] for key, K in kept.items()}
    found = difference_of_grams(given, resamples=RESAMPLES, confidence=LEVEL, seed=4)
    twin, cell, every = Twin(kept, rows_of(drawn)), ("layer0", "layer0"), range(RESAMPLES)

    def spread(images, sides):
        """Variance over resamples of the images, or not, and of the models of some sides."""
        weights = [[seeds[s][b] if s in sides else equal[s] for s in range(3)] for b in every]
        return np.var([twin.difference(cell, 1 + b if images else 0, weights[b]) for b in every], ddof=1)

    values = [twin.difference(cell, row, equal) for row in range(1 + RESAMPLES + N)]
    by_images, plain = corrected(values[1 : 1 + RESAMPLES], values[1 + RESAMPLES :]), spread(True, ())
    both, models = spread(True, (0, 1, 2)) + by_images - plain, spread(False, (0, 1, 2))
    fewest = min(k for k in counts if k > 1)
    f, g = N / (N - 1), fewest / (fewest - 1)
    variance = min(f * by_images + g * models - f * g * (both - by_images - models), f * g * both)
    variance = max(variance, f * by_images, g * models)
    parts = [(k / (k - 1) * spread(False, (s,)), k - 1) for s, k in enumerate(counts) if k > 1]
    rest = max(variance - sum(part for part, _ in parts), 0)
    parts.append((rest, N - 1))
    freedom = sum(part for part, _ in parts) ** 2 / sum(part**2 / own for part, own in parts)
    for name, value in by_t(values[0], variance, freedom).items():
        assert getattr(found, name)[0] == pytest.approx(value, rel=1e-9, abs=1e-12), name
