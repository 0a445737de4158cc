"""Closed forms of spectra: white noise, convolutions, waves, scaling, shifts, symmetries."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from utilities.analysis.blocks.fourier import Fourier, fourier
from utilities.analysis.blocks.spectra import along, frequencies, log_amplitude
from utilities.analysis.blocks.variance import over_positions
from utilities.resnet import BasicBlock, ResNet
from utilities.zoo import create_model
from utilities.zoo.local_attention import LocalAttention

H = 16


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def delta(maps, path="diagonal"):
    curve = along(log_amplitude(maps), path)
    return curve - curve[..., :1]


def test_white_noise_has_half_a_log_of_two_between_dc_and_nyquist():
    """|F|^2 is exponential but real, so chi-squared, at 0 and Nyquist: the means of the logs differ by ln(2) / 2."""
    curve = delta(noise(20_000, H, H)).mean(0)
    # The log of |F| has a standard deviation of about 1.1 (real) and 0.64: 0.008 for 20,000 maps; four of them.
    assert torch.allclose(curve[1:-1], torch.full((H // 2 - 1,), math.log(2) / 2, dtype=curve.dtype), atol=0.035)
    assert abs(curve[-1]) < 0.045


@pytest.mark.parametrize("k", [1, 4, 7])
def test_circular_convolution_adds_the_kernels_log_response(k):
    x = noise(H, H)
    two = (x + x.roll(1, 0) + x.roll(1, 1) + x.roll((1, 1), (0, 1))) / 4
    added = along(log_amplitude(two, 0.0) - log_amplitude(x, 0.0), "diagonal")[k].item()
    assert added == pytest.approx(2 * math.log(math.cos(math.pi * k / H)), abs=1e-9)
    three = sum(x.roll((i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)) / 9
    added = along(log_amplitude(three, 0.0) - log_amplitude(x, 0.0), "diagonal")[k].item()
    assert added == pytest.approx(2 * math.log(abs(1 + 2 * math.cos(2 * math.pi * k / H)) / 3), abs=1e-9)


def test_the_box_filter_at_a_quarter_of_the_sampling_rate_halves_the_power():
    x = noise(H, H)
    two = (x + x.roll(1, 0) + x.roll(1, 1) + x.roll((1, 1), (0, 1))) / 4
    added = along(log_amplitude(two, 0.0) - log_amplitude(x, 0.0), "paper")[4].item()
    assert added == pytest.approx(-0.6931, abs=1e-4)


@pytest.mark.parametrize("path", ["diagonal", "paper", "radial"])
def test_a_wave_peaks_at_its_own_frequency(path):
    rows, columns = torch.meshgrid(torch.arange(H), torch.arange(H), indexing="ij")
    phase = 2 * math.pi * 3 / H * (rows + columns if path != "radial" else rows)
    assert along(log_amplitude(torch.cos(phase.double())), path).argmax() == 3


def test_gains_of_single_channels_leave_delta_alone():
    maps = noise(3, 5, H, H)
    gains = noise(1, 5, 1, 1, seed=1).exp()
    assert torch.allclose(delta(maps), delta(1000 * gains * maps), atol=1e-9)


def test_a_circular_shift_leaves_amplitudes_and_a_transposition_the_diagonal():
    x = noise(H, H)
    assert torch.allclose(log_amplitude(x), log_amplitude(x.roll((3, 5), (0, 1))), atol=1e-9)
    assert torch.allclose(along(log_amplitude(x), "diagonal"), along(log_amplitude(x.mT), "diagonal"), atol=1e-9)


def test_parseval_and_hermitian_symmetry():
    x = noise(H, 12)
    amplitude = log_amplitude(x, 0.0).exp()
    assert amplitude.square().sum().item() == pytest.approx(H * 12 * x.square().sum().item())
    assert torch.allclose(amplitude[1:, 1:], amplitude[1:, 1:].flip(0, 1))


def test_frequencies_reach_nyquist_and_the_published_axis_calls_less_than_it_pi():
    assert frequencies(8, 8, "diagonal")[-1] == frequencies(8, 8, "radial")[-1] == 1
    assert frequencies(7, 7, "diagonal")[-1] == pytest.approx(6 / 7)  # odd sizes have no Nyquist frequency
    for size, true in {56: 0.964, 28: 0.929, 14: 0.857, 8: 0.75, 7: 0.857, 31: 0.968}.items():
        published, last = frequencies(size, size, "paper"), size - 1 - size // 2
        assert published[-1] == 1
        assert len(published) == last + 1
        assert 2 * last / size == pytest.approx(true, abs=5e-4)
    assert frequencies(8, 12, "diagonal").tolist() == [0, 0.5, 1]
    with pytest.raises(ValueError, match="radial"):
        frequencies(8, 9, "diagonal")
    with pytest.raises(ValueError, match="square"):
        frequencies(8, 12, "paper")


def test_diagonal_of_oblong_maps_holds_equal_frequencies():
    values = torch.arange(8.0)[:, None] / 8 - torch.zeros(12)  # each row holds its own vertical frequency
    assert along(values, "diagonal").tolist() == [0, 0.25, 0.5]


def test_rings_average_what_has_the_same_distance():
    fy, fx = (torch.fft.fftfreq(n).double() for n in (H, H))
    radius = (fy[:, None].square() + fx.square()).sqrt()
    expected = torch.arange(H // 2 + 1) / H
    assert torch.allclose(along(radius, "radial"), expected.double(), atol=0.25 / H)


def small_resnet():
    torch.manual_seed(0)
    return ResNet(BasicBlock, (1, 1, 1, 1), num_classes=5)


def test_result_does_not_depend_on_batches_and_is_the_mean_over_images():
    model, images = small_resnet(), noise(7, 3, 16, 16).float()
    whole = fourier(model, [images], device="cpu")
    parts = fourier(model, [images[:2], images[2:3], images[3:]], device="cpu")
    single = [fourier(model, [image[None]], device="cpu") for image in images]
    # Convolutions of other batch sizes round differently: float32, 1e-6 of amplitudes, more where they are small.
    np.testing.assert_allclose(whole.delta, parts.delta, atol=1e-4)
    np.testing.assert_allclose(whole.delta_stderr, parts.delta_stderr, atol=1e-4)
    np.testing.assert_allclose(whole.delta, np.mean([one.delta for one in single], 0), atol=1e-4)
    spread = np.std([one.high for one in single], 0, ddof=1) / 7**0.5
    np.testing.assert_allclose(whole.high_stderr, spread, atol=1e-4)


def test_shift_of_the_reference_and_changes_from_block_to_block():
    model, images = small_resnet(), noise(4, 3, 32, 32).float()
    dc, ac = (fourier(model, [images], device="cpu", reference=reference) for reference in ("dc", "ac"))
    shift = dc.delta - ac.delta
    np.testing.assert_allclose(shift, np.where(np.isfinite(shift), shift[:, :1], np.nan), atol=1e-9)
    same = [i for i in range(1, len(dc.names)) if (dc.size[i] == dc.size[i - 1]).all()]
    np.testing.assert_allclose(dc.change[same], dc.high[same] - dc.high[[i - 1 for i in same]], atol=1e-9)
    assert np.isnan(dc.change[dc.kinds.index("pool")])


def test_gain_of_a_known_filter_in_pixels_of_the_image():
    """A depthwise circular 2x2 box, then every second position: |cos| below, with aliases on top of it."""

    class Box(nn.Module):
        def forward(self, x):
            return (x + x.roll(1, -1) + x.roll(1, -2) + x.roll((1, 1), (-2, -1))) / 4

    model = nn.Sequential(Box(), nn.Flatten(), nn.Linear(3 * H * H, 2))
    images = noise(50, 3, H, H).float()
    result = fourier(model, [images], layers={"0": "conv"}, device="cpu", path="diagonal")
    k = np.arange(H // 2)
    np.testing.assert_allclose(result.gain[0, :-1], 2 * np.log(np.cos(np.pi * k / H)), atol=2e-4)
    assert result.pixel_frequency[0].tolist() == result.frequency[0].tolist()


def test_gain_across_a_lower_resolution_compares_the_same_frequency_of_the_image():
    rows, columns = torch.meshgrid(torch.arange(H), torch.arange(H), indexing="ij")
    wave = torch.cos(2 * math.pi * 2 / H * (rows + columns)).expand(2, 3, -1, -1)
    model = nn.Sequential(nn.MaxPool2d(1, stride=2), nn.Flatten(), nn.Linear(3 * H * H // 4, 2))
    result = fourier(model, [wave], layers={"0": "pool"}, device="cpu", path="paper")
    # Two periods stay two periods, with the same mean amplitude; at 8x8 they lie at half of what is called pi there.
    assert result.gain[0, 2] == pytest.approx(0, abs=1e-4)
    assert result.delta[0].argmax() == 2


def test_uniform_attention_keeps_dc_alone():
    """With queries of zero all positions get the same mixture: the branch's output has no other frequency."""
    model = create_model("vit_tiny_patch2_16", 5, seed=0)
    attention = model.blocks[0].attn
    with torch.no_grad():
        attention.qkv.weight[:96] = 0
        attention.qkv.bias[:96] = 0
        tokens = attention(noise(2, 65, 96).float())[:, 1:].mT.unflatten(2, (8, 8))
    amplitude = log_amplitude(tokens, 0.0).exp()
    assert amplitude.flatten(2)[..., 1:].max() < 1e-5 * amplitude[..., 0, 0].max()


