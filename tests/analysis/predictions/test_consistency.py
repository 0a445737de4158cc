import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

from utilities.analysis.predictions.consistency import Consistency, consistency, consistency_on_files
from utilities.analysis.predictions.flips import compare_frames, rank_classes, top5_distance
from utilities.datasets import load_dataset
from utilities.datasets.factory import make_loader
from utilities.datasets.perturbations import perturb
from utilities.plots.predictions.consistency import plot_consistency

QUIET = {"device": "cpu", "progress": False}


def by_the_papers_sum(before, after):
    """Write out the double sum of the definition, for one image's ranks."""
    after_rank = {int(rank): int(after[place]) for place, rank in enumerate(before)}
    total = 0
    for i in range(1, min(5, len(before)) + 1):
        low, high = sorted((i, after_rank[i]))
        total += sum(1 <= j - 1 <= 5 for j in range(low + 1, high + 1))
    return total


@pytest.mark.parametrize("classes", [3, 5, 6, 10, 40])
def test_top5_distance_is_the_papers_sum(classes):
    generator = torch.Generator().manual_seed(classes)
    ranks = [rank_classes(torch.randn(50, classes, generator=generator)) for _ in range(2)]
    found = top5_distance(*ranks)
    assert found.tolist() == [by_the_papers_sum(*pair) for pair in zip(*ranks, strict=True)]
    assert torch.equal(top5_distance(ranks[0], ranks[0]), torch.zeros(50, dtype=torch.long))


def test_top5_distances_that_are_known():
    start = torch.arange(1, 13)[None]
    assert top5_distance(start, start.roll(6, 1)).tolist() == [15], "all five leave: 5 + 4 + 3 + 2 + 1"
    assert top5_distance(start, torch.tensor([[1, 2, 3, 4, 5, 12, 11, 10, 9, 8, 7, 6]])).tolist() == [0]
    assert top5_distance(start, torch.tensor([[2, 1, *range(3, 13)]])).tolist() == [2]
    assert top5_distance(start, torch.tensor([[1, 2, 3, 4, 6, 5, *range(7, 13)]])).tolist() == [1]


def test_ranks_of_equal_logits_are_those_of_the_classes_order():
    logits = torch.tensor([[0.0, 1.0, 1.0, -1.0], [0.0, 0.0, 0.0, 0.0]])
    assert rank_classes(logits).tolist() == [[3, 1, 2, 4], [1, 2, 3, 4]]


def frames_of(answers, classes=10):
    return [nn.functional.one_hot(torch.tensor(one), classes).float() for one in answers]


@pytest.mark.parametrize(("with_first", "expected"), [(True, [3 / 4, 1 / 4]), (False, [1 / 4, 2 / 4])])
def test_flips_with_the_first_frame_or_the_one_before(with_first, expected):
    answers = [(0, 2), (0, 1), (5, 2), (5, 2), (5, 2)]  # of two images: 0 0 5 5 5 and 2 1 2 2 2
    flips, _ = compare_frames(frames_of(answers), with_first)
    assert flips.tolist() == expected


def test_a_brute_force_twin_on_random_logits():
    frames = torch.randn(7, 3, 12, generator=torch.Generator().manual_seed(0))
    for with_first in (True, False):
        flips, distance = compare_frames(frames, with_first)
        for image in range(3):
            ranks = [rank_classes(frame[image][None])[0] for frame in frames]
            pairs = [(ranks[0], one) for one in ranks[1:]] if with_first else list(itertools.pairwise(ranks))
            changed = [frames[a, image].argmax() != frames[b, image].argmax() for a, b in _places(with_first)]
            assert flips[image] == pytest.approx(np.mean([bool(one) for one in changed]))
            assert distance[image] == pytest.approx(np.mean([by_the_papers_sum(*pair) for pair in pairs]))


def _places(with_first):
    return [(0 if with_first else i - 1, i) for i in range(1, 7)]


def test_too_few_or_broken_frames_are_refused():
    with pytest.raises(ValueError, match="two frames or more"):
        compare_frames(frames_of([(0,)]), True)
    with pytest.raises(ValueError, match="not finite"):
        compare_frames([torch.full((1, 3), torch.nan)], True)


class Brightness(nn.Module):
    """Answer which of ten steps of brightness an image has, of pixels in 0..1."""

    def forward(self, x):
        level = (10 * x.mean((1, 2, 3))).floor().clamp(0, 9).long()
        return nn.functional.one_hot(level, 10).float()


def grey(*levels):
    return torch.stack([torch.full((3, 8, 8), level / 255) for level in levels])


def test_a_known_model_flips_where_brightness_crosses_a_step():
    """Grey 128 runs from 70 to 185 in steps of 3.825, over four borders: 76.5, 102, 127.5, 153, 178.5 are five."""
    images = grey(128, 0)
    result = consistency(Brightness(), [images], kinds=["brightness"], mean=0.0, std=1.0, **QUIET)
    frames = [(images[0, 0, 0, 0] * 255 + (i - 15) * 0.015 * 255).item() for i in range(31)]
    crossed = sum(int(a / 25.5) != int(b / 25.5) for a, b in itertools.pairwise(frames))
    assert crossed == 5
    np.testing.assert_allclose(result.flips[:, 0] * 30, [5, 2])  # from black, steps at 25.5 and 51


