"""Which dimension of an output counts images, and in what order: models that put them anywhere."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

from utilities.compare import compare
from utilities.hooks import Recorder
from utilities.hooks.placement import Evidence, Placement
from utilities.metrics import cka


class Returns(nn.Module):
    """Has layers ``inner``, a linear map, and ``layer``, a function of what that gives."""

    def __init__(self, function):
        super().__init__()
        self.inner, self.layer = nn.Linear(6, 6), Applied(function)

    def forward(self, x):
        self.layer(self.inner(x))
        return x


class Applied(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def recorded(function, images, **options):
    """Return what the recorder makes of the layer, and the linear map's output."""
    torch.manual_seed(0)
    model = Returns(function)
    with Recorder(model, "layer", **options) as recorder:
        model(images)
    return recorder.activations["layer"], model.inner(images).detach()


def three(x):
    return torch.stack([x, -x, 2 * x], 1)


def four(x):
    return torch.stack([torch.stack([x, 2 * x], 1), torch.stack([-x, 3 * x], 1)])


# What a layer makes of features (n, 6), and the same with a row for each image.
PLACES = {
    "rows": (torch.sin, torch.sin),
    "second halves after first ones": (lambda x: torch.cat([x, x.flip(-1)]), lambda x: torch.stack([x, x.flip(-1)], 1)),
    "windows, the image slowest": (lambda x: three(x).flatten(0, 1), three),
    "time first": (lambda x: torch.stack([x, -x]), lambda x: torch.stack([x, -x], 1)),
    "images last": (lambda x: x.T, lambda x: x),
    "halves, images, windows": (lambda x: four(x).flatten(0, 2), lambda x: four(x).transpose(0, 1)),
    "complex, images last": (lambda x: torch.fft.fft(x).T, torch.fft.fft),
}


@pytest.mark.parametrize("n", [2, 3, 4, 6, 7, 12])
@pytest.mark.parametrize("place", PLACES)
def test_images_are_found_wherever_they_are(place, n):
    function, truth = PLACES[place]
    found, features = recorded(function, torch.randn(n, 6, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(found, truth(features))


def test_a_layer_of_twice_as_many_rows_is_compared_image_by_image():
    """Rows (first views, second views) against the same network without the second ones: they hold the same."""

    class TwoViews(nn.Module):
        def __init__(self, twice):
            super().__init__()
            self.twice, self.one, self.two = twice, nn.Linear(6, 6), nn.Linear(6, 5)

        def forward(self, x):
            x = torch.cat([x, x]) if self.twice else x
            return self.two(self.one(x).sin())

    torch.manual_seed(0)
    single, double = TwoViews(False), TwoViews(True)
    double.load_state_dict(single.state_dict())
    result = compare(single, double, [torch.randn(64, 6)], device="cpu", progress=False, precision="exact")
    np.testing.assert_allclose(result.matrix.diagonal(), 1, atol=1e-6)


@pytest.mark.parametrize("n", [7, 14, 49, 98, 196])
def test_a_position_embedding_belongs_to_no_image_at_any_size_of_batch(n):
    embedding = torch.randn(196, 6)
    with pytest.raises(
        ValueError, match=r"'layer' has no row for each image: no dimension .* counts images: \(196, 6\)"
    ):
        recorded(lambda x: embedding, torch.randn(n, 6))


def test_a_constant_with_a_row_for_each_image_is_a_layer_without_variance():
    found, _ = recorded(lambda x: torch.ones(len(x), 4), torch.randn(12, 6))
    assert torch.equal(found, torch.ones(12, 4))
    model = nn.Sequential(nn.Linear(6, 6), Applied(torch.zeros_like))
    with pytest.warns(UserWarning, match="without variance over the images, shown as missing: 1"):
        result = compare(model, model, [torch.randn(12, 6)], device="cpu", progress=False)
    assert np.isnan(result.matrix[1]).all()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x @ x.T, "do not follow"),  # similarities of the images of a batch
        (lambda x: x[x[:, 0] > x[:, 0].median()], "has no row for each image"),  # routed to an expert
        (lambda x: x.sum(), "no dimension"),
        (lambda x: x[:0], "no dimension"),
        (lambda x: "text", "returned no tensor but str"),
    ],
)
def test_what_belongs_to_no_image_is_refused_where_it_is_named_and_left_out_where_not(function, message):
    images = torch.randn(9, 6, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=message):
        recorded(function, images)
    with pytest.warns(UserWarning, match="Returns that cannot be compared are left out: layer"):
        result = compare(*[Returns(function)] * 2, [images], device="cpu", progress=False)
    assert result.layers1 == ["inner"]


