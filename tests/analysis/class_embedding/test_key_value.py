"""Key-value agreement and compositionality: loops, known answers, chance, and what has to stay the same."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from scipy import stats
from timm.layers import GluMlp
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import ResPostBlock, VisionTransformer

from utilities.analysis.class_embedding import key_value
from utilities.analysis.class_embedding.key_value import KeyValueAgreement, key_value_agreement
from utilities.analysis.class_embedding.memory_match import (
    belonging,
    chance_of_hit,
    look_up,
    memories,
    other_class,
    top_memories,
)
from utilities.analysis.class_embedding.values import chance_of_overlap
from utilities.datasets.loaders import seeded_generator
from utilities.plots.class_embedding.key_value import (
    plot_agreement_and_accuracy,
    plot_compositionality,
    plot_key_value_agreement,
)
from utilities.results.statistics import paired_p, unpaired_p

CLASSES, IMAGES = 7, 12
QUICK = {"resamples": 20, "device": "cpu", "progress": False}
KINDS = {
    "token": {},
    "registers": {"reg_tokens": 2},
    "distilled": {"kind": VisionTransformerDistilled},
    "average": {"global_pool": "avg", "class_token": False},
    "average, norm before": {"global_pool": "avg", "class_token": False, "fc_norm": False},
    "norm after the branch": {"block_fn": ResPostBlock, "qkv_bias": False},
    "LayerScale": {"init_values": 0.5},
}


def toy(kind=VisionTransformer, **options):
    """Make a small model in float64 whose tokens differ clearly."""
    torch.manual_seed(1)
    sizes = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": CLASSES}
    model = kind(**sizes | options).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return model


def data(n=IMAGES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 3, 8, 8, dtype=torch.float64, generator=generator)
    return images, torch.randint(0, CLASSES, (n,), generator=generator)


def batches(size, n=IMAGES):
    return list(zip(*(part.split(size) for part in data(n)), strict=True))


def unrolled(model, images):
    """Run a model step by step, without hooks: for each block and part (coefficients, before activation, output)."""
    x, found = model.norm_pre(model._pos_embed(model.patch_embed(images))), []
    for block in model.blocks:
        after = isinstance(block, ResPostBlock)
        y = x if after else block.norm1(x)
        n, tokens, width = y.shape
        q, key, v = block.attn.qkv(y).view(n, tokens, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        mixed = torch.softmax(q @ key.mT / (width // 2) ** 0.5, -1) @ v
        mixed = mixed.transpose(1, 2).reshape(n, tokens, width)
        a = block.attn.proj(mixed)
        a = block.norm1(a) if after else block.ls1(a)
        x = x + a
        before = block.mlp.fc1(x if after else block.norm2(x))
        m = block.mlp.fc2(block.mlp.act(before))
        m = block.norm2(m) if after else block.ls2(m)
        x = x + m
        found.append({"attn": (mixed, mixed, a), "mlp": (block.mlp.act(before), before, m)})
    return found


def looped(model, images, targets, definition, keys, k, classes):
    """Count each image's share of agreeing and matching tokens by loops: (parts, groups, blocks, images) each."""
    first = model.num_prefix_tokens
    groups = {"image": range(first, first + 4)}
    groups = {"CLS": range(1)} | groups if model.cls_token is not None else groups
    agree, match = np.zeros((2, 2, len(groups), 2, len(images)))
    for b, parts in enumerate(unrolled(model, images)):
        for p, (part, (after, before, output)) in enumerate(parts.items()):
            layer = model.blocks[b].attn.proj if part == "attn" else model.blocks[b].mlp.fc2
            logits = (model.head.weight @ layer.weight).tolist()
            said = model.head(model.fc_norm(model.norm(output))).argmax(-1)
            coefficients = before if keys == "preactivation" else after
            for g, tokens in enumerate(groups.values()):
                for i in range(len(images)):
                    for t in tokens:
                        own = most(coefficients[i, t].tolist(), k)
                        columns = {j: [row[j] for row in logits] for j in own}
                        if definition == "code":
                            hit = bool(own & most(logits[classes[i]], k))
                        else:
                            hit = any(int(classes[i]) in most(column, k) for column in columns.values())
                        agree[p, g, b, i] += hit / len(tokens)
                        strongest = {column.index(max(column)) for column in columns.values()}
                        match[p, g, b, i] += (int(said[i, t]) in strongest) / len(tokens)
    return agree, match


def most(values, k):
    return set(sorted(range(len(values)), key=lambda j: -values[j])[:k])


