"""Which axis holds the channels: of every kind of layer, and of models of one, two and three dimensions."""

import warnings

import pytest
import timm
import torch
import torchvision
from torch import nn

from utilities.compare import compare
from utilities.hooks.kinds import channel_axis_of, spatial_dimensions
from utilities.hooks.layout import Layout, prefix_tokens
from utilities.hooks.placement import Placement
from utilities.hooks.trial import first_tensor
from utilities.hooks.views import channels_last, check_view, make_view
from utilities.metrics import cka


def rows(output, n):
    """Make an output with a row for each of n images, which vary slowest in its first dimension."""
    tensor = first_tensor(output)
    return Placement(0, inner=len(tensor) // n).arrange(tensor, n)


def outputs(model, x):
    """Yield (name, module, output) of every layer, as a recorder folds them."""
    found, handles = [], []
    for name, module in model.named_modules():
        if name:
            hook = lambda module, args, output, name=name: found.append((name, module, output))  # noqa: E731
            handles.append(module.register_forward_hook(hook))
    with torch.no_grad():
        model.eval()(x)
    for handle in handles:
        handle.remove()
    return [(name, module, rows(output, len(x))) for name, module, output in found]


def gap(model, module, output, view="gap"):
    return make_view(view, model)(output, module)


X1, X2, X3 = torch.randn(2, 4, 8), torch.randn(2, 4, 6, 8), torch.randn(2, 4, 6, 4, 8)
SECOND = [
    (nn.Conv1d(4, 5, 3), X1),
    (nn.ConvTranspose1d(4, 5, 3), X1),
    (nn.BatchNorm1d(4), X1),
    (nn.SyncBatchNorm(4), X1),
    (nn.InstanceNorm1d(4, affine=True), X1),
    (nn.GroupNorm(2, 4), X1),
    (nn.MaxPool1d(2), X1),
    (nn.AvgPool1d(2), X1),
    (nn.AdaptiveAvgPool1d(1), X1),
    (nn.LPPool1d(2, 2), X1),
    (nn.Upsample(scale_factor=2), X1),
    (nn.ReflectionPad1d(1), X1),
    (nn.Dropout1d(), X1),
    (nn.Unfold(2), X2),
    (nn.Conv2d(4, 8, 1), X2),
    (nn.GroupNorm(2, 4), X2),
    (nn.PixelShuffle(2), X2),
    (nn.AdaptiveMaxPool2d(2), X2),
    (timm.layers.LayerNorm2d(4), X2),
    (timm.layers.BatchNormAct2d(4), X2),
    (nn.Conv3d(4, 5, 1), X3),
    (nn.ConvTranspose3d(4, 5, 1), X3),
    (nn.BatchNorm3d(4), X3),
    (nn.MaxPool3d(2), X3),
    (nn.AdaptiveAvgPool3d(2), X3),
    (nn.Upsample(scale_factor=2), X3),
    (nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 5, 3)), X1),
]
LAST = [
    (nn.Linear(8, 5), X1),
    (nn.LayerNorm(8), X1),
    (nn.RMSNorm(8), X1),
    (nn.Embedding(9, 5), torch.zeros(2, 7, dtype=torch.long)),
    (nn.LSTM(8, 5, batch_first=True), X1),
    (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), X1),
    (nn.Linear(8, 5), X2),
    (nn.LayerNorm(8), X2),
    (nn.Linear(8, 5), X3),
    (nn.LayerNorm(8), X3),
]


@pytest.mark.parametrize(
    ("module", "x", "last"), [(*case, False) for case in SECOND] + [(*case, True) for case in LAST]
)
def test_the_kind_tells_the_axis_in_any_model(module, x, last):
    with torch.no_grad():
        output = rows(module(x), len(x))
    axes = tuple(range(1, output.ndim - 1)) if last else tuple(range(2, output.ndim))
    for model in (
        nn.Sequential(module),
        nn.Sequential(nn.LayerNorm(7), nn.Conv1d(1, 9, 1), nn.Conv3d(1, 9, 1), module),
    ):
        found = make_view("gap", model)(output, module)
        torch.testing.assert_close(found.sort(1).values, output.mean(axes).flatten(1).sort(1).values)


