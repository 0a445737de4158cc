"""Blocks on the Hessian's diagonal: against dense matrices, closed forms, and how their parameters are grouped."""

import math
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy.sparse.linalg import aslinearoperator
from torch import nn

from tests.analysis.loss.test_hessian import batch, dense, mlp
from utilities.analysis.loss.layer_hessian import LayerHessians, layer_hessians, layer_traces
from utilities.analysis.loss.parameter_groups import parameter_groups
from utilities.lambda_resnet import lambda_resnet26
from utilities.plots.loss.layer_hessian import plot_layer_hessians
from utilities.resnet import resnet18
from utilities.results.statistics import mean_and_stderr
from utilities.zoo.vit import vit_tiny_patch2_16

DOUBLE = {"dtype": "float64", "device": "cpu", "tolerance": 1e-10, "progress": False}


def names_of(model):
    return [name for name, _ in model.named_parameters()]


def blocks_of(matrix, counts):
    """Cut the blocks out of a dense matrix's diagonal."""
    ends = np.cumsum([0, *counts])
    return [matrix[a:b, a:b] for a, b in pairwise(ends)]


def variances(matrix, counts):
    """Variance of each block's estimate from one vector of random signs that all blocks share."""
    ends, found = np.cumsum([0, *counts]), []
    for a, b in pairwise(ends):
        rows = matrix[a:b]
        own = rows[:, a:b]
        other = np.square(rows).sum() - np.square(own).sum()
        found.append(2 * (np.square(own).sum() - np.square(np.diag(own)).sum()) + other)
    return np.array(found)


@pytest.mark.parametrize("by", ["module", "parameter"])
def test_every_layer_of_a_network_against_its_dense_block(by):
    model, data = mlp(), batch()
    result = layer_hessians(model, [data], by=by, trace_probes=400, **DOUBLE)
    matrix = dense(model, *data)
    blocks = blocks_of(matrix, result.counts)
    assert result.counts.sum() == len(matrix) == 43
    np.testing.assert_allclose(result.eigenvalues, [np.linalg.eigvalsh(one)[-1] for one in blocks], rtol=1e-8)
    assert result.residuals.max() < 1e-6
    truth, (trace, error) = np.array([np.trace(one) for one in blocks]), result.trace
    assert (np.abs(trace - truth) < 4 * error).all()  # four standard errors of a fixed seed
    # The variance over 400 probes has a relative error of about sqrt(2 / 399) = 7%; signs are not normal, so 25%.
    np.testing.assert_allclose(400 * error**2, variances(matrix, result.counts), rtol=0.25)
    whole, whole_error = result.whole_trace
    assert abs(whole - np.trace(matrix)) < 4 * whole_error


