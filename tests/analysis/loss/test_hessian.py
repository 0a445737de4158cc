"""Hessian eigenvalues: against dense matrices, and what theory says of shifts, blocks, batches and permutations."""

import copy
import warnings

import numpy as np
import pytest
import torch
from curvlinops import HessianLinearOperator
from scipy.sparse.linalg import aslinearoperator
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from utilities.analysis.loss.curvature import Hessian, Objective
from utilities.analysis.loss.eigenvalues import extreme_eigenpairs, hutchinson, shifted
from utilities.analysis.loss.hessian import (
    HessianSpectra,
    average_positive,
    hessian_spectra,
    negative_proportion,
    over_training,
)
from utilities.analysis.loss.mini_batches import mini_batches
from utilities.datasets import load_dataset, make_loader
from utilities.results.statistics import jackknife
from utilities.zoo.vit import vit_tiny_patch2_16

DOUBLE = {"dtype": "float64", "device": "cpu", "tolerance": 1e-10}


def mlp(width=5, batch_norm=False):
    norm = nn.BatchNorm1d(width) if batch_norm else nn.Identity()
    return nn.Sequential(nn.Flatten(), nn.Linear(4, width), norm, nn.Tanh(), nn.Linear(width, 3))


def batch(n=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1, 2, 2, generator=generator), torch.randint(3, (n,), generator=generator)


def dense(model, images, labels, loss=F.cross_entropy, hessian=torch.autograd.functional.hessian):
    """The Hessian of all parameters in float64, by torch's own second derivatives, one row at a time."""
    model = copy.deepcopy(model).double()
    shapes = {name: p.shape for name, p in model.named_parameters()}
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])

    def value(flat):
        parts = flat.split([shape.numel() for shape in shapes.values()])
        weights = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        return loss(functional_call(model, weights, (images.double(),)), labels)

    return (hessian(value)(flat) if hessian is torch.func.hessian else hessian(value, flat)).numpy()


def spectrum(model, data, **options):
    n = sum(len(images) for images, _ in data)
    return hessian_spectra(model, data, batch_size=n, n_batches=1, **DOUBLE | options).eigenvalues[0]


def random_symmetric(n=60, seed=0):
    rng = np.random.default_rng(seed)
    vectors, _ = np.linalg.qr(rng.standard_normal((n, n)))
    values = np.concatenate([[-9, -4, -1.5, 12, 7, 5], rng.uniform(-1, 1, n - 6)])
    return aslinearoperator(vectors @ np.diag(values) @ vectors.T), np.sort(values)


class Quadratic(nn.Module):
    """f = 0.5 x'Ax as the loss of a model whose weights are x."""

    def __init__(self, matrix):
        super().__init__()
        self.x = nn.Parameter(torch.randn(len(matrix)))
        self.register_buffer("matrix", matrix)

    def forward(self, images):
        return (0.5 * self.x @ self.matrix @ self.x).expand(len(images), 1)


def test_a_quadratic_form_has_the_spectrum_of_its_matrix_negative_values_included():
    operator, values = random_symmetric()
    model = Quadratic(torch.tensor(operator.A))
    found = spectrum(model, [batch(4)], k=3, loss=lambda outputs, targets: outputs.mean())
    # ARPACK to a relative 1e-10; the float32 weights x play no part in second derivatives.
    expected = [[12, -9, 7], [12, 7, 5], [-9, -4, -1.5]]
    np.testing.assert_allclose(found, expected, atol=1e-5)  # the matrix passes through the model's float32 buffers
    assert values[0] == -9


@pytest.mark.parametrize("ends", [("magnitude", "largest", "smallest"), ("magnitude",), ("largest",), ("smallest",)])
def test_every_end_alone_and_together(ends):
    operator, values = random_symmetric()
    found = extreme_eigenpairs(operator, 3, ends, tolerance=1e-10)
    by_size = values[np.argsort(-np.abs(values))]
    expected = {"magnitude": by_size[:3], "largest": values[::-1][:3], "smallest": values[:3]}
    assert list(found) == list(ends)
    for end in ends:
        np.testing.assert_allclose(found[end].values, expected[end], atol=1e-8)


