"""Measures of classification and calibration: what theory says of them, torchmetrics, and twins by brute force."""

import dataclasses
import itertools
import warnings

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchmetrics.functional.classification import (
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multiclass_jaccard_index,
)

from utilities.analysis.predictions.calibration import bin_index, calibration_error, score
from utilities.analysis.predictions.classification import (
    CLASSIFICATION_MEASURES,
    Classification,
    classify,
    table,
)
from utilities.claims.park_kim_2022.classification import claims_of_classification, paired_difference
from utilities.plots.predictions.classification import plot_measures, plot_reliability

mpl.use("Agg")
EXACT = 1e-12  # of float64 sums of some hundred terms of order one


def random_result(n=400, classes=7, scale=2.0, seed=0, **options):
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=random)
    logits = scale * torch.randn(n, classes, generator=random) + 2 * F.one_hot(labels, classes)
    return logits, labels, Classification(**score(logits, labels), num_classes=classes, **options)


def from_confidences(confidences, correct, **options):
    """A result of two classes, all labels 0, with confidences of 1/2 or more."""
    correct = np.asarray(correct, bool)
    zeros = np.zeros(len(correct))
    fields = {"labels": np.zeros(len(correct), int), "predictions": (~correct).astype(int), "top5_hits": correct}
    fields |= {"confidences": np.asarray(confidences, float), "losses": zeros, "brier_scores": zeros}
    return Classification(**fields, num_classes=2, **options)


@pytest.mark.parametrize("seed", range(3))
def test_measures_equal_a_loop_over_images(seed):
    logits, labels, result = random_result(n=60, seed=seed)
    p = logits.double().softmax(1).numpy()
    rows = [(max(row), int(np.argmax(row)), row, int(label)) for row, label in zip(p, labels, strict=True)]
    certain, wrong = [r for r in rows if r[0] > 0.9], [r for r in rows if r[1] != r[3]]
    expected = {
        "accuracy": np.mean([guess == label for _, guess, _, label in rows]),
        "accuracy_90": np.mean([guess == label for _, guess, _, label in certain]),
        "unc_90": np.mean([confidence <= 0.9 for confidence, *_ in wrong]),
        "freq_90": len(certain) / len(rows),
        "nll": np.mean([-np.log(row[label]) for _, _, row, label in rows]),
        "brier": np.mean([sum((row[c] - (c == label)) ** 2 for c in range(7)) for _, _, row, label in rows]),
        "top5": np.mean([sum(row > row[label]) < 5 for _, _, row, label in rows]),
    }
    assert 0 < len(certain) < len(rows)
    assert wrong
    for measure, value in expected.items():
        assert getattr(result, measure) == pytest.approx(value, abs=EXACT), measure


@pytest.mark.parametrize("bins", [1, 10, 15])
@pytest.mark.parametrize("scale", [0.3, 2.0, 30.0])
def test_ece_is_that_of_torchmetrics_on_random_probabilities(bins, scale):
    logits, labels, result = random_result(scale=scale, bins=bins)
    theirs = multiclass_calibration_error(logits.double().softmax(1), labels, 7, n_bins=bins, norm="l1")
    assert result.ece == pytest.approx(theirs.item(), abs=1e-6)  # theirs is in float32


@pytest.mark.parametrize("bins", [3, 5, 10, 15, 20])
def test_ece_is_that_of_torchmetrics_on_the_edges_of_bins(bins):
    confidence = torch.arange(bins + 1, dtype=torch.float32) / bins
    confidence = confidence[(confidence >= 0.5) & (confidence < 1)].repeat_interleave(3)  # to 1 they give a bin more
    p = torch.stack([confidence, 1 - confidence], 1)
    labels = torch.arange(len(p)) % 2
    predictions = p.argmax(1)
    ours = calibration_error(p.max(1).values.double().numpy(), (predictions == labels).numpy(), bins)
    assert ours == pytest.approx(multiclass_calibration_error(p, labels, 2, n_bins=bins, norm="l1").item(), abs=1e-6)


def test_edges_belong_to_the_bin_above_and_one_to_the_last():
    tenths = np.arange(11) / 10
    assert bin_index(tenths, 10).tolist() == [*range(10), 9]
    assert bin_index(np.array([0.0, 0.4, 1.0]), 1).tolist() == [0, 0, 0]
    assert bin_index(np.nextafter(tenths.astype(np.float32), 0)[1:], 10).tolist() == list(range(10))


