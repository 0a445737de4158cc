"""Recipes: the published numbers, the learning rate at each step, mixing by its definition, draws from seeds alone."""

import math
import random
import warnings
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.mixup import mixup_target
from torch import nn
from torch.nn import functional as F

from utilities import train
from utilities.cli.train import main
from utilities.datasets import load_dataset
from utilities.datasets.factory import make_loader
from utilities.train import fit, load_sets, make_loaders
from utilities.training.augmentation import Blend, Erasing, RandAugment, ResizedCrop, recipe_augmentation
from utilities.training.distillation import distillation_loss
from utilities.training.recipes import RECIPES, Recipe, same_recipe, schedule
from utilities.training.trainer import Trainer
from utilities.utils import resolve_device

TINY = Recipe("digits", epochs=2, batch_size=20, n_images=40, image_size=8, learning_rate=0.01)
EXACT = {"device": "cpu", "precision": "float32", "report": lambda line: None}
EVERYTHING = {"rand_augment": "rand-m9-n2-mstd1.0", "mixup": 1.0, "cutmix": 0.8, "label_smoothing": 0.1}
EVERYTHING |= {"erasing": 0.25, "clip_grad": 5.0, "crop": "resized"}
WORDS = ["epochs", "warmup", "batch_size", "optimizer", "learning_rate", "weight_decay", "schedule", "milestones"]
WORDS += ["step_factor", "crop", "rand_augment", "mixup", "cutmix", "label_smoothing", "erasing", "clip_grad"]
WORDS += ["drop_path"]
COSINE, STEPS = "epochwise_cosine", "epochwise_steps"
ADAMW = ["adamw", 1.25e-4, 0.05, COSINE, (), 0.1]
MIXED = [1.0, 0.8, 0.1]
PUBLISHED = {
    "cifar_general": [200, 1, 128, "sgd", 0.1, 5e-4, STEPS, (60, 120, 160), 0.2, "padded", None, 0, 0, 0, 0, 0, 0],
    "cifar_vit": [300, 5, 96, *ADAMW, "padded", "rand-m9-n2-mstd1.0", *MIXED, 0, 5, 0.1],
    "cifar_vit_noaug": [300, 5, 96, *ADAMW, "padded", None, 0, 0, 0, 0, 0, 0.1],
    "imagenet_general": [90, 1, 256, "sgd", 0.1, 1e-4, STEPS, (30, 60, 80), 0.1, "resized", None, 0, 0, 0, 0, 0, 0],
    "imagenet_vit": [300, 5, 128, *ADAMW, "resized", "rand-m9-n2-mstd0.5", *MIXED, 0.25, 0, 0.1],
}


def weights(path):
    return torch.load(path, weights_only=True)["model"]


def same(one, two):
    return all(torch.equal(value, two[key]) for key, value in one.items())


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_recipes_have_the_published_numbers(name):
    recipe = RECIPES[name].resolved("vit_tiny_patch2_32")
    assert [getattr(recipe, word) for word in WORDS] == PUBLISHED[name]
    assert recipe.dataset == ("cifar100" if name.startswith("cifar") else "imagenet")
    assert recipe.total_epochs == PUBLISHED[name][0] + PUBLISHED[name][1]
    assert {field.name for field in fields(Recipe)} == {
        *WORDS,
        "dataset",
        "image_size",
        "n_images",
        "norm_images",
        "epoch_images",
        "nesterov",
        "decay_vectors",
        "ema",
        "flips",
    }


def test_the_recipes_are_those_of_the_table_and_the_studys():
    assert RECIPES["study"] == Recipe()
    assert set(RECIPES) == {"study", "fast", "vit", *PUBLISHED}


def test_padded_crops_of_cifar_are_shifted_by_up_to_four_pixels():
    data = load_dataset("digits", "train", image_size=32, augment=True)  # CIFAR's size without its download
    assert recipe_augmentation(RECIPES["cifar_general"], data).pad == 4