def test_eigenvectors_are_orthonormal_and_residuals_below_the_tolerance():
    operator, _ = random_symmetric(200)
    for pairs in extreme_eigenpairs(operator, 4, tolerance=1e-6).values():
        np.testing.assert_allclose(pairs.vectors.T @ pairs.vectors, np.eye(4), atol=1e-10)
        assert (pairs.residuals <= 1e-6 * np.abs(pairs.values)).all()
        explicit = operator @ pairs.vectors - pairs.vectors * pairs.values
        np.testing.assert_allclose(np.linalg.norm(explicit, axis=0), pairs.residuals, atol=1e-12)


@pytest.mark.parametrize("width", [2, 5])  # 19 eigenvalues, found densely, and 43, found by Lanczos
def test_lanczos_gives_the_eigenvalues_of_the_dense_hessian(width):
    model, (images, labels) = mlp(width), batch()
    expected = np.linalg.eigvalsh(dense(model, images, labels, hessian=torch.func.hessian))
    assert expected[0] < -1e-4  # of a network both ends are there
    magnitude, largest, smallest = spectrum(model, [(images, labels)], k=4)
    # The invariant asks for 1e-4; float64 and a tolerance of 1e-10 give far more.
    np.testing.assert_allclose(largest, expected[::-1][:4], atol=1e-9)
    np.testing.assert_allclose(smallest, expected[:4], atol=1e-9)
    np.testing.assert_allclose(magnitude, expected[np.argsort(-np.abs(expected))][:4], atol=1e-9)


def product_by_differences(model, images, labels, vector, step=1e-5):
    """H v from gradients at w + step v and w - step v, the definition of a derivative."""
    named = dict(model.named_parameters())
    parts = vector.split([p.numel() for p in named.values()])
    gradients = []
    for sign in (1, -1):
        moved = {
            name: (p.detach() + sign * step * part.view_as(p)).requires_grad_()
            for (name, p), part in zip(named.items(), parts, strict=True)
        }
        loss = F.cross_entropy(functional_call(model, moved, (images,)), labels)
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(moved.values()))]))
    return (gradients[0] - gradients[1]) / (2 * step)


def layer_norm_model():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 3))


@pytest.mark.parametrize("make", [mlp, layer_norm_model, lambda: _frozen(mlp(batch_norm=True))])
def test_products_are_symmetric_and_those_of_finite_differences(make):
    model, (images, labels) = make().double(), batch()
    data = [(images.double(), labels)]
    operator = Hessian(model, nn.CrossEntropyLoss(), list(model.parameters()), data, check_deterministic=False)
    u, v = torch.randn(2, operator.shape[0], dtype=torch.float64)
    expected = product_by_differences(model, *data[0], v)
    # Central differences err by some step^2 = 1e-10 and by rounding over the step, 1e-16 / 1e-5.
    torch.testing.assert_close(operator @ v, expected, rtol=1e-6, atol=1e-7)
    assert float(u @ (operator @ v)) == pytest.approx(float(v @ (operator @ u)), abs=1e-12)
    torch.testing.assert_close(operator @ torch.stack([u, v], 1), torch.stack([operator @ u, operator @ v], 1))


def test_products_are_those_of_curvlinops_where_these_are_right():
    model, (images, labels) = mlp().double(), batch()
    parts = (model, nn.CrossEntropyLoss(), list(model.parameters()), [(images.double(), labels)])
    own, base = (kind(*parts, check_deterministic=False) for kind in (Hessian, HessianLinearOperator))
    v = torch.randn(own.shape[0], dtype=torch.float64)
    torch.testing.assert_close(own @ v, base @ v)


@pytest.mark.parametrize("ends", [("magnitude",), ("largest", "smallest")])
def test_l2_adds_lambda_to_every_eigenvalue(ends):
    model, data = mlp(), [batch()]
    plain, decayed = (spectrum(model, data, ends=ends, weight_decay=w) for w in (0.0, 0.3))
    # As large a lambda changes the order by magnitude; of the two ends all values move alike.
    if ends == ("magnitude",):
        values = np.linalg.eigvalsh(dense(model, *data[0])) + 0.3
        np.testing.assert_allclose(decayed[0], values[np.argsort(-np.abs(values))][:5], atol=1e-9)
    else:
        np.testing.assert_allclose(decayed - plain, 0.3, atol=1e-9)