@pytest.mark.parametrize("bins", [2, 10, 15])
def test_ece_is_the_sum_over_the_bins_of_guo_et_al(bins):
    """Their last bin is closed on the right: images that a model is sure of count with those it is nearly sure of."""
    random = np.random.default_rng(0)
    confidences = random.uniform(0.5, 1, 300)
    confidences[:200] = random.choice([1.0, 0.999], 200)
    correct = random.random(300) < 0.97
    edges, expected = np.linspace(0, 1, bins + 1), 0.0
    for low, high in itertools.pairwise(edges):  # (low, high], and nothing lies on an inner edge here
        inside = (confidences > low) & (confidences <= high)
        expected += abs((confidences - correct)[inside].sum()) / 300
    assert calibration_error(confidences, correct, bins) == pytest.approx(expected, abs=EXACT)
    table = from_confidences(confidences, correct, bins=bins).reliability()
    assert (len(table), table["upper"].iloc[-1], table["count"].sum()) == (bins, 1.0, 300)


def test_a_model_that_is_always_sure_and_right_once_in_ten_times_is_over_confident_by_ninety_percent():
    logits = torch.zeros(100, 10)
    logits[:, 0] = 200.0
    result = Classification(**score(logits, torch.arange(100) % 10), num_classes=10)
    assert result.ece == pytest.approx(0.9, abs=EXACT)
    assert result.signed_ece == pytest.approx(0.9, abs=EXACT)
    assert result.nll == pytest.approx(180, rel=EXACT)  # not infinite: log-softmax, not the log of a softmax


@pytest.mark.parametrize("seed", range(5))
def test_identities_of_bins(seed):
    _, _, result = random_result(seed=seed, scale=3.0)
    bins = result.reliability()
    filled = bins[bins["count"] > 0]
    assert bins["count"].sum() == result.n
    assert (filled["count"] * filled["accuracy"]).sum() / result.n == pytest.approx(result.accuracy, abs=EXACT)
    gaps = filled["confidence"] - filled["accuracy"]
    assert (filled["count"] * gaps).sum() / result.n == pytest.approx(result.signed_ece, abs=EXACT)
    assert (filled["count"] * gaps.abs()).sum() / result.n == pytest.approx(result.ece, abs=EXACT)
    assert abs(result.signed_ece) <= result.ece + EXACT
    inside = (filled["lower"] <= filled["confidence"]) & (filled["confidence"] <= filled["upper"] + 1e-7)  # of float32
    assert inside.all()
    assert bins[bins["count"] == 0][["accuracy", "confidence"]].isna().all(axis=None)


def test_certain_and_uncertain_shares_sum_to_one_and_the_cutoff_itself_is_uncertain():
    result = from_confidences([0.9, 0.95, 0.6, 0.91], [True, True, False, False])
    assert result.certain.tolist() == [False, True, False, True]
    assert result.freq_90 == 0.5
    assert result.freq_90 + np.mean(result.confidences <= 0.9) == 1
    assert (result.accuracy_90, result.unc_90) == (0.5, 0.5)


def test_calibrated_predictions_have_an_ece_of_order_one_over_root_n():
    """A bin's gap has deviation sqrt(p (1 - p) / n_b), so ECE is at most about sqrt(bins / n) / 2."""
    random = np.random.default_rng(0)
    for n in (1_000, 100_000):
        confidences = random.uniform(0.5, 1, n)
        result = from_confidences(confidences, random.random(n) < confidences)
        assert 0 < result.ece < 0.5 * np.sqrt(10 / n)
        assert abs(result.signed_ece) < 4 * result.stderr("signed_ece")


def test_nll_is_the_cross_entropy_however_images_are_cut_into_batches():
    logits, labels, _ = random_result(n=50, scale=40.0)
    expected = F.cross_entropy(logits.double(), labels).item()
    for size in (50, 7, 1):
        batches = list(zip(logits.split(size), labels.split(size), strict=True))
        assert classify(nn.Flatten(), batches, device="cpu").nll == pytest.approx(expected, rel=EXACT)


def test_the_result_does_not_depend_on_the_batches():
    logits, labels, _ = random_result(n=50)
    whole, parts = (
        classify(nn.Flatten(), list(zip(logits.split(size), labels.split(size), strict=True)), device="cpu")
        for size in (50, 7)
    )
    for field in ("labels", "predictions", "confidences", "losses", "brier_scores", "top5_hits"):
        # The same numbers, but for the order in which vector units add them up.
        np.testing.assert_allclose(getattr(whole, field), getattr(parts, field), rtol=EXACT)
    assert whole.to_frame().round(10).equals(parts.to_frame().round(10))


