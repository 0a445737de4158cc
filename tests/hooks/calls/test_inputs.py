"""Images that a model cannot take: one sentence with the remedy, wherever the model runs; what works stays."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from utilities.analysis.loss.hessian import hessian_spectra
from utilities.analysis.loss.landscape import loss_landscape
from utilities.analysis.stream import stream
from utilities.cli.user_errors import reporting
from utilities.compare import compare
from utilities.hooks.calls.inputs import check_images, explaining
from utilities.resnet import resnet18
from utilities.utils import evaluate

GENERATOR = torch.Generator().manual_seed(0)
LABELS = torch.arange(6) % 3


def images(*shape):
    return torch.randn(6, *shape, generator=GENERATOR)


def cnn():
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    return nn.Sequential(*layers)


def vit():
    return timm.models.VisionTransformer(
        img_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=3, class_token=True
    )


def other_vit():
    return torchvision.models.VisionTransformer(16, 8, 1, 2, 16, 32, num_classes=3)


def pooled():
    """A plain network that takes one size alone, and does not know it."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 14 * 14, 3))


GREY, LAST, BYTES = images(1, 16, 16), images(16, 16, 3), torch.randint(0, 256, (6, 3, 16, 16)).byte()
CASES = [
    (cnn, GREY, r"have 1 channel, .*1x16x16, and Sequential's '0' takes 3: repeat grey images, images.expand"),
    (vit, GREY, r"have 1 channel, .* and VisionTransformer's 'patch_embed.proj' takes 3: repeat"),
    (other_vit, GREY, r"have 1 channel, .* and VisionTransformer's 'conv_proj' takes 3: repeat"),
    (cnn, images(4, 16, 16), r"have 4 channels, .*: leave the transparency out, images\[:, :3\]"),
    (cnn, images(7, 16, 16), r"have 7 channels, .* make the model for 7 \(in_chans of timm\)"),
    (
        cnn,
        LAST,
        r"have channels last, .*16x16x3, and Sequential's '0' takes them first: use images.permute\(0, 3, 1, 2",
    ),
    (vit, LAST, r"have channels last, .* VisionTransformer's 'patch_embed' takes them first"),
    (other_vit, LAST, r"have channels last, .* VisionTransformer takes them first"),
    (vit, images(3, 32, 32), r"32x32 pixels, and VisionTransformer takes 16x16: load them with image_size=16"),
    (other_vit, images(3, 32, 32), r"32x32 pixels, and VisionTransformer takes 16x16: load them with image_size=16"),
    (pooled, images(3, 32, 32), r"x3x32x32, and Sequential's '2' gets 3600 features of them where it takes 784"),
    (cnn, images(3, 2, 2), r"x3x2x2, which is too small for Sequential's '0'"),
    (cnn, images(16, 16), r"have no axis of channels, .*, and Sequential's '0' takes 3 channels: give grey images as"),
    (cnn, images(5), r"images are .x5, and Sequential's '0' takes \(n, channels, height, width\)"),
]


@pytest.mark.parametrize(("make", "wrong", "match"), CASES)
def test_one_sentence_says_what_is_wrong_and_what_to_do(make, wrong, match):
    options = {"device": "cpu", "progress": False}
    for run in (
        lambda: compare(make(), make(), [wrong], **options),
        lambda: evaluate(make(), [(wrong, LABELS)], device="cpu"),
        lambda: loss_landscape(make(), [(wrong, LABELS)], points=3, report=None, **options),
        lambda: hessian_spectra(make(), [(wrong, LABELS)], batch_size=6, n_batches=1, **options),
    ):
        with pytest.raises(ValueError, match=match) as caught:
            run()
        assert "\n" not in str(caught.value)
        assert caught.value.__cause__ is not None


@pytest.mark.parametrize(("wrong", "match"), [(GREY, "ResNet takes 3: repeat grey"), (LAST, "ResNet takes them first")])
def test_networks_of_this_package_say_the_same(wrong, match):
    with pytest.raises(ValueError, match=match):
        evaluate(resnet18(3), [(wrong, LABELS)], device="cpu")


def test_types_that_do_not_fit_are_said():
    match = "images are uint8, and Sequential's '0' takes float32: divide 8-bit images by 255 and normalise them"
    with pytest.raises(ValueError, match=match):
        evaluate(cnn(), [(BYTES, LABELS)], device="cpu")
    with pytest.raises(ValueError, match=match):
        compare(cnn(), cnn(), [BYTES], device="cpu")
    match = r"images are float64, and Sequential's '0' takes float32: give images.to"
    with pytest.raises(ValueError, match=match), explaining():
        cnn()(images(3, 16, 16).double())


