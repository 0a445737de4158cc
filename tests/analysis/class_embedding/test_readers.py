"""One pass with several readers: targets, labels, masks, batches; and where a class stands among all."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from utilities.analysis.class_embedding.block_tokens import read_blocks
from utilities.analysis.class_embedding.ranks import rank, target_logit
from utilities.analysis.class_embedding.readers import Batch, check_readout, check_target, run_readers
from utilities.analysis.class_embedding.spaces import class_space
from utilities.utils import evaluate

CLASSES = 5
LABELS = torch.tensor([0, 4, 2, 2, 1, 3, 0])


def vit(kind=VisionTransformer):
    torch.manual_seed(0)
    model = kind(img_size=8, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=CLASSES)
    for parameter in model.parameters():  # timm's start is so small that all tokens look alike
        nn.init.normal_(parameter, std=0.3)
    return model


def images():
    return torch.randn(len(LABELS), 3, 8, 8, generator=torch.Generator().manual_seed(1))


def masks():
    """The object fills the left half."""
    return (torch.arange(8) < 4).float().expand(len(LABELS), 8, 8)


def loader(batch_size, *more):
    return list(zip(*(part.split(batch_size) for part in (images(), *more)), strict=True))


class Ranks:
    """Keeps the rank and logit of the target in every token of every block, and what is finished."""

    def __init__(self):
        self.ranks, self.logits, self.targets, self.answers, self.order, self.objects = [], [], [], [], [], []

    def block(self, tokens, batch):
        self.order.append(tokens.index)
        logits = tokens.logits("block")
        self.ranks.append(rank(logits, batch.target))
        self.logits.append(target_logit(logits, batch.target))
        self.objects.append(batch.on_object(tokens.grid))
        assert batch.logits is None

    def finish(self, batch):
        self.order.append("end")
        self.targets.append(batch.target)
        self.answers.append(batch.logits)

    def of_block(self, values, index):
        return torch.cat(values[index::2])


def passed(batches, model=None, **options):
    reader = Ranks()
    n = run_readers(class_space(model or vit()), batches, [reader], device="cpu", progress=False, **options)
    return reader, n


def test_every_reader_sees_every_block_of_every_batch():
    readers = Ranks(), Ranks()
    n = run_readers(class_space(vit()), loader(3, LABELS), readers, device="cpu", progress=False)
    assert n == 7
    assert readers[0].order == readers[1].order == [0, 1, "end"] * 3
    assert torch.equal(torch.cat(readers[0].targets), LABELS)
    assert torch.allclose(torch.cat(readers[0].answers), vit().eval()(images()), atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("target", ["label", "prediction", 3])
def test_batches_do_not_matter(batch_size, target):
    one, _ = passed(loader(len(LABELS), LABELS), target=target)
    many, n = passed(loader(batch_size, LABELS), target=target)
    assert n == len(LABELS)
    for index in (0, 1):
        assert torch.equal(many.of_block(many.ranks, index), one.of_block(one.ranks, index))
        # Float32 matrix products of other shapes round otherwise.
        assert torch.allclose(many.of_block(many.logits, index), one.of_block(one.logits, index), atol=1e-4)


def test_rate_of_the_last_class_token_is_accuracy():
    """On labels of which some are met: those that the model gives, three of them changed."""
    answers = vit().eval()(images()).argmax(1)
    labels = answers.clone()
    labels[:3] = (labels[:3] + 1) % CLASSES
    reader, _ = passed(loader(2, labels))
    rate = (reader.of_block(reader.ranks, 1)[:, 0] == 0).double().mean().item()
    assert rate == evaluate(vit(), loader(2, labels), device="cpu", topk=(1,))["top1"] == 4 / 7


def test_targets():
    answers = vit().eval()(images()).argmax(1)
    predicted, _ = passed([images()[:4], images()[4:]], target="prediction")  # no labels are needed
    assert torch.equal(torch.cat(predicted.targets), answers)
    assert (predicted.of_block(predicted.ranks, 1)[:, 0] == 0).all()
    fixed, _ = passed([images()], target=3)
    assert torch.equal(fixed.targets[0], torch.full((7,), 3))
    same, _ = passed(loader(7, torch.full((7,), 3)))
    assert torch.equal(fixed.of_block(fixed.logits, 0), same.of_block(same.logits, 0))


@pytest.mark.parametrize("target", ["guess", "labels", -1, 5, True, 1.0, None])
def test_bad_targets_are_named_before_anything_runs(target):
    def untouched():
        raise AssertionError
        yield

    with pytest.raises(ValueError, match=rf"target {target!r} is not known; .* a class from 0 to 4"):
        passed(untouched(), target=target)
    check_target(4, CLASSES)
    check_target("prediction", CLASSES)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1, 5, 2, 2, 9, 0]), "label 5 is none of the model's 5 classes"),
        (torch.tensor([0, -1, 1, 2, 2, 3, 0]), "label -1 is none of the model's 5 classes"),
        (LABELS.float(), r"labels should be integers of shape \(7,\), got float32 of shape \(7,\)"),
        (
            torch.eye(7, 5).long(),
            r"got int64 of shape \(7, 5\); of one-hot or soft labels take the class by labels\.argmax\(1\)",
        ),
    ],
)
def test_bad_labels_are_named(labels, message):
    with pytest.raises(ValueError, match=message):
        passed(loader(7, labels))
    assert passed([images()], target=0)[1] == len(LABELS)  # no labels, none to check


def test_labels_in_a_later_batch_are_looked_at_too():
    labels = LABELS.clone()
    labels[-1] = 7
    with pytest.raises(ValueError, match="label 7 is none"):
        passed(loader(2, labels))


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="labels are needed; the loader should yield"):
        passed([images()])
    with pytest.raises(ValueError, match=r"masks of the objects are needed; .*\(images, labels, masks\)"):
        passed(loader(7, LABELS), masked=True)
    with pytest.raises(ValueError, match="digits: the loader yields no image"):
        passed([], description="digits")
    with pytest.raises(ValueError, match="the loader yields no image"):
        passed([(images()[:0], LABELS[:0])])


def test_masks_reach_the_tokens_row_by_row():
    reader, _ = passed(loader(4, LABELS, masks()), masked=True)
    expected = torch.tensor([True, False, True, False]).expand(7, 4)
    for index in (0, 1):
        assert torch.equal(reader.of_block(reader.objects, index), expected)
    without, _ = passed(loader(7, LABELS))
    assert without.objects == [None, None]


def test_covered_fractions_have_a_threshold():
    mask = torch.zeros(1, 8, 8)
    mask[0, :4, :2] = 1  # half of the first patch
    batch = Batch(images()[:1], LABELS[:1], LABELS[:1], mask)
    assert batch.on_object((2, 2)).tolist() == [[True, False, False, False]]
    assert not batch.on_object((2, 2), 0.51).any()


class Twice(VisionTransformer):
    def forward(self, x):
        return 2 * super().forward(x)


class Shifted(VisionTransformer):
    def forward(self, x):
        logits = super().forward(x)
        return logits + torch.arange(CLASSES)


@pytest.mark.parametrize("kind", [Twice, Shifted])
def test_a_model_that_answers_otherwise_than_its_classifier_is_refused(kind):
    with pytest.raises(
        ValueError, match=r"logits are not its classifier's on its last block's tokens \(they differ by"
    ):
        passed(loader(7, LABELS), vit(kind))


def test_readout_in_closed_form():
    logits = torch.tensor([[100.0, -3.0]])
    check_readout(logits + 0.09, logits)
    for other in (logits + 0.11, logits * torch.nan):
        with pytest.raises(ValueError, match="differ by"):
            check_readout(other, logits)


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(fails):
    class Stop(Ranks):
        def finish(self, batch):
            if fails:
                raise KeyError("stop")

    model = vit().train()
    model.blocks[0].eval()
    modes = {name: module.training for name, module in model.named_modules()}
    state = {key: value.clone() for key, value in model.state_dict().items()}
    if fails:
        with pytest.raises(KeyError, match="stop"):
            run_readers(class_space(model), loader(3, LABELS), [Stop()], device="cpu", progress=False)
    else:
        run_readers(class_space(model), loader(3, LABELS), [Stop()], device="cpu", progress=False)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(block.attn.fused_attn == vit().blocks[0].attn.fused_attn for block in model.blocks)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.is_grad_enabled()


def test_the_global_generator_is_not_drawn_from():
    model, before = vit().train(), torch.get_rng_state()
    passed(loader(3, LABELS, masks()), model, target="prediction")
    assert torch.equal(torch.get_rng_state(), before)


def test_blocks_are_read_in_eval_mode():
    torch.manual_seed(0)
    model = VisionTransformer(
        img_size=8, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=CLASSES, proj_drop_rate=0.5
    ).train()
    first, _ = passed(loader(7, LABELS), model)
    second, _ = passed(loader(7, LABELS), model)
    assert torch.equal(first.logits[1], second.logits[1])
    kept = []
    with torch.no_grad():
        read_blocks(class_space(model.eval()), images(), kept.append)
    assert torch.equal(target_logit(kept[1].logits("block"), LABELS), first.logits[1])


def test_parts_of_a_batch_that_do_not_belong_together():
    with pytest.raises(ValueError, match="a batch of 7 images has 6 labels"):
        passed([(images(), LABELS[:6])])
    with pytest.raises(ValueError, match="a batch of 7 images has 6 masks"):
        passed([(images(), LABELS, masks()[:6])], masked=True)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_of_any_whole_type(dtype):
    found, _ = passed(loader(7, LABELS.to(dtype)))
    expected, _ = passed(loader(7, LABELS))
    assert torch.equal(found.ranks[1], expected.ranks[1])


def test_a_model_of_small_logits_that_answers_otherwise_is_refused():
    model = vit(Twice)
    with torch.no_grad():
        model.head.weight.mul_(1e-4), model.head.bias.mul_(1e-4)
    with pytest.raises(ValueError, match="logits are not its classifier's"):
        passed(loader(7, LABELS), model)
