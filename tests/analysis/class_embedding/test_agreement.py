"""Class-value agreement and the look at single memories, against plain loops; what its figure draws."""

import dataclasses
import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from scipy import stats
from timm.models.vision_transformer import ResPostBlock, VisionTransformer
from torch import nn

from utilities.analysis.class_embedding.agreement import ClassValueAgreement, class_value_agreement
from utilities.analysis.class_embedding.inspection import inspect_class, inspect_memories
from utilities.analysis.class_embedding.values import chance_of_best_cosine
from utilities.plots.class_embedding.class_value import plot_class_value_agreement

NAMES = ["ant", "bee", "cat", "dog", "emu"]


def toy(seed=0, **options):
    torch.manual_seed(seed)
    size = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 5}
    model = VisionTransformer(**{**size, **options})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    return model


def best_cosines(model, index, part):
    """Find the largest cosine of each class, by plain loops in float64."""
    block = model.blocks[index]
    layer = block.attn.proj if part == "attn" else block.mlp.fc2
    rows, columns = (x.detach().double().numpy() for x in (model.head.weight, layer.weight.T))
    cosine = lambda a, b: (a * b).sum() / ((a * a).sum() * (b * b).sum()) ** 0.5  # noqa: E731
    return [max(cosine(row, column) for column in columns) for row in rows]


def test_scores_are_those_of_plain_loops():
    model = toy()
    result = class_value_agreement(model)
    assert result.scores.shape == (2, 2, 5)
    for i, part in enumerate(("attn", "mlp")):
        for index in range(2):
            expected = best_cosines(model, index, part)
            np.testing.assert_allclose(result.scores[i, index], expected, rtol=1e-10)
            np.testing.assert_allclose(result.mean[i, index], np.mean(expected), rtol=1e-10)
            np.testing.assert_allclose(result.stderr[i, index], stats.sem(expected), rtol=1e-10)
    np.testing.assert_allclose(result.chance, [[chance_of_best_cosine(16, n)] * 2 for n in (16, 64)])
    assert np.isnan(result.random_scores).all()
    assert np.isnan(result.p).all()


def test_untrained_models_are_at_chance():
    models = [toy(seed, embed_dim=32, num_classes=40) for seed in range(4)]
    result = class_value_agreement(models[0], random=models[1:])
    assert result.chance.min() > 0.3
    # 3 x 40 scores of spread 0.08, which share their memories: their mean varies by some 0.01; 4 of these.
    np.testing.assert_allclose(result.random_mean, result.chance, atol=0.04)


def test_a_memory_that_is_a_class_is_found():
    model, twin = toy(), toy(1)
    with torch.no_grad():
        model.blocks[1].mlp.fc2.weight[:, 10:15] = 0.01 * model.head.weight.T
    result = class_value_agreement(model, random=twin)
    np.testing.assert_allclose(result.scores[1, 1], 1, atol=1e-6)  # weights are float32
    assert result.p[1, 1] == 1 / 32  # all 5 differences are positive: one of 2^5 ways to give them signs
    assert (result.scores[0] < 0.99).all()


def test_untrained_models_are_compared_class_by_class():
    model, twins = toy(num_classes=12), [toy(seed, num_classes=12) for seed in (1, 2)]
    one, two, both = (class_value_agreement(model, random=twin) for twin in (twins[0], twins[1], twins))
    np.testing.assert_array_equal(one.random_scores, class_value_agreement(twins[0]).scores)
    np.testing.assert_allclose(both.random_scores, (one.random_scores + two.random_scores) / 2, rtol=1e-12)
    np.testing.assert_allclose(both.random_mean, both.random_scores.mean(-1), rtol=1e-12)
    for place in np.ndindex(2, 2):
        differences = both.scores[place] - both.random_scores[place]
        assert both.p[place] == stats.wilcoxon(differences, alternative="greater").pvalue
    assert (one.provenance["random_models"], both.provenance["random_models"]) == (1, 2)
    np.testing.assert_array_equal(class_value_agreement(model, random=model).p, 1)