@pytest.mark.parametrize(
    ("kind", "definition", "keys"),
    [(kind, "code", "value") for kind in KINDS] + [("token", "text", "value"), ("token", "code", "preactivation")],
)
@torch.no_grad()
def test_loops_over_images_tokens_and_memories_find_the_same(kind, definition, keys):
    model, (images, labels), k = toy(**KINDS[kind]), data(), 3
    result = key_value_agreement(model, batches(5), definition=definition, keys=keys, k=k, seed=4, **QUICK)
    agree, match = looped(model, images, labels, definition, keys, k, labels)
    other = other_class(labels, CLASSES, seeded_generator(4))
    control, _ = looped(model, images, labels, definition, keys, k, other)
    assert result.groups == (["image"] if "average" in kind else ["CLS", "image"])
    error = 1 / np.sqrt(IMAGES)
    # Shares are kept in float32; all else is float64.
    np.testing.assert_allclose(result.rate, agree.mean(-1), atol=1e-6)
    np.testing.assert_allclose(result.rate_stderr, agree.std(-1, ddof=1) * error, atol=1e-6)
    np.testing.assert_allclose(result.control, control.mean(-1), atol=1e-6)
    np.testing.assert_allclose(result.excess, result.rate - result.control, atol=1e-6)
    draws = {"resamples": QUICK["resamples"], "seed": 4}
    np.testing.assert_array_equal(result.excess_p, paired_p(np.moveaxis(agree - control, -1, 0).round(6), **draws))
    np.testing.assert_allclose(result.excess_stderr, (agree - control).std(-1, ddof=1) * error, atol=1e-6)
    np.testing.assert_allclose(result.match, match.mean(-1), atol=1e-6)
    for c in range(CLASSES):
        mine = (labels == c).numpy()
        expected = agree[..., mine].mean(-1) if mine.any() else np.full_like(result.rate, np.nan)
        np.testing.assert_allclose(result.class_rate[..., c], expected, atol=1e-6)
        assert result.class_count[c] == mine.sum()
    right = (model(images).argmax(1) == labels).numpy()
    assert (result.n_correct, result.n_wrong) == (right.sum(), (~right).sum())
    assert min(right.sum(), 1 - agree.mean(), agree.mean(), 1 - match.mean(), match.mean()) > 0  # no constants
    one, two = agree[..., right], agree[..., ~right]
    np.testing.assert_allclose(result.gap, one.mean(-1) - two.mean(-1), atol=1e-6)
    np.testing.assert_array_equal(
        result.gap_p, unpaired_p(one.transpose(3, 0, 1, 2), two.transpose(3, 0, 1, 2), **draws)
    )
    variance = sum(group.var(-1, ddof=1) / group.shape[-1] for group in (one, two))
    np.testing.assert_allclose(result.gap_stderr, np.sqrt(variance), atol=1e-6)


@torch.no_grad()
def test_raw_logits_are_those_of_the_strongest_memories():
    model, (images, labels) = toy(), data()
    result = key_value_agreement(model, batches(5), k=3, seed=4, **QUICK)
    other = other_class(labels, CLASSES, seeded_generator(4))
    keys = unrolled(model, images)[1]["mlp"][0]
    logits = model.head.weight @ model.blocks[1].mlp.fc2.weight
    for found, classes in ((result.true_logit, labels), (result.control_logit, other)):
        values = [logits[classes[i], j] for i in range(IMAGES) for t in range(1, 5) for j in keys[i, t].topk(3).indices]
        assert found[1, 1, 1] == pytest.approx(
            torch.stack(values).mean().item(), abs=1e-6
        )  # logits are kept in float32


def written_by_one_memory(c):
    """Make a model whose MLPs have a memory for each class and switch on that of class ``c`` for all tokens."""
    model = toy()
    with torch.no_grad():
        rows = torch.linalg.qr(torch.randn(16, 16, dtype=torch.float64)).Q[:CLASSES]
        model.head.weight.copy_(rows)
        model.head.bias.zero_()
        model.norm.weight.fill_(1)
        model.norm.bias.zero_()
        for block in model.blocks:
            for parameter in block.mlp.parameters():
                parameter.zero_()
            block.mlp.fc2.weight[:, :CLASSES] = rows.T
            block.mlp.fc1.bias[c] = 3
    return model


@pytest.mark.parametrize("definition", ["code", "text"])
def test_a_memory_that_is_a_classs_row_agrees_with_images_of_that_class_alone(definition):
    labels = data()[1]
    c = int(labels.mode().values)
    result = key_value_agreement(written_by_one_memory(c), batches(5), definition=definition, k=1, **QUICK)
    np.testing.assert_allclose(result.rate[1], (labels == c).double().mean(), atol=1e-12)
    np.testing.assert_array_equal(result.class_rate[1, ..., c], 1)
    np.testing.assert_array_equal(np.nansum(result.class_rate[1], -1), 1)
    np.testing.assert_array_equal(result.match[1], 1)  # a single memory says all that the MLP says
    np.testing.assert_allclose(result.true_logit[1], (labels == c).double().mean(), atol=1e-6)


