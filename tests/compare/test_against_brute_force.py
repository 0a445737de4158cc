"""Error bars, null distribution, confounder, views, other measures and precision, against brute force in float64."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from utilities.compare import CKA, Similarity, compare, join
from utilities.compare.batch_sums import MAX_BLOCKS, BatchSums
from utilities.compare.gram_matrices import first_component
from utilities.compare.measures import (
    SIMILARITY_MEASURES,
    cca,
    linear_regression,
    mutual_knn,
    procrustes,
    pwcca,
    rsa,
    svcca,
)
from utilities.hooks.calls.batch_lists import reshuffled
from utilities.metrics import center, cka, gram
from utilities.zoo import comparison_layers, create_model

FUNCTIONS = {"procrustes": procrustes, "cca": cca, "svcca": svcca, "pwcca": pwcca,
             "linear_regression": linear_regression, "rsa": rsa, "mutual_knn": mutual_knn}  # fmt: skip


class Mix(nn.Module):
    """Two layers of features of known relation: ``one`` is linear in the input, ``two`` a noisy function of it."""

    def __init__(self, seed=0, width=12, inputs=8):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.one, self.two = nn.Linear(inputs, width), nn.Linear(width, width)
        for layer in (self.one, self.two):
            layer.weight.data = torch.randn(layer.weight.shape, generator=generator)
            layer.bias.data.zero_()

    def forward(self, x):
        return self.two(self.one(x).tanh())


def data(n=96, inputs=8, seed=0):
    return torch.randn(n, inputs, generator=torch.Generator().manual_seed(seed))


def features(model, x):
    with torch.no_grad():
        one = model.double().one(x.double())
        two = model.two(one.tanh())
    model.float()
    return one, two


def batches(x, size):
    return list(x.split(size))


def run(*arguments, **options):
    return compare(*arguments, device="cpu", precision="exact", progress=False, **options)


def test_jackknife_equals_leaving_out_each_batch():
    one, two, x = Mix(0), Mix(1), data(100)
    parts = batches(x, 20)
    result = run(one, two, parts)
    without = np.stack([run(one, two, parts[:i] + parts[i + 1 :]).matrix for i in range(5)])
    expected = np.sqrt(4 / 5 * ((without - without.mean(0)) ** 2).sum(0))
    np.testing.assert_allclose(result.stderr, expected, rtol=1e-6, atol=1e-9)
    assert run(one, two, parts[:1]).stderr is None


def test_jackknife_of_unequal_batches_is_near_that_of_equal_ones():
    one, two, x = Mix(0), Mix(1), data(1016)
    equal, unequal = run(one, two, batches(x[:1000], 50)), run(one, two, batches(x, 50))
    np.testing.assert_allclose(unequal.stderr, equal.stderr, rtol=0.15, atol=1e-9)


def test_the_standard_error_is_the_spread_over_fresh_images():
    """40 samples of 10 batches: spread and mean estimate have a relative error of 11 and 4 %, 40 % is 3 of them."""
    one, two = Mix(0), Mix(1)
    results = [run(one, two, batches(data(320, seed=seed), 32)) for seed in range(40)]
    spread = np.std([r.matrix for r in results], axis=0, ddof=1)
    np.testing.assert_allclose(np.mean([r.stderr for r in results], axis=0), spread, rtol=0.4)


def test_memory_does_not_grow_with_the_number_of_batches():
    one, parts = Mix(), batches(data(1200), 6)
    result = run(one, one, parts)
    assert result.n == 1200
    sums = BatchSums()
    for index in range(1000):
        sums.add(index, 4, [torch.ones(2, 3), torch.ones(2), torch.ones(3)])
    assert len(sums.blocks) <= MAX_BLOCKS
    assert sums.totals()[0].tolist() == [[1000.0] * 3] * 2
    assert sum(block[3] for block in sums.blocks.values()) == sums.n == 4000


@pytest.mark.parametrize("widths", [(5, 12), (12, 5)])
def test_the_null_is_that_of_permuted_rows(widths):
    """Either side may be the one that is permuted: the sum over all pairs is the same for the inverse order."""
    x = data(24)
    one, two = Mix(0, widths[0]), Mix(1, widths[1])
    layers = {"layers1": ["one"], "layers2": ["one", "two"]} if widths[0] < widths[1] else {}
    result = run(one, two, [x], permutations=50, seed=3, **layers)
    rows = dict(zip(("one", "two"), features(one, x), strict=True))
    columns = dict(zip(("one", "two"), features(two, x), strict=True))
    generator = np.random.default_rng([3, 0])
    orders = [generator.permutation(24) for _ in range(50)]
    if len(result.layers1) < len(result.layers2):
        expected = [
            [np.mean([cka(rows[a][o], columns[b]) for o in orders]) for b in result.layers2] for a in result.layers1
        ]
    else:
        expected = [
            [np.mean([cka(rows[a], columns[b][o]) for o in orders]) for b in result.layers2] for a in result.layers1
        ]
    np.testing.assert_allclose(result.null_mean, expected, atol=1e-5)  # products in float32
    assert result.p_value.min() == pytest.approx(1 / 51)


def test_p_values_of_unrelated_images_are_uniform():
    """100 pairs of independent features: about 10 have p <= 0.1, with a standard deviation of 3."""
    one = Mix()
    values = [
        run(one, one, [data(32, seed=s)], [data(32, seed=1000 + s)], permutations=99, layers1="one").p_value.item()
        for s in range(100)
    ]
    assert 1 <= np.sum(np.array(values) <= 0.1) <= 21
    assert abs(np.mean(values) - 0.5) < 0.1


def test_the_null_does_not_depend_on_the_batches_of_other_processes():
    x = data(64)
    whole = run(Mix(0), Mix(1), batches(x, 16), permutations=10)
    again = run(Mix(0), Mix(1), batches(x, 16), permutations=10)
    np.testing.assert_array_equal(whole.null_mean, again.null_mean)
    assert not np.allclose(whole.null_mean, run(Mix(0), Mix(1), batches(x, 16), permutations=10, seed=1).null_mean)


def test_confounder_is_regressed_out_of_both_grams():
    x = data(40)
    one, two = Mix(0), Mix(1)
    result = run(one, two, [x], confounder="input")
    K0 = center(gram(x))
    expected = np.empty((2, 2))
    residuals = [[center(gram(f)) for f in features(model, x)] for model in (one, two)]
    residuals = [[K - (K * K0).sum() / (K0 * K0).sum() * K0 for K in side] for side in residuals]
    for i, K in enumerate(residuals[0]):
        for j, L in enumerate(residuals[1]):
            expected[i, j] = (K * L).sum() / ((K * K).sum() * (L * L).sum()).sqrt()
    np.testing.assert_allclose(result.matrix, expected, atol=1e-5)
    assert result.layers1 == ["one", "two"]
    assert result.matrix[0, 0] < run(one, two, [x]).matrix[0, 0] - 0.2  # both are linear in the input
    by_function = run(one, two, [x], confounder=lambda images: images * 3 + 1)
    np.testing.assert_allclose(by_function.matrix, result.matrix, atol=1e-5)


def test_what_the_confounder_explains_in_full_is_missing_and_the_null_is_permuted_residuals():
    x = data(40)
    rotation = Mix(0, width=8)
    rotation.one.weight.data = 2 * torch.linalg.qr(torch.randn(8, 8)).Q
    with pytest.warns(UserWarning, match="shown as missing: one"):
        result = run(rotation, Mix(1), [x], confounder="input", permutations=200)
    assert np.isnan(result.matrix[0]).all()
    assert np.isnan(result.p_value[0]).all()
    assert abs(result.null_mean[1]).max() < 0.05
    K0, order = center(gram(x)), np.random.default_rng([0, 0]).permutation(40)
    L, K = (center(gram(features(model, x)[1])) for model in (Mix(1), Mix(2)))
    K, L = (G - (G * K0).sum() / (K0 * K0).sum() * K0 for G in (K, L))
    value = (K * L[order][:, order]).sum() / ((K * K).sum() * (L * L).sum()).sqrt()
    one_order = run(Mix(2), Mix(1), [x], confounder="input", permutations=1).null_mean
    assert one_order[1, 1] == pytest.approx(value.item(), abs=1e-4)


def test_the_leading_component_is_removed():
    x = data(64)
    one, two = Mix(0), Mix(1)
    result = run(one, two, [x], remove_top_pc=2)

    def reduced(f):
        u, s, v = torch.linalg.svd(f - f.mean(0), full_matrices=False)
        return (u[:, 2:] * s[2:]) @ v[2:]

    expected = [[cka(reduced(a), reduced(b)) for b in features(two, x)] for a in features(one, x)]
    np.testing.assert_allclose(result.matrix, expected, atol=1e-5)


def test_the_report_names_the_dominant_image_and_the_first_component():
    x = data(60)
    x[43] *= 100
    result = run(Mix(), Mix(), batches(x, 20))
    report = result.report()
    assert report.loc[(1, "one"), "dominant_image"] == 43
    assert report.loc[(1, "one"), "dominant_share"] > 0.9
    assert report.loc[(2, "two"), "width"] == 12
    assert not report["wider_than_batch"].any()
    f = features(Mix(), x)[0]
    shares = []
    for part in f.split(20):
        values = torch.linalg.eigvalsh(gram(part - part.mean(0)))
        shares.append((values[-1] / values.sum()).item())
    assert report.loc[(1, "one"), "first_component"] == pytest.approx(np.mean(shares), rel=0.02)


def test_power_iteration_is_a_close_bound_from_below():
    f = torch.randn(10, 50, 20).double() * torch.linspace(1, 3, 20)
    grams = f @ f.mT
    values = torch.linalg.eigvalsh(grams)
    exact, found = values[:, -1] / values.sum(1), first_component(grams)
    assert (found <= exact + 1e-12).all()
    assert (found > 0.9 * exact).all()


def test_biased_estimates_of_wide_layers_are_warned_of():
    with pytest.warns(UserWarning, match="4 layers are wider than the 10 images"):
        run(Mix(), Mix(), batches(data(40), 10), estimator="biased")


@pytest.mark.parametrize("name", list(SIMILARITY_MEASURES))
def test_measures_are_those_of_the_functions(name):
    x, one, two = data(60), Mix(0), Mix(1, width=9)
    result = run(one, two, [x], measure=name)
    function = FUNCTIONS[name]
    expected = [[function(a, b) for b in features(two, x)] for a in features(one, x)]
    np.testing.assert_allclose(result.matrix, expected, atol=2e-4)  # ranks and neighbours turn on float32 rounding
    parts = run(one, two, batches(x, 30), measure=name)
    halves = [run(one, two, [part], measure=name).matrix for part in batches(x, 30)]
    np.testing.assert_allclose(parts.matrix, np.mean(halves, axis=0), atol=1e-12)
    np.testing.assert_allclose(parts.stderr, np.std(halves, axis=0, ddof=1) / 2**0.5, atol=1e-12)
    assert parts.provenance["measure"] == SIMILARITY_MEASURES[name].title


def test_meaningless_measures_are_refused_naming_layer_and_reason():
    with pytest.raises(ValueError, match=r"layer 'one': with 40 features of 30 images"):
        run(Mix(width=40), Mix(), [data(30)], measure="cca")
    with pytest.raises(ValueError, match="permutations goes with measure='cka' only"):
        run(Mix(), Mix(), [data(30)], measure="rsa", permutations=10)
    with pytest.raises(ValueError, match="'ckas' is not known"):
        run(Mix(), Mix(), [data(30)], measure="ckas")


def test_repeats_shuffle_anew_and_keep_the_jackknifes_error():
    loader = DataLoader(data(120), batch_size=20)
    once, result = run(Mix(0), Mix(1), loader), run(Mix(0), Mix(1), loader, repeats=4)
    assert result.replicates.shape == (4, 2, 2)
    np.testing.assert_allclose(result.matrix, result.replicates.mean(0))
    assert (np.ptp(result.replicates, axis=0)[0, 1]) > 1e-4
    each = [run(Mix(0), Mix(1), reshuffled(loader, seed)).stderr for seed in range(4)]
    np.testing.assert_allclose(result.stderr, np.sqrt(np.mean(np.square(each), axis=0)))
    np.testing.assert_allclose(result.matrix, once.matrix, atol=4 * once.stderr.max())
    with pytest.raises(ValueError, match="repeats need a DataLoader"):
        run(Mix(0), Mix(1), batches(data(40), 20), repeats=2)


def test_several_models_give_mean_and_error_over_pairs():
    ones, twos, parts = [Mix(0), Mix(1), Mix(2)], [Mix(3), Mix(4), Mix(5)], batches(data(60), 20)
    result = run(ones, twos, parts)
    each = np.stack([run(a, b, parts).matrix for a, b in zip(ones, twos, strict=True)])
    np.testing.assert_allclose(result.matrix, each.mean(0))
    np.testing.assert_allclose(result.stderr, each.std(0, ddof=1) / 3**0.5)
    with pytest.raises(ValueError, match="pair by pair, but there are 3 and 2"):
        run(ones, twos[:2], parts)


def test_per_batch_values_are_those_of_each_batch_alone():
    parts = batches(data(60), 20)
    result = run(Mix(0), Mix(1), parts, per_batch=True)
    each = [run(Mix(0), Mix(1), [part]).matrix for part in parts]
    np.testing.assert_allclose(result.per_batch, each, atol=1e-7)


def test_parts_of_the_layers_join_to_the_whole():
    parts = batches(data(60), 20)
    whole = run(Mix(0), Mix(1), parts, permutations=5)
    pieces = [
        run(Mix(0), Mix(1), parts, layers1=a, layers2=b, permutations=5) for a in ("one", "two") for b in ("one", "two")
    ]
    joined = join(pieces)
    np.testing.assert_allclose(joined.matrix, whole.matrix, atol=1e-9)
    np.testing.assert_allclose(joined.stderr, whole.stderr, atol=1e-9)
    pd.testing.assert_frame_equal(joined.report(), whole.report())
    with pytest.raises(ValueError, match="1 pairs are missing, 'two' x 'two'"):
        join(pieces[:3])
    with pytest.raises(ValueError, match="given more than once"):
        join([*pieces, pieces[0]])
    with pytest.raises(ValueError, match="different batch_size"):
        join([pieces[0], run(Mix(0), Mix(1), batches(data(60), 30), layers1="one", layers2="two")])


def test_views_reach_each_side():
    model = create_model("vit_tiny_patch2_16", 10, seed=0).eval()
    images = torch.randn(30, 3, 16, 16)
    result = run(model, model, [images], layers1="blocks.0", layers2="blocks.0", view="cls", view2="gap")
    tokens = {}
    model.blocks[0].register_forward_hook(lambda module, args, output: tokens.update(x=output.clone()))
    with torch.inference_mode():
        model(images)
    assert result.matrix.item() == pytest.approx(cka(tokens["x"][:, 0], tokens["x"][:, 1:].mean(1)), abs=1e-5)
    assert (result.provenance["view1"], result.provenance["view2"]) == ("cls", "gap")
    with pytest.raises(ValueError, match="'clss'"):
        run(model, model, [images], view="clss")


@pytest.mark.parametrize("name", ["resnet18", "lambda_resnet26"])
def test_fast_is_near_exact_and_leaves_the_model_as_it_was(name):
    model = create_model(name, 10, seed=0)
    layers = comparison_layers(model)[:6]
    state = {key: (value.clone(), value.stride(), value.dtype) for key, value in model.state_dict().items()}
    images = torch.randn(64, 3, 16, 16)
    options = {"layers1": layers, "device": "cpu", "progress": False}
    exact, fast, half = (compare(model, model, [images], precision=p, **options) for p in ("exact", "fast", "half"))
    assert fast.report()["width"].max() > 4096
    np.testing.assert_allclose(fast.matrix, exact.matrix, atol=1e-3)
    np.testing.assert_allclose(half.matrix, exact.matrix, atol=2e-2)
    assert fast.provenance["precision"]["channels_last"] is (name == "resnet18")
    assert model.training
    for key, value in model.state_dict().items():
        before, stride, dtype = state[key]
        assert torch.equal(value, before)
        assert (value.stride(), value.dtype) == (stride, dtype)
    assert images.is_contiguous()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_model_that_views_its_activations_is_run_in_its_own_layout():
    class Viewer(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(64, 3)

        def forward(self, x):
            x = self.two(self.one(x))
            return self.fc(x.view(x.size(0), -1))

    result = compare(*[Viewer()] * 2, [torch.randn(16, 3, 8, 8)], device="cpu", progress=False)
    assert result.layers1 == ["one", "two", "fc"]
    assert result.provenance["precision"]["channels_last"] is False


def test_exact_is_exact():
    one, two = (create_model("resnet18", 10, seed=seed) for seed in (0, 1))
    images = torch.randn(48, 3, 16, 16)
    layers = [name for name in comparison_layers(one) if name.startswith(("bn1", "layer1", "fc"))]
    options = {"layers1": layers, "layers2": layers, "device": "cpu", "progress": False, "precision": "exact"}
    single = compare(one, two, [images], **options)
    double = compare(copy.deepcopy(one).double(), copy.deepcopy(two).double(), [images.double()], **options)
    np.testing.assert_allclose(single.matrix, double.matrix, atol=1e-5)


def test_half_precision_weights_and_unknown_precisions():
    model = Mix().bfloat16()
    result = compare(model, model, [data(32).bfloat16()], device="cpu", progress=False)
    np.testing.assert_allclose(result.matrix.diagonal(), 1)
    with pytest.raises(ValueError, match="'float32' is not known"):
        compare(model, model, [data(32)], precision="float32")


def test_torch_cka_users_change_one_import():
    """The example of that package's README, at a small size."""
    model1, model2 = create_model("resnet18", 10, seed=0), create_model("resnet34", 10, seed=0)
    dataloader = DataLoader([(image, 0) for image in torch.randn(24, 3, 16, 16)], batch_size=12, shuffle=False)
    cka = CKA(
        model1,
        model2,
        model1_name="ResNet18",
        model2_name="ResNet34",
        model1_layers=["layer1.0.relu1", "fc"],
        model2_layers=["bn1", "layer1", "fc"],
        device="cpu",
    )
    with pytest.raises(RuntimeError, match="call compare"):
        cka.export()
    cka.compare(dataloader)
    results = cka.export()
    assert (results["model1_name"], results["model2_name"]) == ("ResNet18", "ResNet34")
    assert results["model2_layers"] == ["bn1", "layer1", "fc"]
    assert results["CKA"].shape == (2, 3)
    options = {"layers1": results["model1_layers"], "layers2": results["model2_layers"], "device": "cpu"}
    np.testing.assert_array_equal(results["CKA"], compare(model1, model2, dataloader, **options).matrix)
    figure = cka.plot_results(title="one")
    assert figure.axes[0].get_title() == "one"
    assert isinstance(cka.result, Similarity)
    with pytest.warns(UserWarning, match="3 and 2 batches"):
        cka.compare(DataLoader(torch.randn(36, 3, 16, 16), 12), DataLoader(torch.randn(24, 3, 16, 16), 12))
    assert cka.result.n == 24