def test_warm_up_is_linear_from_zero_and_comes_before_the_epochs():
    recipe, iters = replace(RECIPES["cifar_vit"], epochs=10), 7
    fraction = schedule(recipe, iters)
    warm = [fraction(i) for i in range(5 * iters)]
    assert warm == [i / (5 * iters) for i in range(5 * iters)]
    assert [fraction(5 * iters + i) for i in range(iters)] == [1] * iters  # the base rate all through the epoch
    assert fraction(5 * iters + 5 * iters) == pytest.approx(0.5)
    assert fraction(15 * iters - 1) == pytest.approx((1 + math.cos(0.9 * math.pi)) / 2)
    assert fraction(15 * iters) == 0


@pytest.mark.parametrize("name", ["cifar_general", "imagenet_general"])
def test_steps_are_taken_at_the_milestones(name):
    recipe, iters = RECIPES[name], 3
    fraction = schedule(recipe, iters)
    for count, milestone in enumerate(recipe.milestones):
        first = (1 + milestone) * iters  # after one epoch of warm-up
        assert fraction(first - 1) == recipe.step_factor**count
        assert fraction(first) == recipe.step_factor ** (count + 1)


def test_the_trainer_follows_the_schedule():
    data = make_loader(load_dataset("digits", "train", n_images=40), 10, shuffle="every_epoch")
    recipe = Recipe(epochs=2, warmup=1, learning_rate=0.1, schedule=COSINE).resolved("linear")
    trainer = Trainer(nn.Sequential(nn.Flatten(), nn.Linear(768, 10)), recipe, data, data, device="cpu")
    rates, step = [], trainer._step

    def recording(*arguments):
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        return step(*arguments)

    trainer._step = recording
    rows = [trainer.run_epoch(progress=False) for _ in range(recipe.total_epochs)]
    assert rates == pytest.approx([0, 0.025, 0.05, 0.075, *[0.1] * 4, *[0.05] * 4])
    assert [row["learning_rate"] for row in rows] == pytest.approx([0, 0.1, 0.05])
    assert trainer.optimizer.param_groups[0]["lr"] == 0


def test_the_default_recipe_is_plain_training():
    """No option of the published recipes leaves a trace: the weights are those of a loop written out."""
    data = make_loader(load_dataset("digits", "train", n_images=30), 10, seed=1, shuffle="every_epoch")
    model, twin = (nn.Sequential(nn.Flatten(), nn.Linear(768, 10)) for _ in range(2))
    twin.load_state_dict(model.state_dict())
    trainer = Trainer(model, Recipe(epochs=2).resolved("linear"), data, data, device="cpu", precision="float32")
    for _ in range(2):
        trainer.run_epoch(progress=False)
    data.epoch = 1
    optimizer = torch.optim.SGD(twin.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    batches = [batch for _ in range(2) for batch in data]
    for step, (images, labels) in enumerate(batches):
        optimizer.param_groups[0]["lr"] = 0.1 * (0.5 * (1 + math.cos(math.pi * step / len(batches))))
        optimizer.zero_grad()
        F.cross_entropy(twin(images), labels).backward()
        optimizer.step()
    assert same(model.state_dict(), twin.state_dict())


def test_mixup_is_the_weighted_mean_of_images_and_labels():
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(5, 3, 4, 6, generator=generator), torch.tensor([0, 1, 2, 3, 3])
    partner = [4, 3, 2, 1, 0]
    for seed in range(5):
        mix = Blend.draw(1.0, 0.0, (4, 6), np.random.default_rng(seed))
        assert mix.box is None
        assert 0 <= mix.weight <= 1
        assert torch.equal(mix.images(images), mix.weight * images + (1 - mix.weight) * images[partner])
        targets = mix.targets(labels, 4, smoothing=0.1)
        torch.testing.assert_close(targets.sum(1), torch.ones(5))
        torch.testing.assert_close(targets, mixup_target(labels, 4, mix.weight, 0.1))
    assert Blend(0.25).targets(labels, 4).argmax(1).tolist() == [3, 3, 2, 1, 0]


def test_cutmix_weighs_labels_by_the_area_that_is_left():
    images = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 3, 12, 10)
    seen = set()
    for seed in range(50):
        mix = Blend.draw(0.0, 0.8, (12, 10), np.random.default_rng(seed))
        mixed = mix.images(images)
        assert mix.weight == pytest.approx((mixed[0] == 0).double().mean().item())
        assert torch.equal(mixed[1], 1 - mixed[0])
        targets = mix.targets(torch.tensor([0, 1]), 2)
        torch.testing.assert_close(targets.sum(1), torch.ones(2))
        torch.testing.assert_close(targets[0, 0].item(), mix.weight, atol=1e-6, rtol=0)  # one is float32
        seen.add(mix.weight)
    assert len(seen) > 20
    assert torch.equal(images[0], torch.zeros(3, 12, 10))  # what came in is untouched