def test_attention_keeps_its_width_last():
    module = nn.MultiheadAttention(8, 2, batch_first=True)
    output, _ = module(X1, X1, X1)
    torch.testing.assert_close(gap(nn.ModuleList([module]), module, output), output.mean(1))


def test_dimensions_are_in_the_names_of_torchs_layers():
    class Own1d(nn.Module):
        pass

    assert [spatial_dimensions(m) for m in (Own1d(), nn.Dropout2d(), nn.SyncBatchNorm(2))] == [None, 2, None]


@pytest.mark.parametrize("batch_norm", [True, False])
def test_flattened_tokens_and_windows_are_folded_before_they_are_told(batch_norm):
    """LeViT flattens tokens for batch norm, video models and windows of maps go through 2-D convolutions."""
    if batch_norm:
        x, module = torch.randn(2, 7, 4), nn.BatchNorm1d(4).eval()
        folded = rows(module(x.flatten(0, 1)), 2)
        torch.testing.assert_close(gap(nn.Sequential(module), module, folded), folded.mean(1))
        assert channel_axis_of(module, torch.Size([2, 4, 4])) is None  # tokens or positions: the model has to tell
    else:
        x, module = torch.randn(2, 5, 3, 6, 8), nn.Conv2d(3, 4, 1)
        folded = rows(module(x.flatten(0, 1)), 2)
        torch.testing.assert_close(gap(nn.Sequential(module), module, folded), folded.mean((1, 3, 4)))


class Block1d(nn.Module):
    def __init__(self, width, activation):
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv1d(width, width, 3, padding=1), nn.BatchNorm1d(width), activation()
        self.conv2 = nn.Conv1d(width, width, 1)

    def forward(self, x):
        return self.relu(x + self.conv2(self.relu(self.bn1(self.conv1(x)))))


class ConvNet1d(nn.Module):
    """Activations that are called twice and are no child of an ``nn.Sequential``, linear layers at the end."""

    def __init__(self, hidden=24):
        super().__init__()
        self.stem, self.act = nn.Conv1d(2, 16, 3, padding=1), nn.GELU()
        self.pool, self.block = nn.MaxPool1d(2), Block1d(16, nn.ReLU)
        self.body = nn.Sequential(nn.Conv1d(16, 24, 1), nn.SiLU(), nn.Dropout())
        self.squeeze, self.head = (
            nn.AdaptiveAvgPool1d(1),
            nn.Sequential(nn.Linear(24, hidden), nn.ReLU(), nn.Linear(hidden, 3)),
        )

    def forward(self, x):
        x = self.body(self.block(self.pool(self.act(self.stem(x)))))
        return self.head(self.squeeze(x).flatten(1))


@pytest.mark.parametrize("length", [20, 32, 48, 7])  # 32 and 48 give as many positions as there are channels somewhere
@pytest.mark.parametrize("known", [True, False])
def test_convnets_of_one_dimension_average_their_positions(length, known):
    model = ConvNet1d()
    for _, module, output in outputs(model, torch.randn(2, 2, length)):
        found = gap(model, module if known else None, output)
        torch.testing.assert_close(found, output.mean(2) if output.ndim == 3 else output)
        for view in ("spatial", "token:0"):
            rows = gap(model, module, output, view)
            torch.testing.assert_close(
                rows, output[..., 0] if view != "spatial" and output.ndim == 3 else output.flatten(1)
            )


