import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from utilities.compare import compare
from utilities.compare.gram_shares import shares_of, without_images
from utilities.compare.image_shares import image_contributions

QUIET = {"device": "cpu", "progress": False}


def net(seed=0, scale=1.0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 5)).double()
    with torch.no_grad():
        model[1].weight.mul_(scale)
    return model


def data(n=52, seed=1):
    torch.manual_seed(seed)
    return torch.randn(n, 3, 2, 2, dtype=torch.float64), torch.randint(4, (n,))


def loader(n=52, batch_size=16, **options):
    return DataLoader(TensorDataset(*data(n)), batch_size, **options)


@pytest.mark.parametrize("estimator", ["debiased", "biased"])
@pytest.mark.parametrize("scale", [1.0, 1e30])
def test_shares_sum_to_the_similarity(estimator, scale):
    one, two, pairs = net(0, scale), net(1), [("1", "3"), ("2", "2"), ("3", "1")]
    result = image_contributions(one, two, loader(), pairs=pairs, estimator=estimator, **QUIET)
    whole = compare(one, two, loader(), estimator=estimator, precision="exact", **QUIET).to_frame()
    expected = [whole.loc[pair] for pair in pairs]
    np.testing.assert_allclose(result.similarity, expected, rtol=0, atol=1e-10)  # float64 throughout
    assert result.shares.shape == (3, 52)


def test_shares_are_those_of_the_written_out_sums():
    torch.manual_seed(0)
    batches = [tuple(x @ x.T for x in torch.randn(2, n, 3, dtype=torch.float64)) for n in (5, 7)]

    def centred(K, i, j):
        n = len(K)
        if i == j:
            return 0.0
        row, column, whole = (sum(K[a, b] for a, b in places if a != b) for places in (
            [(i, k) for k in range(n)], [(k, j) for k in range(n)], [(a, b) for a in range(n) for b in range(n)]
        ))  # fmt: skip
        return K[i, j] - row / (n - 2) - column / (n - 2) + whole / ((n - 1) * (n - 2))

    cross, own1, own2 = [], 0.0, 0.0
    for K, L in batches:
        for i in range(len(K)):
            pairs = [(centred(K, i, j), centred(L, i, j)) for j in range(len(K))]
            cross.append(sum(k * l for k, l in pairs))
            own1, own2 = own1 + sum(k * k for k, _ in pairs), own2 + sum(l * l for _, l in pairs)
    np.testing.assert_allclose(shares_of(batches)[0], np.array(cross) / np.sqrt(own1 * own2), atol=1e-13)


def test_an_image_that_the_layers_place_differently_agrees_least_and_an_outlier_dominates():
    torch.manual_seed(0)
    x = torch.randn(40, 6, dtype=torch.float64)
    y = x.clone()
    y[7] = -y[7]
    x[3], y[3] = 8 * x[3], 8 * y[3]
    shares, agreement = shares_of([(x @ x.T, y @ y.T)])
    assert agreement.argmin() == 7
    assert shares.argmin() == 7
    assert shares[7] < 0
    assert shares.argmax() == 3
    assert shares[3] > 0.25
    assert agreement.max() <= 1 + 1e-12


def test_shares_do_not_depend_on_order_rotation_scale_or_shift():
    torch.manual_seed(0)
    x, y = torch.randn(2, 30, 6, dtype=torch.float64)
    rotation, order = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q, torch.randperm(30)
    moved = 3 * (x @ rotation)[order] + 5
    plain, other = shares_of([(x @ x.T, y @ y.T)])[0], shares_of([(moved @ moved.T, y[order] @ y[order].T)])[0]
    np.testing.assert_allclose(other, plain[order], atol=1e-10)  # a shift of 5 costs some digits


def test_without_dominant_images_is_the_similarity_of_the_others():
    model, pairs = net(), [("1", "3")]
    result = image_contributions(model, model, loader(48), pairs=pairs, removed=[3], **QUIET)
    gone = set(np.argsort(-np.abs(result.shares[0]))[:3].tolist())
    images = data(48)[0]
    rest = [images[[i for i in range(start, start + 16) if i not in gone]] for start in (0, 16, 32)]
    expected = compare(model, model, rest, layers1="1", layers2="3", precision="exact", **QUIET).matrix[0, 0]
    assert result.removed.tolist() == [0, 3]
    np.testing.assert_allclose(result.without[0], [result.similarity[0], expected], atol=1e-12)


