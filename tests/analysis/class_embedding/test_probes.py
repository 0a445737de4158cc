"""Linear probes beside the lens, against scikit-learn, plain loops and answers that are known."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer

from utilities.analysis.class_embedding.block_tokens import read_blocks
from utilities.analysis.class_embedding.conv_space import ConvolutionalSpace
from utilities.analysis.class_embedding.probes import LinearProbes, linear_probes
from utilities.analysis.class_embedding.space import LensOptions
from utilities.analysis.class_embedding.spaces import class_space
from utilities.analysis.class_embedding.tuned import TunedLens
from utilities.analysis.class_embedding.tuned_fit import fit_tuned_lens
from utilities.plots.class_embedding.probes import plot_probes
from utilities.resnet import BasicBlock, ResNet

CPU = {"device": "cpu", "progress": False, "resamples": 50}
CLASSES = 5
GAP = {"global_pool": "avg", "class_token": False}


def toy(kind=VisionTransformer, **options):
    """A ViT whose blocks change their tokens clearly."""
    torch.manual_seed(0)
    size = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": CLASSES}
    model = kind(**{**size, **options}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    return model


def labelled(n, seed, patterns=0.0):
    """Noise with labels, each class with a pattern of its own that is ``patterns`` strong."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % CLASSES
    pattern = torch.randn(CLASSES, 3, 8, 8, generator=torch.Generator().manual_seed(99))
    return patterns * pattern[labels] + torch.randn(n, 3, 8, 8, generator=generator), labels


def halves(x, y, size):
    return list(zip(x.split(size), y.split(size), strict=True))


def layers(model, x):
    """Collect the tokens of every block and part, float64: (block, part) -> (n, tokens, width)."""
    found = {}

    def visit(tokens):
        for part, value in (("block", tokens.after), ("attn", tokens.attn), ("mlp", tokens.mlp)):
            found[tokens.index, part] = value.double().numpy()

    with torch.no_grad():
        logits = read_blocks(class_space(model), x, visit)
    return found, logits


VARIANTS = [
    ({}, [0, 1, 2, 3, 4]),
    (GAP, [0, 1, 2, 3]),
    (GAP | {"fc_norm": False}, [0, 1, 2, 3]),
    (GAP | {"block_fn": ResPostBlock}, [0, 1, 2, 3]),
    ({"reg_tokens": 2, "init_values": 0.5}, [0, 3, 4, 5, 6]),  # registers are left out
    ({"kind": VisionTransformerDistilled}, [0, 2, 3, 4, 5]),
]


@pytest.mark.parametrize(("options", "places"), VARIANTS)
def test_each_probe_is_scikit_learns_and_the_lens_is_the_lens(options, places):
    model, (train, y), (test, z) = toy(**options), labelled(60, 1, 0.3), labelled(40, 2, 0.3)
    result = linear_probes(model, halves(train, y, 7), halves(test, z, 16), **CPU)
    (known, _), (asked, _) = layers(model, train), layers(model, test)
    targets, space = 2.0 * np.eye(CLASSES)[y] - 1, class_space(model)
    ranks = np.zeros((40, len(places)), dtype=int)
    for b in range(2):
        for p, part in enumerate(("block", "attn", "mlp")):
            with torch.no_grad():
                lens = space.project(torch.from_numpy(asked[b, part]).float())[:, places].argmax(2)
            np.testing.assert_allclose(result.accuracy[1, p, b], (lens == z[:, None]).double().mean(0), atol=1e-9)
            for t, place in enumerate(places):
                probe = Ridge(alpha=1.0, solver="svd").fit(known[b, part][:, place], targets)
                scores = probe.predict(asked[b, part][:, place])
                assert result.accuracy[0, p, b, t] == pytest.approx((scores.argmax(1) == z.numpy()).mean())
                if part == "block":
                    ranks[:, t] += (scores > scores[np.arange(40), z.numpy()][:, None]).sum(1)
    image = ranks[:, len(places) - 4 :]
    np.testing.assert_array_equal(result.rank_sum, image)
    np.testing.assert_array_equal(result.probe_importance, -image)
    assert result.groups == (["image"] if len(places) == 4 else ["CLS", "image"])