def test_the_sides_of_the_rectangle_are_the_root_of_its_share():
    """A centre in the middle cuts nothing off, so the area is 1 - lambda up to whole pixels."""

    class Fixed:
        def beta(self, a, b):
            assert (a, b) == (0.8, 0.8)
            return 0.75

        def integers(self, high):
            return high // 2

    assert Blend.draw(0.0, 0.8, (20, 40), Fixed()) == Blend(0.75, (5, 15, 10, 30))


def test_mixup_and_cutmix_share_the_batches_equally():
    draws = [Blend.draw(1.0, 0.8, (32, 32), np.random.default_rng([0, step])) for step in range(1000)]
    pasted = np.mean([mix.box is not None for mix in draws])
    assert pasted == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(1000))  # four standard errors
    means = [mix.weight for mix in draws if mix.box is None]
    assert np.mean(means) == pytest.approx(0.5, abs=4 * math.sqrt(1 / 12 / len(means)))  # Beta(1, 1) is uniform


def test_smoothed_labels_give_the_smoothed_loss():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(6, 5, generator=generator), torch.tensor([0, 1, 2, 3, 4, 0])
    expected = F.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(F.cross_entropy(logits, Blend().targets(labels, 5, 0.1)), expected)
    assert torch.equal(Blend().targets(labels, 5), F.one_hot(labels, 5).float())


def fixed_answers(recipe, answer):
    """Make a trainer of a model that gives every image the same logits, those of one class high."""
    data = make_loader(load_dataset("digits", "train", n_images=20), 10)
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 10))
    nn.init.zeros_(model[1].weight)
    model[1].bias.data = 3.0 * F.one_hot(torch.tensor(answer), 10).float()
    return Trainer(model, recipe.resolved("linear"), data, data, device="cpu", precision="float32")


def test_loss_and_accuracy_on_mixed_images():
    trainer = fixed_answers(Recipe(mixup=1.0), answer=7)
    images, labels = torch.zeros(4, 3, 16, 16), torch.tensor([7, 1, 7, 2])  # partners: 2, 7, 1, 7
    loss, first, _ = trainer._step(images, labels, Blend(0.75))
    log_p = F.log_softmax(3.0 * F.one_hot(torch.tensor(7), 10).float(), dim=0)
    expected = -sum(0.75 * log_p[a] + 0.25 * log_p[b] for a, b in ((7, 2), (1, 7), (7, 1), (2, 7)))
    torch.testing.assert_close(loss, expected)
    assert first == 2
    assert fixed_answers(Recipe(mixup=1.0), answer=7)._step(images, labels, Blend(0.25))[1] == 2
    assert fixed_answers(Recipe(mixup=1.0), answer=1)._step(images, labels, Blend(0.25))[1] == 1


def test_a_teacher_sees_the_mixed_images_too():
    trainer = fixed_answers(Recipe(mixup=1.0), answer=7)
    trainer.teacher = nn.Sequential(nn.Flatten(), nn.Linear(768, 10))
    images, labels = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([7, 1, 7, 2])
    mix = Blend(0.75)
    with torch.no_grad():
        answers = [model(mix.images(images)) for model in (trainer.model, trainer.teacher)]
    expected = distillation_loss(*answers, mix.targets(labels, 10)) * 4
    torch.testing.assert_close(trainer._step(images, labels, mix)[0], expected)