def test_the_penalty_shift_is_that_of_its_own_second_derivative():
    model, (images, labels) = mlp(), batch()
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    own = torch.autograd.functional.hessian(lambda w: 0.15 * (w**2).sum(), weights).numpy()
    expected = np.linalg.eigvalsh(dense(model, images, labels) + own)
    found = spectrum(model, [(images, labels)], k=3, weight_decay=0.3, ends=("largest", "smallest"))
    np.testing.assert_allclose(found, [expected[::-1][:3], expected[:3]], atol=1e-9)


def test_hutchinsons_trace_is_the_sum_of_the_eigenvalues_within_its_error():
    operator, values = random_symmetric()
    estimates = hutchinson(operator, 400, seed=1)
    error = estimates.std(ddof=1) / 20
    assert abs(estimates.mean() - values.sum()) < 4 * error  # four standard errors of a fixed seed
    assert error < 1.5
    model = mlp()
    spectra = hessian_spectra(
        model, [batch()], k=1, batch_size=12, n_batches=1, trace_probes=100, weight_decay=9.0, **DOUBLE
    )
    value, error = spectra.trace
    assert abs(value - np.trace(dense(model, *batch()))) < 4 * error


def test_linear_least_squares_is_convex_and_has_the_spectrum_of_its_features():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    images, _ = batch(30)
    x = torch.cat([images.flatten(1), torch.ones(30, 1)], 1).double().numpy()
    # Mean over 30 images and 2 outputs of squared errors: each output's Hessian is 2 x'x / 60, twice.
    expected = np.repeat(np.sort(np.linalg.eigvalsh(x.T @ x / 30))[::-1], 2)
    spectra = hessian_spectra(
        model, [(images, torch.randn(30, 2))], k=5, batch_size=30, n_batches=1, loss="mse", **DOUBLE
    )
    np.testing.assert_allclose(spectra.of("largest")[0], expected[:5], atol=1e-6)
    assert spectra.nep[0] == 0
    assert spectra.ape[0] == pytest.approx(expected[:5].mean(), abs=1e-6)
    labels = torch.randint(2, (30,))
    coded = [(images, labels)], [(images, F.one_hot(labels).float())]
    one, two = (spectrum(model, data, loss="mse") for data in coded)
    np.testing.assert_allclose(one, two, atol=1e-12)


def test_nep_and_ape_of_known_values_and_their_bounds():
    values = np.array([[4.0, -2.0], [np.nan, 6.0]])
    assert negative_proportion(values) == pytest.approx(1 / 3)
    assert average_positive(values) == 5.0
    assert np.isnan(average_positive(-np.ones(3)))
    assert np.isnan(negative_proportion(np.full(2, np.nan)))
    for seed in range(5):
        draw = np.random.default_rng(seed).standard_normal((4, 5))
        assert 0 <= negative_proportion(draw) <= 1
        assert average_positive(draw) >= 0


def test_the_jackknife_of_a_mean_is_its_usual_error_and_of_a_ratio_close_to_the_spread():
    rng = np.random.default_rng(0)
    draw = rng.standard_normal((30, 5)) + 1
    means = draw.mean(1)
    value, error = jackknife(draw, np.mean)
    assert (value, error) == (pytest.approx(means.mean()), pytest.approx(means.std(ddof=1) / np.sqrt(30)))
    errors = [jackknife(rng.standard_normal((30, 5)) + 1, average_positive)[1] for _ in range(50)]
    spread = np.std([average_positive(rng.standard_normal((30, 5)) + 1) for _ in range(2000)])
    assert np.mean(errors) == pytest.approx(spread, rel=0.1)  # 2000 draws give the spread to some 2%
    assert np.isnan(jackknife(draw[:1], np.mean)[1])


def test_the_mean_over_chunks_is_the_hessian_of_all_images_with_an_unequal_last_one():
    model, (images, labels) = mlp(batch_norm=True), batch(13)
    whole = spectrum(model, [(images, labels)])
    np.testing.assert_allclose(spectrum(model, [(images, labels)], chunk=5), whole, atol=1e-9)
    parts = list(zip(images.split(4), labels.split(4), strict=True))
    np.testing.assert_allclose(spectrum(model, parts), whole, atol=1e-9)  # the loader's own batches do not matter


