"""The density of a Hessian: against dense matrices, traces, and independence of how images are batched."""

import copy

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import aslinearoperator
from torch import nn
from torch.nn import functional as F

from tests.analysis.loss.test_lanczos import start, symmetric
from utilities.analysis.loss.eigenvalues import hutchinson, shifted
from utilities.analysis.loss.lanczos import lanczos, quadrature
from utilities.analysis.loss.repeated_passes import RepeatedPasses
from utilities.analysis.loss.spectral_density import (
    SpectralDensity,
    smoothed,
    spectral_density,
)
from utilities.datasets import load_dataset, make_loader

DOUBLE = {"dtype": "float64", "device": "cpu"}


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def batch(n=13, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1, 2, 2, generator=generator), torch.randint(3, (n,), generator=generator)


def dense_eigenvalues(model, images, labels):
    model = copy.deepcopy(model).double()
    names, shapes = zip(*((name, p.shape) for name, p in model.named_parameters()), strict=True)

    def loss(flat):
        parts = flat.split([shape.numel() for shape in shapes])
        weights = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        return F.cross_entropy(torch.func.functional_call(model, weights, (images.double(),)), labels)

    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    return np.linalg.eigvalsh(torch.func.hessian(loss)(flat).numpy())


def test_lanczos_gives_all_eigenvalues_of_a_networks_dense_hessian():
    model, data = mlp(), batch()
    expected = dense_eigenvalues(model, *data)
    density = spectral_density(model, [data], n_vectors=1, steps=200, **DOUBLE)
    nodes = density.nodes[0][density.weights[0] > 0]
    assert density.n_parameters == 43
    # Every eigenvalue has a node near by, and every node an eigenvalue; the invariant asks for 1e-4.
    assert max(np.abs(nodes - value).min() for value in expected) < 1e-7
    assert max(np.abs(expected - node).min() for node in nodes) < 1e-7


def test_the_density_has_mass_one_and_the_trace_and_negative_share_of_the_matrix():
    model, data = mlp(), batch()
    expected = dense_eigenvalues(model, *data)
    density = spectral_density(model, [data], n_vectors=60, steps=43, **DOUBLE)
    np.testing.assert_allclose(density.weights.sum(1), 1, atol=1e-12)
    step = density.grid[1] - density.grid[0]
    assert density.density.sum() * step == pytest.approx(1, abs=1e-5)  # the grid ends at 5 standard deviations
    assert step < density.width / 2
    for (value, error), truth in (
        (density.trace, expected.sum()),
        (density.negative_mass, np.mean(expected < -1e-6 * np.abs(expected).max())),
    ):
        assert error > 0
        assert abs(value - truth) < 4 * error  # four standard errors of a fixed seed
    assert density.range == (pytest.approx(expected[0]), pytest.approx(expected[-1]))


def test_the_trace_agrees_with_hutchinsons():
    matrix, values = symmetric()
    estimates = []
    for seed in range(100):
        nodes, weights = quadrature(*lanczos(matrix.mv, start(40, seed), 5))
        estimates.append(40 * (nodes * weights).sum())
    error = np.std(estimates, ddof=1) / 10
    assert abs(np.mean(estimates) - values.sum()) < 4 * error
    signs = hutchinson(shifted(aslinearoperator(matrix.numpy())), 100)
    assert abs(np.mean(estimates) - signs.mean()) < 4 * np.hypot(error, np.std(signs, ddof=1) / 10)


def test_the_mean_over_batches_is_the_hessian_of_all_images():
    """Batches of 5, 5 and 3 images: a mean over batches that are not weighted would be another matrix."""
    model, (images, labels) = mlp(), batch()
    whole = spectral_density(model, [(images, labels)], steps=10, **DOUBLE)
    parts = list(zip(images.split(5), labels.split(5), strict=True))
    split = spectral_density(model, parts, steps=10, **DOUBLE)
    np.testing.assert_allclose(split.nodes, whole.nodes, atol=1e-10)
    np.testing.assert_allclose(split.weights, whole.weights, atol=1e-8)
    assert split.provenance["n"] == 13


def test_l2_moves_all_nodes_by_lambda():
    model, data = mlp(), batch()
    plain, decayed = (spectral_density(model, [data], steps=6, weight_decay=w, **DOUBLE) for w in (0.0, 0.25))
    np.testing.assert_array_equal(decayed.nodes, plain.nodes + 0.25)
    np.testing.assert_array_equal(decayed.weights, plain.weights)


def test_smoothing_of_one_node_is_its_gaussian():
    grid = np.linspace(-1, 1, 5)
    found = smoothed(np.array([0.5]), np.array([1.0]), grid, 0.3)
    expected = torch.distributions.Normal(0.5, 0.3).log_prob(torch.tensor(grid)).exp().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6)  # the constants of torch's normal are float32
    density = spectral_density(mlp(), [batch()], steps=5, width=0.01, **DOUBLE)
    assert density.width == 0.01
    np.testing.assert_allclose(
        density.density, smoothed(density.nodes, density.weights / 2, density.grid, 0.01), rtol=1e-12
    )


