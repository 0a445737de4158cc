"""Models that a comparison must not trust, and ways to run them other than ``model(images)``."""

import copy
from collections import UserDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from utilities.compare import CKA, compare
from utilities.metrics import cka


class Normalises(nn.Module):
    """Shifts and scales its images before a convolution, in place or not."""

    def __init__(self, in_place):
        super().__init__()
        self.in_place, self.conv, self.act = in_place, nn.Conv2d(3, 6, 3), nn.ReLU()

    def forward(self, x):
        if self.in_place:
            x -= 0.5
            x *= 3
        else:
            x = (x - 0.5) * 3
        return self.act(self.conv(x))


def twins():
    torch.manual_seed(0)
    writes = Normalises(True)
    clean = copy.deepcopy(writes)
    clean.in_place = False
    return writes, clean


@pytest.mark.parametrize("options", [{}, {"confounder": "input"}, {"measure": "procrustes"}, {"repeats": 2}])
def test_a_model_that_writes_into_its_images_changes_neither_them_nor_the_values(options):
    """Self-comparisons and pairs are those of the twin that does not, and the caller's tensors stay."""
    writes, clean = twins()
    images = torch.rand(24, 3, 8, 8)
    batches = DataLoader(images, 12) if "repeats" in options else list(images.split(12))
    kept, run = images.clone(), {"device": "cpu", "progress": False, "precision": "exact", **options}
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh())
    for one, two, twin1, twin2 in (
        (writes, writes, clean, clean), (writes, other, clean, other), (other, writes, other, clean),
    ):  # fmt: skip
        result, truth = compare(one, two, batches, **run), compare(twin1, twin2, batches, **run)
        np.testing.assert_allclose(result.matrix, truth.matrix, atol=1e-10)
        assert torch.equal(images, kept)


def test_a_methods_images_and_a_functions_batch_are_copies_too():
    writes, clean = twins()
    writes.encode = clean.encode = None
    images = torch.rand(16, 3, 8, 8)
    kept = images.clone()
    truth = compare(clean, clean, [images], device="cpu", progress=False).matrix
    for forward in ("forward", lambda model, batch: model(batch)):
        found = compare(writes, writes, [images], forward=forward, device="cpu", progress=False).matrix
        np.testing.assert_allclose(found, truth, atol=1e-10)
        assert torch.equal(images, kept)


class Pairs(Dataset):
    """Pictures and words, as dictionaries."""

    def __init__(self, n=32):
        generator = torch.Generator().manual_seed(0)
        self.pixels, self.words = torch.randn(n, 3, 4, 4, generator=generator), torch.arange(n) % 7

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, i):
        return {"pixel_values": self.pixels[i], "input_ids": self.words[i]}


class TwoTowers(nn.Module):
    def __init__(self):
        super().__init__()
        self.image, self.text = nn.Linear(48, 8), nn.Embedding(7, 8)

    def encode_image(self, x):
        return self.image(x.flatten(1))

    def forward(self, pixel_values, input_ids):
        return self.encode_image(pixel_values) @ self.text(input_ids).T


def test_a_model_with_several_inputs_is_run_by_a_function():
    torch.manual_seed(0)
    model, data = TwoTowers(), Pairs()
    loader = DataLoader(data, 16, collate_fn=lambda rows: UserDict(torch.utils.data.default_collate(rows)))
    run = {"device": "cpu", "progress": False, "precision": "exact"}
    result = compare(model, model, loader, forward=lambda model, batch: model(**batch), **run)
    assert result.layers1 == ["image", "text"]
    assert result.n == 32
    with torch.no_grad():
        halves = [(model.encode_image(data.pixels[k]), model.text(data.words[k])) for k in (slice(16), slice(16, 32))]
    assert result.per_batch is None
    by_batch = compare(model, model, loader, forward=lambda m, b: m(**b), per_batch=True, **run).per_batch
    np.testing.assert_allclose(by_batch[:, 0, 1], [cka(*half) for half in halves], atol=1e-6)
    # A method of the images alone, by its name, in the same loader; and each side by its own way.
    image = compare(model, model, loader, forward="encode_image", **run)
    assert image.layers1 == ["image"]
    mixed = compare(model, model, loader, forward="encode_image", forward2=lambda m, b: m(**b), **run)
    assert (mixed.layers1, mixed.layers2) == (["image"], ["image", "text"])
    np.testing.assert_allclose(mixed.matrix[0], result.matrix[0], atol=1e-10)


def test_two_loaders_with_several_inputs_are_paired_and_resumed(tmp_path):
    torch.manual_seed(0)
    model, other = TwoTowers(), TwoTowers()
    run = {"device": "cpu", "progress": False, "forward": lambda model, batch: model(**batch)}
    loader = DataLoader(Pairs(), 16)
    result = compare(model, other, loader, DataLoader(Pairs(), 16), resume=tmp_path / "sums", **run)
    np.testing.assert_allclose(result.matrix, compare(model, other, loader, **run).matrix, atol=1e-10)