def test_permuted_hidden_units_leave_the_spectrum():
    model = mlp()
    other, order = copy.deepcopy(model), torch.randperm(5)
    with torch.no_grad():
        other[1].weight.copy_(model[1].weight[order])
        other[1].bias.copy_(model[1].bias[order])
        other[4].weight.copy_(model[4].weight[:, order])
    np.testing.assert_allclose(spectrum(other, [batch()]), spectrum(model, [batch()]), atol=1e-9)


def test_a_block_is_a_block_of_the_dense_hessian():
    model, data = mlp(), batch()
    matrix = dense(model, *data)[:25, :25]  # the first layer's 20 weights and 5 biases
    expected = np.linalg.eigvalsh(matrix)
    found = spectrum(model, [data], k=3, block="1.*", ends=("largest", "smallest"))
    np.testing.assert_allclose(found, [expected[::-1][:3], expected[:3]], atol=1e-9)
    model[4].requires_grad_(False)  # frozen parameters are not counted either
    np.testing.assert_allclose(spectrum(model, [data], k=3, ends=("largest", "smallest")), found, atol=1e-9)


def test_the_modes_of_batch_norm():
    model, (images, labels) = mlp(batch_norm=True), batch()
    model[2].running_var.fill_(3.0)
    for mode in ("eval", "train"):
        model.train(mode == "train")
        expected = np.linalg.eigvalsh(dense(_frozen(model), images, labels))[::-1][:3]
        found = spectrum(model, [(images, labels)], k=3, mode=mode, ends=("largest",))
        np.testing.assert_allclose(found[0], expected, atol=1e-9, err_msg=mode)


def _frozen(model):
    """A copy that normalises by the batch in training mode without updating anything."""
    model = copy.deepcopy(model)
    model[2].track_running_stats = not model.training
    return model


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(mlp(batch_norm=True), nn.Dropout())
    model[0].eval()
    before = copy.deepcopy(model.state_dict())
    flags = [(m.training, getattr(m, "track_running_stats", None)) for m in model.modules()]
    fused = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled()
    with torch.no_grad():
        hessian_spectra(model, [batch()], k=1, batch_size=4, n_batches=2, mode="train", **DOUBLE)
        assert not torch.is_grad_enabled()
    assert [(m.training, getattr(m, "track_running_stats", None)) for m in model.modules()] == flags
    assert all(p.grad is None and p.requires_grad and p.dtype == torch.float32 for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled()) == fused


def test_dropout_is_off_and_two_runs_are_equal():
    model = nn.Sequential(mlp(), nn.Dropout(0.5)).train()
    one, two = (hessian_spectra(model, [batch()], batch_size=6, n_batches=2, device="cpu") for _ in range(2))
    np.testing.assert_array_equal(one.eigenvalues, two.eigenvalues)
    np.testing.assert_allclose(one.eigenvalues[0], spectrum(model[0], [tuple(t[:6] for t in batch())]), atol=1e-5)


def test_attention_is_differentiated_twice():
    model = vit_tiny_patch2_16(num_classes=3, embed_dim=12, depth=1, num_heads=2, img_size=4)
    images, labels = torch.randn(4, 3, 4, 4), torch.tensor([0, 1, 2, 0])
    options = {"k": 1, "batch_size": 4, "n_batches": 1, "ends": ("largest", "smallest"), **DOUBLE}
    kept = hessian_spectra(model, [(images, labels)], **options | {"tolerance": 1e-6})
    anew = hessian_spectra(model, [(images, labels)], **options | {"tolerance": 1e-6}, chunk=2)
    np.testing.assert_allclose(kept.eigenvalues, anew.eigenvalues, atol=1e-9)
    with Objective(dtype="float64").of(model, "cpu") as make:
        operator = make([(images.double(), labels)], 4)
        v = torch.randn(operator.shape[0], dtype=torch.float64)
        expected = product_by_differences(copy.deepcopy(model).double().eval(), images.double(), labels, v)
        torch.testing.assert_close(operator @ v, expected, rtol=1e-4, atol=1e-4)  # of values up to some 100
    # The classifier is linear: its block is convex, and that of the softmax regression on its features.
    head = hessian_spectra(model, [(images, labels)], **options, block="head.*")
    assert head.of("smallest")[0, 0] > -1e-12