def test_the_gradient_is_cut_down_to_the_norm():
    images, labels = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3])
    norms = []
    for clip in (0.0, 0.5, 1e6):
        trainer = fixed_answers(Recipe(clip_grad=clip), answer=7)
        trainer._step(images, labels, None)
        norms.append(torch.stack([p.grad.norm() for p in trainer.model.parameters()]).norm().item())
    assert norms[0] > 1
    assert norms[1] == pytest.approx(0.5, rel=1e-4)  # torch adds 1e-6 to the norm it divides by
    assert norms[2] == norms[0]


def test_rand_augment_without_operations_gives_back_the_pixels():
    digits = load_dataset("digits", "train", n_images=10)
    images = digits.batch(range(10))[0]
    assert torch.equal(RandAugment("rand-m9-n0", digits.mean, digits.std)(images), images)
    changed = RandAugment("rand-m9-n2-p1.0", digits.mean, digits.std)(images, torch.Generator().manual_seed(0))
    assert (changed != images).flatten(1).any(1).sum() > 5
    assert changed.min() >= images.min() - 1e-6  # still pixels of 0 ... 255
    assert changed.max() <= images.max() + 1e-6


def test_erasing_takes_as_many_images_as_it_should():
    images = torch.ones(400, 1, 10, 10)
    erased = (Erasing(0.25)(images, torch.Generator().manual_seed(0)) == 0).flatten(1).double().mean(1)
    assert (erased > 0).double().mean().item() == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 400))
    assert erased.max() < 0.45  # a third, and whole pixels
    assert bool((images == 1).all())


def test_resized_crops_are_parts_of_the_image():
    ramp = torch.linspace(0, 1, 16).expand(20, 3, 16, 16)
    crops = ResizedCrop(flip=False)(ramp, torch.Generator().manual_seed(0))
    assert bool((crops.diff(dim=-1) >= -1e-6).all())  # still growing to the right, by less
    spans = crops[:, 0, 0, -1] - crops[:, 0, 0, 0]
    assert 0.1 < spans.min() < 0.6 < spans.max() <= 1
    mirrored = ResizedCrop(flip=True)(ramp, torch.Generator().manual_seed(0))
    rising = mirrored[:, 0, 0, -1] > mirrored[:, 0, 0, 0]
    assert 0 < rising.sum() < 20


def test_batches_depend_on_the_seed_and_not_on_global_generators():
    recipe = replace(TINY, image_size=None, **EVERYTHING).resolved("resnet18")
    runs = []
    for number, seed in ((0, 5), (1, 5), (2, 6)):
        random.seed(number)
        np.random.seed(number)  # noqa: NPY002
        torch.manual_seed(number)
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
        loader = make_loaders(load_sets(recipe, seed=0), recipe, seed)[0]
        batches = [(images, labels) for _ in range(2) for images, labels in loader]
        assert random.getstate() == before[0]
        assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
        assert torch.equal(torch.get_rng_state(), before[2])
        runs.append(batches)
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(*runs[:2], strict=True))
    assert not any(torch.equal(a[0], b[0]) for a, b in zip(runs[0], runs[2], strict=True))
    assert not torch.equal(runs[0][0][0], runs[0][2][0])  # another epoch, other images


def test_a_single_class_is_refused_before_any_training(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part / "cat").mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / part / "cat" / f"{number}.png")
    with pytest.raises(ValueError, match="has one class, 'cat', and training tells classes apart: put"):
        load_sets(Recipe(f"folder:{tmp_path}"))


def test_mixing_is_a_function_of_seed_epoch_and_step():
    trainer, images = fixed_answers(Recipe(mixup=1.0, cutmix=0.8), answer=0), torch.zeros(2, 3, 16, 16)
    draws = {place: trainer._mix(images, *place) for place in ((0, 0), (0, 1), (1, 0))}
    assert trainer._mix(images, 0, 1) == draws[0, 1]
    assert len({mix.weight for mix in draws.values()}) == 3
    trainer.train.seed = 1
    assert trainer._mix(images, 0, 1) != draws[0, 1]