def test_dead_channels_are_left_out():
    maps = noise(2, 3, H, H).float()
    model = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(3 * H * H, 2))
    dead = maps.clone()
    dead[:, 1] = 0
    with_dead = fourier(model, [dead], layers={"0": "conv"}, device="cpu")
    model = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(2 * H * H, 2))
    without = fourier(model, [maps[:, [0, 2]]], layers={"0": "conv"}, device="cpu")
    np.testing.assert_allclose(with_dead.delta, without.delta, atol=1e-9)


def test_one_position_has_no_high_frequency(tmp_path):
    result = fourier(small_resnet(), [noise(2, 3, 8, 8).float()], device="cpu")
    assert result.size[-1].tolist() == [1, 1]
    assert np.isnan(result.high[-1])
    assert np.isfinite(result.high[:-1]).all()
    loaded = Fourier.load(result.save(tmp_path / "a"))
    np.testing.assert_array_equal(loaded.gain, result.gain)
    assert loaded.to_frame().equals(result.to_frame())


def test_the_model_is_left_in_its_mode_and_statistics():
    model = small_resnet().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fourier(model, [noise(4, 3, 16, 16).float()], device="cpu")
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("option", [{"path": "row"}, {"reference": "min"}, {"window": "flat"}])
def test_unknown_options_are_refused(option):
    with pytest.raises(ValueError, match="choose from"):
        fourier(small_resnet(), [torch.zeros(1, 3, 8, 8)], device="cpu", **option)


