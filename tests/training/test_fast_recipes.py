"""Short recipes: a straight line, Nesterov's momentum, no decay of vectors, and images that lie on the device."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn

from utilities.cli.verbs import main
from utilities.datasets import load_dataset
from utilities.datasets.factory import make_loader
from utilities.datasets.images import mirror
from utilities.train import fit, load_sets
from utilities.training.augmentation import recipe_augmentation
from utilities.training.muon import MuonAdamW
from utilities.training.recipes import RECIPES, Recipe, schedule
from utilities.training.sets import make_loaders
from utilities.training.trainer import Trainer
from utilities.utils import evaluate

TINY = Recipe("digits", epochs=1, batch_size=20, n_images=40, image_size=8, learning_rate=0.01)
QUIET = {"device": "cpu", "precision": "float32", "report": lambda line: None}


def optimizer_of(model, **options):
    """Make the optimiser of a trainer, at the peak of the learning rate."""
    data = make_loader(load_dataset("digits", "train", n_images=20), 20)
    recipe = Recipe("digits", epochs=1, batch_size=20, **options).resolved("resnet18")
    return Trainer(model, recipe, data, data, device="cpu", precision="float32").optimizer


def test_the_straight_line_rises_to_its_peak_and_falls_to_zero():
    fraction = schedule(Recipe(epochs=10, warmup=2, schedule="linear"), steps=5)
    assert fraction(0) == pytest.approx(1 / 11)
    assert fraction(10) == 1
    assert [fraction(step) for step in (20, 30, 50, 60)] == pytest.approx([0.75, 0.5, 0.0, 0.0])
    assert RECIPES["fast"].total_epochs == 10  # the warm-up is part of them


@pytest.mark.parametrize("name_of_optimizer", ["sgd", "adamw", "muon"])
def test_biases_and_norms_do_not_decay(name_of_optimizer):
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 10))
    for parameter in model.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    options = {"optimizer": name_of_optimizer, "learning_rate": 0.5, "weight_decay": 0.1, "decay_vectors": False}
    optimizer = optimizer_of(model, **options)  # which the schedule's hook needs alive
    optimizer.step()
    for name, parameter in model.named_parameters():  # without a gradient, decay alone is left: a factor of 1 - 0.05
        expected = 0.95 if parameter.ndim > 1 else 1.0
        torch.testing.assert_close(parameter, torch.full_like(parameter, expected), msg=name)


@pytest.mark.parametrize(("nesterov", "factor"), [(False, 1.0), (True, 1.9)])
def test_nesterovs_first_step_looks_ahead(nesterov, factor):
    model = nn.Linear(2, 2, bias=False)
    nn.init.zeros_(model.weight)
    optimizer = optimizer_of(model, optimizer="sgd", learning_rate=0.5, weight_decay=0.0, nesterov=nesterov)
    model.weight.grad = torch.ones(2, 2)
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), torch.full((2, 2), -0.5 * factor))


def test_nesterovs_momentum_is_refused_where_there_is_none():
    with pytest.raises(ValueError, match="nesterov=True is for the optimizer sgd, not adamw"):
        Recipe(nesterov=True).resolved("vit_tiny_patch4_32")


def filters(layout=torch.contiguous_format):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 6, 3, bias=False), nn.Conv2d(6, 2, 1)).to(memory_format=layout)
    model[0].weight.grad = torch.randn(6, 4, 3, 3).to(memory_format=layout)
    return model


def test_muon_is_torchs_own_on_filters_as_matrices():
    model = filters()
    matrix = nn.Parameter(model[0].weight.detach().flatten(1).clone())
    matrix.grad = model[0].weight.grad.flatten(1).clone()
    optimizer = MuonAdamW(model, lr=0.01, weight_decay=0.1)
    twin = torch.optim.Muon([matrix], 0.01, momentum=0.9, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(2):
        optimizer.step()
        twin.step()
    assert torch.equal(model[0].weight.flatten(1), matrix)


def test_muon_steps_by_an_orthogonal_matrix_whose_entries_are_as_large_as_adams_steps():
    model = filters()
    before, gradient = model[0].weight.detach().clone(), model[0].weight.grad.flatten(1).double()
    MuonAdamW(model, lr=0.01, weight_decay=0.0).step()
    step = (before - model[0].weight.detach()).flatten(1).double() / 0.01
    # The iteration leaves singular values between 0.68 and 1.13 of that, and works in bfloat16.
    values = torch.linalg.svdvals(step) / (0.2 * 36**0.5)
    assert values.min() > 0.6
    assert values.max() < 1.25
    u, _, v = torch.linalg.svd(gradient, full_matrices=False)
    assert torch.cosine_similarity((u @ v).flatten(), step.flatten(), 0) > 0.97


def test_muon_does_not_mind_where_the_channels_lie():
    steps = []
    for layout in (torch.contiguous_format, torch.channels_last):
        model = filters(layout)
        before = model[0].weight.detach().clone()
        MuonAdamW(model, lr=0.1, weight_decay=0.0).step()
        steps.append(before - model[0].weight.detach())
    assert steps[1].norm() > 0.1
    torch.testing.assert_close(*steps, rtol=0, atol=0.01 * steps[0].abs().max().item())  # sums in bfloat16


def test_muon_goes_on_where_it_was_kept():
    models, optimizers = zip(*((m, MuonAdamW(m, 0.01, 0.1)) for m in (filters(), filters())), strict=True)
    optimizers[0].step()
    optimizers[1].load_state_dict(deepcopy(optimizers[0].state_dict()))
    models[1].load_state_dict(models[0].state_dict())
    for model, optimizer in zip(models, optimizers, strict=True):
        model[0].weight.grad = torch.ones_like(model[0].weight)
        optimizer.step()
    assert torch.equal(models[0][0].weight, models[1][0].weight)


def test_muon_needs_a_torch_that_has_it(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ValueError, match=r"muon needs torch 2\.9 or newer.*choose sgd or adamw"):
        MuonAdamW(filters(), 0.01, 0.1)


def test_each_image_is_mirrored_in_every_other_epoch():
    data = load_dataset("digits", "train", n_images=64, augment=True)
    data.flip = True
    recipe = Recipe("digits", flips="alternating", batch_size=24)
    data.augmentation = recipe_augmentation(recipe, data)
    assert not data.augmentation.flip
    data.augmentation = None
    loader, still = make_loaders([data], recipe, 0)[0], data.batch(range(64))[0]
    shown = []
    for epoch in range(4):
        order = torch.tensor([row for batch in _order(loader, epoch) for row in batch])
        seen = torch.cat([images for (images, _), _ in loader.served(epoch)])
        mirrored = (seen == still[order].flip(-1)).flatten(1).all(1)
        assert torch.equal(seen[~mirrored], still[order][~mirrored])
        shown.append(mirrored[order.argsort()])
    assert 16 < shown[0].sum() < 48  # half of them, at random
    assert torch.equal(shown[1], ~shown[0])
    assert torch.equal(shown[2], shown[0])
    assert torch.equal(shown[3], shown[1])


def _order(loader, epoch):
    loader.sampler.epoch = epoch
    return list(loader.batch_sampler)


def test_digits_are_never_mirrored():
    data = load_dataset("digits", "train", n_images=8)
    loader = make_loaders([data], Recipe("digits", flips="alternating", batch_size=8), 0)[0]
    assert not loader.alternating


def test_digits_are_not_tested_on_mirror_images(tmp_path):
    with pytest.raises(ValueError, match="digits: a mirrored image is another symbol"):
        fit("resnet18", TINY, 0, tmp_path, mirrored=True, **QUIET)
    with pytest.raises(SystemExit):
        main(["evaluate", "resnet18", "--dataset", "digits", "--n-images", "20", "--mirrored"])


def test_a_finished_training_says_that_it_was_tested_without_mirror_images(tmp_path):
    tiny, lines = replace(TINY, dataset="photos", n_images=20, epochs=0), []
    fit("resnet18", tiny, 0, tmp_path, **QUIET)
    fit("resnet18", tiny, 0, tmp_path, mirrored=True, resume=True, **QUIET | {"report": lines.append})
    assert lines[-1].endswith("it was tested without mirror images: evaluate --mirrored does that")


def test_masks_are_mirrored_with_their_images():
    images, masks = torch.rand(2, 3, 4, 4), torch.rand(2, 4, 4)
    moved, _, along = mirror([images, torch.zeros(2), masks], torch.tensor([True, False]))
    assert torch.equal(moved, torch.stack([images[0].flip(-1), images[1]]))
    assert torch.equal(along, torch.stack([masks[0].flip(-1), masks[1]]))


def test_the_mean_of_both_sides_of_an_image():
    """The first column decides, so that each side of an image has the logits of one of its columns."""
    images = torch.tensor([[3.0, -1.0], [0.0, 0.5]]).view(2, 1, 1, 2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    model[1].weight.data = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    labels = torch.tensor([0, 1])
    single = evaluate(model, [(images, labels)], device="cpu", topk=(1,))
    both = evaluate(model, [(images, labels)], device="cpu", topk=(1,), mirrored=True)
    logits = torch.tensor([[1.0, 0.0], [0.25, 0.0]])
    assert both["loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item())
    assert single["loss"] != pytest.approx(both["loss"])


def test_held_out_images_are_computed_in_the_precision_of_the_training(tmp_path):
    seen = []

    class Noting(nn.Linear):
        def forward(self, x):
            out = super().forward(x)
            seen.append(out.dtype)
            return out

    data = make_loader(load_dataset("digits", "train", n_images=20), 20)
    model = nn.Sequential(nn.Flatten(), Noting(768, 10))
    recipe = Recipe("digits", epochs=1, batch_size=20).resolved("resnet18")
    Trainer(model, recipe, data, data, device="cpu", precision="bfloat16").run_epoch(progress=False)
    assert set(seen) == {torch.bfloat16}
    tiny = replace(TINY, dataset="photos", n_images=20)
    path = fit("resnet18", tiny, 0, tmp_path, mirrored=True, device="cpu", precision="bfloat16", report=str)
    test = torch.load(path, weights_only=True)["test"]
    assert {"top1", "top1_mirrored", "loss_mirrored"} <= set(test)
    assert test["loss"] != test["loss_mirrored"]


def test_images_that_are_there_already_train_the_same_weights(tmp_path):
    sets = load_sets(TINY)
    paths = [fit("resnet18", TINY, 0, tmp_path / str(i), sets=given, **QUIET) for i, given in enumerate((None, sets))]
    one, two = (torch.load(path, weights_only=True)["model"] for path in paths)
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_batches_are_cut_out_where_the_images_are():
    data = load_dataset("digits", "train", augment=True)
    loader = make_loader(data.to("meta"), 20, shuffle="every_epoch")
    images, labels = next(iter(loader))
    assert (images.device.type, labels.device.type) == ("meta", "cpu")
    moved, still = (next(iter(make_loader(each, 20, shuffle="every_epoch")))[0] for each in (data.to("cpu"), data))
    assert torch.equal(moved, still)
    assert load_dataset("canvas", "test").to("meta").batch([0])[0].device.type == "cpu"  # its masks are on the CPU


def trained(tmp_path, name, recipe, **options):
    path = fit("vit_tiny_patch4_16", recipe, 0, tmp_path / name, **QUIET, **options)
    return torch.load(path, weights_only=True)


VIT = Recipe("digits", epochs=2, batch_size=24, n_images=60, image_size=16, learning_rate=1e-3, label_smoothing=0.1)


@pytest.mark.parametrize("parts", [2, 5])
@pytest.mark.parametrize("mixup", [0.0, 0.8])
def test_gradients_of_parts_add_up_to_that_of_the_batch(tmp_path, parts, mixup):
    recipe = replace(VIT, mixup=mixup)
    whole, parted = (trained(tmp_path, str(n), recipe, accumulate=n) for n in (1, parts))
    for name in ("train_loss", "loss", "train_top1"):  # sums in another order
        values = [[row[name] for row in each["history"]] for each in (whole, parted)]
        assert values[0] == pytest.approx(values[1], abs=1e-4)


def test_the_average_is_that_of_its_formula(tmp_path, monkeypatch):
    """After t steps: d w' + (1 - d) w with d = min(ema, 1 - t^(-2/3))."""
    update, steps = ModelEmaV3.update, []

    def noted(self, model, step):
        steps.append((step, model.head.weight.detach().clone().double()))
        update(self, model, step)

    monkeypatch.setattr(ModelEmaV3, "update", noted)
    content = trained(tmp_path, "ema", replace(VIT, ema=0.6))
    expected = torch.zeros_like(steps[0][1])
    for t, weight in steps:
        keep = min(0.6, 1 - t ** (-2 / 3))
        expected = keep * expected + (1 - keep) * weight
    assert [t for t, _ in steps] == list(range(1, 7))
    torch.testing.assert_close(content["model"]["head.weight"].double(), expected, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(expected, steps[-1][1], atol=1e-4)


def test_an_average_is_resumed(tmp_path, monkeypatch):
    recipe, step, taken = replace(VIT, ema=0.6), Trainer._step, []
    whole = trained(tmp_path, "whole", recipe)

    def killed(self, *args):
        taken.append(None)
        if len(taken) == 5:
            raise KeyboardInterrupt
        return step(self, *args)

    monkeypatch.setattr(Trainer, "_step", killed)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, "again", recipe, resume_every=0)
    again = trained(tmp_path, "again", recipe, resume=True)
    assert all(torch.equal(value, again["model"][name]) for name, value in whole["model"].items())