def test_a_run_with_everything_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    recipe = Recipe("digits", epochs=1, warmup=1, batch_size=20, n_images=40, schedule=COSINE, drop_path=0.2)
    recipe = replace(recipe, **EVERYTHING)
    whole = fit("vit_tiny_patch2_16", recipe, 0, tmp_path / "whole", **EXACT)
    monkeypatch.setattr("utilities.train.RESUME_EVERY", -1)
    run_epoch = Trainer.run_epoch

    def killed_in_second_epoch(self, progress=True):
        if self.history:
            raise KeyboardInterrupt
        return run_epoch(self, progress)

    monkeypatch.setattr(Trainer, "run_epoch", killed_in_second_epoch)
    with pytest.raises(KeyboardInterrupt):
        fit("vit_tiny_patch2_16", recipe, 0, tmp_path, resume=True, **EXACT)
    monkeypatch.setattr(Trainer, "run_epoch", run_epoch)
    torch.manual_seed(99)
    lines = []
    again = fit("vit_tiny_patch2_16", recipe, 0, tmp_path, resume=True, **EXACT | {"report": lines.append})
    assert lines[0] == "going on after epoch 1 of 2"
    assert same(weights(again), weights(whole))


def test_a_checkpoint_older_than_an_option_is_kept(tmp_path):
    path = fit("plain_cnn8", replace(TINY, epochs=0), 0, tmp_path, **EXACT)
    content = torch.load(path, weights_only=True)
    new = [field.name for field in fields(Recipe)][10:]
    assert new[0] == "schedule"
    content["recipe"] = {name: value for name, value in content["recipe"].items() if name not in new}
    torch.save(content, path)
    before, lines = path.stat().st_mtime_ns, []
    options = EXACT | {"report": lines.append, "resume": True}
    fit("plain_cnn8", replace(TINY, epochs=0), 0, tmp_path, **options)
    assert "is there already" in lines[0]
    assert path.stat().st_mtime_ns == before
    fit("plain_cnn8", replace(TINY, epochs=0, label_smoothing=0.1), 0, tmp_path, **options)
    assert "was trained with another recipe" in lines[1]
    assert torch.load(path, weights_only=True)["recipe"]["label_smoothing"] == 0.1


def test_recipes_are_the_same_if_every_option_is():
    recipe = RECIPES["cifar_general"].resolved("resnet18")
    saved = asdict(recipe)
    assert same_recipe(saved, recipe)
    assert not same_recipe({**saved, "milestones": (60,)}, recipe)
    assert not same_recipe({name: value for name, value in saved.items() if name != "milestones"}, recipe)
    assert not same_recipe({**saved, "of_a_later_version": 1}, recipe)
    assert replace(recipe, milestones=[60, 120, 160]) == recipe