def test_random_layers_are_taken_with_a_warning():
    with pytest.warns(UserWarning, match="values of Returns do not follow their images.*: layer"):
        found, _ = recorded(lambda x: torch.rand(len(x), 4), torch.randn(8, 6))
    assert found.shape == (8, 4)


def test_centring_within_a_batch_still_has_a_row_for_each_image():
    found, features = recorded(lambda x: x - x.mean(0), torch.randn(8, 6))
    torch.testing.assert_close(found, features - features.mean(0))


def test_a_model_that_takes_whole_batches_only_is_shown_them():
    def eight_only(x):
        assert len(x) == 8
        return torch.cat([x, -x])

    found, features = recorded(eight_only, torch.randn(8, 6))
    torch.testing.assert_close(found, torch.stack([features, -features], 1))
    with pytest.raises(ValueError, match="no row for each image"):
        recorded(lambda x: eight_only(x).new_ones(16, 3), torch.randn(8, 6))


def test_equal_images_at_the_front_do_not_mislead():
    images = torch.randn(8, 6)
    images[1:4] = images[0]
    found, features = recorded(lambda x: torch.cat([x, -x]), images)
    torch.testing.assert_close(found, torch.stack([features, -features], 1))


@pytest.mark.parametrize("blank", [3, 12, 40])
def test_images_that_a_layer_makes_alike_do_not_mislead(blank):
    """Blank images in front are zero behind a ReLU: they show no order, and others are looked at."""

    class Siamese(nn.Module):
        def __init__(self, stacked):
            super().__init__()
            self.stacked, self.conv, self.relu = stacked, nn.Linear(20, 16), nn.ReLU()

        def forward(self, x):
            halves = x.chunk(2, 1)
            if self.stacked:
                return self.relu(self.conv(torch.cat(halves)))
            return self.relu(self.conv(torch.stack(halves, 1)))

    torch.manual_seed(0)
    one, two = Siamese(True), Siamese(False)
    two.load_state_dict(one.state_dict())
    one.conv.bias.data.fill_(-0.3), two.conv.bias.data.fill_(-0.3)
    images = torch.randn(64, 40)
    for size in (0.0, 1e-3, 1e-9):
        faint = images.clone()
        faint[:blank] *= size
        found = compare(one, two, [faint], device="cpu", progress=False, precision="exact").matrix
        np.testing.assert_allclose(found.diagonal(), 1, atol=1e-6)


def test_small_differences_between_images_decide():
    """The spread over images is 1e-5 of the features: more than rounding, and so a sign."""
    images = 1 + 1e-5 * torch.randn(8, 6, dtype=torch.float64)
    model = Returns(lambda x: torch.cat([x, x.flip(-1)])).double()
    with Recorder(model, "layer") as recorder:
        model(images)
    features = model.inner(images).detach()
    torch.testing.assert_close(recorder.activations["layer"], torch.stack([features, features.flip(-1)], 1))


def test_the_axis_can_be_said():
    noise = torch.Generator().manual_seed(0)
    function = lambda x: torch.randn(5, 2 * len(x), 3, generator=noise)  # noqa: E731 - twice the rows, at random
    with pytest.raises(ValueError, match="say which dimension counts images with batch_axis="):
        recorded(function, torch.randn(8, 6))
    found, _ = recorded(function, torch.randn(8, 6), batch_axis=1)
    assert found.shape == (8, 5, 2, 3)
    found, _ = recorded(function, torch.randn(8, 6), batch_axis={"lay*": -2})
    assert len(found) == 8
    with pytest.raises(ValueError, match="batch_axis=0 does not count images"):
        recorded(function, torch.randn(8, 6), batch_axis=0)
    with pytest.raises(ValueError, match="fits 0 layers; close: layer"):
        recorded(function, torch.randn(8, 6), batch_axis={"player": 1})