def test_measures_of_no_images_are_missing():
    unsure = from_confidences([0.5, 0.6], [True, True])
    assert np.isnan([unsure.accuracy_90, unsure.iou_90, unsure.unc_90]).all()
    assert np.isnan([unsure.stderr(m) for m in ("accuracy_90", "iou_90", "unc_90")]).all()
    assert (unsure.freq_90, unsure.accuracy) == (0, 1)
    assert np.isnan(calibration_error(np.array([]), np.array([])))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert unsure.to_frame()["Acc-90"].isna().all()


@pytest.mark.parametrize("seed", range(3))
def test_iou_is_torchmetrics_jaccard_index(seed):
    logits, labels, result = random_result(seed=seed)
    predictions = logits.argmax(1)
    assert result.iou == pytest.approx(multiclass_jaccard_index(predictions, labels, 7).item(), abs=1e-6)
    sure = torch.from_numpy(result.certain)
    of_class = multiclass_jaccard_index(predictions[sure], labels[sure], 7, average="none")
    present = labels[sure].bincount(minlength=7) > 0
    assert result.iou_90 == pytest.approx(of_class[present].mean().item(), abs=1e-6)


def test_iou_is_the_mean_over_classes_that_have_images():
    fields = random_result(n=4, classes=5)[2]
    given = {"labels": np.array([0, 0, 1, 1]), "predictions": np.array([0, 4, 1, 1])}
    result = dataclasses.replace(fields, **given)
    assert result.iou == pytest.approx((1 / 2 + 1) / 2, abs=1e-6)  # class 4 has no image, so that it does not count


def test_confusion_counts_truth_in_rows():
    logits, labels, result = random_result()
    assert (result.confusion() == multiclass_confusion_matrix(logits.argmax(1), labels, 7).numpy()).all()
    sure = result.confusion(0.9)
    assert sure.trace() / sure.sum() == pytest.approx(result.accuracy_90, abs=EXACT)
    assert (sure <= result.confusion()).all()


def test_classes_are_those_of_the_logits():
    labels = torch.tensor([0, 1])
    result = classify(nn.Flatten(), [(torch.eye(2, 9), labels)], device="cpu")
    assert result.num_classes == 9
    assert result.confusion().shape == (9, 9)


def test_the_right_class_is_among_all_of_five():
    _, _, result = random_result(classes=4)
    assert result.top5 == 1
    assert 0 < result.accuracy < 1


def test_standard_errors_are_those_of_many_samples():
    """The spread of each measure over 300 fresh samples, against the errors given, averaged over them."""
    results = [random_result(n=300, seed=seed)[2] for seed in range(300)]
    for measure in CLASSIFICATION_MEASURES:
        if measure != "ece":  # its bootstrap is checked below; 300 of them take long
            spread = np.std([getattr(result, measure) for result in results], ddof=1)
            given = np.mean([result.stderr(measure) for result in results])
            assert given == pytest.approx(spread, rel=0.2), measure  # 4 sigma of a deviation from 300 samples, and bias


def test_the_error_of_ece_is_a_seeded_bootstrap():
    results = [random_result(n=300, seed=seed)[2] for seed in range(40)]
    spread = np.std([result.ece for result in results], ddof=1)
    errors = [result.stderr("ece") for result in results]
    assert np.mean(errors) == pytest.approx(spread, rel=0.4)  # a deviation from 40 samples is good to 11 %
    assert results[0].stderr("ece") == errors[0]
    assert dataclasses.replace(results[0], seed=1).stderr("ece") != errors[0]


def test_frame_and_table_name_the_cutoff():
    _, _, result = random_result(cutoff=0.8, provenance={"model": "m", "parameters": 5})
    frame = result.to_frame()
    assert frame.shape[0] == 1
    assert frame["Acc-80"].item() == result.accuracy_90
    assert frame["ECE stderr"].item() == result.stderr("ece")
    assert table({"a": result, "b": result}).loc["Acc", "b"].startswith(f"{result.accuracy:.4f} ± ")
    with pytest.raises(ValueError, match=r"one cutoff .* \[0.8, 0.9\]"):
        table({"a": result, "b": random_result()[2]})