def test_the_comparison_of_convnets_of_one_dimension_is_that_of_their_means():
    torch.manual_seed(0)
    one, two, x = ConvNet1d().eval(), ConvNet1d().eval(), torch.randn(40, 2, 12)
    options = {"layers1": ["stem", "block.relu"], "layers2": ["act"], "view": "gap", "precision": "exact"}
    found = compare(one, two, [x], device="cpu", progress=False, **options).matrix
    with torch.no_grad():
        mean = two.act(two.stem(x)).mean(2)
        assert found[0, 0] == pytest.approx(cka(one.stem(x).mean(2), mean), abs=1e-5)
        assert found[-1, 0] == pytest.approx(cka(one.block(one.pool(one.act(one.stem(x)))).mean(2), mean), abs=1e-5)


class ConvNet3d(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.norm = nn.Conv3d(3, 8, 3, padding=1), nn.ReLU(), nn.BatchNorm3d(8)
        self.body = nn.Sequential(nn.Conv3d(8, 6, 1), nn.ReLU(), nn.MaxPool3d(2))
        self.pool, self.head = nn.AdaptiveAvgPool3d(1), nn.Linear(6, 4)

    def forward(self, x):
        x = self.body(self.relu(self.norm(self.conv(x))))
        return self.head(self.pool(self.relu(x)).flatten(1))


def test_convnets_of_three_dimensions_average_their_positions():
    model = ConvNet3d()
    for _, module, output in outputs(model, torch.randn(2, 3, 4, 6, 8)):
        for known in (module, None):
            torch.testing.assert_close(
                gap(model, known, output), output.mean((2, 3, 4)) if output.ndim == 5 else output
            )
    torch.manual_seed(0)
    x = torch.randn(20, 3, 4, 6, 8)
    found = compare(model, model, [x], layers1=["relu", "head"], view="gap", precision="exact", device="cpu")
    model.eval()
    with torch.no_grad():
        mean = model.relu(model.norm(model.conv(x))).mean((2, 3, 4))
        assert found.matrix[0, -1] == pytest.approx(cka(mean, model(x)), abs=1e-5)


def test_swin_of_three_dimensions_has_its_width_last_behind_the_stem():
    model = torchvision.models.video.SwinTransformer3d([2, 4, 4], 24, [1, 1], [2, 4], [2, 2, 2], num_classes=3)
    found = outputs(model, torch.randn(2, 3, 4, 24, 32))
    assert sum(output.ndim == 5 for *_, output in found) > 20
    for name, module, output in found:
        if output.ndim == 5:
            axes = (2, 3, 4) if name in ("patch_embed.proj", "avgpool") else (1, 2, 3)
            torch.testing.assert_close(gap(model, module, output), output.mean(axes))


class ConvPosition(nn.Module):
    """Convolves tokens along the sequence: (batch, T, C) goes in and comes out."""

    def __init__(self, width):
        super().__init__()
        self.conv, self.act = nn.Conv1d(width, width, 3, padding=1, groups=2), nn.GELU()

    def forward(self, x):
        return self.act(self.conv(x.transpose(1, 2))).transpose(1, 2)


class Audio(nn.Module):
    """A stem of convolutions, then a transformer with a convolution for its positions, as wav2vec 2.0 has."""

    def __init__(self, width=16):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(1, 12, 4, 2), nn.GELU(), nn.Conv1d(12, width, 4, 2), nn.GroupNorm(1, width))
        self.position, self.drop = ConvPosition(width), nn.Dropout()
        self.block = nn.TransformerEncoderLayer(width, 2, 3 * width, batch_first=True)
        self.feed, self.norm = (
            nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)),
            nn.LayerNorm(width),
        )

    def forward(self, x):
        x = self.stem(x).transpose(1, 2)
        x = self.block(self.drop(x + self.position(x)))
        return self.norm(self.feed(x))


def test_tokens_stay_tokens_in_models_with_convolutions_of_one_dimension():
    model = Audio()
    for name, module, output in outputs(model, torch.randn(2, 1, 90)):
        second = name.startswith("stem") or name in ("position.conv", "position.act")
        assert output.shape[1 if second else 2] != 21  # positions
        torch.testing.assert_close(gap(model, module, output), output.mean(2 if second else 1))


