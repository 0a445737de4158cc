"""Which of two models is nearer: known answers, the values of `compare`, and what is refused."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from utilities.compare import compare, compare_similarities
from utilities.compare.all_pairs import compare_all
from utilities.compare.calibration import calibrate
from utilities.compare.gram_differences import difference_of_grams
from utilities.compare.image_shares import image_contributions
from utilities.compare.matched_layers import compared_layers
from utilities.metrics import center
from utilities.plots.captions import describe_similarity
from utilities.results.similarity_difference import SimilarityDifference

QUIET = {"device": "cpu", "progress": False, "resamples": 100}


def net(seed=0, widths=(20, 16, 5)):
    torch.manual_seed(seed)
    sizes = zip((12, *widths), widths, strict=False)
    return nn.Sequential(nn.Flatten(), *(module for a, b in sizes for module in (nn.Linear(a, b), nn.Tanh()))).double()


def disturbed(model, size, seed):
    """The model with noise on its weights."""
    torch.manual_seed(seed)
    copy = net(0)
    copy.load_state_dict({k: v + size * v.std() * torch.randn_like(v) for k, v in model.state_dict().items()})
    return copy


def images(n=80, seed=1):
    torch.manual_seed(seed)
    return TensorDataset(torch.randn(n, 3, 2, 2, dtype=torch.float64), torch.randint(4, (n,)))


def loader(n=80, batch_size=40, **options):
    return DataLoader(images(n), batch_size, **options)


def similarity(one, other, layers1, layers2, **options):
    """What `compare` says of these layers."""
    options = {"precision": "exact", "device": "cpu", "progress": False, **options}
    return compare(one, other, loader(), layers1=layers1, layers2=layers2, **options)


def test_a_slightly_disturbed_model_is_nearer_than_a_stranger_and_swapping_them_turns_all_signs():
    model = net()
    near, far = disturbed(model, 0.1, 1), net(5)
    result = compare_similarities(model, near, far, loader(), **QUIET)
    assert result.nearer == 1
    assert (result.band_low > 0).all()
    assert result.p_family.max() <= 0.02
    other = compare_similarities(model, far, near, loader(), **QUIET)
    for name in ("difference", "score"):
        np.testing.assert_allclose(getattr(other, name), -getattr(result, name), rtol=1e-9)
    np.testing.assert_allclose(other.low, -result.high, rtol=1e-9)
    assert other.nearer == 2
    assert other.whole["difference"] == pytest.approx(-result.whole["difference"])


def test_of_one_model_twice_the_difference_is_zero_and_nothing_is_found():
    model, other = net(), net(1)
    result = compare_similarities(model, other, other, loader(), **QUIET)
    assert not result.difference.any()
    assert (result.p_value == 1).all()
    assert (result.p_family == 1).all()
    assert result.nearer == 0


def test_similarities_are_those_of_compare_at_the_same_depth():
    model, first, second = net(), net(1), net(2, (18, 14, 9, 7, 5))
    result = compare_similarities(model, first, second, loader(90, 40), **QUIET)  # the last batch is smaller
    for other, matches, values in ((first, result.matches1, result.similarity1),
                                   (second, result.matches2, result.similarity2)):  # fmt: skip
        whole = similarity(model, other, result.layers, matches).to_frame()
        expected = [whole.loc[pair] for pair in zip(result.layers, matches, strict=True)]
        np.testing.assert_allclose(values, expected, atol=1e-10)
    assert result.matches1 == result.layers
    assert result.matches2[0] == "1"
    assert result.matches2[-1] == "9"
    assert result.n == 80
    assert result.whole["similarity1"] == pytest.approx(result.similarity1.mean())


def test_the_best_match_is_the_largest_of_compare():
    model, first, second = net(), net(1), net(2)
    result = compare_similarities(model, first, second, loader(), match="best", **QUIET)
    table = similarity(model, first, result.layers, result.layers).best_match()
    np.testing.assert_allclose(result.similarity1, table.loc[result.layers, "similarity"], atol=1e-10)
    assert result.matches1 == table.loc[result.layers, "match"].to_list()


def test_an_rbf_kernel_is_that_of_compare():
    model, first, second = net(), net(1), net(2)
    options = {"kernel": "rbf", "bandwidth": 0.8}
    result = compare_similarities(model, first, second, loader(), **options, **QUIET)
    whole = similarity(model, first, result.layers, result.layers, **options)
    np.testing.assert_allclose(result.similarity1, whole.matrix.diagonal(), atol=1e-10)


def test_several_seeds_are_averaged_and_resampled():
    model, first, second = net(), [net(1), net(2)], [net(3), net(4), net(5)]
    result = compare_similarities(model, first, second, loader(), **QUIET)
    singles = [similarity(model, one, result.layers, result.layers) for one in first]
    np.testing.assert_allclose(result.similarity1, np.mean([s.matrix.diagonal() for s in singles], 0), atol=1e-10)
    assert result.provenance["models_of_side"] == [1, 2, 3]
    alone = compare_similarities(model, first[0], second[0], loader(), **QUIET)
    assert result.stderr.mean() > alone.stderr.mean()  # seeds differ far more than images leave open
    assert result.whole["high"] - result.whole["low"] > 4 * result.whole["stderr"]  # t of few degrees of freedom


def test_loaders_of_their_own_and_views_give_what_one_pass_gives():
    model, first, second = net(), net(1), net(2)
    once = compare_similarities(model, first, second, loader(), **QUIET)
    own = compare_similarities(model, first, second, loader(), loader(), loader(), **QUIET)
    viewed = compare_similarities(model, first, second, loader(), view1="gap", view2="gap", **QUIET)
    for other in (own, viewed):  # a vector is its own mean
        np.testing.assert_allclose(other.difference, once.difference, atol=1e-10)
        np.testing.assert_allclose(other.stderr, once.stderr, atol=1e-10)


def test_other_numbers_of_images_are_not_taken_for_another_order():
    images = torch.randn(40, 12).double()
    message = "share 30 and 40 images with the model"
    with pytest.warns(UserWarning, match="10 at the end have no partner"), pytest.raises(ValueError, match=message):
        compare_similarities(net(), net(1), net(2), [images], loader1=[images[:30]], **QUIET)


def test_a_loader_that_shuffles_anew_is_refused_where_it_is_read_twice():
    shuffled = loader(shuffle=True)
    result = compare_similarities(net(), net(1), net(2), shuffled, **QUIET)  # one pass of all
    assert result.n == 80
    with pytest.raises(ValueError, match="another order each time"):
        compare_similarities(net(), net(1), net(2), shuffled, view1="gap", **QUIET)


def test_a_layer_without_variance_is_missing_and_named():
    model = net()
    with torch.no_grad():
        model[3].weight.zero_()
    with pytest.warns(UserWarning, match="without variance.*: 3, 5"):
        result = compare_similarities(model, net(1), net(2), loader(), **QUIET)
    assert np.isnan(result.difference).tolist() == [False, True, True]
    assert result.whole["difference"] == pytest.approx(np.nanmean(result.difference))
    assert result.largest == "1"


def linear(side, x, layers=1):
    return {(side, 0, str(k)): [center((x - x.mean(0)) @ (x - x.mean(0)).T)] for k in range(layers)}


def test_models_that_are_equal_in_distribution_are_found_to_differ_about_as_often_as_by_chance():
    generator, found = torch.Generator().manual_seed(0), 0
    for seed in range(60):
        x, *noise = torch.randn(5, 40, 4, generator=generator, dtype=torch.float64)
        grams = {}
        for side, own in ((0, [x, x]), (1, [x + noise[0], x + noise[1]]), (2, [x + noise[2], x + noise[3]])):
            for k, features in enumerate(own):
                grams[side, 0, str(k)] = linear(side, features)[side, 0, "0"]
        found += difference_of_grams(grams, resamples=100, seed=seed).p_family.min() <= 0.05
    assert found <= 9  # of 60 at 5%, more than 9 have a probability of 0.1%


def test_the_result_is_saved_loaded_and_tabulated(tmp_path):
    result = compare_similarities(net(), net(1), net(2), loader(), provenance={"model1": "hybrid"}, **QUIET)
    again = SimilarityDifference.load(result.save(tmp_path / "nearer"))
    pd_frames = result.to_frame(), again.to_frame()
    assert pd_frames[0].equals(pd_frames[1])
    assert list(pd_frames[0].index) == [*result.layers, "all layers"]
    assert again.names == ["hybrid", "Sequential (the first)", "Sequential (the second)"]
    np.testing.assert_array_equal(again.null_largest, result.null_largest)
    assert repr(again) == repr(result)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"resamples": 10}, "100 or more"),
        ({"confidence": 95}, "between 0 and 1"),
        ({"confidence": "a"}, "between 0 and 1"),
        ({"precision": "auto"}, "looks at similarities"),
        ({"match": "nearest"}, "choose 'depth', 'best' or 'all'"),
        ({"layers": ["9"]}, "'9' is not"),
    ],
)
def test_wrong_options_are_refused(options, error):
    with pytest.raises(ValueError, match=error):
        compare_similarities(net(), net(1), net(2), loader(), **QUIET | options)


def test_what_is_no_model_or_a_model_twice_is_refused():
    one = net()
    with pytest.raises(TypeError, match="first should be a torch module"):
        compare_similarities(one, "resnet18", net(1), loader(), **QUIET)
    with pytest.raises(ValueError, match="second holds one model twice"):
        compare_similarities(one, net(1), [one, one], loader(), **QUIET)
    with pytest.raises(ValueError, match="first holds one model twice, as number 1 and 3"):
        compare_similarities(one, [net(1), net(2), copy.deepcopy(net(1))], net(3), loader(), **QUIET)
    broken = net(1)
    broken[1].weight.data[0] = float("nan")
    with pytest.raises(ValueError, match=r"parameter '1\.weight' of Sequential holds NaN"):
        compare_similarities(one, broken, net(2), loader(), **QUIET)
    with pytest.raises(ValueError, match="20 or more"):
        compare_similarities(one, net(1), net(2), loader(80, 16), **QUIET)


@pytest.mark.parametrize(("count", "others", "places"), [(3, 5, [0, 2, 4]), (5, 3, [0, 0, 1, 1, 2]), (1, 4, [0])])
def test_layers_are_matched_at_the_nearest_relative_depth(count, others, places):
    names = [str(k) for k in range(others)]
    layers = [f"own{k}" for k in range(count)]
    assert compared_layers(layers, names) == [(layer, [names[k]]) for layer, k in zip(layers, places, strict=True)]


def test_weights_that_models_have_in_common_are_said():
    """Networks of one seed begin with the same first layers although they differ; trained a little, nearly so."""
    one, other, cousin = net(), net(3, (20, 16, 8)), net(0, (20, 16, 8))
    with torch.no_grad():
        cousin[1].weight += 0.01 * torch.randn(cousin[1].weight.shape, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compare_similarities(one, net(2), other, loader(), **QUIET)
        compare_similarities(one, one, other, loader(), **QUIET)
    with pytest.warns(
        UserWarning, match=r"model and second have weights in common \(1\.weight and 1 more are nearly equal\)"
    ):
        compare_similarities(one, net(2), cousin, loader(), **QUIET)
    result = compare(one, cousin, loader(), device="cpu")
    assert "in 2 layers both have nearly the same weights, as from one seed." in describe_similarity(result)
    assert "nearly the same weights" not in describe_similarity(compare(one, other, loader(), device="cpu"))
    both = compare_all({"one": one, "cousin": cousin}, loader(), device="cpu")
    assert both["cousin", "one"].provenance["common_weights"] == 2
    assert "common_weights" not in both["one", "one"].provenance
    permuted = calibrate(one, cousin, loader(), permutations=20, layers1="1", layers2="1", device="cpu")
    shares = image_contributions(one, cousin, loader(), pairs=[("1", "1")], device="cpu")
    assert permuted.provenance["common_weights"] == shares.provenance["common_weights"] == 2