def test_shared_probes_are_one_for_cls_and_one_for_all_image_tokens():
    model, (train, y), (test, z) = toy(), labelled(60, 1, 0.3), labelled(40, 2, 0.3)
    result = linear_probes(model, halves(train, y, 7), halves(test, z, 16), tokens="shared", **CPU)
    (known, _), (asked, _) = layers(model, train), layers(model, test)
    targets = 2.0 * np.eye(CLASSES)[y] - 1
    for places, group in (([0], 0), ([1, 2, 3, 4], 1)):
        for p, part in enumerate(("block", "attn", "mlp")):
            x = known[1, part][:, places].reshape(-1, 16)
            probe = Ridge(alpha=1.0, solver="svd").fit(x, targets.repeat(len(places), 0))
            scores = probe.predict(asked[1, part][:, places].reshape(-1, 16)).reshape(40, len(places), CLASSES)
            right = scores.argmax(2) == z.numpy()[:, None]
            np.testing.assert_allclose(result.accuracy[0, p, 1, places], right.mean(0))
            np.testing.assert_allclose(result.correct[:, 0, p, 1, group], right.mean(1), atol=1e-6)


def test_the_class_token_after_the_last_block_is_read_as_the_model_answers():
    model, (x, y) = toy(), labelled(50, 2, 0.3)
    _, logits = layers(model, x)
    result = linear_probes(model, [labelled(20, 1)], [(x, y)], parts=["block"], **CPU)
    np.testing.assert_array_equal(result.of("lens", "block", "CLS")[:, -1], (logits.argmax(1) == y).numpy())


def test_patterns_are_found_where_the_lens_finds_nothing_and_shuffled_labels_are_not():
    model, (train, y), (test, z) = toy(), labelled(200, 1, 3.0), labelled(200, 2, 3.0)
    found = linear_probes(model, [(train, y)], [(test, z)], parts=["block"], **CPU)
    assert (found.of("probe", "block").mean(0) > 0.99).all()
    gaps = found.difference().query("group == 'image'")
    assert (gaps["difference"] > 0.5).all()
    assert (gaps["p"] <= 1 / 51).all()
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    shuffled = linear_probes(model, [(train, y[order])], [(test, z[order])], parts=["block"], **CPU)
    # Patterns say nothing of the labels: 200 answers at a chance of 0.2 have a standard error of 0.03; four of them.
    assert (abs(shuffled.of("probe", "block", "CLS").mean(0) - 1 / CLASSES) < 0.12).all()


class Silent(Block):
    """A block that gives the same tokens for all images."""

    def forward(self, x, **options):
        return super().forward(x) * 0 + 1


def test_equal_scores_do_not_count_as_right():
    """Tokens without information give all classes one score, where the best of equal ranks would make all right."""
    model = toy(block_fn=Silent, depth=1)
    with pytest.warns(UserWarning, match="probes can only guess: blocks.0 block, CLS"):
        result = linear_probes(model, [labelled(20, 1)], [labelled(20, 2)], parts=["block"], **CPU)
    np.testing.assert_allclose(result.accuracy[0], 1 / CLASSES, rtol=1e-6)  # shares are float32
    assert (result.rank_sum == (CLASSES - 1) / 2).all()


def test_results_do_not_depend_on_batches():
    model, (train, y), (test, z) = toy(), labelled(40, 1, 0.3), labelled(30, 2, 0.3)
    whole = linear_probes(model, [(train, y)], [(test, z)], **CPU)
    parts = linear_probes(model, halves(train, y, 3), halves(test, z, 11), **CPU)
    for name in ("accuracy", "correct", "interval", "rank_sum", "labels"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))


def test_errors_and_intervals_are_over_images():
    model = toy()
    result = linear_probes(model, [labelled(40, 1, 0.3)], [labelled(30, 2, 0.3)], confidence=0.9, **CPU)
    frame = result.to_frame()
    assert len(frame) == 2 * 3 * 2 * 2
    row = frame.query("reading == 'probe' and part == 'mlp' and group == 'image' and block == 2").iloc[0]
    values = result.of("probe", "mlp")[:, 1]
    assert row.accuracy == pytest.approx(values.mean())
    assert row.accuracy == pytest.approx(result.accuracy[0, 2, 1, 1:].mean(), abs=1e-6)  # float32 shares
    assert row.stderr == pytest.approx(values.std(ddof=1) / 30**0.5)
    assert row.low < row.accuracy < row.high
    cls = result.of("probe", "mlp", "CLS")[:, 1]
    assert result.accuracy_stderr[0, 2, 1, 0] == pytest.approx(cls.std(ddof=1) / 30**0.5)


def test_a_tuned_lens_is_read_beside_the_raw_one_and_reads_blocks_alone():
    model, train, test = toy(), labelled(40, 1, 0.3), labelled(30, 2, 0.3)
    raw = linear_probes(model, [train], [test], **CPU)
    same = linear_probes(model, [train], [test], lens=LensOptions(tuned=TunedLens([16, 16])), **CPU)
    assert same.readings == ["probe", "lens", "tuned"]
    np.testing.assert_array_equal(same.accuracy[:2], raw.accuracy)
    np.testing.assert_array_equal(same.accuracy[2, 0], raw.accuracy[1, 0])
    assert np.isnan(same.accuracy[2, 1:]).all()
    assert same.provenance["lens"]["tuned"] is True