def test_the_two_definitions_differ():
    """Class 1 has memory 0 as its best, which is class 0's; memory 2, its weaker one, has it as its best class."""
    logits, image = torch.tensor([[3.0, 1.0, 0.0], [2.0, 0.0, 1.0]]), torch.tensor([1])
    for top, code, text in ((0, True, False), (1, False, False), (2, False, True)):
        found = [look_up(belonging(logits, d, 1), image, torch.tensor([[[top]]])).item() for d in ("code", "text")]
        assert found == [code, text]


def test_ties_belong_together_and_chance_knows():
    for definition in ("code", "text"):
        found = memories(torch.zeros(4, 9), definition, 2)
        assert found.belongs.all()
        assert torch.equal(found.agreement_chance, torch.ones(4))


@pytest.mark.parametrize(("count", "percent"), [(3072, 0.81), (768, 3.22), (4096, 0.61), (1024, 2.42)])
def test_chance_of_the_papers_sizes(count, percent):
    assert chance_of_hit(torch.tensor(5), count, 5).item() == pytest.approx(chance_of_overlap(count, 5), rel=1e-12)
    assert 100 * chance_of_overlap(count, 5) == pytest.approx(percent, abs=0.005)


def test_chance_is_hypergeometric():
    hits = torch.arange(21)
    expected = 1 - stats.hypergeom.pmf(0, 20, hits.numpy(), 5)
    np.testing.assert_allclose(chance_of_hit(hits, 20, 5), expected, atol=1e-12)


@pytest.mark.parametrize("definition", ["code", "text"])
def test_random_coefficients_agree_and_match_by_chance(definition, generator):
    logits, draws, k = torch.randn(6, 30, generator=generator), 20000, 2
    logits[0] += 1.5  # a class that many memories favour
    found = memories(logits, definition, k)
    top = top_memories(torch.rand(6, draws, 30, generator=generator), k)
    agree = look_up(found.belongs, torch.arange(6), top).any(2).double().mean(1)
    match = (found.classes[top] == torch.arange(6)[:, None, None]).any(2).double().mean(1)
    for seen, chance in ((agree, found.agreement_chance), (match, found.match_chance)):
        error = (chance * (1 - chance) / draws).sqrt()
        # Four binomial standard errors; float32 for chances of 0.
        assert ((seen - chance).abs() <= 4 * error + 1e-6).all()
    assert found.match_chance.max() > 2 * found.match_chance.min()


def test_chance_is_that_of_the_images_classes_and_of_what_was_said():
    model, (images, labels) = toy(), data()
    result = key_value_agreement(model, batches(5), definition="text", k=2, **QUICK)
    with torch.no_grad():
        found = memories(model.head.weight @ model.blocks[0].attn.proj.weight, "text", 2)
        said = model.head(model.norm(unrolled(model, images)[0]["attn"][2])).argmax(-1)[:, 1:]
    assert result.of("chance", "attn")[0] == pytest.approx(found.agreement_chance[labels].mean().item(), abs=1e-6)
    assert result.of("match_chance", "attn")[0] == pytest.approx(found.match_chance[said].mean().item(), abs=1e-6)


def test_batches_do_not_matter():
    model = toy()
    one, *others = (key_value_agreement(model, batches(size), k=3, **QUICK) for size in (12, 5, 1))
    for other in others:
        for name, value in vars(one).items():
            if isinstance(value, np.ndarray):
                np.testing.assert_allclose(getattr(other, name), value, atol=1e-6, err_msg=name)


def test_the_largest_coefficients_are_the_same_before_the_activation_while_enough_are_positive():
    model = toy()
    with torch.no_grad():
        for block in model.blocks:
            block.mlp.fc1.bias.fill_(4.0)
    after, before = (key_value_agreement(model, batches(5), k=3, keys=keys, **QUICK) for keys in key_value.KEYS)
    np.testing.assert_array_equal(after.rate, before.rate)
    with torch.no_grad():
        for block in model.blocks:  # none is positive: the activation, not monotonic there, turns the order round
            block.mlp.fc1.weight.mul_(0.1)
            block.mlp.fc1.bias.copy_(torch.linspace(-6, -3, 64))
    after, before = (key_value_agreement(model, batches(5), k=3, keys=keys, **QUICK) for keys in key_value.KEYS)
    assert not np.array_equal(after.true_logit[1], before.true_logit[1])
    np.testing.assert_array_equal(after.rate[0], before.rate[0])  # attention's first block sees no MLP