def test_a_taper_lowers_what_the_border_adds():
    """A slope is smooth, but for the jump at its border: with a window its high frequencies vanish."""
    slope = torch.linspace(-1, 1, H).exp()
    ramp = (slope * slope[:, None]).expand(2, 3, -1, -1)
    model = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(3 * H * H, 2))
    plain, tapered = (
        fourier(model, [ramp], layers={"0": "conv"}, device="cpu", window=window, path="radial", reference="ac")
        for window in ("none", "hann")
    )
    assert tapered.log_amplitude[0, -2] < plain.log_amplitude[0, -2] - 2


def test_oblong_maps_are_read_along_rings_unless_asked_otherwise():
    model, images = create_model("alternet18", 5, seed=0), noise(2, 3, 84, 64).float()
    result = fourier(model, [images], device="cpu")
    assert result.provenance["path"] == "radial"
    assert result.size[0].tolist() == [84, 64]
    assert np.isfinite(result.high).all()
    with pytest.raises(ValueError, match="path='radial'"):
        fourier(model, [images], device="cpu", path="diagonal")
    assert fourier(model, [noise(2, 3, 32, 32).float()], device="cpu").provenance["path"] == "diagonal"


def test_images_that_cannot_be_analysed_are_refused():
    model, images = small_resnet(), noise(2, 3, 16, 16).float()
    with pytest.raises(ValueError, match="16x16 and 8x8"):
        fourier(model, [images, images[..., :8, :8]], device="cpu")
    broken = images.clone()
    broken[1, 0, 3, 3] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        fourier(model, [images, broken], device="cpu")
    with pytest.raises(ValueError, match="uint8"):
        fourier(model, [images.to(torch.uint8)], device="cpu")


def test_attention_in_windows_keeps_dc_of_each_window_alone():
    """With queries of zero and no bias each window gets one mixture: no other frequency within it, no variance."""
    layer = LocalAttention(8, heads=2, window=4, head_dim=4).double().eval()
    with torch.no_grad():
        layer.qkv.weight[: 2 * 4] = 0
        layer.relative_position_bias_table.zero_()
        windows = layer(noise(1, 8, 8, 8)).unfold(2, 4, 4).unfold(3, 4, 4)
    amplitude = log_amplitude(windows, 0.0).exp()
    assert amplitude.flatten(-2)[..., 1:].max() < 1e-12
    assert over_positions(windows.flatten(0, 1).flatten(1, 2)).max() < 1e-24
    assert amplitude[..., 0, 0].std() > 1e-3  # windows differ from one another
