import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.functional.classification import multiclass_calibration_error
from torchvision import transforms

from utilities.analysis.predictions import robustness as module
from utilities.analysis.predictions.paired_accuracy import contrast, right_in_both
from utilities.analysis.predictions.robustness import (
    ALEXNET_ERRORS,
    BINS,
    Robustness,
    robustness,
)
from utilities.datasets import load_dataset
from utilities.datasets.corruptions import CORRUPTIONS, EXTRA_CORRUPTIONS, corrupt
from utilities.datasets.corruptions.parameters import FAMILIES, check_sets
from utilities.datasets.factory import make_loader
from utilities.datasets.pixels import to_images, to_pixels
from utilities.plots.predictions.robustness import plot_examples, plot_kinds, plot_mce, plot_severity

SOME = {"kinds": ["gaussian_noise", "contrast"], "severities": [1, 3, 5]}
QUIET = {"device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def data():
    return load_dataset("digits", n_images=40)


@pytest.fixture(scope="module")
def model():
    """Nearest class mean of the training images: right on most clean digits."""
    train = load_dataset("digits", "train")
    images, labels = train.batch(range(len(train)))
    means = torch.stack([images[labels == label].mean(0) for label in range(10)]).flatten(1).double()
    linear = nn.Linear(means.shape[1], 10)
    linear.weight.data, linear.bias.data = means.float() / 50, -means.square().sum(1).float() / 100
    return nn.Sequential(nn.Flatten(), linear)


def synthetic(right, seed=0, **changes):
    """A result from a table of right answers, (1 + kinds * severities, images)."""
    right = np.asarray(right, np.int64)
    zeros = np.zeros(len(right))
    severities = list(range(1, len(right)))
    result = Robustness(right @ right.T, zeros, zeros, zeros, ["fog"], severities, right.shape[1], {"seed": seed})
    return dataclasses.replace(result, **changes)


def test_kinds_and_families_are_those_of_the_corruptions():
    assert sorted(ALEXNET_ERRORS) == sorted(CORRUPTIONS)
    assert sorted(FAMILIES["extra"]) == sorted(EXTRA_CORRUPTIONS)
    assert sorted(kind for family, kinds in FAMILIES.items() if family != "extra" for kind in kinds) == sorted(
        CORRUPTIONS
    )
    assert np.mean(list(ALEXNET_ERRORS.values())) == pytest.approx(0.789, abs=5e-4)  # as its authors report it


def test_denormalisation_is_exact_for_every_8_bit_value():
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    for scale in [((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.3056,) * 3, (0.3190,) * 3), ((0.5,) * 3,) * 2]:
        assert (to_pixels(to_images(pixels, *scale), *scale) == pixels).all()


def test_clean_images_come_back_bit_by_bit(data):
    images, _ = data.batch(range(5))
    assert torch.equal(to_images(to_pixels(images, data.mean, data.std), data.mean, data.std), images)


@pytest.mark.parametrize("batch_size", [7, 40])
def test_result_is_that_of_one_image_after_the_other(data, model, batch_size):
    result = robustness(model, make_loader(data, batch_size, seed=3), **SOME, **QUIET)
    right, nll, confidences = [], [], []
    for i, (images, label) in enumerate(make_loader(data, 1, seed=3)):
        pixels = to_pixels(images, data.mean, data.std)
        sets = [corrupt(pixels, k, s, seed=0, first=i) for k in SOME["kinds"] for s in SOME["severities"]]
        logits = model(torch.cat([images, *(to_images(pixels, data.mean, data.std) for pixels in sets)])).double()
        right.append((logits.argmax(1) == label).numpy())
        nll.append(-logits.log_softmax(1)[:, label].flatten().detach().numpy())
        confidences.append(logits.softmax(1).detach().numpy())
    right, nll = np.array(right), np.array(nll)
    assert 0.5 < result.clean_accuracy < 1, "the example can tell"
    np.testing.assert_array_equal(result.both_right, right.T.astype(int) @ right.astype(int))
    np.testing.assert_allclose(result.accuracy.ravel(), right[:, 1:].mean(0))
    # Logits are float32 sums of 768 terms, in another order for another batch: relative errors of some 1e-6.
    np.testing.assert_allclose(result.nll, nll.mean(0), rtol=1e-5)
    np.testing.assert_allclose(result.nll_stderr, nll.std(0, ddof=1) / np.sqrt(40), rtol=1e-4)
    probabilities, labels = (
        torch.tensor(np.array(confidences)),
        torch.tensor([y for _, y in make_loader(data, 1, seed=3)]),
    )
    expected = [multiclass_calibration_error(p, labels, 10, BINS).item() for p in probabilities.unbind(1)]
    np.testing.assert_allclose(result.ece, expected, atol=1e-5)


def test_mean_accuracy_is_independent_of_the_batch_size(data, model):
    results = [robustness(model, make_loader(data, size), **SOME, **QUIET) for size in (9, 16, 40)]
    for result in results[1:]:
        np.testing.assert_array_equal(result.both_right, results[0].both_right)
        assert result.mean_accuracy() == results[0].mean_accuracy()


def test_the_seed_decides(data, model):
    loader = make_loader(data, 40)
    one, two = (robustness(model, loader, kinds=["gaussian_noise"], seed=seed, **QUIET) for seed in (0, 1))
    assert one.nll[0] == two.nll[0]
    assert (one.nll[1:] != two.nll[1:]).all()


def test_a_constant_predictor_gives_the_class_frequency(data):
    class Constant(nn.Module):
        def forward(self, images):
            return torch.eye(10)[torch.full((len(images),), 3)]

    frequency = (data.targets == 3).mean()
    result = robustness(Constant(), make_loader(data, 13), **SOME, **QUIET)
    np.testing.assert_allclose(result.accuracy, frequency)
    assert result.drop() == pytest.approx((0, 0), abs=1e-12)
    assert result.mean_accuracy()[1] == pytest.approx(np.sqrt(frequency * (1 - frequency) / 39))


def test_errors_are_those_of_per_image_means(generator):
    right = (torch.rand(7, 60, generator=generator) < torch.rand(60, generator=generator)).long().numpy()
    result = synthetic(right, kinds=["fog", "snow"], severities=[1, 3, 5])

    def of_means(per_image):
        return per_image.mean(), per_image.std(ddof=1) / np.sqrt(60)

    assert result.mean_accuracy() == pytest.approx(of_means(right[1:].mean(0)))
    assert result.drop() == pytest.approx(of_means(right[0] - right[1:].mean(0)))
    assert tuple(x[1] for x in result.by_kind()) == pytest.approx(of_means(right[4:].mean(0)))
    assert tuple(x[2] for x in result.by_severity()) == pytest.approx(of_means(right[[3, 6]].mean(0)))
    assert result.stderr[1, 0] == pytest.approx(right[4].std(ddof=1) / np.sqrt(60))
    assert np.isnan(contrast(right[:, :1] @ right[:, :1].T, 1, np.eye(7))[1]).all()


def test_a_model_against_itself_has_an_mce_of_100_percent(data, model):
    result = robustness(model, make_loader(data, 40), **SOME, **QUIET)
    assert result.mce(result) == (100, 0)
    other = synthetic([[1, 1, 1, 0], [1, 1, 0, 0], [0, 1, 0, 0]])
    assert other.mce(other) == other.relative_mce(other) == (100, 0)


def test_mce_follows_the_published_formula():
    one, two = (
        synthetic([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0]]),
        synthetic([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]),
    )
    assert one.mce(two)[0] == pytest.approx(100 * (0.25 + 0.75) / (0.75 + 1))
    assert one.relative_mce(two)[0] == pytest.approx(100 * (0.25 + 0.75) / (0.5 + 0.75))
    published = synthetic(np.tile([1, 0, 0, 0], (6, 1)))
    assert published.mce(ALEXNET_ERRORS)[0] == pytest.approx(100 * 0.75 / ALEXNET_ERRORS["fog"])


