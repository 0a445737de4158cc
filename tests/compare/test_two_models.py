"""The streamed comparison against a brute-force float64 twin, and against what spoils it elsewhere."""

import copy
import warnings
from collections import OrderedDict

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from utilities.compare import Similarity, average, compare
from utilities.metrics import cka


def small_cnn(seed=0, width=6):
    torch.manual_seed(seed)
    layers = OrderedDict(
        conv=nn.Conv2d(3, width, 3, padding=1),
        bn=nn.BatchNorm2d(width),
        relu=nn.ReLU(inplace=True),
        pool=nn.AdaptiveAvgPool2d(2),
        flat=nn.Flatten(),
        fc=nn.Linear(4 * width, 5),
    )
    return nn.Sequential(layers)


def loader(images, batch, **options):
    return DataLoader(TensorDataset(images, torch.zeros(len(images))), batch, **options)


def features(model, images):
    """Every layer's output in float64, without hooks: each layer called on a copy of its input."""
    found, x = {}, images.double()
    model = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        for name, layer in model.named_children():
            x = layer(x.clone())
            found[name] = x.clone()
    return found


def brute_force(model1, model2, images, **options):
    rows, columns = features(model1, images), features(model2, images)
    return np.array([[cka(x, y, **options) for y in columns.values()] for x in rows.values()])


@pytest.mark.parametrize("options", [{}, {"estimator": "biased"}, {"kernel": "rbf", "bandwidth": 0.5}])
def test_one_batch_equals_brute_force_float64(options):
    images = torch.randn(48, 3, 8, 8)
    one, two = small_cnn(0), small_cnn(1, width=9)
    result = compare(one, two, loader(images, 48), device="cpu", **options)
    # float32 features and Grams: relative rounding of 1e-6 or less for each HSIC
    np.testing.assert_allclose(result.matrix, brute_force(one, two, images, **options), atol=1e-5)
    assert result.matrix.dtype == np.float64
    assert result.layers1 == ["conv", "bn", "relu", "pool", "flat", "fc"]
    assert result.n == 48


def test_float64_models_are_compared_in_float64():
    images = torch.randn(32, 3, 8, 8, dtype=torch.float64)
    model = small_cnn().double()
    result = compare(model, model, loader(images, 32), device="cpu")
    np.testing.assert_allclose(result.matrix, brute_force(model, model, images), atol=1e-12)


def test_batches_are_summed_before_dividing_and_pairs_weigh_the_same():
    """HSIC sums over batches of 20, 20 and 8, written out."""
    images = torch.randn(48, 3, 8, 8)
    one, two = small_cnn(0), small_cnn(1)
    x, y = features(one, images)["relu"].flatten(1), features(two, images)["fc"].flatten(1)
    cross = own1 = own2 = 0.0
    from utilities.metrics import gram, hsic

    for part in (slice(0, 20), slice(20, 40), slice(40, 48)):
        K, L, n = gram(x[part]), gram(y[part]), len(x[part])
        cross += n * (n - 3) * hsic(K, L)
        own1 += n * (n - 3) * hsic(K, K)
        own2 += n * (n - 3) * hsic(L, L)
    result = compare(one, two, loader(images, 20), layers1="relu", layers2="fc", device="cpu")
    assert result.matrix.item() == pytest.approx(cross / (own1 * own2) ** 0.5, abs=1e-5)


@pytest.mark.parametrize("batch", [16, 64, 256])
def test_minibatches_agree_with_full_data(batch):
    """Planted shared latent: the debiased minibatch value is that of the full data at any size of batch.

    The standard error of the minibatch estimate here is about 0.004 at batch 16; biased, averaged over batches
    of 16, the same data give 0.99 instead of 0.58.
    """
    z, p = torch.randn(2048, 300), 300
    x = torch.cat([z + 0.85 * torch.randn_like(z), z + 0.85 * torch.randn_like(z)], 1)
    halves = [Half(0, p), Half(p, 2 * p)]
    full = cka(x[:, :p], x[:, p:])
    minibatch = compare(*halves, loader(x, batch), layers1="take", layers2="take", device="cpu").matrix.item()
    assert minibatch == pytest.approx(full, abs=0.02)


class Half(nn.Module):
    def __init__(self, start, stop):
        super().__init__()
        self.take = Take(start, stop)

    def forward(self, x):
        return self.take(x)


class Take(nn.Module):
    def __init__(self, start, stop):
        super().__init__()
        self.columns = slice(start, stop)

    def forward(self, x):
        return x[:, self.columns]


def test_self_comparison_runs_once_and_has_diagonal_one():
    model, passes = small_cnn(), []
    model.register_forward_hook(lambda *_: passes.append(1))
    result = compare(model, model, loader(torch.randn(60, 3, 8, 8), 20), device="cpu")
    assert len(passes) == 3 + 2  # three batches, and two passes of a few images
    np.testing.assert_allclose(result.matrix.diagonal(), 1, atol=1e-12)
    np.testing.assert_allclose(result.matrix, result.matrix.T, atol=1e-12)