def test_least_squares_have_the_covariance_of_the_inputs_in_their_block():
    """The mean over n images and C outputs of (W x - y)^2 has the Hessian 2 / (n C) X'X for each output."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False))
    images, labels = batch()
    result = layer_hessians(model, [(images, labels)], loss="mse", trace_probes=2, **DOUBLE)
    x = images.flatten(1).double().numpy()
    block = 2 / (len(x) * 3) * x.T @ x
    assert result.eigenvalues == pytest.approx(np.linalg.eigvalsh(block)[-1:], rel=1e-8)
    np.testing.assert_allclose(layer_traces(aslinearoperator(np.diag(np.diag(block))), [4]), np.trace(block))
    many = layer_hessians(model, [(images, labels)], loss="mse", trace_probes=300, eigenvalues=False, **DOUBLE)
    (trace,), (error,) = many.trace
    assert abs(trace - 3 * np.trace(block)) < 4 * error
    assert np.isnan(many.eigenvalues).all()


def test_one_product_is_enough_where_the_hessian_is_diagonal():
    matrix = np.diag(np.arange(1.0, 7.0))
    for seed in range(5):
        assert layer_traces(aslinearoperator(matrix), [1, 2, 3], seed).tolist() == [1, 5, 15]


def test_probes_of_a_layers_own_are_free_of_other_layers():
    model, data = mlp(), batch()
    matrix = dense(model, *data)
    result = layer_hessians(model, [data], shared=False, trace_probes=400, eigenvalues=False, **DOUBLE)
    blocks = blocks_of(matrix, result.counts)
    alone = np.concatenate([variances(one, [len(one)]) for one in blocks])
    assert (alone < 0.8 * variances(matrix, result.counts)).all()
    trace, error = result.trace
    np.testing.assert_allclose(400 * error**2, alone, rtol=0.25)  # as above
    assert (np.abs(trace - [np.trace(one) for one in blocks]) < 4 * error).all()


def test_the_penalty_shifts_eigenvalues_and_no_trace():
    model, data = mlp(), batch()
    plain, decayed = (layer_hessians(model, [data], weight_decay=w, trace_probes=2, **DOUBLE) for w in (0.0, 0.25))
    np.testing.assert_allclose(decayed.eigenvalues, plain.eigenvalues + 0.25, rtol=1e-12)
    np.testing.assert_array_equal(decayed.traces, plain.traces)


def test_batches_change_nothing():
    model, (images, labels) = mlp(), batch(13)
    whole = layer_hessians(model, [(images, labels)], trace_probes=3, **DOUBLE)
    parts = list(zip(images.split(5), labels.split(5), strict=True))
    split = layer_hessians(model, parts, trace_probes=3, **DOUBLE)
    np.testing.assert_allclose(split.traces, whole.traces, atol=1e-10)
    np.testing.assert_allclose(split.eigenvalues, whole.eigenvalues, rtol=1e-8)
    assert split.provenance["n"] == 13


def test_only_trained_parameters_of_the_block_are_layers():
    model, data = mlp(batch_norm=True), batch()
    model[1].bias.requires_grad_(False)
    result = layer_hessians(model, [data], trace_probes=2, **DOUBLE)
    assert (result.names, result.counts.tolist()) == (["1", "2", "4"], [20, 10, 18])
    one = layer_hessians(model, [data], trace_probes=2, block="4.*", **DOUBLE)
    assert one.names == ["4"]
    np.testing.assert_allclose(one.eigenvalues, result.eigenvalues[2:], rtol=1e-8)


def test_what_the_loss_does_not_depend_on_has_the_eigenvalue_zero():
    """Before batch norm, on the statistics of the batch, a bias changes nothing."""
    model, data = mlp(batch_norm=True), batch()
    result = layer_hessians(model, [data], by="parameter", mode="train", trace_probes=2, **DOUBLE)
    assert abs(result.eigenvalues[result.names.index("1.bias")]) < 1e-10
    linear = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    first = lambda outputs, targets: outputs[:, 0].mean()  # noqa: E731
    result = layer_hessians(linear, [data], loss=first, trace_probes=2, weight_decay=0.5, **DOUBLE)
    assert (result.eigenvalues.tolist(), result.traces.tolist()) == ([0.5], [[0.0], [0.0]])


def test_parameters_are_grouped_in_order_of_depth():
    vit = vit_tiny_patch2_16(depth=2)
    groups = parameter_groups(vit, names_of(vit), "block")
    assert [group.name for group in groups][3:] == ["blocks.0", "blocks.1", "norm", "head"]
    assert [group.kind for group in groups] == ["other", "other", "convolution", "block", "block", "norm", "linear"]
    kinds = {group.name: group.kind for group in parameter_groups(vit, names_of(vit))}
    assert [kinds[f"blocks.0.{name}"] for name in ("norm1", "attn.proj", "mlp.fc1")] == ["norm", "attention", "MLP"]
    for model in (vit, resnet18(10), lambda_resnet26(10, r=3)):
        for by in ("module", "block", "parameter"):
            groups = parameter_groups(model, names_of(model), by)
            assert sorted(name for group in groups for name in group.parameters) == sorted(names_of(model))
            assert sum(group.count for group in groups) == sum(p.numel() for p in model.parameters())
    kinds = {group.name: group.kind for group in parameter_groups(model, names_of(model))}
    assert (kinds["layer1.0.conv1"], kinds["layer1.0.conv2.conv_qkv"]) == ("convolution", "attention")
    with pytest.raises(ValueError, match="by='stage' is not known"):
        parameter_groups(vit, names_of(vit), "stage")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trace_probes": 2.5}, "trace_probes=2.5 should be a whole number, 1 or more"),
        ({"lanczos_vectors": 1}, "lanczos_vectors=1 should be a whole number, 2 or more"),
        ({"seed": -1}, "seed=-1 should be a whole number, 0 or more"),
        ({"by": "block"}, "the blocks of a Sequential are not known; take by='module' or 'parameter'"),
        ({"mode": "test"}, "mode 'test'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        layer_hessians(mlp(), [batch()], device="cpu", **options)


def test_images_of_nan_are_not_taken_for_changing_ones():
    images, labels = batch()
    with pytest.raises(ValueError, match="a Hessian: images should be finite"):
        layer_hessians(mlp(), [(images * math.nan, labels)], device="cpu")


def test_layers_that_do_not_converge_are_named():
    options = {**DOUBLE, "tolerance": 1e-14, "lanczos_vectors": 2, "restarts": 1, "trace_probes": 1}
    with pytest.warns(UserWarning, match="largest eigenvalue of 1, 4 did not converge to tolerance 1e-14"):
        result = layer_hessians(mlp(), [batch()], **options)
    assert np.isnan(result.eigenvalues).all()


def test_results_can_be_saved_tabulated_and_drawn(tmp_path):
    result = layer_hessians(mlp(), [batch()], trace_probes=4, provenance={"model": "mlp"}, **DOUBLE)
    again = LayerHessians.load(result.save(tmp_path / "a"))
    np.testing.assert_array_equal(again.traces, result.traces)
    assert again.provenance == result.provenance
    table = result.to_frame()
    mean, error = mean_and_stderr(result.traces)
    np.testing.assert_array_equal(table.trace, mean)
    np.testing.assert_allclose(table.trace_per_parameter_stderr, error / [25, 18])
    figure = plot_layer_hessians({"a": result, "b": again})
    assert len(figure.axes) == 6
    for ax, values in zip(figure.axes[::2], (mean, mean / [25, 18], result.eigenvalues), strict=True):
        np.testing.assert_allclose(ax.lines[0].get_ydata(), np.abs(values))
        low, high = ax.get_ylim()
        assert low < np.abs(values).min() < np.abs(values).max() < high
    alone = layer_hessians(mlp(), [batch()], trace_probes=1, eigenvalues=False, **DOUBLE)
    assert len(plot_layer_hessians(alone).axes) == 2
    plt.close("all")
