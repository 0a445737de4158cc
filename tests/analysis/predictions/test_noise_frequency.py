import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

from utilities.analysis.predictions.noise_frequency import (
    NoiseFrequency,
    band_edges,
    draw_noise,
    filter_noise,
    frequency_bands,
    noise_frequency,
)
from utilities.datasets import load_dataset
from utilities.datasets.factory import make_loader
from utilities.plots.predictions.noise_frequency import plot_noise_frequency

SIZES = [(16, 16), (15, 15), (16, 11), (9, 14), (32, 32)]
QUIET = {"device": "cpu", "progress": False}
each_size = pytest.mark.parametrize("size", SIZES, ids=str)


@pytest.fixture(scope="module")
def data():
    return load_dataset("digits", n_images=30)


class Recording(nn.Module):
    """A linear classifier that keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.seen, self.linear = [], nn.Linear(768, 10)

    def forward(self, images):
        self.seen.append(images.clone())
        return self.linear(images.flatten(1))


def mirrored(mask):
    """The mask at -k for each k."""
    return torch.roll(mask.flip(-2, -1), (1, 1), (-2, -1))


@each_size
def test_disjoint_masks_sum_to_the_identity(size):
    masks = frequency_bands(*size, np.linspace(0, 1, 5))
    assert (masks.sum(0) == 1).all(), "each frequency is in one band, the mean colour and Nyquist's among them"
    noise = draw_noise("gaussian", 0, 0, (2, 3, *size)).double()
    parts = torch.stack([filter_noise(noise, mask) for mask in masks])
    torch.testing.assert_close(parts.sum(0), noise, rtol=0, atol=1e-12)


@each_size
def test_masks_are_symmetric_and_filtered_noise_is_real(size):
    noise = draw_noise("gaussian", 0, 0, (3, *size)).double()
    for mask in frequency_bands(*size, np.linspace(0, 1, 5)):
        assert torch.equal(mask, mirrored(mask))
        full = torch.fft.ifft2(torch.fft.fft2(noise) * mask)
        assert full.imag.abs().max() < 1e-6
        torch.testing.assert_close(filter_noise(noise, mask), full.real, rtol=0, atol=1e-12)


@each_size
def test_rings_are_those_of_the_definition(size):
    """A brute-force twin: max(|fx|, |fy|) in radians, frequency by frequency."""
    edges = np.linspace(0, 1, 5)
    masks = frequency_bands(*size, edges)
    for y, fy in enumerate(np.fft.fftfreq(size[0]) * 2 * math.pi):
        for x, fx in enumerate(np.fft.fftfreq(size[1]) * 2 * math.pi):
            radius = max(abs(fx), abs(fy)) / math.pi
            band = min(int(radius * 4 + 1e-9), 3)
            assert masks[:, y, x].nonzero().flatten().tolist() == [band]


@each_size
def test_out_of_band_power_vanishes(size):
    noise = draw_noise("sign", 0, 0, (3, *size))
    for mask in frequency_bands(*size, np.linspace(0, 1, 5)):
        power = torch.fft.fft2(filter_noise(noise, mask).double()).abs().square()
        assert (power * ~mask).sum() / power.sum() < 1e-10


def test_the_papers_nine_bands():
    edges = band_edges(9)
    np.testing.assert_allclose((edges[:-1] + edges[1:]) / 2, np.arange(1, 10) / 10)
    np.testing.assert_allclose(np.diff(edges) / 2, 0.05)
    masks = frequency_bands(224, 224, edges)
    left_out = (~masks.any(0)).nonzero()
    assert masks[:, 0, 0].sum() == 0, "the mean colour is left out"
    assert len(left_out) == 11**2 + 224**2 - 213**2  # |k| <= 5 and |k| >= 107 of k = -112 .. 111


@pytest.mark.parametrize("bands", [7, 9])
def test_an_edge_on_a_frequency_belongs_to_the_band_above(bands):
    size = 2 * (bands + 1) * 5
    masks = frequency_bands(size, size, band_edges(bands))
    radii = torch.arange(size // 2 + 1)  # of the row of horizontal frequencies, in units of pi / (size / 2)
    row = masks[:, 0, : size // 2 + 1]
    starts = [int(radii[one].min()) for one in row]
    assert starts == [math.ceil(5 * (band + 0.5)) for band in range(bands)]


@pytest.mark.parametrize("size", range(4, 41))
def test_the_number_of_bands_that_an_error_proposes_works(size):
    with pytest.raises(ValueError, match="use fewer bands") as error:
        frequency_bands(size, size, band_edges(40))
    proposed = int(str(error.value).partition("bands=")[2].split(",")[0])
    masks = frequency_bands(size, size, band_edges(proposed))
    assert proposed == max(size // 2 - 1, 1)
    assert all(len({max(abs(k), abs(l)) for k, l in _numbers(mask)}) == 1 for mask in masks), "one ring for each band"


def _numbers(mask):
    height, width = mask.shape
    pairs = mask.nonzero().tolist()
    return [(y - height * (y > height // 2), x - width * (x > width // 2)) for y, x in pairs]


@pytest.mark.parametrize("noise", ["sign", "gaussian"])
def test_rms_is_eps_in_every_band_and_image(data, noise):
    model, eps = Recording(), 0.3
    noise_frequency(model, make_loader(data, 30), eps=eps, bands=7, noise=noise, **QUIET)
    clean, *noisy = model.seen
    for images in noisy:
        rms = (images - clean).double().square().mean((1, 2, 3)).sqrt()
        torch.testing.assert_close(rms, torch.full_like(rms, eps), rtol=1e-5, atol=0)  # a float32 sum of 768 terms


def test_energy_that_is_not_equal_is_the_share_of_the_ring(data):
    model, eps = Recording(), 0.7
    result = noise_frequency(model, make_loader(data, 30), eps=eps, bands=7, equal_energy=False, **QUIET)
    masks = frequency_bands(16, 16, result.edges).double()
    clean, *noisy = model.seen
    for images, mask in zip(noisy, masks, strict=True):
        power = (images - clean).double().square().mean((1, 2, 3))
        share = eps**2 * mask.mean()
        error = power.std() / math.sqrt(len(power))
        assert abs(power.mean() - share) < 4 * error


def test_all_bands_are_parts_of_one_noise(data):
    model = Recording()
    noise_frequency(model, make_loader(data, 30), eps=1.0, bands=(0, 0.4, 0.7, 1), equal_energy=False, **QUIET)
    clean, *noisy = model.seen
    total = sum(images - clean for images in noisy)
    torch.testing.assert_close(total.abs(), torch.ones_like(total), rtol=0, atol=1e-5)  # signs again


def test_no_noise_changes_nothing(data):
    result = noise_frequency(Recording(), make_loader(data, 30), eps=0.0, bands=7, **QUIET)
    assert result.change.tolist() == [0] * 7
    assert result.stderr.tolist() == [0] * 7


@pytest.mark.parametrize("batch_size", [1, 7])
def test_independent_of_the_batch_size(data, batch_size):
    model = Recording()
    whole = noise_frequency(model, make_loader(data, 30), eps=0.5, bands=7, **QUIET)
    split = noise_frequency(model, make_loader(data, batch_size), eps=0.5, bands=7, **QUIET)
    assert np.ptp(whole.change) > 0, "the example can tell"
    np.testing.assert_array_equal(split.both_right, whole.both_right)


def test_noise_of_an_image_is_its_own_and_the_seeds():
    one, again, other = (draw_noise("gaussian", seed, 5, (2, 3, 4, 4)) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])
    signs = draw_noise("sign", 0, 5, (2, 3, 4, 4))
    assert torch.equal(signs, one.sign())


def test_change_and_errors_are_those_of_paired_differences(generator):
    right = (torch.rand(4, 50, generator=generator) < torch.rand(50, generator=generator)).long().numpy()
    result = NoiseFrequency(right @ right.T, np.array([0, 0.3, 0.6, 1]), 50)
    differences = 100 * (right[1:] - right[0])
    np.testing.assert_allclose(result.change, differences.mean(1), atol=1e-12)
    np.testing.assert_allclose(result.stderr, differences.std(1, ddof=1) / math.sqrt(50))
    value, error = result.mean_change([0, 0.5, 0.5])
    mean = differences[1:].mean(0)
    assert (value, error) == pytest.approx((mean.mean(), mean.std(ddof=1) / math.sqrt(50)))


def test_a_classifier_of_the_finest_pattern_minds_the_highest_frequency_alone():
    """Its answer is the sign of a checkerboard, which has the frequency pi in both directions and no other."""
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).tile(4, 4)
    labels = torch.arange(64) % 2
    images = (0.01 * (1 - 2 * labels.float())).view(-1, 1, 1, 1) * board.expand(64, 3, 8, 8)

    class Board(nn.Module):
        def forward(self, x):
            side = (x * board).mean((1, 2, 3))
            return torch.stack([side, -side], 1)

    result = noise_frequency(Board(), [(images, labels)], eps=1.0, bands=(0.1, 0.4, 0.7, 0.9, 1.0), **QUIET)
    assert result.clean_accuracy == 1
    assert result.change[:3].tolist() == [0, 0, 0]
    assert -80 < result.change[3] < -20  # half of the images at random, 6 points of error of 64


@pytest.mark.parametrize("size", [(15, 15), (16, 11)])
def test_odd_and_oblong_images_work(size, generator):
    images = torch.randn(6, 3, *size, generator=generator)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * size[0] * size[1], 2))
    result = noise_frequency(model, [(images, torch.zeros(6, dtype=torch.long))], bands=3, **QUIET)
    assert np.isfinite(result.change).all()
    assert result.n == 6


def test_save_load_and_table(tmp_path, data):
    result = noise_frequency(Recording(), make_loader(data, 30), bands=7, provenance={"model": "board"}, **QUIET)
    again = NoiseFrequency.load(result.save(tmp_path / "result"))
    np.testing.assert_array_equal(again.change, result.change)
    assert again.provenance == result.provenance
    assert again.provenance["eps"] == 0.2
    table = again.to_frame()
    np.testing.assert_allclose(table.centre, np.arange(1, 8) / 8)
    np.testing.assert_allclose(100 * (table.accuracy - again.clean_accuracy), table.change)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"bands": 0}, "bands should be 1 or more"),
        ({"bands": [0.2]}, "two or more"),
        ({"bands": [0.5, 0.2]}, "rise"),
        ({"bands": [0, 1.2]}, "within 0..1"),
        ({"bands": 9}, "no frequency of 16x16 pixels lies in the band .*bands=7"),
        ({"noise": "pink"}, "sign, gaussian"),
        ({"eps": -1}, "eps"),
        ({"eps": math.nan}, "eps"),
    ],
)
def test_bad_options_are_refused(data, options, word):
    with pytest.raises(ValueError, match=word):
        noise_frequency(Recording(), make_loader(data, 30), **{"bands": 7, **QUIET, **options})


def test_figure_shows_the_result(data):
    result = noise_frequency(Recording(), make_loader(data, 30), eps=0.5, bands=7, **QUIET)
    figure = plot_noise_frequency({"linear": result})
    _zero, line = figure.axes[0].lines
    np.testing.assert_array_equal(line.get_xydata(), np.stack([result.centres, result.change], 1))
    assert f"linear ({100 * result.clean_accuracy:.1f}% without noise)" == line.get_label()
    caption = figure.caption
    assert "sign noise of 0.5 (root mean square of each band, normalised images)" in caption
    assert "7 rings from 0.0625 to 0.938" in caption
    plt.close(figure)