def test_one_object_equals_two_equal_objects():
    model, data = small_cnn(), loader(torch.randn(60, 3, 8, 8), 20)
    same = compare(model, model, data, layers1="conv", layers2=["relu", "fc"], device="cpu")
    twins = compare(model, copy.deepcopy(model), data, layers1="conv", layers2=["relu", "fc"], device="cpu")
    assert same.matrix.shape == (1, 2)
    np.testing.assert_allclose(same.matrix, twins.matrix, atol=1e-12)


def test_in_place_relu_does_not_change_the_batch_norm_before_it():
    """Tools that keep a reference report CKA(bn, relu) = 1."""
    model, images = small_cnn(), torch.randn(64, 3, 8, 8)
    result = compare(model, model, loader(images, 64), layers1="bn", layers2="relu", device="cpu")
    assert result.matrix.item() < 0.97
    assert result.matrix.item() == pytest.approx(brute_force(model, model, images)[1, 2], abs=1e-5)


def test_rows_are_labelled_in_the_order_of_execution():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.last(self.first(x).sin())

    model, x = Backwards(), torch.randn(64, 8)
    target = Half(0, 8)
    result = compare(model, target, loader(x, 64), device="cpu")
    assert result.layers1 == ["first", "last"]
    with torch.no_grad():
        first = model.first(x)
        expected = [cka(first, x), cka(model.last(first.sin()), x)]
    assert abs(expected[0] - expected[1]) > 0.05
    np.testing.assert_allclose(result.matrix[:, 0], expected, atol=1e-5)


def test_a_shared_module_gives_one_row_for_each_call():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix, self.relu = nn.Linear(8, 8), nn.ReLU(inplace=True)

        def forward(self, x):
            return self.relu(self.mix(self.relu(self.mix(x))))

    result = compare(*[Shared()] * 2, loader(torch.randn(32, 8), 32), layers1="relu", device="cpu")
    assert result.layers1 == ["relu", "relu#2"]
    assert result.matrix[0, 1] < 0.999


def test_a_layer_without_variance_is_missing_and_named():
    model = small_cnn()
    model.bn.weight.data.zero_()
    model.bn.bias.data.fill_(0.3)
    data = loader(torch.randn(40, 3, 8, 8), 20)
    with pytest.warns(UserWarning, match=r"without variance.*missing: bn, relu, pool, flat, fc"):
        result = compare(model, model, data, device="cpu")
    assert np.isnan(result.matrix[1:]).all()
    assert np.isnan(result.matrix[:, 1:]).all()
    assert result.matrix[0, 0] == pytest.approx(1)


def test_ill_conditioned_features():
    """A mean 10⁴ times the spread changes nothing but the rounding of the input itself, 5e-4 of the spread."""
    x, options = torch.randn(128, 16), {"layers1": "take", "layers2": "take", "device": "cpu"}
    near, far = (compare(m, Half(0, 8), loader(x, 64), **options).matrix.item() for m in (Half(4, 16), Far()))
    assert far == pytest.approx(near, abs=2e-4)


class Far(nn.Module):
    def __init__(self):
        super().__init__()
        self.take = Take(4, 16)
        self.take.register_forward_hook(lambda module, args, output: output + 1e4)

    def forward(self, x):
        return self.take(x)


def test_the_models_are_left_as_they_were():
    model = small_cnn().train()
    model.fc.eval()
    state = copy.deepcopy(model.state_dict())
    compare(model, small_cnn(1), loader(torch.randn(16, 3, 8, 8), 8), device="cpu")
    assert model.training
    assert not model.fc.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_a_small_tail_is_left_out_with_a_warning():
    model, images = small_cnn(), torch.randn(43, 3, 8, 8)
    with pytest.warns(UserWarning, match="3 images left out"):
        result = compare(model, model, loader(images, 20), device="cpu")
    assert result.n == 40
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = compare(model, model, loader(images[:40], 20), device="cpu")
    np.testing.assert_array_equal(result.matrix, whole.matrix)


@pytest.mark.parametrize(
    "data",
    [loader(torch.randn(40, 3, 8, 8), 3), loader(torch.randn(3, 3, 8, 8), 20), [torch.randn(3, 3, 8, 8)] * 2, []],
)
def test_a_loader_without_a_batch_of_four_is_refused_before_any_work(data):
    model, passes = small_cnn(), []
    model.register_forward_hook(lambda *_: passes.append(1))
    with pytest.raises(ValueError, match=r"4 (images )?or more"):
        compare(model, model, data, device="cpu")
    assert not passes


