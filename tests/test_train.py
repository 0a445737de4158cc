"""Training: known answers for the schedule, resumption to the bit, and errors before the long work."""

import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from utilities.cli.train import main
from utilities.datasets import load_dataset
from utilities.datasets.factory import make_loader
from utilities.hooks import Recorder
from utilities.train import checkpoint_path, fit
from utilities.training.distillation import distillation_loss
from utilities.training.recipes import schedule
from utilities.training.trainer import Recipe, Trainer, autocast_dtype, estimate_batch_norm
from utilities.utils import PROJECT_ROOT
from utilities.zoo import create_model

TINY = Recipe("digits", epochs=2, batch_size=20, n_images=40, image_size=8, learning_rate=0.01)


def load(path):
    return torch.load(path, weights_only=True)


def quiet(line):
    pass


def test_the_studys_recipe_is_the_default():
    recipe = Recipe().resolved("resnet18")
    assert (recipe.dataset, recipe.batch_size, recipe.optimizer) == ("cifar100", 256, "sgd")
    assert (recipe.learning_rate, recipe.weight_decay, recipe.warmup) == (0.1, 5e-4, 0)
    optimizer = Trainer(nn.Linear(2, 2), recipe, [0], [0], device="cpu").optimizer
    assert optimizer.defaults["momentum"] == 0.9


def test_cosine_schedule_after_a_linear_rise():
    fraction = schedule(Recipe(epochs=10), steps=7)
    assert fraction(0) == 1
    assert fraction(35) == pytest.approx(0.5)
    assert fraction(70) == pytest.approx(0, abs=1e-12)
    warm = schedule(Recipe(epochs=10, warmup=2), steps=7)
    assert [warm(step) for step in (0, 6, 14)] == pytest.approx([1 / 15, 7 / 15, 1])
    assert warm(42) == pytest.approx(0.5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return fit("resnet18", TINY, 0, folder, save_every=1, device="cpu", precision="float32", report=quiet)


def test_checkpoint_and_snapshots(trained):
    assert trained.name == "resnet18_seed_0_epochs_2.pth"
    checkpoint = load(trained)
    assert [row["epoch"] for row in checkpoint["history"]] == [1, 2]
    assert checkpoint["recipe"] == asdict(TINY.resolved("resnet18"))
    assert (checkpoint["name"], checkpoint["num_classes"], checkpoint["seed"]) == ("resnet18", 10, 0)
    assert checkpoint["test"]["n"] == 540
    initial = load(trained.with_name("resnet18_seed_0_epochs_2_at_0.pth"))["model"]
    assert torch.equal(initial["conv1.weight"], create_model("resnet18", 10, seed=0).conv1.weight)
    last = load(trained.with_name("resnet18_seed_0_epochs_2_at_2.pth"))["model"]
    assert all(torch.equal(value, checkpoint["model"][key]) for key, value in last.items())
    assert not torch.equal(initial["conv1.weight"], last["conv1.weight"])
    create_model("resnet18", 10, weights=str(trained))


def test_an_interrupted_run_goes_on_to_the_same_weights(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("utilities.train.RESUME_EVERY", -1)
    run_epoch = Trainer.run_epoch

    def killed_in_second_epoch(self, progress=True):
        if self.history:
            raise KeyboardInterrupt
        return run_epoch(self, progress)

    options = {"device": "cpu", "precision": "float32", "resume": True}
    monkeypatch.setattr(Trainer, "run_epoch", killed_in_second_epoch)
    with pytest.raises(KeyboardInterrupt):
        fit("resnet18", TINY, 0, tmp_path, report=quiet, **options)
    monkeypatch.setattr(Trainer, "run_epoch", run_epoch)
    lines = []
    path = fit("resnet18", TINY, 0, tmp_path, report=lines.append, **options)
    assert lines[0] == "going on after epoch 1 of 2"
    expected = load(trained)["model"]
    assert all(torch.equal(value, expected[key]) for key, value in load(path)["model"].items())
    assert not list(tmp_path.glob("*.resume.pth"))


def test_a_finished_run_is_kept_only_for_the_same_recipe(trained):
    before, lines = trained.stat().st_mtime_ns, []
    fit("resnet18", TINY, 0, trained.parent, resume=True, device="cpu", report=lines.append)
    assert trained.stat().st_mtime_ns == before
    assert "is there already" in lines[0]
    other = Recipe(**{**asdict(TINY), "learning_rate": 0.02})
    anew = []
    fit("resnet18", Recipe(**{**asdict(TINY), "epochs": 0}), 0, trained.parent, device="cpu", report=quiet)
    fit("resnet18", Recipe(**{**asdict(TINY), "epochs": 0}), 0, trained.parent, device="cpu", report=anew.append)
    assert "is there already; training anew replaces it at the end: copy it to keep it" in anew[0]
    assert anew[-1].startswith("wrote ")
    fit("resnet18", other, 0, trained.parent, resume=True, device="cpu", report=quiet)
    assert load(trained)["recipe"]["learning_rate"] == 0.02


@pytest.mark.parametrize("name", ["resnet18_seed_0_epochs_2.pth", "resnet18_seed_0_epochs_2.resume.pth"])
def test_a_damaged_file_is_named(name, tmp_path):
    (tmp_path / name).write_bytes(b"PK cut short")
    with pytest.raises(ValueError, match=f"{name} cannot be read as weights"):
        fit("resnet18", TINY, 0, tmp_path, resume=True, device="cpu", report=quiet)


def test_a_linear_model_learns_digits():
    """A known answer: multinomial regression on these digits reaches some 95 %."""
    data = [make_loader(load_dataset("digits", split), 64) for split in ("train", "validation")]
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 10))
    trainer = Trainer(model, Recipe(epochs=5, learning_rate=0.01).resolved("linear"), *data, device="cpu")
    rows = [trainer.run_epoch(progress=False) for _ in range(5)]
    assert rows[-1]["top1"] > 0.9
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]