@pytest.mark.parametrize(
    ("options", "epochs", "last"),
    [({"warmup": 2, "schedule": COSINE}, [0, 2, 3], 3), ({"warmup": 0.5, "epochs": 3}, [0, 1, 3], 3)],
)
def test_a_snapshot_is_written_at_the_end_of_the_warm_up(options, epochs, last, tmp_path):
    recipe = replace(TINY, **{"epochs": 1, **options})
    path = fit("plain_cnn8", recipe, 0, tmp_path, save_every=3, **EXACT)
    found = sorted(int(file.stem.rpartition("_at_")[2]) for file in tmp_path.glob(f"{path.stem}_at_*.pth"))
    assert found == epochs
    assert len(torch.load(path, weights_only=True)["history"]) == last
    assert same(weights(path.with_name(f"{path.stem}_at_{last}.pth")), weights(path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "square"}, "schedule 'square' is not known; choose from cosine, linear, epochwise_cosine"),
        ({"crop": "random"}, "crop 'random' is not known; choose from padded, resized"),
        ({"milestones": (1,)}, "are for the schedule epochwise_steps, not cosine"),
        ({"milestones": (2,), "schedule": STEPS}, "should grow and lie between 0 and epochs=2"),
        ({"milestones": (1, 1), "schedule": STEPS}, "should grow"),
        ({"warmup": 0.5, "schedule": STEPS}, "warmup=0.5 should be a whole number of epochs"),
        ({"step_factor": 0.0}, "step_factor=0.0 should be above 0"),
        ({"mixup": -1.0}, "mixup=-1.0 should be 0 or more"),
        ({"clip_grad": math.nan}, "clip_grad=nan should be 0 or more"),
        ({"label_smoothing": 1.5}, "label_smoothing=1.5 should be 1 or less"),
        ({"rand_augment": "rand-foo9"}, "rand_augment 'rand-foo9' is not known; write it like"),
        ({"drop_path": 0.1}, r"plain_cnn8 cannot be given drop_path=0.1 .*; --drop-path 0"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_training(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        fit("plain_cnn8", replace(TINY, **options), 0, tmp_path, **EXACT)
    assert not list(tmp_path.glob("*.pth"))


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("vit_tiny_patch2_16", [0.04, 0.08, 0.12, 0.16, 0.2]),  # timm: linear from 0 in the first of six blocks
        ("timm/resnet10t", [0.2 / 3, 0.4 / 3, 0.2]),  # likewise, of four
    ],
)
def test_stochastic_depth_reaches_the_model(name, rates):
    model = train._create(name, 10, seed=0, drop_path=0.2, options={})
    found = sorted({module.drop_prob for module in model.modules() if getattr(module, "drop_prob", 0)})
    assert found == pytest.approx(rates)
    plain = train._create(name, 10, seed=0, drop_path=0.0, options={})
    assert same(plain.state_dict(), model.state_dict())  # the same weights at the start


def test_stochastic_depth_that_a_builder_forgets_is_refused(monkeypatch):
    monkeypatch.setattr(train, "create_model", lambda *given, **forgotten: nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"timm/hrnet cannot be given drop_path=0.1 .nothing in it is dropped"):
        train._create("timm/hrnet", 10, 0, 0.1, {})


@pytest.fixture
def asked(monkeypatch, tmp_path):
    calls = []

    def remember(model, recipe, seed, folder, **options):
        calls.append((model, recipe, seed, options))
        return tmp_path

    monkeypatch.setattr(train, "fit", remember)
    return calls


def test_the_command_line_takes_a_recipe_and_changes_single_values(asked, capsys):
    main(["vit_tiny_patch2_32", "300", "1", "runs", "--recipe", "cifar_vit"])
    main(["resnet18", "9", "2", "runs", "--recipe", "cifar_general", "--milestones", "3", "6", "--dataset", "digits"])
    main(["resnet18", "200", "0", "runs", "--save-every", "5"])
    main(["resnet18", "300", "0", "runs", "--recipe", "cifar_vit", "--rand-augment", "none", "--drop-path", "0"])
    changed = replace(RECIPES["cifar_general"], epochs=9, milestones=(3, 6), dataset="digits")
    bare = replace(RECIPES["cifar_vit"], rand_augment=None, drop_path=0.0)
    assert [call[1] for call in asked] == [RECIPES["cifar_vit"], changed, Recipe(), bare]
    assert asked[2][3] == {
        "device": resolve_device("auto"), "precision": "auto", "workers": 0, "classes": None, "save_every": 5,
        "teacher": None, "start": None, "resume": False, "resume_every": None, "log": None, "accumulate": 1,
        "compiled": False, "mirrored": False, "sync_norms": False
    }  # fmt: skip


def test_every_recipe_and_option_is_in_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(f"{name}: {recipe.dataset}, " in text for name, recipe in RECIPES.items())
    named = [field.name for field in fields(Recipe) if field.name != "epochs"]
    assert all(f"--{name.replace('_', '-')}" in text for name in named)


def test_a_warm_up_longer_than_the_training_is_warned_of():
    with pytest.warns(UserWarning, match="warmup=3 is longer than the training, epochs=2: the learning rate never"):
        Recipe(epochs=2, warmup=3).resolved("resnet18")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Recipe(epochs=2, warmup=2).resolved("resnet18")
        Recipe(epochs=0, warmup=2).resolved("resnet18")