def test_models_of_different_precision_can_be_compared():
    x = torch.randn(40, 8)

    class Double(Mix):
        def forward(self, x):
            return super().forward(x.double())

    one, two = Mix(0), Double(0).double()
    result = compare(one, two, [x], device="cpu", progress=False)
    np.testing.assert_allclose(result.matrix.diagonal(), 1, atol=1e-5)


def test_more_components_than_there_are_leave_nothing():
    with pytest.raises(ValueError, match="40 components cannot be taken out of a batch of 32 images"):
        run(Mix(), Mix(), [data(32)], remove_top_pc=40)
    with pytest.warns(UserWarning, match="shown as missing: one, two"):
        result = run(Mix(0, width=4), Mix(1), [data(32)], remove_top_pc=4)
    assert np.isnan(result.matrix).all()


def test_a_model_that_keeps_a_tensor_can_be_trained_afterwards():
    class Keeper(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.places = nn.Linear(8, 8), None

        def forward(self, x):
            if self.places is None:
                self.places = torch.arange(8.0)
            return (self.one(x) * self.places).sum()

    model = Keeper()
    run(model, model, [data(16)])
    model(data(4)).backward()
    assert model.one.weight.grad.abs().sum() > 0


def test_models_that_take_whole_batches_or_other_types_or_run_no_layer():
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(8, 8)

        def forward(self, x):
            return self.one(x).view(32, 8)

    assert run(Whole(), Whole(), [data(32)]).n == 32
    half = nn.Sequential(nn.Linear(8, 6), nn.ReLU()).half()
    assert run(half, half, [data(32)]).layers1 == ["0", "1"]
    silent = Mix()
    silent.forward = lambda x: nn.functional.linear(x, silent.one.weight)
    with pytest.raises(ValueError, match="no layer of Mix ran"):
        run(silent, silent, [data(32)])
    with pytest.raises(ValueError, match="Linear is a layer without submodules"):
        run(nn.Linear(8, 3), nn.Linear(8, 3), [data(32)])


def test_bad_input_is_named():
    spoilt = data(32)
    spoilt[3, 2] = float("nan")
    with pytest.raises(ValueError, match="the images of batch 0 hold NaN"):
        run(Mix(), Mix(), [spoilt])
    broken = Mix()
    broken.two.weight.data[0] = float("nan")
    with pytest.raises(ValueError, match="'two' gives NaN"):
        run(broken, broken, [data(32)], measure="procrustes")
    for options in ({"permutations": 2.5}, {"remove_top_pc": -1}, {"seed": -1}):
        with pytest.raises(ValueError, match="should be a whole number, 0 or more"):
            run(Mix(), Mix(), [data(32)], **options)
    with pytest.raises(ValueError, match="the kernel is linear"):
        run(Mix(), Mix(), [data(32)], sigma=2.0)
    with pytest.raises(ValueError, match=r"kernel='rbf' goes with measure='cka' only"):
        run(Mix(), Mix(), [data(32)], measure="rsa", kernel="rbf")
    with pytest.raises(ValueError, match=r"a row for each of 32 images, not \(5, 8\)"):
        run(Mix(), Mix(), [data(32)], confounder=lambda images: images[:5])
    with pytest.raises(ValueError, match="confounder has no variance"):
        run(Mix(), Mix(), [data(32)], confounder=lambda images: torch.ones(len(images)))
    with pytest.raises(ValueError, match="models of one side should have the same layers"):
        run([Mix(), nn.Sequential(nn.Linear(8, 3))], [Mix(), Mix()], [data(32)])
    with pytest.warns(UserWarning, match="both loaders shuffle, each by itself"):
        run(Mix(), Mix(), *[DataLoader(data(32), 16, shuffle=True) for _ in range(2)])
    with pytest.warns(UserWarning, match="one loader has more batches than the other"):
        run(Mix(), Mix(), iter(batches(data(48), 16)), iter(batches(data(32), 16)))


def test_parts_of_other_models_or_options_do_not_join():
    one, two = (run(Mix(), Mix(), [data(32)], layers1=name, provenance={"model1": name}) for name in ("one", "two"))
    with pytest.raises(ValueError, match="different model1"):
        join([one, two])
    bare = run(Mix(), Mix(), [data(32)], layers1="two", remove_top_pc=1, provenance={"model1": "one"})
    with pytest.raises(ValueError, match="different remove_top_pc"):
        join([one, bare])
