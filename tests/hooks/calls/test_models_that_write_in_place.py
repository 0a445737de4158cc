"""Models that write into what they are given give what a twin that does not gives, and nobody's tensor changes.

Each model comes in two versions, with the same weights: one computes ``x -= 0.5`` and ``x += branch(x)`` in place, the
other on new tensors. The arithmetic is the same, so that results are too.
"""

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import Block as PreNormBlock
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from utilities.analysis.attention.attention_distance import attention_distance
from utilities.analysis.attention.attention_maps import attention_diversity
from utilities.analysis.blocks.fourier import fourier
from utilities.analysis.blocks.lesion import find_units, lesions
from utilities.analysis.blocks.variance import feature_variance
from utilities.analysis.class_embedding.block_tokens import read_blocks
from utilities.analysis.class_embedding.gradient_map import gradient_maps
from utilities.analysis.class_embedding.identifiability import identifiability
from utilities.analysis.class_embedding.importance import importance
from utilities.analysis.class_embedding.key_value import key_value_agreement
from utilities.analysis.class_embedding.lens import lens
from utilities.analysis.class_embedding.lens_kl import tuned_lens_kl
from utilities.analysis.class_embedding.perturbation import perturb
from utilities.analysis.class_embedding.probes import linear_probes
from utilities.analysis.class_embedding.relevance import relevance_maps
from utilities.analysis.class_embedding.removal import removal_curves
from utilities.analysis.class_embedding.spaces import class_space
from utilities.analysis.class_embedding.tuned_fit import fit_tuned_lens
from utilities.analysis.loss.hessian import hessian_spectra
from utilities.analysis.loss.landscape import loss_landscape
from utilities.analysis.loss.spectral_density import spectral_density
from utilities.analysis.predictions.adversarial import adversarial
from utilities.analysis.predictions.classification import classify
from utilities.analysis.predictions.consistency import consistency
from utilities.analysis.predictions.noise_frequency import noise_frequency
from utilities.analysis.predictions.prediction_time import prediction_time
from utilities.analysis.predictions.robustness import robustness, score_logits
from utilities.analysis.predictions.uncertainty import Ensemble, dropout_log_probabilities, sampling_dropout
from utilities.compare import compare
from utilities.compare.all_pairs import SideBySide, compare_all
from utilities.compare.layer_matching import layer_matching
from utilities.datasets import load_dataset
from utilities.datasets.factory import make_loader
from utilities.hooks import blocks
from utilities.hooks.calls.copies import own_inputs
from utilities.training.recipes import Recipe
from utilities.training.trainer import Trainer, estimate_batch_norm
from utilities.utils import evaluate, evaluating

CLASSES = 4


class Scale(nn.Module):
    """Normalise images."""

    def __init__(self, writes: bool) -> None:
        super().__init__()
        self.writes = writes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.writes:
            x -= 0.25
            x *= 1.5
            return x
        return (x - 0.25) * 1.5