@pytest.mark.parametrize("relative", [False, True])
def test_errors_of_corruption_errors_are_those_of_the_bootstrap(relative):
    """The two models saw other images; 5 % is what 1000 draws and the first order leave."""
    rng, n = np.random.default_rng(0), 2000
    tables = [(rng.random((7, n)) < np.linspace(0.9, last, 7)[:, None] ** rng.random(n)) for last in (0.4, 0.3)]
    sets = {"kinds": ["fog", "snow"], "severities": [1, 3, 5]}
    one, two = (synthetic(table, **sets) for table in tables)
    draws = []
    for _ in range(1000):
        drawn = [table[:, rng.integers(0, n, n)].astype(float).mean(1) for table in tables]
        errors = [1 - p[1:].reshape(2, 3).mean(1) - relative * (1 - p[0]) for p in drawn]
        draws.append(100 * errors[0] / errors[1])
    values, errors = one.corruption_errors(two, relative)
    np.testing.assert_allclose(values, np.mean(draws, 0), rtol=0.05)
    np.testing.assert_allclose(errors, np.std(draws, 0), rtol=0.1)
    mean = one.relative_mce(two) if relative else one.mce(two)
    np.testing.assert_allclose(mean, (values.mean(), np.std(np.mean(draws, 1))), rtol=0.1)