def test_save_and_load(tmp_path):
    logits, labels, _ = random_result()
    result = classify(nn.Flatten(), [(logits, labels)], cutoff=0.7, bins=5, device="cpu", provenance={"model": "m"})
    loaded = Classification.load(result.save(tmp_path / "result"))
    assert loaded.to_frame().equals(result.to_frame())
    assert loaded.provenance == result.provenance
    assert result.provenance["n"] == len(labels)
    assert (loaded.cutoff, loaded.bins) == (0.7, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cutoff": 1.0}, r"cutoff=1\.0 should be a number of 0 or more and below 1"),
        ({"bins": 0}, "bins=0 should be a whole number, 1 or more"),
        ({"passes": 0}, "passes=0 should be a whole number, 1 or more"),
        ({"dropout": ["0"]}, "needs a number of passes"),
        ({"passes": 2}, r"Flatten has no dropout .* with_dropout\(model, rate\)"),
    ],
)
def test_bad_options_are_refused_before_any_image(options, message):
    def loader():
        raise AssertionError("images were read")
        yield

    with pytest.raises(ValueError, match=message):
        classify(nn.Flatten(), loader(), device="cpu", **options)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(2, 3), torch.tensor([0, 3]), "label 3 is none of the model's 3 classes, 0 to 2"),
        (torch.zeros(2, 3), torch.tensor([-1, 0]), "label -1 is none"),
        (torch.zeros(2, 3), torch.zeros(2), r"integers of shape \(2,\), got float32"),
        (torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.long), r"of shape \(2, 3\)"),
        (torch.zeros(2, 1), torch.tensor([0, 0]), "2 classes or more"),
        (torch.tensor([[0.0, torch.nan], [0, 0]]), torch.tensor([0, 0]), "1 of 2 images"),
    ],
)
def test_bad_batches_are_refused(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        score(logits, labels)


def test_labels_are_needed():
    with pytest.raises(ValueError, match="labels are needed"):
        classify(nn.Flatten(), [torch.zeros(2, 3)], device="cpu")


def test_the_models_mode_is_put_back():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3)).train()
    classify(model, [(torch.randn(8, 3), torch.zeros(8, dtype=torch.long))], device="cpu")
    assert model[1].training
    assert model[1].num_batches_tracked == 0


def test_reliability_diagram_draws_the_bins():
    result = from_confidences([0.55, 0.75, 0.75, 0.95, 1.0], [False, True, False, True, True])
    figure = plot_reliability({"one": result, "two": result})
    upper, lower = figure.axes[0], figure.axes[2]
    bars = [patch for patch in upper.patches if not patch.get_hatch()]
    assert [(round(bar.get_x()), bar.get_height()) for bar in bars] == [(50, 0.0), (70, 50.0), (90, 100.0)]
    tops = [patch.get_y() + patch.get_height() for patch in upper.patches if patch.get_hatch()]
    assert tops == pytest.approx([55, 75, 97.5])  # the mean confidences; that of the last bin includes the 100 %
    assert [bar.get_height() for bar in lower.patches] == pytest.approx([20, 40, 40])
    assert "ECE" in upper.get_title()
    assert upper.get_xlim() == upper.get_ylim() == (0, 100)
    plt.close(figure)


def test_figure_of_measures_draws_values_and_marks_missing_ones():
    sure, unsure = random_result()[2], from_confidences([0.5, 0.6], [True, False])
    figure = plot_measures({"resnet18": sure, "vit": unsure})
    panels = {ax.get_title().split(" ")[0]: ax for ax in figure.axes}
    points = [line for line in panels["Acc"].lines if line.get_marker() in "Do"]
    assert [line.get_ydata()[0] for line in points] == pytest.approx([100 * sure.accuracy, 50])
    assert [line.get_marker() for line in points] == ["D", "o"]
    assert "x" in [line.get_marker() for line in panels["Acc-90"].lines]
    assert "A cross" in figure.caption
    plt.close(figure)


def rights(count, n=200, **options):
    return from_confidences(np.full(n, 0.8), np.arange(n) < count, **options)


@pytest.mark.parametrize(("hybrid", "holds"), [(190, True), (120, False), (151, None), (150, None)])
def test_claim_on_accuracy(hybrid, holds):
    (claim,) = claims_of_classification({"resnet18": rights(150), "alternet18": rights(hybrid), "vit": rights(9)})
    assert claim.holds is holds
    assert f"{(hybrid - 150) / 2:+.1f} ±" in claim.found


def test_claim_cannot_be_told_without_an_alternet():
    (claim,) = claims_of_classification({"resnet18": rights(150), "lambda_resnet26": rights(190)})
    assert claim.holds is None
    assert "no AlterNet" in claim.found


def test_paired_differences():
    one, two = rights(190), rights(150)
    difference, error = paired_difference(one, two)
    assert difference == pytest.approx(0.2, abs=EXACT)
    assert error == pytest.approx(np.sqrt(0.2 * 0.8 / 199), abs=EXACT)  # 40 of 200 images differ, all in one direction
    assert paired_difference(one, one) == (0, 0)
    with pytest.raises(ValueError, match="same images"):
        paired_difference(one, rights(10, n=20))
    with pytest.raises(ValueError, match="some of the images"):
        paired_difference(one, two, "unc_90")