def test_what_keeps_no_values_is_refused():
    empty = torch.zeros(6, 3, 16, 16, device="meta")
    with torch.device("meta"):
        model = cnn()
    for run in (
        lambda m, x: compare(m, m, [x], device="cpu"),
        lambda m, x: evaluate(m, [(x, LABELS)], device="cpu"),
        lambda m, x: loss_landscape(m, [(x, LABELS)], points=3, report=None, device="cpu"),
        lambda m, x: hessian_spectra(m, [(x, LABELS)], batch_size=6, n_batches=1, device="cpu"),
    ):
        with pytest.raises(ValueError, match="images are on the meta device"):
            run(cnn(), empty)
        with pytest.raises(ValueError, match=r"meta device\); load weights"):
            run(model, images(3, 16, 16))
    with pytest.raises(ValueError, match=r"'0.weight' of Sequential has no values"):
        check_images({"x": images(3, 16, 16)}, model)


def test_gradients_are_not_asked_for_in_inference_mode():
    batch = images(3, 16, 16), LABELS
    with torch.inference_mode():
        with pytest.raises(ValueError, match=r"a Hessian needs gradients, which torch.inference_mode switches off"):
            hessian_spectra(cnn(), [batch], batch_size=6, n_batches=1, device="cpu", progress=False)
        with (
            pytest.raises(ValueError, match="importance needs gradients"),
            stream(cnn(), [batch], description="importance", gradients=True),
        ):
            pass
        with pytest.raises(ValueError, match="gradients are needed, which torch"), explaining():
            cnn()(batch[0]).sum().backward()
        made_inside = cnn()
    with pytest.raises(ValueError, match=r"what was made under torch.inference_mode"), explaining():
        made_inside(batch[0]).sum().backward()


class Any3(nn.Module):
    """A model that brings what it gets into shape itself."""

    def __init__(self):
        super().__init__()
        self.body = cnn()

    def forward(self, x):
        x = x.permute(0, 3, 1, 2) if x.shape[-1] in (1, 3) else x
        x = x[:, None] if x.ndim == 3 else x
        return self.body((x.float() / 255 if not x.is_floating_point() else x).expand(-1, 3, -1, -1))


@pytest.mark.parametrize("taken", [GREY, LAST, BYTES, images(16, 16), images(3, 40, 24)])
def test_what_a_model_takes_is_let_through(taken):
    assert evaluate(Any3(), [(taken, LABELS)], device="cpu")["n"] == 6
    assert compare(Any3(), Any3(), [taken], device="cpu", progress=False).n == 6


@pytest.mark.parametrize(
    ("model", "taken"),
    [
        (nn.Sequential(nn.Conv1d(2, 3, 3), nn.Flatten(), nn.Linear(24, 3)), images(2, 10)),
        (nn.Sequential(nn.EmbeddingBag(9, 3)), torch.arange(30).reshape(6, 5) % 9),
        (nn.Sequential(nn.Conv3d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 27, 3)), images(1, 5, 5, 5)),
        (nn.Sequential(nn.Linear(5, 3)), images(5)),
    ],
)
def test_what_is_no_image_is_let_through(model, taken):
    assert evaluate(model, [(taken, LABELS)], device="cpu")["n"] == 6


def test_other_errors_stay_what_they_are():
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("broken")

    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(5, 4, 3)

        def forward(self, x):
            return self.second(self.first(x))

    with pytest.raises(RuntimeError, match="broken"):
        evaluate(Broken(), [(GREY, LABELS)], device="cpu")
    with pytest.raises(RuntimeError, match="to have 5 channels, but got 4"):  # not the images' fault
        evaluate(Deep(), [(images(3, 16, 16), LABELS)], device="cpu")


@pytest.mark.parametrize("error", [ValueError, TypeError, OSError, FloatingPointError])
def test_commands_report_in_one_line(error, capsys):
    with pytest.raises(SystemExit) as ended, reporting():
        raise error("two\n  lines")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: two lines\n"


def test_a_model_of_several_inputs_says_how_it_can_be_run():
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Linear(6, 6)

        def forward(self, image, text):
            return self.fc(image) + text

    with pytest.raises(ValueError, match=r"Two takes more than images, 'text' too: .* forward=lambda model, batch"):
        compare(Two(), Two(), [torch.randn(8, 6)], device="cpu", progress=False)