def test_a_kind_without_errors_of_the_reference_leaves_the_others():
    one, two = synthetic([[1, 1], [1, 0], [0, 0]]), synthetic([[1, 1], [1, 1], [1, 0]])
    one, two = (dataclasses.replace(result, kinds=["fog", "snow"], severities=[1]) for result in (one, two))
    with pytest.warns(UserWarning, match="for fog"):
        values, errors = one.corruption_errors(two)
    assert np.isnan([values[0], errors[0]]).all()
    assert values[1] == 200
    assert np.isfinite(errors[1])


def test_mce_against_a_reference_without_errors_is_missing():
    one, perfect = synthetic([[1, 1], [1, 0]]), synthetic([[1, 1], [1, 1]])
    with pytest.warns(UserWarning, match="no error to divide by for fog"):
        assert np.isnan(one.mce(perfect)).all()


def test_references_that_do_not_fit_are_refused():
    one = synthetic([[1, 1], [1, 0]])
    with pytest.raises(ValueError, match="other kinds or severities"):
        one.mce(dataclasses.replace(one, kinds=["snow"]))
    with pytest.raises(ValueError, match="over severities 1 to 5"):
        one.mce(ALEXNET_ERRORS)
    with pytest.raises(TypeError, match="pass a Robustness"):
        one.relative_mce(ALEXNET_ERRORS)


def test_save_load_and_table(tmp_path, data, model):
    result = robustness(model, make_loader(data, 40), **SOME, **QUIET, provenance={"model": "means"})
    again = Robustness.load(result.save(tmp_path / "result"))
    assert (again.kinds, again.severities, again.n) == (SOME["kinds"], SOME["severities"], 40)
    assert again.provenance == result.provenance
    table = again.to_frame()
    assert len(table) == 7
    assert table.iloc[0][["kind", "severity"]].tolist() == ["clean", 0]
    np.testing.assert_array_equal(table.query("kind == 'contrast'").accuracy, result.accuracy[1])
    np.testing.assert_array_equal(table.nll, result.nll)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"kinds": ["mist"]}, "mist"),
        ({"kinds": "fog"}, "kinds"),
        ({"kinds": ["fog", "fog"]}, "each once"),
        ({"severities": [0]}, "severities"),
        ({"severities": []}, "severities"),
        ({"mean": (0.0,) * 3, "std": (1.0,) * 3}, "is not the data set's own"),
    ],
)
def test_bad_options_are_refused(data, model, options, word):
    with pytest.raises(ValueError, match=word):
        robustness(model, make_loader(data, 40), **{**SOME, **QUIET, **options})


def test_a_normalisation_that_is_not_known_is_asked_for(data, model):
    batches = list(make_loader(data, 20))
    with pytest.raises(ValueError, match="pass mean= and std="):
        robustness(model, batches, **SOME, **QUIET)
    given = robustness(model, batches, mean=data.mean, std=data.std, **SOME, **QUIET)
    np.testing.assert_array_equal(given.nll, robustness(model, make_loader(data, 20), **SOME, **QUIET).nll)


@pytest.mark.parametrize("half", [0.5, (0.5,), [0.5], np.array([0.5]), torch.tensor([0.5])], ids=str)
def test_one_number_normalises_every_channel(model, half):
    loader = make_loader(load_dataset("digits", n_images=20, mean=(0.5,) * 3, std=(0.5,) * 3), 20)
    results = [robustness(model, list(loader), mean=x, std=x, **SOME, **QUIET) for x in (half, (0.5,) * 3)]
    np.testing.assert_array_equal(*(result.nll for result in results))
    said = torch.utils.data.TensorDataset(*next(iter(loader)))
    said.transform = transforms.Normalize((0.5,), (0.5,))
    told = robustness(model, torch.utils.data.DataLoader(said, 20), **SOME, **QUIET)
    np.testing.assert_array_equal(told.nll, results[0].nll)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (0.5, 0.5)}, r"mean=\(0.5, 0.5\) should be one number, or three"),
        ({"mean": "imagenet"}, "mean='imagenet' should be one number, or three"),
        ({"mean": (0.5, float("nan"), 0.5)}, "should be one number, or three"),
        ({"std": 0}, "std=0 should be above 0: images are divided by it"),
        ({"std": (0.5, 0.0, 0.5)}, r"std=\(0.5, 0.0, 0.5\) should be above 0"),
        ({"std": (0.5, -0.5, 0.5)}, "should be above 0"),
    ],
)
def test_numbers_that_normalise_nothing_are_refused(data, model, options, message):
    with pytest.raises(ValueError, match=message):
        robustness(model, list(make_loader(data, 20)), **{"mean": 0.5, "std": 0.5, **SOME, **QUIET, **options})


