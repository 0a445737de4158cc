"""Trained models scored: made-up models with known answers, and one real training as small as can be."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from utilities.plots.similarity import plot_measure_tests
from utilities.results.measure_tests import MeasureTests
from utilities.study.calibrated_pairs import calibrate_kinds
from utilities.study.grounded_models import CONDITIONS, Trained, train_grounded
from utilities.study.measure_tests import TESTS, describe_measure_tests, run_measure_tests, scores_of

N = 60


def made(seeds=3):
    """Models of which those of one condition have the same features up to noise, and layers that drift apart."""
    generator = torch.Generator().manual_seed(0)

    def draw(width):
        return torch.randn(N, width, generator=generator)

    drift = [draw(6) for _ in range(4)]
    layers = [sum(drift[: i + 1]) for i in range(4)]
    found = []
    for condition in CONDITIONS:
        shared, logits = draw(5), draw(3)
        for seed in range(seeds):
            last = shared + 0.05 * draw(5)
            blocks = {f"block{i}": x + 0.02 * draw(6) for i, x in enumerate(layers)}
            answers = (logits + 0.05 * draw(3)).softmax(1)
            found.append(Trained(None, condition, seed, 0.5, blocks, last, last, answers))
    return found


@pytest.mark.parametrize("measure", ["cka", "rsa", "procrustes"])
def test_models_that_are_alike_by_design_score_in_full(measure):
    found = scores_of(made(), np.zeros(N, int), measure)
    assert set(found) == set(TESTS)
    for name in ("layer found again", *(test for test in TESTS if "," in test)):
        assert found[name] == (1.0, 0.0)
    assert found["order of layers"][0] > 0.9


def test_models_that_answer_as_they_see_agree():
    generator = torch.Generator().manual_seed(0)
    one, two = torch.randn(2, N, 5, generator=generator)
    models = []
    for i, model in enumerate(made()):
        angle = torch.tensor(0.1 * i)
        last = torch.cos(angle) * one + torch.sin(angle) * two  # from one to two, step by step
        models.append(replace(model, last=last, probabilities=(8 * last[:, :3]).softmax(1)))
    found = scores_of(models, np.zeros(N, int), "cka")
    assert found["disagreement"][0] > 0.9
    assert found["divergence"][0] > 0.9


def test_models_that_are_unrelated_score_like_chance():
    scores = []
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        models = [replace(one, last=torch.randn(N, 5, generator=generator)) for one in made()]
        found = scores_of(models, np.zeros(N, int), "cka")
        scores.append([found["labels, conformity"][0], found["divergence"][0]])
    np.testing.assert_allclose(np.mean(scores, 0), [0.5, 0.0], atol=0.15)


def test_training_is_small_kept_and_scored(tmp_path):
    how = {"seeds": 2, "folder": tmp_path, "epochs": 1, "n_images": 100}
    result = run_measure_tests(["hybrid"], ["cka", "cca"], **how)
    assert result.scores.shape == (1, 2, len(TESTS))
    assert result.chance[TESTS.index("layer found again")] == pytest.approx(1 / 5)
    assert MeasureTests.load(result.save(tmp_path / "a")).table() == result.table()
    assert result.table().splitlines()[2].startswith("| cka | ")
    assert len(plot_measure_tests(result, TESTS[:2]).axes) == 2
    paths = sorted(tmp_path.glob("hybrid/*/*.pth"))
    assert len(paths) == 2 * len(CONDITIONS)
    assert len({path.name for path in paths}) == len(paths)  # no two models share a seed
    before = [path.stat().st_mtime_ns for path in paths]
    again = run_measure_tests(["hybrid"], ["cka", "cca"], **how)
    np.testing.assert_array_equal(again.scores, result.scores)
    assert [path.stat().st_mtime_ns for path in paths] == before


def test_what_is_not_known_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'RNN' is not known"):
        train_grounded("RNN", folder=tmp_path)
    with pytest.raises(ValueError, match="two models or more"):
        train_grounded("CNN", 1, folder=tmp_path)
    with pytest.raises(ValueError, match="test nothing is not known"):
        plot_measure_tests(MeasureTests(["a"], ["b"], ["c"], *np.zeros((2, 1, 1, 1)), np.zeros(1)), ["nothing"])
    with pytest.raises(ValueError, match="scores is"):
        MeasureTests(["a"], ["b"], ["c"], np.zeros((1, 1, 2)), np.zeros((1, 1, 1)), np.zeros(1))


def test_pairs_of_kinds_are_calibrated(tmp_path):
    found = calibrate_kinds(["CNN", "hybrid"], epochs=1, n_images=60, permutations=19, folder=tmp_path)
    assert list(found) == ["CNN x hybrid"]
    assert found["CNN x hybrid"].layers1[0] == "block1"
    facts = found["CNN x hybrid"].provenance
    assert (facts["weights1"], facts["weights2"]) == ("seed 0", "seed 1"), "one seed gives both some initial weights"


def test_measures_that_share_a_score_are_all_named():
    scores = np.array([[[1.0, 0.5, 0.2], [1.0, 0.5, 0.2], [0.7, 0.9, 0.2]]])
    stderr = np.array([[[0.0, 0.1, 0.0], [0.0, 0.2, 0.0], [0.1, 0.1, 0.0]]])
    names = ["CNN"], ["cka", "rsa", "cca"], ["shifts, precision", "labels", "shortcut"]
    result = MeasureTests(*names, scores, stderr, np.array([0.5, 0.3, 0.1]))
    assert describe_measure_tests(result).splitlines()[:3] == [
        "shifts, precision: cka, rsa 1.00 ± 0.00 each, last cca 0.70 (chance 0.50).",
        "labels: cca 0.90 ± 0.10, last cka, rsa 0.50 each (chance 0.30).",
        "shortcut: all 0.20 (chance 0.10).",
    ]
    stderr[0, 1, 0] = 0.3
    assert describe_measure_tests(result).startswith("shifts, precision: cka 1.00 ± 0.00, rsa 1.00 ± 0.30, last cca")


def drawn_bars(figure):
    """Ends of the bars of each panel, (bars, 2), by the panel's title."""
    return {
        ax.get_title().replace("\n", " "): np.array(
            [path[:, 0] for box in ax.containers for path in box.lines[2][0].get_segments() if path.ndim == 2]
        )
        for ax in figure.axes
    }


def test_bars_end_where_scores_end_and_a_test_without_says_why():
    scores = np.array([[[0.95, 0.05, 0.5, 0.9]]])
    stderr = np.array([[[0.2, 0.3, np.nan, 0.3]]])
    names = ["CNN"], ["cka"], ["labels, precision", "accuracy", "layer found again", "labels, conformity"]
    result = MeasureTests(*names, scores, stderr, np.array([0.3, 0.0, 0.2, 0.5]), {"seeds": 2})
    figure = plot_measure_tests(result)
    bars = drawn_bars(figure)
    np.testing.assert_allclose(bars["labels, precision"], [[0.75, 1.0]])
    np.testing.assert_allclose(bars["accuracy"], [[-0.25, 0.35]])  # a correlation
    np.testing.assert_allclose(bars["labels, conformity"], [[0.6, 1.0]])
    assert "drawn as far as scores go. None for layer found again: the only pair of two models" in figure.caption
    assert "None for" not in plot_measure_tests(result, ["accuracy"]).caption
    assert result.stderr[0, 0, 0] == 0.2