def test_code_that_is_compiled_trains_the_same_model(tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda network: compiled.append(network) or network)
    one, two = (trained(tmp_path, str(flag), VIT, compiled=flag) for flag in (False, True))
    assert len(compiled) == 1
    assert all(torch.equal(value, two["model"][name]) for name, value in one["model"].items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resume_every": -1.0}, "resume_every=-1.0 should be a number of 0 or more, in minutes"),
        ({"resume_every": float("nan")}, "resume_every=nan should be a number"),
        ({"accumulate": 11}, r"accumulate=11 \(--grad-accum\) parts of batches of 20 .* leave two images in each part"),
        ({"accumulate": 0}, r"accumulate=0 \(--grad-accum\)"),
    ],
)
def test_impossible_options_are_refused_before_the_training(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        fit("resnet18", TINY, 0, tmp_path, **options, **QUIET)
    assert not list(tmp_path.iterdir())


def test_an_average_that_never_moves_is_refused():
    with pytest.raises(ValueError, match="ema=1 never takes a step's weights"):
        Recipe(ema=1.0).resolved("resnet18")


def test_no_part_of_a_small_last_batch_is_a_single_image(tmp_path):
    """7 images in 3 parts are 3, 2 and 2, and 3 images are one part: batch norm cannot train on one."""
    recipe = replace(TINY, n_images=27, batch_size=12, epochs=1)  # batches of 12, 12 and 3
    assert fit("resnet18", recipe, 0, tmp_path, accumulate=3, **QUIET).exists()


def test_a_folder_of_curves_is_tried_before_the_training(tmp_path):
    (tmp_path / "file").write_text("")
    lines = []
    with pytest.raises(OSError, match="file"):
        fit("resnet18", TINY, 0, tmp_path / "out", log=tmp_path / "file" / "log", **QUIET | {"report": lines.append})
    assert not lines