def test_sizes_that_fit_both_ways_are_an_error_with_a_remedy_and_kinds_are_not():
    model, square = Audio(), torch.randn(2, 16, 16)
    for module in (model.position, model.drop, model.position.act):
        with pytest.raises(ValueError, match=r"not known which dimensions.*'gap:NCL' or 'gap:NLC'.*'flatten'"):
            gap(model, module, square)
        torch.testing.assert_close(gap(model, module, square, "gap:NLC"), square.mean(1))
        torch.testing.assert_close(gap(model, module, square, "gap:NCL"), square.mean(2))
        assert torch.equal(gap(model, module, square, "spatial"), square.flatten(1))
    torch.testing.assert_close(gap(model, model.position.conv, square), square.mean(2))
    torch.testing.assert_close(gap(model, model.norm, square), square.mean(1))
    torch.testing.assert_close(gap(model, model.stem[1], torch.randn(2, 12, 12).zero_()), torch.zeros(2, 12))


class Transposing(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv1d(2, 6, 1), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.conv(x).transpose(1, 2))


def test_convnets_whose_sizes_contradict_are_an_error():
    model = Transposing()
    with pytest.raises(ValueError, match="not known which dimensions"):
        make_view("gap", model)(torch.randn(2, 9, 6))
    for _, module, output in outputs(model, torch.randn(2, 2, 9)):
        torch.testing.assert_close(gap(model, module, output), output.mean(1 if module is model.head else 2))


@pytest.mark.parametrize(
    ("letters", "shape", "axes"),
    [
        ("NCL", (2, 3, 4), 2),
        ("NLC", (2, 3, 4), 1),
        ("NTC", (2, 3, 4), 1),
        ("NCT", (2, 3, 4), 2),
        ("NCHW", (2, 3, 4, 5), (2, 3)),
        ("NHWC", (2, 3, 4, 5), (1, 2)),
        ("NHCW", (2, 3, 4, 5), (1, 3)),
        ("NCDHW", (2, 3, 4, 5, 6), (2, 3, 4)),
        ("NDHWC", (2, 3, 4, 5, 6), (1, 2, 3)),
    ],
)
def test_letters_say_the_axes(letters, shape, axes):
    x, model = torch.randn(shape), nn.Sequential(nn.Identity())
    check_view(f"gap:{letters}")
    torch.testing.assert_close(make_view(f"gap:{letters}", model)(x), x.mean(axes))
    first = x.movedim(letters.index("C"), -1).flatten(1, -2)
    assert torch.equal(make_view(f"token:1:{letters}", model)(x), first[:, 1])


def test_letters_hold_where_the_kind_of_the_layer_is_silent():
    conv, act, x = nn.Conv1d(3, 4, 1), nn.ReLU(), torch.randn(2, 4, 6)
    model = nn.ModuleList([conv, act])
    with pytest.warns(UserWarning, match="since a Conv1d tells it"):
        assert torch.equal(make_view("gap:NLC", model)(x, conv), x.mean(2))
    assert torch.equal(make_view("gap:NLC", model)(x, act), x.mean(1))
    maps = torch.randn(2, 4, 6, 5)  # of other dimensions than the letters: as without
    assert torch.equal(make_view("gap:NLC", nn.Conv2d(3, 4, 1))(maps), maps.mean((2, 3)))