def test_divergence_stops_with_a_message(tmp_path):
    recipe = Recipe(**{**asdict(TINY), "learning_rate": 1e30})
    with pytest.raises(FloatingPointError, match=r"diverged: the loss is nan in epoch 1.*learning-rate"):
        fit("resnet18", recipe, 0, tmp_path, device="cpu", precision="float32", report=quiet)
    assert not list(tmp_path.glob("*.pth"))


def test_batch_norm_statistics_are_those_of_the_data():
    images = torch.randn(64, 3) * 2 + 5
    norm = estimate_batch_norm(nn.BatchNorm1d(3), images.split(16), "cpu")
    torch.testing.assert_close(norm.running_mean, images.mean(0))
    variances = torch.stack([part.var(0) for part in images.split(16)])
    torch.testing.assert_close(norm.running_var, variances.mean(0))


@pytest.mark.parametrize("seed", range(3))
def test_untrained_lambda_resnet_is_stable_on_images_it_has_not_seen(seed):
    """Lambda layers are quadratic, so outliers grow from block to block: sharper keys give 1e10 or NaN here."""
    model = create_model("lambda_resnet38", 10, seed=seed)
    estimate_batch_norm(model, make_loader(load_dataset("digits", "train", n_images=300), 300), "cpu")
    with Recorder(model, "layer4.*.relu3") as recorder:
        model(next(iter(make_loader(load_dataset("digits", n_images=100), 100)))[0])
    assert all(value.max() < 1000 for value in recorder.activations.values())


def test_precision():
    cpu = torch.device("cpu")
    assert autocast_dtype("float32", cpu) is None
    assert autocast_dtype("auto", cpu) in (None, torch.bfloat16)
    with pytest.raises(ValueError, match="needs a CUDA device"):
        autocast_dtype("float16", cpu)
    with pytest.raises(ValueError, match="'half' is not known"):
        autocast_dtype("half", cpu)