def test_chosen_blocks_and_parts_are_those_of_all():
    model, train, test = toy(depth=3), labelled(40, 1, 0.3), labelled(30, 2, 0.3)
    whole = linear_probes(model, [train], [test], **CPU)
    some = linear_probes(model, [train], [test], blocks=[2, 0], parts=["mlp", "block"], **CPU)
    assert (some.names, some.blocks, some.parts) == (["blocks.0", "blocks.2"], [0, 2], ["block", "mlp"])
    assert set(some.to_frame()["block"]) == {1, 3}
    np.testing.assert_array_equal(some.accuracy, whole.accuracy[:, [0, 2]][:, :, [0, 2]])


def test_stages_of_a_cnn():
    torch.manual_seed(0)
    model = ResNet(BasicBlock, (1, 1, 1, 1), num_classes=CLASSES).eval()
    space = ConvolutionalSpace.every_stage(model)
    train, test = labelled(20, 1), labelled(10, 2)
    tuned = fit_tuned_lens(space, [train[0]], epochs=1, device="cpu", progress=False)
    options = {"tokens": "shared", **CPU}
    result = linear_probes(ConvolutionalSpace.every_stage(model, LensOptions(tuned=tuned)), [train], [test], **options)
    assert result.accuracy.shape == (3, 1, 4, 64)
    assert [int(np.isfinite(values).sum()) for values in result.accuracy[0, 0]] == [64, 16, 4, 1]
    assert np.isnan(result.accuracy[1, 0, :3]).all()  # the raw lens reads the last stage alone
    assert np.isfinite(result.correct[:, 2]).all()
    with pytest.raises(ValueError, match="share one grid"):
        _ = result.probe_importance
    last = linear_probes(model, [train], [test], **options)
    assert last.names == ["layer4.0"]
    np.testing.assert_array_equal(last.accuracy[:, 0, 0, 0], result.accuracy[:2, 0, 3, 0])


def test_memory_is_checked_before_the_work():
    model, read = toy(), []

    class Loader(list):
        def __iter__(self):
            read.append(1)
            return super().__iter__()

    train, test = Loader([labelled(4, 1)]), [labelled(4, 2)]
    needed = 8 * 2 * 3 * 5 * 16 * (16 + CLASSES)
    with pytest.raises(ValueError, match=r"sums of 30 probes take 8.06e-05 GB, above memory_limit=8e-05 GB.*'shared'"):
        linear_probes(model, train, test, memory_limit=80_000, **CPU)
    assert needed == 80640
    assert len(read) == 1
    with pytest.warns(UserWarning, match="1 of the model's 5 classes"):
        linear_probes(model, train, test, memory_limit=needed, **CPU)


def test_bad_input():
    model, train, test = toy(), [labelled(5, 1)], [labelled(5, 2)]
    with pytest.raises(ValueError, match="same images"):
        linear_probes(model, train, train, **CPU)
    dataset = torch.utils.data.TensorDataset(*labelled(5, 1))
    with pytest.raises(ValueError, match="same images"):
        linear_probes(model, *(torch.utils.data.DataLoader(dataset) for _ in range(2)), **CPU)
    with pytest.raises(TypeError, match="reads the images twice"):
        linear_probes(model, iter(train), test, **CPU)
    with pytest.raises(ValueError, match="label 5 is none of"):
        linear_probes(model, [(train[0][0], train[0][1] + 1)], test, **CPU)
    with pytest.raises(ValueError, match="labels are needed"):
        linear_probes(model, [train[0][0]], test, **CPU)
    wrong = {"parts": ["head"], "tokens": "every", "alpha": 0, "blocks": [2], "memory_limit": 0, "confidence": 1}
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=name):
            linear_probes(model, train, test, **{**CPU, name: value})
    with pytest.raises(ValueError, match="'tuned' was not read"):
        linear_probes(model, train, test, **CPU).of("tuned", "block")


def test_files_and_the_figure(tmp_path):
    result = linear_probes(toy(), [labelled(40, 1)], [labelled(30, 2)], provenance={"model": "toy"}, **CPU)
    loaded = LinearProbes.load(result.save(tmp_path / "probes"))
    assert loaded.to_frame().equals(result.to_frame())
    assert loaded.difference().equals(result.difference())
    figure = plot_probes(loaded)
    axes = figure.axes
    assert [ax.get_title() for ax in axes] == ["linear probe", "lens"]
    lines = {line.get_label(): line for line in axes[0].get_lines()}
    np.testing.assert_allclose(lines["block output, image"].get_ydata(), 100 * result.of("probe", "block").mean(0))
    assert "10th" in figure.caption