def test_a_norm_after_the_branch_hides_memories_until_it_is_folded_in():
    # In residual-post-norm blocks a memory that speaks of a class once it is added need not be near it as it is stored.
    model = toy(global_pool="avg", class_token=False, block_fn=ResPostBlock)
    with torch.no_grad():
        gain = model.blocks[1].norm2.weight * model.fc_norm.weight
        model.blocks[1].mlp.fc2.weight[:, :5] = (model.head.weight / gain).T
    raw, folded = (class_value_agreement(model, fold=fold, parts=["mlp"]) for fold in ("none", "scale+norm"))
    np.testing.assert_allclose(folded.scores[0, 1], 1, atol=1e-5)
    assert (raw.scores[0, 1] < 0.95).all()
    np.testing.assert_array_equal(raw.chance, folded.chance)


def test_memories_of_zeros_are_named_and_left_out():
    model = toy()
    with torch.no_grad():
        model.blocks[0].attn.proj.weight[:, :6] = 0
        model.blocks[1].attn.proj.weight.zero_()
    with pytest.warns(UserWarning, match=r"value vectors of blocks\.\d's attn are zero") as caught:
        result = class_value_agreement(model)
    assert [str(warning.message)[:8] for warning in caught] == ["6 of 16 ", "16 of 16"]
    assert result.chance[0, 0] == chance_of_best_cosine(16, 10)
    assert np.isnan(result.scores[0, 1]).all()
    assert np.isnan(result.chance[0, 1])
    assert np.isfinite(result.scores[0, 0]).all()


def test_model_is_left_as_it_was():
    model = toy().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    class_value_agreement(model, random=toy(1), fold="scale+norm")
    inspect_memories(model, 0)
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_saved_and_loaded_it_is_the_same(tmp_path):
    facts = {"model": "toy", "weights": "untrained"}
    result = class_value_agreement(toy(), random=toy(1), fold="scale", parts=("mlp",), provenance=facts)
    loaded = ClassValueAgreement.load(result.save(tmp_path / "agreement"))
    for entry in dataclasses.fields(result):
        np.testing.assert_equal(getattr(loaded, entry.name), getattr(result, entry.name))
    assert loaded.provenance.items() >= {**facts, "fold": "scale", "num_classes": 5, "random_models": 1}.items()
    assert "torch" in json.loads(json.dumps(loaded.provenance))["versions"]


def test_table_has_a_row_for_each_part_and_block():
    result = class_value_agreement(toy(), random=toy(1))
    frame = result.to_frame()
    assert frame[["part", "block", "name"]].values.tolist() == [
        [part, block, f"blocks.{block - 1}"] for part in ("attn", "mlp") for block in (1, 2)
    ]
    row = frame.iloc[3]
    expected = [result.scores[1, 1].mean(), np.median(result.scores[1, 1]), result.p[1, 1], result.random_mean[1, 1]]
    np.testing.assert_allclose(row[["mean", "median", "p", "random"]].astype(float), expected)
    assert row["quartile1"] <= row["median"] <= row["quartile3"]


@pytest.mark.parametrize("part", ["attn", "mlp"])
def test_memories_are_shown_with_the_classes_they_speak_of(part):
    model = toy()
    layer = model.blocks[1].attn.proj if part == "attn" else model.blocks[1].mlp.fc2
    logits = (model.head.weight.double() @ layer.weight.double()).detach().numpy()
    frame = inspect_memories(model, -1, part, memories=[3, 1], top=2, classes=NAMES)
    assert frame["memory"].tolist() == [3, 3, 1, 1]
    assert frame["rank"].tolist() == [1, 2, 1, 2]
    expected = [c for memory in (3, 1) for c in np.argsort(-logits[:, memory])[:2]]
    assert frame["class"].tolist() == expected
    assert frame["name"].tolist() == [NAMES[c] for c in expected]
    np.testing.assert_allclose(frame["logit"], logits[expected, [3, 3, 1, 1]], rtol=1e-10)
    shown = inspect_memories(model, 1, part)
    assert shown["memory"].tolist()[::5] == np.argsort(-logits.max(0))[:10].tolist()
    assert "name" not in shown