def test_label_smoothing_and_mixed_targets_are_those_of_the_loss():
    model, (images, labels) = mlp(), batch()
    smooth = np.linalg.eigvalsh(
        dense(model, images, labels, lambda outputs, targets: F.cross_entropy(outputs, targets, label_smoothing=0.2))
    )
    found = spectrum(model, [(images, labels)], label_smoothing=0.2, ends=("largest",))
    np.testing.assert_allclose(found[0], smooth[::-1][:5], atol=1e-9)

    def mix(images, labels, generator):
        weight = torch.rand((), generator=generator)
        targets = F.one_hot(labels, 3).float()
        return weight * images + (1 - weight) * images.flip(0), weight * targets + (1 - weight) * targets.flip(0)

    ((mixed, targets),) = mini_batches([(images, labels)], 12, mix=mix, seed=3)
    expected = np.linalg.eigvalsh(dense(model, mixed, targets.double()))
    found = spectrum(model, [(images, labels)], mix=mix, seed=3, ends=("largest",))
    np.testing.assert_allclose(found[0], expected[::-1][:5], atol=1e-9)
    assert not torch.equal(mixed, mini_batches([(images, labels)], 12, mix=mix, seed=4)[0][0])


def test_what_does_not_converge_is_missing_and_said():
    operator, _ = random_symmetric(400)
    model = Quadratic(torch.tensor(operator.A))
    options = {"k": 6, "batch_size": 2, "n_batches": 2, "loss": lambda o, t: o.mean(), **DOUBLE, "restarts": 1}
    with pytest.warns(UserWarning, match=r"of 36 eigenvalues did not converge .* in mini-batches 0, 1; raise"):
        spectra = hessian_spectra(model, [batch(4)], **options)
    missing = np.isnan(spectra.eigenvalues)
    assert missing.any()
    assert (np.isnan(spectra.residuals) == missing).all()
    assert (np.diff(missing.astype(int), axis=2) >= 0).all()  # those found come first
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hessian_spectra(model, [batch(4)], **options | {"restarts": 100, "tolerance": 1e-2})


def test_mini_batches_are_cut_across_the_loaders_batches_and_the_same_in_every_call():
    loader = make_loader(load_dataset("digits", "train", n_images=50, augment=True), 30, shuffle="every_epoch")
    one, two = (mini_batches(loader, 16) for _ in range(2))
    assert [len(images) for images, _ in one] == [16, 16, 16]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(one, two, strict=True))
    assert loader.epoch == 0
    whole = torch.cat([images for images, _ in loader])
    torch.testing.assert_close(torch.cat([images for images, _ in one]), whole[:48])


def test_snapshots_see_the_same_mini_batches():
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 10))
    loader = make_loader(load_dataset("digits", "train", n_images=40, augment=True), 20, shuffle="every_epoch")
    history = over_training({0: model, 4: model}, loader, k=1, batch_size=8, n_batches=2, provenance={"model": "m"})
    np.testing.assert_array_equal(history[0].eigenvalues, history[4].eigenvalues)
    assert history[4].provenance["epoch"] == 4
    assert history[4].provenance["model"] == "m"
    with pytest.raises(ValueError, match="no snapshots"):
        over_training({}, loader)


def test_results_can_be_saved_and_tabulated(tmp_path):
    spectra = hessian_spectra(mlp(), [batch()], k=2, batch_size=6, n_batches=2, trace_probes=3, device="cpu")
    again = HessianSpectra.load(spectra.save(tmp_path / "spectra"))
    np.testing.assert_array_equal(again.eigenvalues, spectra.eigenvalues)
    assert again.provenance == spectra.provenance
    assert again.summary() == spectra.summary()
    table = spectra.to_frame()
    assert len(table) == 2 * 3 * 2
    row = table[(table.batch == 1) & (table.end == "smallest") & (table["rank"] == 0)]
    assert row.eigenvalue.item() == spectra.of("smallest")[1, 0]
    summary = spectra.summary()
    assert summary["ape_per_parameter"] == summary["ape"] / 43
    assert summary["ape_per_trace"] == pytest.approx(summary["ape"] / spectra.traces.mean())
    with pytest.raises(ValueError, match="end 'magnitude' was not computed"):
        _ = spectrum_of("largest").nep


