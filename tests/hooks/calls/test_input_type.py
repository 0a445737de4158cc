"""Half models take half images, in comparisons and in every analysis, and an autocast of the caller stays in force."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from utilities.analysis.blocks.fourier import fourier
from utilities.analysis.blocks.lesion import lesions
from utilities.analysis.class_embedding.tuned_fit import fit_tuned_lens
from utilities.analysis.loss.landscape import loss_landscape
from utilities.analysis.predictions.adversarial import adversarial
from utilities.analysis.predictions.classification import classify
from utilities.analysis.predictions.noise_frequency import noise_frequency
from utilities.analysis.predictions.prediction_time import prediction_time
from utilities.compare import compare
from utilities.compare.all_pairs import compare_all
from utilities.hooks import Recorder
from utilities.hooks.calls.input_type import as_input, casting_inputs, input_type
from utilities.metrics import cka
from utilities.resnet import resnet18
from utilities.training.trainer import estimate_batch_norm
from utilities.utils import evaluate
from utilities.zoo.vit import vit_tiny_patch2_16

HALVES = [torch.float16, torch.bfloat16]


class Scaled(nn.Module):
    """A float32 parameter of its own comes before a half layer."""

    def __init__(self, dtype):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.body = nn.Linear(4, 6).to(dtype)

    def forward(self, x):
        return self.body(x) * self.scale


def test_the_type_is_that_of_the_first_layer():
    half = torch.float16
    assert input_type(Scaled(half)) == half
    assert input_type(vit_tiny_patch2_16(depth=1).half()) == half  # its class token is the first parameter
    assert input_type(nn.Sequential(nn.Conv2d(3, 4, 1).half(), nn.BatchNorm2d(4))) == half
    assert input_type(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1).half())) == half
    assert input_type(nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4).double())) == torch.float64
    assert input_type(nn.BatchNorm1d(3).double()) == torch.float64
    assert input_type(nn.ReLU()) is None
    assert as_input(torch.zeros(2, 3, dtype=torch.uint8), nn.Linear(3, 1).half()).dtype == torch.uint8
    assert as_input(torch.zeros(2, 3, dtype=torch.complex64), nn.Linear(3, 1).half()).dtype == torch.complex64


def test_arguments_of_any_structure_are_cast_and_others_are_left():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(2, 2).half()

        def forward(self, batch, ids=None):
            return batch["pixel_values"].dtype, ids.dtype, type(batch)

    class Features(dict):
        pass

    model, ids = Model(), torch.zeros(1, dtype=torch.long)
    with casting_inputs(model):
        assert model({"pixel_values": torch.zeros(1)}, ids=ids)[:2] == (torch.float16, torch.int64)
        assert model(Features(pixel_values=torch.zeros(1).half()), ids=ids)[2] is Features  # nothing to do
    assert model({"pixel_values": torch.zeros(1)}, ids=ids)[0] == torch.float32


def small_vit(dtype):
    torch.manual_seed(0)
    model = vit_tiny_patch2_16(depth=2, num_classes=5).eval()
    with torch.no_grad():
        model.head.weight.mul_(10)
    return model.to(dtype)


def small_resnet(dtype):
    torch.manual_seed(0)
    return estimate_batch_norm(resnet18(5), [images()], "cpu").eval().to(dtype)


def images():
    return torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))


DATA = [(images(), torch.arange(6) % 5)]
RUN = {"device": "cpu", "progress": False}
ANALYSES = {
    "evaluate": lambda model: evaluate(model, DATA, device="cpu", topk=(1,))["loss"],
    "classify": lambda model: classify(model, DATA, **RUN).nll,
    "lesions": lambda model: lesions(model, DATA, **RUN).loss,
    "mean lesions": lambda model: lesions(model, DATA, ablation="mean", units="block", **RUN).loss,
    "fourier": lambda model: fourier(model, DATA, **RUN).log_amplitude,
    "noise": lambda model: noise_frequency(model, DATA, bands=2, **RUN).both_right,
    "attack": lambda model: adversarial(model, DATA, radii=[2], steps=2, mean=0.5, std=0.1, **RUN).nll,
    "landscape": lambda model: loss_landscape(model, DATA, points=3, one_dimensional=True, report=None, **RUN).nll,
    "batch norms": lambda model: evaluate(estimate_batch_norm(model, DATA, "cpu"), DATA, device="cpu")["loss"],
}


@pytest.mark.parametrize(
    ("name", "build", "dtype"),
    [(name, small_vit, dtype) for name in ANALYSES for dtype in HALVES]
    # Convolutions in float16 are slow on a CPU.
    + [(name, small_resnet, torch.bfloat16) for name in ("evaluate", "mean lesions", "fourier", "batch norms")],
)
def test_analyses_of_half_models_are_near_those_of_the_same_weights_in_float32(name, build, dtype):
    model = build(dtype)
    found, expected = (np.asarray(ANALYSES[name](copy.deepcopy(m))) for m in (model, copy.deepcopy(model).float()))
    # Activations are rounded to 8 bits at worst, 0.4 %, in some ten layers that follow one another.
    np.testing.assert_allclose(found, expected, rtol=0.05, atol=0.05)
    assert next(model.parameters()).dtype == dtype


@pytest.mark.parametrize("dtype", HALVES)
def test_comparisons_and_recorders_of_half_models(dtype):
    model, x = small_vit(dtype), images()
    found = compare(model, copy.deepcopy(model).float(), [x], layers1=["blocks.1"], layers2=["blocks.1"], **RUN)
    assert found.matrix[0, 0] == pytest.approx(1, abs=0.01)
    with Recorder(model, "head") as recorder:
        model(x)
    assert recorder.activations["head"].dtype == dtype
    assert prediction_time(model, x[:1], repeats=2, device="cpu")[0] > 0


def test_a_half_layer_after_a_parameter_in_float32_is_compared():
    torch.manual_seed(0)
    x, model = torch.randn(20, 4), Scaled(torch.bfloat16)
    found = compare(model, nn.Sequential(nn.ReLU()), [x], precision="exact", **RUN)
    with torch.no_grad():
        assert found.matrix[0, 0] == pytest.approx(cka(model.body(x.bfloat16()).float(), x.relu()), abs=1e-6)


def test_float64_images_meet_a_float32_model():
    assert evaluate(small_resnet(torch.float32), [(DATA[0][0].double(), DATA[0][1])], device="cpu")["n"] == 6


def test_each_of_several_models_gets_images_of_its_own_type():
    torch.manual_seed(0)
    one, two = nn.Sequential(nn.Linear(8, 6)), nn.Sequential(nn.Linear(8, 5)).half()
    x = torch.randn(20, 8)
    result = compare_all({"one": one, "two": two}, [x], precision="exact", **RUN)["one", "two"]
    with torch.no_grad():  # images that went through half precision would be off by 1e-4
        expected = cka(one(x), two(x.half()))
    assert result.matrix[0, 0] == pytest.approx(expected, abs=1e-6)


def test_token_ids_stay_integers():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(20, 8), nn.Flatten(), nn.Linear(24, 4)).half()
    ids = torch.randint(0, 20, (16, 3))
    result = compare(model, model, [ids], **RUN)
    assert result.matrix.shape == (3, 3)


@pytest.mark.parametrize("dtype", HALVES)
def test_a_tuned_lens_of_a_half_model_is_fitted_in_float32(dtype):
    """Adam's epsilon is 0 in float16, and its steps are rounded away."""
    model = small_vit(torch.float32)
    expected = fit_tuned_lens(model, DATA, epochs=2, **RUN).facts
    tuned = fit_tuned_lens(model.to(dtype), DATA, epochs=2, **RUN)
    np.testing.assert_allclose(tuned.facts["train_kl"], expected["train_kl"], rtol=0.02)
    assert tuned.facts["kept_epoch"] == expected["kept_epoch"] != [0]
    assert next(tuned.parameters()).dtype == torch.float32


def test_a_landscape_and_a_tuned_lens_follow_the_weights_inside_an_autocast():
    """An autocast that the caller holds open keeps its casts of weights, also of those that have changed since."""
    model = small_vit(torch.float32)
    run = {"points": 3, "one_dimensional": True, "report": None, **RUN}
    outside = loss_landscape(model, DATA, **run).nll
    lens = fit_tuned_lens(model, DATA, epochs=2, **RUN).facts["train_kl"]
    with torch.autocast("cpu", torch.bfloat16):
        np.testing.assert_allclose(loss_landscape(model, DATA, **run).nll, outside, rtol=0.05)
        np.testing.assert_allclose(fit_tuned_lens(model, DATA, epochs=2, **RUN).facts["train_kl"], lens, rtol=0.02)
    assert np.ptp(outside) > 0.2 * outside.min()
