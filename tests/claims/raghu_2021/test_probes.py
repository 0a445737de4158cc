"""Made-up probes on which the claims hold, fail and cannot be told."""

import numpy as np
import pytest

from utilities.analysis.blocks.layer_probes import LayerProbes
from utilities.claims.raghu_2021 import claims_of_layer_probes
from utilities.claims.raghu_2021.probes import depth_of_class, middle_accuracy

CLS, GAP, CNN = "vit_cls", "vit_gap", "resnet18"
READOUT = {CLS: "CLS", GAP: "GAP", CNN: "GAP"}
N, CLASSES = 1000, 10


def made(model, weights="trained for 9 epochs", n=N, **views):
    """Make a result in which each view reads these shares of the images, layer by layer."""
    rng = np.random.default_rng(0)
    names, layers = list(views), len(next(iter(views.values())))
    correct = np.stack([[rng.permutation(np.arange(n) < share * n) for share in views[view]] for view in names])
    correct = np.moveaxis(correct, 2, 0).astype(np.float32)
    shape = (len(names), layers)
    return LayerProbes(
        [f"blocks.{i}" for i in range(layers)], names, np.zeros((*shape, 3)), correct, correct.mean(0)[None],
        alpha=np.ones((1, *shape)), widths=np.ones(shape, int), prefix=np.zeros(shape, int),
        grids=np.zeros((*shape, 2), int), labels=np.arange(n) % CLASSES, num_classes=CLASSES,
        provenance={"model": model, "readout": READOUT[model], "weights": weights, "n": n},
    )  # fmt: skip


def verdicts(*results):
    return [claim.holds for claim in claims_of_layer_probes({r.provenance["model"]: r for r in results})]


def three(cls_tokens, gap_tokens, cnn_tokens, cls=0.9, gap=0.9, vit_middle=0.8, cnn_middle=0.3):
    return (
        made(CLS, gap=(0.2, vit_middle, 0.8), cls=(0.2, 0.5, cls), tokens=(0.1, 0.1, cls_tokens)),
        made(GAP, gap=(0.2, vit_middle, gap), tokens=(0.1, 0.2, gap_tokens)),
        made(CNN, gap=(0.2, cnn_middle, 0.9), tokens=(0.1, 0.2, cnn_tokens)),
    )


def test_the_paper_s_outcome_holds_and_its_opposite_does_not():
    assert verdicts(*three(0.2, 0.8, 0.7)) == [True] * 5
    assert verdicts(*three(0.8, 0.5, 0.4, gap=0.7, vit_middle=0.3, cnn_middle=0.8)) == [False] * 5


def test_what_the_errors_hide_cannot_be_told():
    results = three(0.5, 0.51, 0.5, gap=0.86, vit_middle=0.5, cnn_middle=0.5)
    assert verdicts(*results) == [None] * 5
    # There is nothing to keep where the class token itself is at chance.
    assert verdicts(*three(0.1, 0.8, 0.7, cls=0.1))[0] is None


def test_what_was_not_read_or_run_cannot_be_told():
    claims = claims_of_layer_probes({CLS: made(CLS, gap=(0.2, 0.5, 0.8)), CNN: made(CNN, gap=(0.2, 0.3, 0.9))})
    assert [claim.holds for claim in claims] == [None, None, None, None, True]
    assert "no probe read single tokens" in claims[0].found
    assert "single positions of a ViT with a class token and a CNN were not read" in claims[2].found
    assert verdicts(made(CNN, gap=(0.2, 0.9))) == [None] * 4


@pytest.mark.parametrize("facts", [{"weights": "untrained, seed 0"}, {"n": 20}])
def test_untrained_models_and_few_images_tell_nothing(facts):
    results = made(CLS, gap=(0.2, 0.8, 0.8), **facts), made(CNN, gap=(0.2, 0.3, 0.9), **facts)
    assert verdicts(*results)[-1] is None


def test_where_over_depth_the_class_is_read():
    result = made(CNN, gap=(0.1, 0.4, 0.8, 0.85, 0.8))
    assert middle_accuracy(result)[0] == pytest.approx(0.8)  # only depth 0.5 lies in the middle third
    assert depth_of_class(result) == 0.5  # 0.1 + 0.9 * 0.75 = 0.775