def test_the_way_a_model_is_run_is_checked_first():
    model = nn.Linear(4, 4)
    model = nn.Sequential(model)
    with pytest.raises(ValueError, match="Sequential has no method 'forward_features'"):
        compare(model, model, [torch.randn(8, 4)], forward="forward_features", device="cpu")
    with pytest.raises(ValueError, match="no layer of Sequential ran"):
        compare(model, model, [torch.randn(8, 4)], forward=lambda model, batch: batch, device="cpu", progress=False)


def test_torch_ckas_calls_take_the_same_options():
    torch.manual_seed(0)
    model = TwoTowers()
    loop = CKA(model, model, "one", "two", device="cpu")
    loop.compare(DataLoader(Pairs(), 16), forward=lambda model, batch: model(**batch))
    assert loop.export()["model1_layers"] == ["image", "text"]


def test_batch_axis_reaches_the_layers():
    class Draws(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.odd = nn.Linear(4, 4), Odd()

        def forward(self, x):
            return self.odd(self.fc(x))

    torch.manual_seed(0)
    model, x = Draws(), torch.randn(24, 4)
    with pytest.raises(ValueError, match="'odd' has no row for each image"):
        compare(model, model, [x], layers1="odd", device="cpu", progress=False)
    result = compare(model, model, [x], layers1="odd", batch_axis=1, device="cpu", progress=False)
    assert result.details1["width"] == [6]  # 3 x 2 rows of each image


class Odd(nn.Module):
    """Two rows an image, none of which follows it."""

    def forward(self, x):
        return torch.rand(3, 2 * len(x)) + x.mean()


def test_a_function_given_as_view_or_confounder_may_write_into_what_it_gets():
    def halved(x):
        return x.mul_(0.5).flatten(1)

    torch.manual_seed(0)
    model, images = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 2, 3)), torch.rand(16, 3, 8, 8)
    kept, run = images.clone(), {"device": "cpu", "progress": False, "precision": "exact"}
    for option, truth in (("view", "flatten"), ("confounder", "input")):
        found = compare(model, model, [images], **{option: halved}, **run).matrix
        np.testing.assert_allclose(found, compare(model, model, [images], **{option: truth}, **run).matrix, atol=1e-6)
        assert torch.equal(images, kept)


def test_images_of_several_sizes_are_compared_where_a_view_gives_them_one_width():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh())
    batches = [torch.randn(8, 3, size, size) for size in (8, 12)]
    assert compare(model, model, batches, view="gap", device="cpu", progress=False).n == 16
    with pytest.raises(ValueError, match=r"layer '0' has 400 features, and had 144 on the batch before.*view='gap'"):
        compare(model, model, batches, device="cpu", progress=False)


def test_features_that_are_no_numbers_are_blamed_on_the_weights_that_are_none():
    torch.manual_seed(0)
    model, images = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)), torch.randn(16, 6)
    spare = copy.deepcopy(model)
    spare[2].weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"layer '2' gives NaN or infinite features; parameter '2\.weight'"):
        compare(model, spare, [images], device="cpu", progress=False)
    assert (
        compare(spare, spare, [images], layers1="0", device="cpu", progress=False).n == 16
    )  # what is compared is sound
    overflow = nn.Sequential(nn.Linear(6, 6), Squares())
    overflow[0].weight.data *= 1e30
    with pytest.raises(ValueError, match=r"layer '1' gives NaN or infinite features; look at the images' scale"):
        compare(overflow, overflow, [images], device="cpu", progress=False)


class Squares(nn.Module):
    def forward(self, x):
        return x * x - x * x


@pytest.mark.parametrize("view", ["flatten", "gap"])
def test_details_keep_the_shape_of_a_layer_whatever_the_view(view, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4 * 3 * 2, 5))
    result = compare(model, model, [torch.randn(12, 3, 8, 6)], view=view, device="cpu", progress=False)
    assert result.details1["shape"] == result.details2["shape"] == [[4, 6, 4], [4, 3, 2], [24], [5]]
    assert result.details1["width"] == ([96, 24, 24, 5] if view == "flatten" else [4, 4, 24, 5])
    assert type(result).load(result.save(tmp_path / "r")).details1 == result.details1


def test_images_of_several_sizes_have_no_one_shape():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1))
    loader = [torch.randn(12, 3, side, side) for side in (8, 6)]
    details = compare(model, model, loader, view="gap", device="cpu", progress=False).details1
    assert details["shape"] == [None, [4, 1, 1]]