def test_errors_come_before_the_long_work():
    model, passes = small_cnn(), []
    model.spare = nn.Linear(1, 1)
    model.forward = lambda x: passes.append(len(x)) or model.fc(model.flat(model.pool(model.conv(x))))
    images = loader(torch.randn(64, 3, 8, 8), 64)
    with pytest.raises(ValueError, match=r"did not run.*bn"):
        compare(model, model, images, layers1=["conv", "bn"], device="cpu")
    assert max(passes) < 10
    assert compare(model, model, images, device="cpu").layers1 == ["conv", "pool", "flat", "fc"]
    with pytest.raises(ValueError, match="'fcc' is not in Sequential; close: fc"):
        compare(model, model, images, layers1="fcc", device="cpu")
    with pytest.raises(ValueError, match="'unbiased' is not known"):
        compare(model, model, images, estimator="unbiased", device="cpu")


def test_features_that_are_not_finite_are_an_error_that_names_the_layer():
    model = small_cnn()
    model.bn.running_var.fill_(float("nan"))
    with pytest.raises(ValueError, match="'bn' gives NaN or infinite"):
        compare(model, model, loader(torch.randn(16, 3, 8, 8), 16), device="cpu")


@pytest.mark.filterwarnings("ignore:the loaders have")
def test_two_loaders_are_paired_and_cut_to_the_shorter():
    model, images = small_cnn(), torch.randn(60, 3, 8, 8)
    with pytest.warns(UserWarning, match="3 and 2 batches"):
        result = compare(model, model, loader(images, 20), loader(images[:40], 20), layers1="conv", device="cpu")
    assert result.n == 40
    assert result.matrix.item() == pytest.approx(1)
    with pytest.raises(ValueError, match="20 and 30 images"):
        compare(model, model, loader(images, 20), loader(images, 30), device="cpu", progress=False)


def test_average_gives_mean_spread_and_standard_error():
    results = [Similarity(np.full((1, 2), v), ["a"], ["b", "c"], 10) for v in (0.1, 0.2, 0.6)]
    mean = average(results)
    np.testing.assert_allclose(mean.matrix, 0.3)
    np.testing.assert_allclose(mean.stderr, np.std([0.1, 0.2, 0.6], ddof=1) / 3**0.5)
    assert mean.replicates.shape == (3, 1, 2)
    with pytest.raises(ValueError, match="same layers"):
        average([results[0], Similarity(np.zeros((1, 2)), ["a"], ["b", "d"], 10)])
    with pytest.raises(ValueError, match="two results or more"):
        average(results[:1])


def test_a_result_survives_saving(tmp_path):
    model = small_cnn()
    result = compare(model, model, loader(torch.randn(32, 3, 8, 8), 16), device="cpu", provenance={"accuracy": 0.5})
    again = Similarity.load(result.save(tmp_path / "deep" / "result.v1"))
    np.testing.assert_array_equal(again.matrix, result.matrix)
    assert (again.layers1, again.n, again.provenance) == (result.layers1, result.n, result.provenance)
    assert again.provenance["accuracy"] == 0.5
    assert {p.name for p in (tmp_path / "deep").iterdir()} == {"result.v1.npz", "result.v1.json"}


def test_damaged_results_are_named(tmp_path):
    path = Similarity(np.eye(2), ["a", "b"], ["a", "b"], 10).save(tmp_path / "result")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"result.npz or its json file is damaged"):
        Similarity.load(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"result.npz is missing"):
        Similarity.load(path)
    with pytest.raises(ValueError, match="2 and 1 layer names"):
        Similarity(np.eye(2), ["a", "b"], ["a"], 10)


@pytest.mark.parametrize(
    ("name", "layers", "folded"),
    [
        ("swin_tiny_patch4_window7_224", ["layers.0.blocks.0.attn", "layers.3"], "layers.0.blocks.0.attn"),
        ("levit_128s", ["stages.0.blocks.0.attn.qkv.bn", "stages.2"], "stages.0.blocks.0.attn.qkv.bn"),
    ],
)
def test_windows_and_flattened_tokens_of_real_models_are_one_row_an_image(name, layers, folded):
    """Swin's windows and LeViT's tokens come as batch times something: comparing those rows compares no images."""
    model, images = timm.create_model(name).eval(), torch.randn(8, 3, 224, 224)
    result = compare(model, model, [images], layers1=layers, device="cpu")
    outputs = {}
    model.get_submodule(folded).register_forward_hook(lambda module, args, out: outputs.update(x=out.clone()))
    with torch.inference_mode():
        alone = torch.stack([(model(image[None]), outputs["x"].flatten())[1] for image in images])
        whole = (model(images), outputs["x"])[1]
    assert len(whole) > len(images)
    # Row i of the folded tensor belongs to image i; float32 kernels differ by the size of the batch.
    torch.testing.assert_close(whole.reshape(8, -1), alone, atol=1e-4, rtol=1e-4)
    assert result.layers1 == layers
    assert result.n == 8
