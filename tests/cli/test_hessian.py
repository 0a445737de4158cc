"""Both papers' settings in one command, the history of a study, the figures and the claims."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from utilities.analysis.loss.hessian import HessianSpectra
from utilities.analysis.loss.readings import both_readings, readings_table
from utilities.analysis.loss.spectral_density import SpectralDensity
from utilities.claims.park_kim_2022.hessian import claims_of_hessian, claims_of_readings
from utilities.cli.analyse import main
from utilities.datasets import load_dataset, make_loader
from utilities.plots.loss.hessian import plot_over_training, plot_spectra, plot_spectral_density
from utilities.study.hessian import along_training, by_epoch
from utilities.study.study import Study
from utilities.training.augmentation import MixupCutmix
from utilities.training.recipes import Recipe

SMALL = ["--k", "1", "--batch-size", "2", "--n-batches", "2", "--full-images", "4", "--full-sets", "2", "--chunk", "3"]


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def spectra_of(values, end="magnitude", **facts):
    """Spectra of (batches, k) eigenvalues."""
    values = np.asarray(values, np.float64)[:, None]
    return HessianSpectra(
        values, np.zeros_like(values), [end], np.zeros((len(values), 0)), 100, {"weights": "trained"} | facts
    )


def around(mean, spread=0.1, negative=0, batches=8, **facts):
    """Ten eigenvalues of each batch near a mean, so many of them turned negative."""
    values = mean * (1 + spread * np.random.default_rng(0).standard_normal((batches, 10)))
    values[:, :negative] *= -1
    return spectra_of(values, **facts)


def test_too_few_images_for_the_second_reading_are_refused_before_the_first():
    loader = make_loader(load_dataset("digits", n_images=20, image_size=8), 10)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    with pytest.raises(ValueError, match=r"full_sets=2 sets of full_images=16 .* the 20 images .*smaller sets"):
        both_readings(model, None, loader, k=1, full_images=16, full_sets=2, device="cpu")


def test_both_readings_say_what_they_are_of():
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 10))
    data = [load_dataset("digits", "train", n_images=60, augment=augment) for augment in (True, False)]
    loaders = [make_loader(part, 20, shuffle="every_epoch") for part in data]
    sizes = {"k": 2, "batch_size": 5, "n_batches": 3, "full_images": 20, "full_sets": 2, "chunk": 7}
    readings = both_readings(model, *loaders, weight_decay=0.5, mix=MixupCutmix(10, mixup=1.0), device="cpu", **sizes)
    table = readings_table({"linear": readings}).set_index("reading")
    assert table.augmentation["mini-batch"] == "Augmentation(pad=2, flip=False)"
    assert table.augmentation["full"] == "none"
    assert table["mix"]["mini-batch"] == "mixup 1"
    assert table["mix"]["full"] == "none"
    assert table.weight_decay.tolist() == [0.5, 0.0]
    assert table.batch_size.tolist() == [5, 20]
    assert readings["mini-batch"].of("magnitude").shape == (3, 2)
    assert readings["full"].of("largest").shape == (2, 1)
    assert table.ape["mini-batch"] > 0.5  # the loss of a linear classifier is convex, and the penalty adds 0.5
    assert np.isnan(table.ape["full"])
    assert table.outermost_largest["full"] == pytest.approx(readings["full"].of("largest").mean())


def test_mixing_is_seeded_and_keeps_probabilities():
    images, labels = torch.rand(6, 3, 8, 8), torch.arange(6) % 3
    for mixing in (MixupCutmix(3, mixup=1.0), MixupCutmix(3, cutmix=1.0), MixupCutmix(3, label_smoothing=0.1)):
        one, two = (mixing(images, labels, torch.Generator().manual_seed(1)) for _ in range(2))
        assert torch.equal(one[0], two[0])
        torch.testing.assert_close(one[1].sum(1), torch.ones(6))
    assert torch.equal(one[0], images)  # smoothing alone leaves the images


def test_the_command_writes_tables_figure_and_results(tmp_path, capsys):
    out = tmp_path / "deep" / "hessian"
    models = ["--models", "plain_cnn8", "vit_tiny_patch2_16"]
    options = [
        "--mixup",
        "0.5",
        "--ends",
        "magnitude",
        "largest",
        "smallest",
        "--tolerance",
        "0.3",
        "--lanczos-vectors",
        "6",
    ]
    main(["hessian", *models, "--dataset", "digits", *SMALL, *options, "--out", f"{out}"])
    printed = capsys.readouterr().out
    assert "vit_tiny_patch2_16" in printed
    assert "Chen et al. 2022" in printed
    values = pd.read_csv(f"{out}.csv")
    assert len(values) == 2 * (2 * 3 * 1 + 2 * 1)  # models x (batches x ends x k + sets)
    table = pd.read_csv(f"{out}_table.csv")
    assert table.reading.tolist() == ["mini-batch", "full"] * 2
    assert table.epoch.tolist() == [0] * 4
    np.testing.assert_allclose(table.ape_per_parameter[::2], table.ape[::2] / table.n_parameters[::2])
    assert table.outermost_largest_per_trace.notna().all()
    spectra = HessianSpectra.load(f"{out}_vit_tiny_patch2_16_mini-batch")
    smallest = values[(values.model == "vit_tiny_patch2_16") & (values.end == "smallest")]
    assert spectra.of("smallest")[0, 0] == smallest.eigenvalue.iloc[0]
    assert out.with_name("hessian.pdf").stat().st_size > 0
    assert len(pd.read_csv(f"{out}_claims.csv")) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet19"], "resnet19"),
        (["plain_cnn8", "plain_cnn8"], "models should differ"),
        (["plain_cnn8=absent.pth"], "absent.pth: there is no such file"),
        (["plain_cnn8", "--n-batches", "9000"], "9000 mini-batches of 16 images"),
        (["plain_cnn8", "--block", "nothing*"], "names no trained parameter"),
    ],
)
def test_the_command_refuses_what_cannot_be(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        main(["hessian", *arguments, "--dataset", "digits", "--out", f"{tmp_path / 'out'}"])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_the_history_of_a_study_has_start_warm_up_and_end(monkeypatch):
    study, models = (
        Study("H", "resnet18", epochs=4),
        {e: nn.Sequential(nn.Flatten(), nn.Linear(768, 10)) for e in range(5)},
    )
    models[0] = nn.Sequential(nn.BatchNorm2d(3), *models[0])
    monkeypatch.setattr(Study, "snapshots", lambda self, every: models)
    monkeypatch.setattr(Study, "recipe", Recipe("digits", epochs=4, warmup=2))
    options = {"k": 1, "batch_size": 4, "n_batches": 2, "device": "cpu", "ends": ("magnitude",)}
    final = around(3)
    history = along_training([study], 1, {"resnet18": final}, train={"n_images": 40}, **options)
    assert list(history["resnet18"]) == [0, 2, 4]
    assert history["resnet18"][4] is final
    assert list(by_epoch(history)) == ["resnet18_epoch_0", "resnet18_epoch_2"]
    assert history["resnet18"][2].provenance["weights"] == "after 2 epochs"
    assert not torch.equal(models[0][0].running_mean, torch.zeros(3))  # estimated before use
    monkeypatch.setattr(Study, "recipe", Recipe("digits", epochs=4))
    history = along_training([study], 1, {"resnet18": final}, train={"n_images": 40}, **options)
    assert list(history["resnet18"]) == [0, 1, 4]
    history = along_training([study], 1, {"resnet18": final}, train={"n_images": 40}, start=False, **options)
    assert list(history["resnet18"]) == [1, 4]


def test_figures_draw_the_results():
    results = {"resnet18": around(50), "vit_tiny_patch2_16": around(20, negative=2)}
    figure = plot_spectra(results)
    left, right = figure.axes
    drawn = results["vit_tiny_patch2_16"].eigenvalues
    ticks = [line.get_xdata() for line in left.lines if line.get_marker() == "|"]
    np.testing.assert_array_equal(np.sort(ticks[1]), np.sort(-drawn[drawn < 0]))
    assert ticks[0].size == 0  # the CNN has no negative values
    labels = right.get_legend_handles_labels()[1]
    assert labels[0].startswith("resnet18 (NEP 0 ± 0, APE ")
    assert left.xaxis.get_inverted()
    curve = left.get_legend_handles_labels()[0][1]
    step = np.diff(np.log10(curve.get_xdata()))[0]
    assert curve.get_ydata().sum() * step == pytest.approx(results["vit_tiny_patch2_16"].nep[0], rel=0.001)
    figure = plot_over_training({"resnet18": {0: around(3), 6: around(50)}})
    values = figure.axes[1].lines[0].get_ydata()
    np.testing.assert_allclose(values, [around(3).ape[0], around(50).ape[0]])
    nodes = np.array([[-1.0, 3.0]])
    density = SpectralDensity(nodes, nodes**0 / 2, np.linspace(-2, 4, 7), np.arange(7.0), 0.1, 4, {"model": "m"})
    figure = plot_spectral_density(density)
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), np.arange(7.0))
    assert figure.axes[0].get_yscale() == "log"
    with pytest.raises(ValueError, match="no snapshots"):
        plot_over_training({"m": {}})


def test_spectra_of_one_value_or_none_can_be_drawn():
    figure = plot_spectra({"a": spectra_of([[2.0]]), "b": spectra_of([[np.nan]])})
    ticks = [line.get_xdata().tolist() for line in figure.axes[1].lines if line.get_marker() == "|"]
    assert ticks == [[2.0], []]
    assert [text.get_text() for text in figure.axes[0].texts] == ["there are none"]
    assert "1 did not converge" in figure.caption


def verdicts(cnn, hybrid, vit, history=None):
    models = {"resnet18": cnn, "alternet18": hybrid, "vit_tiny_patch2_16": vit}
    return [claim.holds for claim in claims_of_hessian({k: v for k, v in models.items() if v is not None}, history)]


def test_claims_follow_the_numbers_and_their_errors():
    assert verdicts(around(50), around(30), around(10, negative=3)) == [True, True, True]
    assert verdicts(around(10, negative=3), around(30), around(50)) == [False, False, False]
    assert verdicts(around(50, spread=0.6), around(49, spread=0.6), around(51, spread=0.6)) == [None, None, None]
    assert verdicts(around(50), None, around(10)) == [True, None, None]  # no negative eigenvalue on either side
    assert verdicts(around(50), around(30), None) == [None, None, None]
    one = spectra_of([[50.0]]), spectra_of([[30.0]]), spectra_of([[10.0]])
    assert verdicts(*one) == [None, None, None]  # a single mini-batch has no error


def test_few_mini_batches_need_a_larger_difference():
    one, two = around(50, 0.2, batches=2), around(39, 0.2, batches=2)
    many = around(50, 0.2, batches=200), around(39, 0.2, batches=200)
    assert verdicts(one, None, two)[0] is None  # two errors of Student's distribution of one degree are 14 wide
    assert verdicts(many[0], None, many[1])[0] is True


def test_claims_on_training_are_of_its_early_part():
    final = around(50), around(30), around(10)
    history = {
        "resnet18": {0: around(5), 2: around(50, epoch=2), 6: final[0]},
        "vit_tiny_patch2_16": {0: around(5), 2: around(60, negative=4, epoch=2), 20: final[2]},
    }
    assert verdicts(*final, history)[3:] == [False, True, True]
    assert "after epochs: resnet18 2, vit_tiny_patch2_16 2" in claims_of_hessian({}, history)[3].claim
    history["vit_tiny_patch2_16"][2], history["vit_tiny_patch2_16"][20] = final[2], around(60, negative=4)
    assert verdicts(*final, history)[3:] == [True, None, False]
    assert verdicts(*final, {"vit": {0: final[2], 20: final[2]}})[3:] == [None, None, None]


def test_both_readings_can_hold():
    def reading(ape, largest):
        full = spectra_of(largest * np.array([[1.0], [1.01], [0.99], [1.0]]), "largest")
        return {"mini-batch": around(ape), "full": full}

    def judged(cnn, vit):
        return [claim.holds for claim in claims_of_readings({"resnet18": cnn, "vit_tiny_patch2_16": vit})]

    assert judged(reading(50, 10), reading(10, 30)) == [True, True]
    assert judged(reading(10, 30), reading(50, 10)) == [False, False]
    assert judged(reading(50, 10), reading(50, 10)) == [None, None]


def test_provenance_is_plain(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    batch = torch.ones(4, 1, 2, 2), torch.tensor([0, 1, 0, 1])
    sizes = {"batch_size": 2, "n_batches": 2, "full_images": 4, "full_sets": 1, "k": 1, "device": "cpu"}
    for spectra in both_readings(model, [batch], [batch], mode="train", block="1.*", **sizes).values():
        assert json.loads(json.dumps(spectra.provenance)) == spectra.provenance
        assert spectra.provenance["block"] == ["1.*"]