def test_bfloat16_trains_close_to_float32():
    data = [make_loader(load_dataset("digits", split, n_images=100), 50) for split in ("train", "validation")]
    losses = []
    for precision in ("float32", "bfloat16"):
        model = create_model("vit_tiny_patch2_16", 10, seed=0)
        recipe = Recipe(epochs=1).resolved("vit")
        trainer = Trainer(model, recipe, *data, device="cpu", precision=precision)
        losses.append(trainer.run_epoch(progress=False)["train_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=0.02)  # bfloat16 keeps 8 bits: 0.4 % a number


@pytest.mark.parametrize(
    ("model", "recipe", "message"),
    [
        ("resnet81", TINY, "close: resnet18"),
        ("resnet18", Recipe("digitz"), "digits"),
        ("resnet18", Recipe("digits", optimizer="adam"), "'adam' is not known"),
        ("resnet18", Recipe("digits", batch_size=1), "batch_size=1 should be 2 or more"),
        ("resnet18", Recipe("digits", norm_images=-3), "norm_images=-3 should be 0 or more"),
        ("resnet18", Recipe("digits", image_size=4), "resnet18 cannot take the 4x4 images of digits"),
        ("vit_tiny_patch2_16", Recipe("digits", image_size=24), "cannot take the 24x24 images of digits"),
        ("resnet18", Recipe("digits", learning_rate=0.0), "learning_rate=0.0"),
    ],
)
def test_wrong_options_are_named_before_anything_is_trained(model, recipe, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        fit(model, recipe, 0, tmp_path, device="cpu", report=quiet)


PROGRAMS = [["-m", "utilities", "train"], ["-m", "utilities.train"], [str(PROJECT_ROOT / "utilities" / "train.py")]]


@pytest.mark.parametrize("program", PROGRAMS)
def test_command_line(program, tmp_path):
    arguments = ["resnet18", "0", "3", str(tmp_path), "--dataset", "digits", "--image-size", "8", "--device", "cpu"]
    done = subprocess.run([sys.executable, *program, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "test: loss" in done.stdout
    assert checkpoint_path(tmp_path, "resnet18", 3, 0).exists()


def test_command_line_names_what_is_wrong(capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        main(["resnet19", "1", "0", str(tmp_path), "--dataset", "digits"])
    assert stop.value.code == 2
    assert "unknown model 'resnet19'; close: resnet18" in capsys.readouterr().err


def test_distillation_loss_equals_its_formula():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, 5, generator=generator).double()
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    p, q = (teacher / 3).softmax(1), (student / 3).softmax(1)
    divergence = (p * (p / q).log()).sum(1).mean()
    own = -student.softmax(1)[range(6), labels].log().mean()
    loss = distillation_loss(student, teacher, labels, temperature=3, weight=0.7)
    assert loss.item() == pytest.approx((0.7 * 9 * divergence + 0.3 * own).item())


def test_a_student_comes_near_its_teacher(trained, tmp_path):
    recipe = replace(TINY, epochs=6)
    options = {"device": "cpu", "precision": "float32", "report": quiet}
    alone, taught = (fit("resnet18", recipe, 3, tmp_path, teacher=t, **options) for t in (None, trained))
    assert taught.name == "resnet18_seed_3_epochs_6_taught_by_resnet18_seed_0_epochs_2.pth"
    assert load(taught)["teacher"]["seed"] == 0
    data = load_dataset("digits", "train", n_images=40, image_size=8)
    images = torch.stack([data[i][0] for i in range(40)])
    with torch.inference_mode():
        answers = [
            create_model("resnet18", 10, weights=path).eval()(images).softmax(1) for path in (trained, alone, taught)
        ]
    assert (answers[2] - answers[0]).abs().mean() < 0.9 * (answers[1] - answers[0]).abs().mean()
    lines = []
    assert (
        fit("resnet18", recipe, 3, tmp_path, teacher=trained, resume=True, device="cpu", report=lines.append) == taught
    )
    assert "is there already" in lines[0]
    with pytest.raises(ValueError, match="trained on digits, not on cifar10"):
        fit("resnet18", replace(TINY, dataset="cifar10"), 0, tmp_path, teacher=trained, device="cpu", report=quiet)