def test_the_other_class_is_never_the_images_own_and_hangs_on_the_seed_alone():
    target = torch.randint(0, 5, (4000,), generator=torch.Generator().manual_seed(3))
    whole = other_class(target, 5, seeded_generator(1))
    generator = seeded_generator(1)
    assert torch.equal(torch.cat([other_class(part, 5, generator) for part in target.split(7)]), whole)
    assert (whole != target).all()
    assert not torch.equal(whole, other_class(target, 5, seeded_generator(2)))
    steps = torch.bincount((whole - target) % 5, minlength=5)[1:]
    assert stats.chisquare(steps.numpy()).pvalue > 0.001  # all others are equally likely


def test_seed_and_global_generator():
    def run(seed):
        torch.rand(3)
        return key_value_agreement(toy(), batches(5), k=3, **QUICK | {"seed": seed})

    state = torch.get_rng_state()
    one, two, three = run(0), run(0), run(1)
    np.testing.assert_array_equal(one.control, two.control)
    np.testing.assert_array_equal(one.rate_low, two.rate_low)
    assert not np.array_equal(one.control, three.control)
    np.testing.assert_array_equal(one.rate, three.rate)
    torch.set_rng_state(state)
    model, loader, before = toy(), batches(5), torch.get_rng_state()
    key_value_agreement(model, loader, **QUICK)
    assert torch.equal(torch.get_rng_state(), before)


def test_targets():
    model, (images, _) = toy(), data()
    with torch.no_grad():
        predictions = model(images).argmax(1)
    own = key_value_agreement(model, [images], target="prediction", k=3, **QUICK)
    labelled = key_value_agreement(model, [(images, predictions)], k=3, **QUICK)
    fixed = key_value_agreement(model, [(images, predictions)], target=2, k=3, **QUICK)
    np.testing.assert_array_equal(own.rate, labelled.rate)
    assert (own.n_correct, own.n_wrong) == (0, 0)
    assert np.isnan(own.gap).all()
    assert (labelled.n_correct, labelled.n_wrong) == (IMAGES, 0)
    assert np.isnan(labelled.gap_p).all()
    assert fixed.class_count.tolist() == [0, 0, IMAGES, 0, 0, 0, 0]
    assert fixed.n_correct == IMAGES
    np.testing.assert_array_equal(fixed.class_rate[..., 2], fixed.rate)


def test_bands_hold_the_means_and_folding_nothing_changes_nothing():
    result, scaled = (key_value_agreement(toy(), batches(5), k=3, fold=fold, **QUICK) for fold in ("none", "scale"))
    for name in ("rate", "match"):
        mean, low, high = (getattr(result, f"{name}{end}") for end in ("", "_low", "_high"))
        assert (low <= mean + 1e-9).all()
        assert (mean <= high + 1e-9).all()
        assert (low < high).any()
    np.testing.assert_array_equal(result.rate, scaled.rate)
    folded = (
        key_value_agreement(toy(**KINDS["LayerScale"]), batches(5), k=3, fold=f, **QUICK) for f in ("none", "scale")
    )
    assert not np.array_equal(*(found.true_logit for found in folded))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"definition": "both"}, "definition 'both' is not known; choose from code, text"),
        ({"keys": "query"}, "keys 'query' is not known"),
        ({"fold": "all"}, "fold 'all' is not known"),
        ({"k": 0}, "k=0 should be a whole number from 1 to 16"),
        ({"k": 17}, "from 1 to 16"),
        ({"k": 2.0}, "k=2.0"),
        ({"k": CLASSES, "definition": "text"}, "from 1 to 6"),
        ({"target": "guess"}, "target 'guess' is not known"),
        ({"confidence": 95}, "confidence should be between 0 and 1"),
        ({"resamples": 0}, "resamples should be a whole number of at least 1"),
    ],
)
def test_bad_options_are_refused_before_any_image_is_read(options, message):
    def unread():
        raise AssertionError("the loader was read")
        yield

    with pytest.raises(ValueError, match=message):
        key_value_agreement(toy(), unread(), **QUICK | options)