def test_without_the_first_component_is_what_compare_computes():
    model = net()
    result = image_contributions(model, model, loader(), pairs=[("1", "3")], **QUIET)
    options = {"layers1": "1", "layers2": "3", "precision": "exact", "remove_top_pc": 1}
    expected = compare(model, model, loader(), **options, **QUIET).matrix[0, 0]
    assert result.without_top_pc[0] == pytest.approx(expected, abs=1e-12)


def test_batches_that_become_too_small_are_left_out():
    eye = torch.eye(5, dtype=torch.float64)
    assert len(without_images([(eye, eye), (eye, eye)], np.array([0, 1]))) == 1


def test_places_and_labels_are_those_of_the_data_set():
    order = torch.randperm(52, generator=torch.Generator().manual_seed(3)).tolist()
    model, pairs = net(), [("1", "3")]
    result = image_contributions(model, model, loader(sampler=order), pairs=pairs, **QUIET)
    assert result.places.tolist() == order
    assert result.labels.tolist() == data()[1][order].tolist()
    stream = image_contributions(model, model, iter(data()[0].split(26)), pairs=pairs, **QUIET)
    assert stream.places.tolist() == list(range(52))
    assert set(stream.labels) == {-1}
    table = result.to_frame()
    most = table.loc[table["share"].idxmax()]
    assert most["image"] == result.places[result.most(1)[0]]
    assert most["label"] == result.labels[result.most(1)[0]]


def test_small_batches_at_the_end_are_left_out_with_a_warning():
    model = net()
    with pytest.warns(UserWarning, match="2 images left out"):
        result = image_contributions(model, model, loader(50, 16), pairs=[("1", "3")], **QUIET)
    assert result.places.tolist() == list(range(48))


def test_a_result_survives_saving(tmp_path):
    model = net()
    result = image_contributions(model, model, loader(), pairs=[("1", "3"), ("3", "3")], **QUIET)
    loaded = type(result).load(result.save(tmp_path / "a"))
    np.testing.assert_array_equal(loaded.shares, result.shares)
    assert loaded.pairs == result.pairs
    assert loaded.provenance["measure"] == "linear CKA"
    np.testing.assert_allclose(result.similarity[1], 1)
    np.testing.assert_array_equal(result.scores(None), result.shares.mean(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": []}, "pairs names no pair of layers"),
        ({"pairs": ["ab"]}, "a pair should be the names of two layers"),
        ({"pairs": [("1", "2", "3")]}, "a pair should be the names of two layers"),
        ({"pairs": [("1", "9")]}, "layer '9' is not in"),
        ({"precision": "auto"}, "precision='auto' looks at similarities"),
        ({"removed": [-1]}, "removed should hold whole numbers"),
        ({"removed": [1.5]}, "removed should hold whole numbers"),
        ({"view": "flat"}, "view 'flat'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        image_contributions(net(), net(1), loader(), **{"pairs": [("1", "3")]} | options, **QUIET)
    result = image_contributions(net(), net(1), loader(), pairs=[("1", "3")], **QUIET)
    with pytest.raises(ValueError, match="there is no pair 1; there are 1"):
        result.most(pair=1)
    with pytest.raises(ValueError, match="choose 'shares' or 'agreement'"):
        result.least(by="share")


def test_a_layer_that_runs_twice_is_named_by_its_call():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.relu = nn.Linear(8, 8), nn.ReLU()

        def forward(self, x):
            return self.relu(self.first(self.relu(self.first(x))))

    torch.manual_seed(0)
    model, batches = Twice(), list(torch.randn(2, 16, 8))
    result = image_contributions(model, model, batches, pairs=[("relu", "relu#2")], **QUIET)
    assert 0 < result.similarity[0] < 1
    with pytest.raises(ValueError, match="layer 'relu#3' does not run; there are relu, relu#2"):
        image_contributions(model, model, batches, pairs=[("relu#3", "first")], **QUIET)