def test_torchs_time_first_attention_is_a_layer():
    class TimeFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2)

        def forward(self, x):
            tokens = x.transpose(0, 1)
            return self.attention(tokens, tokens, tokens)[0].transpose(0, 1)

    torch.manual_seed(0)
    model, x = TimeFirst(), torch.randn(10, 20, 8)
    result = compare(model, model, [x], device="cpu", progress=False, precision="exact")
    assert result.layers1 == ["attention"]
    with Recorder(model, "attention") as recorder:
        model(x)
    torch.testing.assert_close(recorder.activations["attention"], model(x).detach())


@pytest.mark.parametrize(
    ("name", "size", "n"), [("swin_tiny_patch4_window7_224", 56, 3), ("swinv2_tiny_window8_256", 64, 64)]
)
def test_heads_and_windows_of_swin_at_batches_of_their_number(name, size, n):
    """Softmax of (n windows, 3 heads, tokens, tokens) at a batch of 3; windows of 64 tokens at a batch of 64."""
    model, images = timm.create_model(name, img_size=size, num_classes=3), torch.randn(n, 3, size, size)
    layer = "layers.0.blocks.0.attn.softmax"
    with Recorder(model, layer, transform=lambda x: x[:2, :, 0].clone()) as recorder:
        model(images)
        softmax = recorder.activations[layer]
        model(images[:2])
    assert softmax.shape[:2] == (2, 4)  # images, windows
    torch.testing.assert_close(softmax, recorder.activations[layer])


def test_arrangement_against_loops():
    """Row (j n + image) inner + k of an output goes to place (image, j, k)."""
    outer, n, inner = 2, 3, 4
    rows = torch.arange(outer * n * inner)
    found = Placement(0, outer, inner).arrange(rows, n)
    for j in range(outer):
        for image in range(n):
            for k in range(inner):
                assert found[image, j, k] == (j * n + image) * inner + k
    for wrong in (torch.zeros(7), torch.zeros(())):
        with pytest.raises(ValueError, match="does not hold a batch of 3 images"):
            Placement().arrange(wrong, 3)


def test_images_of_another_size_have_other_windows():
    model = Returns(lambda x: x.unflatten(1, (-1, 6)).flatten(0, 1))
    model.inner = nn.Identity()
    with Recorder(model, "layer") as recorder:
        for width in (12, 30, 6):
            x = torch.randn(8, width)
            model(x)
            torch.testing.assert_close(recorder.activations["layer"].flatten(1), x)


def test_a_layer_that_is_not_a_number_is_placed_all_the_same():
    """That it is no number is said later, by the comparison, with the layer's name."""
    evidence, values = Evidence(), torch.full((3, 5), float("nan"))
    evidence.see(3, values)
    assert evidence.place(3, values[:2], [1, 0]) == Placement(0)


def test_a_wide_layer_of_two_images_agrees_with_brute_force():
    torch.manual_seed(0)
    x = torch.randn(24, 6)
    model = Returns(lambda x: torch.cat([x.exp(), x.sin()]))
    result = compare(
        model, model, [x], layers1="inner", layers2="layer", device="cpu", progress=False, precision="exact"
    )
    inner = model.inner(x).detach()
    assert result.matrix.item() == pytest.approx(cka(inner, torch.cat([inner.exp(), inner.sin()], 1)), abs=1e-6)


def test_windows_that_are_constant_in_the_whole_batch_are_a_layer_without_variance():
    found, _ = recorded(lambda x: torch.ones(3 * len(x), 4), torch.randn(20, 6))
    assert torch.equal(found, torch.ones(20, 3, 4))