def test_models_without_what_is_needed_are_refused():
    with pytest.raises(ValueError, match="key-value agreement needs timm's VisionTransformer, not a Linear"):
        key_value_agreement(torch.nn.Linear(2, 2), batches(5), **QUICK)
    with pytest.raises(ValueError, match="single class"):
        key_value_agreement(toy(num_classes=1), batches(5), **QUICK)
    gated = toy(mlp_layer=GluMlp)
    with pytest.raises(ValueError, match=r"blocks\.0\.mlp, a GluMlp, has no layer fc1 .* pass keys='value'"):
        key_value_agreement(gated, batches(5), keys="preactivation", **QUICK)
    assert key_value_agreement(gated, batches(5), k=3, **QUICK).rate.shape == (2, 2, 2)


@pytest.mark.parametrize("keys", key_value.KEYS)
def test_the_model_is_put_back_also_after_an_error(keys):
    model = toy().train()
    images, labels = data()
    for loader, error in (([(images, labels)], None), ([(images, labels), (images, labels + CLASSES)], ValueError)):
        if error is None:
            key_value_agreement(model, loader, keys=keys, **QUICK)
        else:
            with pytest.raises(error, match="none of the model's 7 classes"):
                key_value_agreement(model, loader, keys=keys, **QUICK)
        assert all(module.training for module in model.modules())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_result_is_saved_tabulated_and_asked(tmp_path):
    result = key_value_agreement(toy(), batches(5), k=3, provenance={"model": "toy"}, **QUICK)
    loaded = KeyValueAgreement.load(result.save(tmp_path / "agreement"))
    assert loaded.provenance == result.provenance
    assert loaded.n_wrong == result.n_wrong
    np.testing.assert_array_equal(loaded.class_rate, result.class_rate)
    expected = {"model": "toy", "n": IMAGES, "k": 3, "seed": 0, "definition": "code", "keys": "value"}
    assert expected.items() <= result.provenance.items()
    assert "torch" in result.provenance["versions"]
    frame = result.to_frame()
    row = frame[(frame.part == "mlp") & (frame.tokens == "CLS") & (frame.block == "blocks.1")]
    assert len(frame) == 8
    assert row.rate.item() == result.of("rate", "mlp", "CLS")[1] == result.rate[1, 0, 1]
    assert "class_rate" not in frame
    assert "gap_p" in frame
    with pytest.raises(
        ValueError, match="'block' of 'image' tokens is not there; choose from attn, mlp and CLS, image"
    ):
        result.of("rate", "block")


def test_the_first_patch_of_an_averaging_model_is_no_class_token():
    result = key_value_agreement(toy(**KINDS["average"]), batches(5), k=3, provenance={"model": "gap"}, **QUICK)
    with pytest.raises(ValueError, match="'CLS' tokens is not there"):
        result.of("rate", "attn", "CLS")
    figure = plot_agreement_and_accuracy(result)
    assert "image:" in figure.axes[0].get_title()
    plt.close(figure)


def lines(ax):
    return {line.get_label(): line.get_ydata() for line in ax.lines}


def test_figures_show_the_numbers():
    model, facts = toy(), {"model": "toy", "dataset": "noise"}
    results = {"toy": key_value_agreement(model, batches(5), k=3, provenance=facts, **QUICK)}
    twins = {"toy": key_value_agreement(toy(init_values=0.1), batches(5), k=3, provenance=facts, **QUICK)}
    figure = plot_key_value_agreement(results, twins, "CLS")
    for ax, part in zip(figure.axes, ("attn", "mlp"), strict=True):
        own, drawn = results["toy"], lines(ax)
        np.testing.assert_allclose(drawn["class of the image"], 100 * own.of("rate", part, "CLS"))
        np.testing.assert_allclose(drawn["untrained"], 100 * twins["toy"].of("rate", part, "CLS"))
        np.testing.assert_allclose(drawn["chance"], 100 * own.of("chance", part, "CLS"))
        dots = ax.collections[0].get_offsets()[:, 1]
        np.testing.assert_allclose(dots, 100 * own.of("class_rate", part, "CLS")[:, own.class_count > 0].ravel())
    assert "n = 12 images" in figure.caption
    figures = [figure, plot_compositionality(results, twins), plot_agreement_and_accuracy(results)]
    drawn = lines(figures[1].axes[0])
    np.testing.assert_allclose(drawn["attention"], 100 * results["toy"].of("match", "attn"))
    np.testing.assert_allclose(drawn["MLP"], 100 * results["toy"].of("match", "mlp"))
    gaps = figures[2].axes[0].containers[1].lines[0].get_ydata()
    np.testing.assert_allclose(gaps, 100 * results["toy"].of("gap", "mlp", "CLS"))
    for each in figures:
        plt.close(each)


def test_an_untrained_model_needs_the_label_of_a_trained_one():
    result = SimpleNamespace(provenance={})
    with pytest.raises(ValueError, match="untrained vit is none of deit"):
        plot_compositionality({"deit": result}, {"vit": result})