def test_passes_over_an_augmented_loader_bring_the_same_images():
    loader = make_loader(load_dataset("digits", "train", n_images=30, augment=True), 20, shuffle="every_epoch")
    passes = RepeatedPasses(loader, torch.float32)
    one, two = (torch.cat([images for images, _ in passes]) for _ in range(2))
    assert torch.equal(one, two)
    assert (passes.n, passes.count, loader.epoch) == (30, 2, 0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 10))
    densities = [spectral_density(model, loader, n_vectors=1, steps=3, device="cpu") for _ in range(2)]
    np.testing.assert_array_equal(densities[0].nodes, densities[1].nodes)


def test_a_loader_that_changes_its_images_is_refused():
    class Noise:
        def __iter__(self):
            for _ in range(2):
                yield torch.randn(2, 1, 2, 2), torch.tensor([0, 1])

    with pytest.raises(ValueError, match="does not bring the same images in every pass"):
        spectral_density(mlp(), Noise(), device="cpu")
    with pytest.raises(ValueError, match="no image"):
        spectral_density(mlp(), [], device="cpu")
    with pytest.raises(ValueError, match=r"\(4 in the first, 0 now\)"):
        spectral_density(mlp(), iter([batch(2), batch(2)]), device="cpu")


def test_what_changes_from_pass_to_pass_is_said():
    """In each pass 12 of 13 images, or all of them with other noise: the numbers alone explain nothing."""
    data = torch.utils.data.TensorDataset(*batch(13))
    generator = torch.Generator().manual_seed(0)
    rest = torch.utils.data.DataLoader(data, 4, shuffle=True, drop_last=True, generator=generator)
    with pytest.raises(ValueError, match=r"\(12 as in the first, but others: drop_last leaves out other ones whenever"):
        spectral_density(mlp(), rest, device="cpu")

    class Noise(list):
        def __iter__(self):
            return iter([(torch.rand(13, 1, 2, 2), torch.zeros(13).long())])

    with pytest.raises(ValueError, match=r"\(13 as in the first, but others, or changed ones, as augmentation"):
        spectral_density(mlp(), Noise(), device="cpu")


def shuffled(images, labels, size=4):
    generator = torch.Generator().manual_seed(0)
    data = torch.utils.data.TensorDataset(images, labels)
    return torch.utils.data.DataLoader(data, size, shuffle=True, generator=generator)


def swapped(images, labels, generator):
    return (images + images.flip(0)) / 2, labels


@pytest.mark.parametrize("options", [{"mode": "train"}, {"mix": swapped}])
def test_another_order_is_refused_where_the_images_of_a_batch_count_together(options):
    images, labels = batch(12)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))
    with pytest.raises(ValueError, match="batch 1 of the loader holds other images than in the first pass"):
        spectral_density(model, shuffled(images, labels), steps=3, **options, **DOUBLE)
    fixed = list(zip(images.split(4), labels.split(4), strict=True))
    assert spectral_density(model, fixed, steps=3, **options, **DOUBLE).provenance["n"] == 12
    assert spectral_density(model, shuffled(images, labels, 12), steps=3, **options, **DOUBLE).provenance["n"] == 12


@pytest.mark.parametrize("model", [mlp(), nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 3))])
def test_another_order_is_as_good_where_each_image_counts_by_itself(model):
    images, labels = batch(12)
    whole = spectral_density(model, [(images, labels)], steps=6, **DOUBLE)
    np.testing.assert_allclose(
        spectral_density(model, shuffled(images, labels), steps=6, **DOUBLE).nodes, whole.nodes, atol=1e-10
    )
    if not isinstance(model[1], nn.BatchNorm1d):  # without one, mode "train" is no other
        trained = spectral_density(model, shuffled(images, labels), steps=6, mode="train", **DOUBLE)
        np.testing.assert_allclose(trained.nodes, whole.nodes, atol=1e-10)


def test_images_that_keep_their_sum_over_all_are_told_from_others():
    """The sum over all images is that of the first pass, and so is their number; labels, or images, are other ones."""
    images, labels = batch(8)
    others = [(images, labels.roll(1)), (images.flip(0) + torch.linspace(-1, 1, 8).view(8, 1, 1, 1), labels)]
    for other in others:

        class Changing:
            passes = iter([[(images, labels)], *[[other]] * 50])

            def __iter__(self):
                return iter(next(self.passes))

        with pytest.raises(ValueError, match="does not bring the same images in every pass"):
            list(RepeatedPasses(Changing(), torch.float64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps=0"),
        ({"n_vectors": 0}, "n_vectors=0"),
        ({"width": -1.0}, "width=-1.0"),
        ({"mode": "test"}, "mode 'test'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        spectral_density(mlp(), [batch()], device="cpu", **options)


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(mlp(), nn.BatchNorm1d(3), nn.Dropout()).train()
    before = copy.deepcopy(model.state_dict())
    parts = list(zip(*(t.split(5) for t in batch()), strict=True))
    spectral_density(model, parts, steps=3, mode="train", device="cpu")
    assert all(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_results_can_be_saved_and_tabulated(tmp_path):
    density = spectral_density(mlp(), [batch()], steps=4, device="cpu", provenance={"model": "mlp"})
    again = SpectralDensity.load(density.save(tmp_path / "density"))
    np.testing.assert_array_equal(again.density, density.density)
    assert again.provenance == density.provenance
    table = density.to_frame()
    assert len(table) == 8
    assert table.groupby("vector").weight.sum().tolist() == pytest.approx([1, 1])