def spectrum_of(*ends):
    return hessian_spectra(mlp(), [batch()], k=1, batch_size=12, n_batches=1, ends=ends, device="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "training"}, "mode 'training' is not known; choose from eval, train"),
        ({"dtype": "bfloat16"}, "dtype 'bfloat16'"),
        ({"loss": "hinge"}, "loss 'hinge' is not known"),
        ({"loss": "mse", "label_smoothing": 0.1}, "label_smoothing=0.1"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0"),
        ({"block": "conv*"}, r"block 'conv\*' names no trained parameter of Sequential; there are 1.weight"),
        ({"ends": ("top",)}, "end 'top' is not known"),
        ({"ends": ()}, "end '' is not known"),
        ({"k": 0}, "k=0"),
        ({"k": 44}, "k=44: there are 43 eigenvalues"),
        ({"lanczos_vectors": 10}, "lanczos_vectors=10 should be above 10"),
        ({"tolerance": 0.0}, r"tolerance=0\.0 should be a number above 0"),
        ({"chunk": 2, "mode": "train"}, "chunk=2"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"n_batches": 4}, "4 mini-batches of 12 images were asked for, but the loader has 12"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        hessian_spectra(mlp(), [batch()], **{"batch_size": 12, "n_batches": 1, "device": "cpu", **options})


def test_bad_models_and_loaders_are_refused():
    with pytest.raises(ValueError, match="the loader should yield"):
        hessian_spectra(mlp(), [batch()[0]], device="cpu")
    with pytest.raises(ValueError, match="no parameter that requires gradients"):
        hessian_spectra(nn.Flatten(), [batch()], batch_size=4, n_batches=1, device="cpu")
    broken = mlp()
    nn.init.constant_(broken[1].bias, 1e3)  # tanh gives 1 for every image
    nn.init.constant_(broken[-1].weight, 3e38)  # finite, and the logits, 5 times that, are not
    with pytest.raises(FloatingPointError, match="not finite"):
        hessian_spectra(broken, [batch()], batch_size=4, n_batches=1, device="cpu")
    with pytest.raises(TypeError, match="weight_decy"):
        hessian_spectra(mlp(), [batch()], weight_decy=0.1)


def test_a_loss_that_is_linear_has_no_curvature():
    goal, (images, _) = Objective(loss=lambda outputs, targets: outputs.mean(), dtype="float64"), batch()
    with goal.of(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), "cpu") as make:
        operator = shifted(make([(images.double(), torch.zeros(12))], 12).to_scipy())
        assert (operator @ np.ones(10) == 0).all()


def test_labels_that_are_no_classes_and_bare_names_of_ends_are_refused_before_work():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    batch = torch.rand(4, 1, 2, 2), torch.tensor([0, 1, 2, 3])
    with pytest.raises(ValueError, match="label 3 is none of the model's 3 classes"):
        hessian_spectra(model, [batch], k=1, batch_size=4, n_batches=1, device="cpu", progress=False)
    with pytest.raises(TypeError, match=r"\['largest'\]"):
        hessian_spectra(model, [batch], k=1, batch_size=4, n_batches=1, ends="largest", device="cpu", progress=False)


def test_snapshots_see_the_same_images_of_a_loader_that_shuffles():
    images, labels = batch(24)
    model = mlp()
    data = torch.utils.data.TensorDataset(images, labels)
    loader = torch.utils.data.DataLoader(data, 6, shuffle=True, generator=torch.Generator().manual_seed(0))
    options = {"k": 1, "batch_size": 6, "n_batches": 2, "ends": ["largest"]} | DOUBLE
    one, two = over_training({0: model, 1: model}, loader, **options).values()
    np.testing.assert_array_equal(one.eigenvalues, two.eigenvalues)