def test_a_constant_answer_is_consistent_and_batches_play_no_part():
    data = load_dataset("digits", n_images=12)
    constant = nn.Sequential(nn.Flatten(), nn.Linear(768, 10))
    nn.init.zeros_(constant[1].weight)
    kinds = ["gaussian_noise", "shot_noise", "zoom_blur", "rotate"]
    still = consistency(constant, make_loader(data, 12), kinds=kinds, **QUIET)
    assert not still.flips.any()
    assert not still.distances.any()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 10))
    whole, split = (consistency(model, make_loader(data, size), kinds=kinds, **QUIET) for size in (12, 5))
    np.testing.assert_array_equal(whole.flips, split.flips)
    assert whole.flips.any()
    assert "made here with the parameters of CIFAR-10-P" in whole.provenance["sequences"]
    other = consistency(model, make_loader(data, 12), kinds=kinds, seed=1, **QUIET)
    assert (other.distances[:, :2] != whole.distances[:, :2]).any()
    np.testing.assert_array_equal(other.distances[:, 2:], whole.distances[:, 2:])


def test_files_in_the_published_format_give_what_their_frames_give(tmp_path):
    torch.manual_seed(0)
    model, folder = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)), tmp_path / "CIFAR-10-P"
    folder.mkdir()
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    kinds = ["gaussian_noise", "rotate"]
    for kind in kinds:
        videos = torch.stack(list(perturb(images, kind)), 1)  # (images, frames, 3, 32, 32)
        np.save(folder / f"{kind}.npy", videos.permute(0, 1, 3, 4, 2).numpy())
    run = {"kinds": kinds, "mean": 0.5, "std": 0.25, **QUIET}
    made = consistency(model, [(images / 255 - 0.5) / 0.25], **run)
    read = consistency_on_files(model, "cifar10-p", root=tmp_path, batch_size=4, **run)
    np.testing.assert_allclose(read.flips, made.flips)
    np.testing.assert_allclose(read.distances, made.distances)
    assert read.provenance["sequences"] == "read from files"
    some = consistency_on_files(model, "cifar10-p", root=tmp_path, n_images=3, **run)
    np.testing.assert_allclose(some.flips, made.flips[[0, 2, 4]])
    with pytest.raises(FileNotFoundError, match=r"shot_noise\.npy is missing: fetch CIFAR-10-P\.tar"):
        consistency_on_files(model, "cifar10-p", root=tmp_path, **QUIET)


def test_means_errors_and_percentages_of_a_reference(tmp_path):
    rng = np.random.default_rng(0)
    result = Consistency(rng.random((40, 2)), 15 * rng.random((40, 2)), ["tilt", "scale"], {"a": 1})
    each = result.flips.mean(1)
    assert result.mean_flip_rate() == pytest.approx((each.mean(), each.std(ddof=1) / np.sqrt(40)))
    assert result.mfp(result)[0] == pytest.approx(100)
    assert result.mt5d(result)[0] == pytest.approx(100)
    value, error = result.mfp({"tilt": 0.25, "scale": 0.5})
    scaled = 100 * (result.flips / [0.25, 0.5]).mean(1)
    assert (value, error) == pytest.approx((scaled.mean(), scaled.std(ddof=1) / np.sqrt(40)))
    with pytest.raises(ValueError, match="the reference has no scale"):
        result.mfp({"tilt": 0.25})
    with pytest.warns(UserWarning, match="never changes under scale"):
        assert np.isnan(result.mfp({"tilt": 0.25, "scale": 0})[0])
    again = Consistency.load(result.save(tmp_path / "a"))
    np.testing.assert_array_equal(again.flips, result.flips)
    assert again.to_frame().kind.tolist() == ["tilt", "scale"]


def test_figure_shows_both_measures():
    one = Consistency(np.array([[0.2, 0.4], [0.4, 0.0]]), np.array([[1.0, 2.0], [3.0, 4.0]]), ["tilt", "scale"])
    figure = plot_consistency({"a": one, "b": one})
    heights = [[patch.get_height() for patch in ax.patches] for ax in figure.axes]
    np.testing.assert_allclose(heights, [[30, 20] * 2, [2, 3] * 2])
    plt.close(figure)
    with pytest.raises(ValueError, match="other kinds"):
        plot_consistency({"a": one, "b": Consistency(one.flips, one.distances, ["tilt", "rotate"])})


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"kinds": ["scale", "scale"]}, "each once"),
        ({"kinds": []}, "one or more"),
        ({"kinds": "scale"}, "is no list"),
        ({"kinds": ["scale"], "batch_size": 0}, "batch_size=0"),
    ],
)
def test_options_for_files_are_refused_by_name(options, word, tmp_path):
    (tmp_path / "CIFAR-10-P").mkdir()
    np.save(tmp_path / "CIFAR-10-P" / "scale.npy", np.zeros((4, 3, 32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match=word):
        consistency_on_files(nn.Flatten(), "cifar10-p", root=tmp_path, **options, **QUIET)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Conv2d(3, 4, 1), r"\(1, 4, 16, 16\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(768, 1)), r"\(1, 1\)"),
    ],
)
def test_outputs_that_are_no_logits_are_refused(model, shape):
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=rf"logits \(batch, classes\) of 2 classes or more, got {shape}"):
        consistency(model, [(images, torch.tensor([0]))], kinds=["tilt"], mean=0.0, std=1.0, **QUIET)