class ResidualBlock(nn.Module):
    """A residual block without its activation."""

    def __init__(self, width: int, writes: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.relu = nn.ReLU(inplace=writes)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.writes = writes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.conv2(self.relu(self.conv1(x)))
        if self.writes:
            x += branch
            return x
        return x + branch


class ConvNet(nn.Module):
    """A small ResNet; training it does not work with ``residual=True``, in which the block needs its input later."""

    def __init__(self, writes: bool, residual: bool) -> None:
        super().__init__()
        self.scale, self.conv1, self.bn1 = Scale(writes), nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        for stage in range(1, 5):
            self.add_module(f"layer{stage}", nn.Sequential(ResidualBlock(4, writes and residual)))
        self.dropout, self.avgpool, self.fc = nn.Dropout(0.3), nn.AdaptiveAvgPool2d(1), nn.Linear(4, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn1(self.conv1(self.scale(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(self.dropout(x)).flatten(1))


class WritingBlock(PreNormBlock):
    """timm's block, which adds to its input in place."""

    def forward(self, x: torch.Tensor, attn_mask: torch.Tensor | None = None) -> torch.Tensor:
        x += self.ls1(self.attn(self.norm1(x), attn_mask=attn_mask))
        x += self.ls2(self.mlp(self.norm2(x)))
        return x


class Norm(nn.LayerNorm):
    """A layer norm that may put its output where its input was."""

    writes = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.copy_(super().forward(x.clone())) if self.writes else super().forward(x)


def vit(writes: bool, residual: bool) -> VisionTransformer:
    torch.manual_seed(0)
    model = VisionTransformer(
        img_size=8,
        patch_size=4,
        embed_dim=16,
        depth=2,
        num_heads=2,
        num_classes=CLASSES,
        init_values=0.5,
        block_fn=WritingBlock if writes and residual else PreNormBlock,
        act_layer=nn.ReLU,
    )
    model.patch_embed.proj = nn.Sequential(Scale(writes), model.patch_embed.proj)
    model.norm = Norm(16)
    nn.init.normal_(model.head.weight)
    nn.init.normal_(model.head.bias)
    model.norm.writes = writes and residual
    for block in model.blocks:
        block.ls1.inplace = block.ls2.inplace = writes and residual
        block.mlp.act.inplace = writes and residual
    return model


def convnet(writes: bool, residual: bool) -> ConvNet:
    torch.manual_seed(0)
    return ConvNet(writes, residual)


def batches(seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (10, 3, 8, 8), generator=generator) / 255
    labels = torch.randint(CLASSES, (10,), generator=generator)
    return list(zip(pixels.split(5), labels.split(5), strict=True))


def numbers(result: object) -> list[np.ndarray]:
    """Collect all numbers of a result."""
    if isinstance(result, torch.Tensor):
        return [result.detach().numpy()]
    if isinstance(result, nn.Module):
        return [value.numpy() for value in result.state_dict().values()]
    if dataclasses.is_dataclass(result):
        result = {k: v for k, v in vars(result).items() if k != "provenance"}
    if isinstance(result, dict):
        result = list(result.values())
    if isinstance(result, (list, tuple)):
        return [array for part in result for array in numbers(part)]
    return [np.asarray(result)] if isinstance(result, (np.ndarray, float, int)) else []


OPTIONS = {"device": "cpu", "progress": False}
SCALE = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
OF_CLASSES = {**OPTIONS, "resamples": 10}


def features(model: nn.Module, loader: list) -> list[torch.Tensor]:
    with torch.no_grad(), evaluating(model):
        return [x for _, x in blocks(model).features(loader[0][0])]


def dropped(model: nn.Module, loader: list) -> torch.Tensor:
    with torch.no_grad(), sampling_dropout(model.eval()):
        return dropout_log_probabilities(model, loader[0][0], 3)


def tuned(model: nn.Module, loader: list) -> list:
    fitted = fit_tuned_lens(model, loader, epochs=1, **OPTIONS)
    return [fitted, tuned_lens_kl(model, fitted, loader, **OPTIONS)]


def statistics(model: nn.Module, loader: list) -> nn.Module:
    return estimate_batch_norm(model, loader, "cpu")


def landscape(model: nn.Module, loader: list, **options: object) -> object:
    return loss_landscape(model, loader, points=3, report=None, **OPTIONS, **options)


def hessian(model: nn.Module, loader: list) -> object:
    return hessian_spectra(model, loader, k=1, batch_size=5, n_batches=2, tolerance=1e-4, **OPTIONS)


def removal(model: nn.Module, loader: list) -> object:
    maps = {"a": np.random.default_rng(0).normal(size=(10, 4))}
    return removal_curves(model, loader, maps, random=1, **OPTIONS)


# Name -> the analysis, and whether it goes with a block that writes into its input (autograd does not allow it).
OF_CONVNETS = {
    "blocks": (features, True),
    "lesions": (lambda m, x: lesions(m, x, **OPTIONS), True),
    "lesions of blocks": (lambda m, x: lesions(m, x, units="block", **OPTIONS), True),
    "lesions to zero": (lambda m, x: lesions(m, x, ablation="zero", **OPTIONS), True),
    "lesions to the mean": (lambda m, x: lesions(m, x, ablation="mean", **OPTIONS), True),
    "blocks to the mean": (lambda m, x: lesions(m, x, units="block", ablation="mean", **OPTIONS), True),
    "lesions by name": (lambda m, x: lesions(m, x, layers={"layer?.0": "conv"}, **OPTIONS), True),
    "fourier": (lambda m, x: fourier(m, x, **OPTIONS), True),
    "fourier by name": (lambda m, x: fourier(m, x, layers={"layer?": "conv"}, **OPTIONS), True),
    "variance": (lambda m, x: feature_variance(m, x, **OPTIONS), True),
    "variance over samples": (lambda m, x: feature_variance(m, x, over="samples", **OPTIONS), True),
    "evaluate": (lambda m, x: evaluate(m, x, device="cpu"), True),
    "classify": (lambda m, x: classify(m, x, **OPTIONS), True),
    "dropout": (lambda m, x: classify(m, x, passes=2, **OPTIONS), True),
    "dropout alone": (dropped, True),
    "ensemble": (lambda m, x: classify(Ensemble([m, convnet(m.scale.writes, True)]), x, **OPTIONS), True),
    "landscape": (landscape, True),
    "landscape, estimated": (lambda m, x: landscape(m, x, batch_norm="estimate"), True),
    "hessian": (hessian, False),
    "density": (lambda m, x: spectral_density(m, x, steps=3, **OPTIONS), False),
    "robustness": (lambda m, x: robustness(m, x, kinds=["contrast"], severities=[1], **SCALE, **OPTIONS), True),
    "noise": (lambda m, x: noise_frequency(m, x, bands=2, **OPTIONS), True),
    "attack": (lambda m, x: adversarial(m, x, radii=[2], steps=2, **SCALE, **OPTIONS), False),
    "perturbed": (lambda m, x: consistency(m, x, kinds=["rotate"], **SCALE, **OPTIONS), True),
    "statistics": (statistics, True),
    "compare": (lambda m, x: compare(m, m, x, **OPTIONS), True),
    "two models": (lambda m, x: compare(m, convnet(m.scale.writes, True), x, **OPTIONS), True),
    "pairs": (lambda m, x: compare_all({"a": m, "b": convnet(m.scale.writes, True)}, x, **OPTIONS), True),
    "matching": (
        lambda m, x: layer_matching(
            [m, convnet(m.scale.writes, True)], x, ["cka"], layers="layer?", views=["gap"], **OPTIONS
        ),
        True,
    ),
}
OF_TRANSFORMERS = {
    "blocks": (features, True),
    "lesions": (lambda m, x: lesions(m, x, **OPTIONS), True),
    "lesions to the mean": (lambda m, x: lesions(m, x, ablation="mean", **OPTIONS), True),
    "fourier": (lambda m, x: fourier(m, x, **OPTIONS), True),
    "diversity": (lambda m, x: attention_diversity(m, x, **OPTIONS), True),
    "distance": (lambda m, x: attention_distance(m, x, **OPTIONS), True),
    "lens": (lambda m, x: lens(m, x, top=2, logits=True, **OPTIONS), True),
    "identifiability": (lambda m, x: identifiability(m, x, **OF_CLASSES), True),
    "probes": (lambda m, x: linear_probes(m, x, batches(1), tokens="shared", **OF_CLASSES), True),
    "tuned lens": (tuned, True),
    "memories": (lambda m, x: key_value_agreement(m, x, k=1, **OF_CLASSES), True),
    "memories before": (lambda m, x: key_value_agreement(m, x, k=1, keys="preactivation", **OF_CLASSES), True),
    "perturbation": (lambda m, x: perturb(m, x, target="prediction", **OF_CLASSES), True),
    "gradients": (lambda m, x: gradient_maps(m, x[0][0], 1), True),
    "relevance": (lambda m, x: relevance_maps(m, x[0][0], 1), False),
    "importance": (lambda m, x: importance(m, x, target="prediction", **OPTIONS), True),
    "importance by relevance": (lambda m, x: importance(m, x, method="relevance", **OPTIONS), False),
    "removal": (removal, True),
}
CASES = [(convnet, *one) for one in OF_CONVNETS.items()] + [(vit, *one) for one in OF_TRANSFORMERS.items()]


@pytest.mark.parametrize(
    ("make", "run", "residual"),
    [(make, *what) for make, _, what in CASES],
    ids=[f"{make.__name__}: {name}" for make, name, _ in CASES],
)
def test_a_model_that_writes_into_its_input_gives_what_its_twin_gives(make, run, residual) -> None:
    found = []
    for writes in (False, True):
        loader, model = batches(), make(writes, residual).eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.append(numbers(run(model, loader)))
        for now, before in zip(loader, batches(), strict=True):
            assert all(torch.equal(*pair) for pair in zip(now, before, strict=True))
        assert not model._forward_pre_hooks
    assert found[0]
    assert len(found[0]) == len(found[1])
    for plain, writing in zip(*found, strict=True):
        # The arithmetic is the same; sums of products may be taken in another order.
        np.testing.assert_allclose(writing, plain, rtol=2e-5, atol=2e-6)


def test_the_time_of_a_prediction_leaves_the_images_alone() -> None:
    (images, _), *_ = batches()
    prediction_time(convnet(True, True), images, repeats=2, device="cpu")
    assert torch.equal(images, batches()[0][0])


def test_training_with_a_teacher_shows_both_the_same_images() -> None:
    rows = []
    for writes in (False, True):
        torch.manual_seed(0)
        data = make_loader(load_dataset("digits", "train", n_images=40), 20, shuffle="every_epoch")
        student, teacher = (nn.Sequential(Scale(writes), nn.Flatten(), nn.Linear(768, 10)) for _ in range(2))
        trainer = Trainer(student, Recipe(epochs=1).resolved("linear"), data, data, device="cpu", teacher=teacher)
        rows.append(trainer.run_epoch(progress=False))
    assert rows[0] | {"seconds": 0} == pytest.approx(rows[1] | {"seconds": 0}, rel=1e-5)


def test_a_step_of_training_leaves_the_batch_alone() -> None:
    data = make_loader(load_dataset("digits", "train", n_images=20), 20)
    trainer = Trainer(
        nn.Sequential(Scale(True), nn.Flatten(), nn.Linear(192, CLASSES)),
        Recipe(epochs=1).resolved("linear"),
        data,
        data,
        device="cpu",
    )
    images, labels = batches()[0]
    trainer._step(images, labels, None)
    assert torch.equal(images, batches()[0][0])


def test_what_is_called_by_itself_leaves_the_images_alone() -> None:
    (images, labels), *_ = batches()
    model, transformer = convnet(True, True).eval(), vit(True, True).eval()
    with torch.no_grad():
        blocks(model).check(images)
        list(blocks(model, {"layer?": "conv"}).features(images))
        find_units(blocks(model), images)
        read_blocks(class_space(transformer), images, lambda tokens: None)
        with own_inputs(model):
            score_logits(model(images), labels)
        Ensemble([model, model])(images)
        SideBySide([model, model])(images)
    assert torch.equal(images, batches()[0][0])