@pytest.mark.parametrize("follower", [False, True])
def test_a_kind_that_overrules_the_letters_is_said_once_with_a_remedy_that_works(follower):
    """A linear layer over transposed tokens, (batch, channels, tokens), and what follows it in a sequence."""
    model = nn.Sequential(nn.Linear(7, 6), nn.ReLU())
    output, module = torch.randn(2, 4, 6), model[int(follower)]
    view = make_view("gap:NCL", model)
    said = r"view 'gap:NCL': axis 2 of .*\(2, 4, 6\).* Linear tells it.*lambda output: output.mean\(\(2,\)\)"
    with pytest.warns(UserWarning, match=said):
        assert torch.equal(view(output, module), output.mean(1))  # as in a model of convolutions beside tokens
    function = make_view(lambda output: output.mean((2,)), model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        view(output, module)
        make_view("gap:NLC", model)(output, module)
        make_view("spatial:NCL", model)(output, module)  # without a class token the axes make no difference
        assert torch.equal(function(output, module), output.mean(2))


@pytest.mark.parametrize(
    "view",
    [
        "gap:",
        "gap:CL",
        "gap:NL",
        "gap:NCC",
        "gap:NCLL",
        "gap:NC",
        "gap:ncl",
        "flatten:NCL",
        "gap:NCX",
        "token:NCL",
        "x:NCL",
    ],
)
def test_wrong_letters_are_refused(view):
    with pytest.raises(ValueError, match=r"view '.*' is not known; choose 'flatten', 'gap'.*as in 'gap:NCL'"):
        check_view(view)


def test_class_tokens_are_left_out_of_tokens_with_letters():
    model = timm.create_model("vit_tiny_patch16_224", img_size=48, depth=1)
    x = torch.randn(2, 10, 192)
    torch.testing.assert_close(make_view("gap:NLC", model)(x), x[:, 1:].mean(1))
    assert torch.equal(make_view("cls:NTC", model)(x), x[:, 0])
    assert prefix_tokens(model) == 1


def test_elementwise_layers_follow_the_sequence_they_stand_in():
    shared = nn.ReLU()
    model = nn.ModuleList(
        [nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sequential(nn.BatchNorm2d(8), nn.GELU())), nn.LayerNorm(8),
         nn.Sequential(nn.Linear(8, 8), nn.ReLU()), nn.Sequential(nn.Conv2d(8, 8, 1), shared),
         nn.Sequential(nn.Linear(8, 8), shared)]
    )  # fmt: skip
    layout, cube = Layout(model), torch.Size([2, 8, 8, 8])
    modules = [model[0], model[0][1], model[0][1][1], model[2], model[2][1], shared]
    assert [layout.channel_axis(cube, module) for module in modules] == [1, 1, 1, 3, 3, None]


def test_one_channel_over_channels_is_no_channel():
    """ECA convolves over the channels of a map: (batch, 1, channels)."""
    model = timm.create_model("ecaresnet26t", num_classes=2)
    for name, module, output in outputs(model, torch.randn(2, 3, 32, 32)):
        if ".se.conv" in name or ".se.gate" in name:
            assert torch.equal(gap(model, module, output), output[:, 0])
    wave = nn.Sequential(nn.Conv1d(2, 1, 1), nn.Tanh())
    assert gap(wave, wave[1], torch.randn(2, 1, 50)).shape == (2, 1)


def test_integers_and_complex_maps_have_means():
    model = nn.Conv2d(3, 4, 1)
    z = torch.complex(torch.randn(2, 4, 3, 5), torch.randn(2, 4, 3, 5))
    mean = z.mean((2, 3))
    found = make_view("gap", model)(z)
    torch.testing.assert_close(found, torch.stack([mean.real, mean.imag], -1).flatten(1))
    for view in ("flatten", "spatial", lambda value: value):
        assert make_view(view, model)(z).shape == (2, 120)
    assert torch.equal(make_view("gap", model)(torch.tensor([[[[1, 2]]]])), torch.tensor([[1.5]]))
    assert torch.equal(make_view("gap", model)(torch.tensor([[[[True, False]]]])), torch.tensor([[0.5]]))


def test_the_inside_of_blocks_is_told_by_its_layer():
    shape, model = torch.Size([2, 8, 8, 8]), nn.ModuleList([nn.Conv2d(3, 8, 1), nn.LayerNorm(8)])
    assert [channels_last(model, shape, module) for module in (model[0], model[1], None)] == [False, True, None]