def test_classes_are_shown_with_the_memories_that_speak_of_them():
    model = toy()
    logits = (model.head.weight.double() @ model.blocks[0].mlp.fc2.weight.double()).detach().numpy()
    frame = inspect_class(model, 0, "cat", top=4, classes=NAMES)
    assert frame["memory"].tolist() == np.argsort(-logits[2])[:4].tolist()
    assert set(frame["name"]) == {"cat"}
    without = inspect_class(model, 0, 2, top=4)
    assert without.equals(frame.drop(columns="name"))
    lengths = model.blocks[0].mlp.fc2.weight.double().norm(dim=0).detach().numpy()[frame["memory"]]
    own = model.head.weight[2].double().norm().item()
    np.testing.assert_allclose(frame["cosine"] * lengths * own, frame["logit"], rtol=1e-10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: class_value_agreement(nn.Linear(2, 2)), "class-value agreement needs .* not a Linear"),
        (lambda: class_value_agreement(toy(), random=toy(embed_dim=32)), "another architecture: width 32, not 16"),
        (lambda: class_value_agreement(toy(), random=[toy(1), toy(num_classes=7)]), "classes 7, not 5"),
        (lambda: class_value_agreement(toy(), random=toy(mlp_ratio=2)), r"memories of the MLPs \[32, 32\], not"),
        (lambda: class_value_agreement(toy(), parts=[]), "one or both of attn, mlp, got"),
        (lambda: class_value_agreement(toy(), parts=("mlp", "mlp")), "one or both of attn, mlp, got"),
        (lambda: class_value_agreement(toy(), parts="block"), "part 'block' has no memories"),
        (lambda: class_value_agreement(toy(), fold="norm"), "fold 'norm' is not known"),
        (lambda: inspect_memories(toy(), 2), "block 2 is not in"),
        (lambda: inspect_memories(toy(), 0, memories=[64]), "memory 64 is not in the mlp of blocks.0, .* 0 to 63"),
        (lambda: inspect_memories(toy(), 0, top=0), "top should be 1 or more, got 0"),
        (lambda: inspect_class(toy(), 0, 5), "class 5 is none of the model's; give its index, 0 to 4"),
        (lambda: inspect_class(toy(), 0, "cow", classes=NAMES), "class 'cow' is none of"),
        (lambda: inspect_class(toy(), 0, "ant", classes=["ant"] * 5), "class 'ant' is more than one of"),
        (lambda: inspect_class(toy(), 0, 1, classes=NAMES[:3]), "3 names of classes, but the model has 5"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_figure_draws_all_classes_chance_and_the_untrained_model():
    model = toy(num_classes=12)
    result = class_value_agreement(model, random=toy(1, num_classes=12), provenance={"model": "toy"})
    other = class_value_agreement(toy(2), fold="scale")
    figure = plot_class_value_agreement({"first": result, "second": other})
    assert [ax.get_title() for ax in figure.axes] == [
        f"{label}: {part}" for label in ("first", "second") for part in ("attention", "MLP")
    ]
    for i, (ax, part) in enumerate(zip(figure.axes, [0, 1, 0, 1], strict=True)):
        shown, lines = (result, other)[i // 2], [np.asarray(line.get_ydata(), float) for line in ax.lines]
        assert any(np.array_equal(line, shown.chance[part]) for line in lines)
        assert any(np.array_equal(line, shown.random_mean[part], equal_nan=True) for line in lines)
        for scores in shown.scores[part]:
            for value in (np.median(scores), scores.min(), scores.max()):
                assert any(np.isclose(line, value).all() for line in lines if len(line) == 2)
        stars = [text for text in ax.texts if text.get_text() == "*"]
        assert len(stars) == (shown.p[part] < 0.05).sum()
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["chance", "untrained model, mean over classes"]
    caption = figure.caption
    for part in (
        "first: 12 classes, 1 untrained model.",
        "second: 5 classes. Value vectors are scaled",
        "none left out",
    ):
        assert part in caption
    plt.close(figure)


def test_figure_refuses_results_of_different_parts():
    results = {"a": class_value_agreement(toy()), "b": class_value_agreement(toy(), parts=["mlp"])}
    with pytest.raises(ValueError, match=r"the same parts, got .* of b, "):
        plot_class_value_agreement(results)