def test_each_batch_is_read_and_brought_to_8_bits_once(data, model, monkeypatch):
    calls = []
    monkeypatch.setattr(module, "to_pixels", lambda *arguments: calls.append(1) or to_pixels(*arguments))
    robustness(model, make_loader(data, 20), **SOME, **QUIET)
    assert len(calls) == 2


def test_names_and_severities_are_checked_together():
    assert check_sets(EXTRA_CORRUPTIONS, np.arange(1, 6)) == (list(EXTRA_CORRUPTIONS), [1, 2, 3, 4, 5])


@pytest.fixture
def two(generator):
    """Results of two models on two types at three severities."""
    sets = {"kinds": ["fog", "contrast"], "severities": [1, 3, 5]}
    tables = [(torch.rand(7, 50, generator=generator) < share).long().numpy() for share in (0.5, 0.7)]
    yield {name: synthetic(table, **sets) for name, table in zip(("resnet18", "vit_tiny"), tables, strict=True)}
    plt.close("all")


def test_curves_over_severity_show_the_result(two):
    ax = plot_severity(two).axes[0]
    for bar, (name, result) in zip(ax.containers, two.items(), strict=True):
        assert bar.get_label() == name
        expected = [result.clean_accuracy, *result.by_severity()[0]]
        np.testing.assert_allclose(bar.lines[0].get_xydata(), np.stack([[0, 1, 3, 5], 100 * np.array(expected)], 1))


def test_bars_show_the_result_by_family(two):
    ax = plot_kinds(two).axes[0]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["fog", "contrast"]
    assert [text.get_text() for text in ax.texts] == ["weather", "digital"]
    heights = [bar.get_height() for bar in ax.patches]
    np.testing.assert_allclose(heights, 100 * np.concatenate([result.by_kind()[0] for result in two.values()]))


def test_the_table_shows_corruption_errors(two):
    texts = [text.get_text() for text in plot_mce(two, "resnet18").axes[0].texts]
    (value, error), (fog, contrast_) = (
        two["vit_tiny"].mce(two["resnet18"]),
        two["vit_tiny"].corruption_errors(two["resnet18"])[0],
    )
    assert texts[:4] == ["", "fog", "contrast", "mean (mCE)"]
    assert texts[4:8] == ["resnet18", *["100 ± 0"] * 3]
    assert texts[8] == "vit_tiny"
    assert [text.partition(" ")[0] for text in texts[9:]] == [f"{x:.0f}" for x in (fog, contrast_, value)]
    assert texts[-1].endswith(f"± {error:.0f}")


def test_figures_refuse_what_cannot_be_compared(two):
    with pytest.raises(ValueError, match="none of resnet18, vit_tiny"):
        plot_mce(two, "alexnet")
    two["vit_tiny"] = dataclasses.replace(two["vit_tiny"], kinds=["fog", "snow"])
    with pytest.raises(ValueError, match="vit_tiny was evaluated on other types"):
        plot_kinds(two)
    with pytest.raises(ValueError, match="no results"):
        plot_severity({})


def test_examples_show_every_corruption(data):
    axes = plot_examples(make_loader(data, 40), index=3, severity=5).axes
    pixels = to_pixels(data.batch([3])[0], data.mean, data.std)
    shown = {ax.get_title(): ax.images[0].get_array() for ax in axes if ax.images}
    assert len(shown) == 20
    expected = corrupt(pixels, "jpeg_compression", 5)[0].permute(1, 2, 0)
    np.testing.assert_array_equal(shown["jpeg compression"], expected)
    np.testing.assert_array_equal(shown["clean"], pixels[0].permute(1, 2, 0))
    plt.close("all")


def test_a_normalisation_that_is_not_the_images_own_is_refused_before_anything_is_classified(data, model):
    """Images in 0..1, of which 1/2 and 1/2 would make pixels of 128 to 255: corruptions would do less to them."""
    plain = [(to_pixels(*_first(data)).float() / 255, torch.tensor(data.targets[:20]))]
    with pytest.raises(ValueError, match=r"none \(images in 0\.\.1\): pass mean="):
        robustness(model, plain, mean=(0.5,) * 3, std=(0.5,) * 3, **SOME, **QUIET)
    robustness(model, plain, mean=(0.0,) * 3, std=(1.0,) * 3, kinds=["contrast"], severities=[1], **QUIET)


def _first(data):
    return data.batch(range(20))[0], data.mean, data.std


def test_tied_answers_are_drawn_in_each_version_by_itself():
    """Where two answers are equal in both versions, a quarter of the images are right in both, by independence."""
    right = np.array([[0.5, 1.0, 0.0, 0.5], [0.5, 1.0, 1.0, 1.0]])
    both = right_in_both(right)
    np.testing.assert_allclose(both, [[2.0, 1.75], [1.75, 3.5]])
    assert right_in_both(right.round()).dtype == np.int64
