"""The recorder against every way in which a model can spoil or hide an activation."""

from collections import OrderedDict
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from utilities.hooks import Recorder, select_layers


class Residual(nn.Module):
    """In-place ReLU after a batch norm, and an in-place sum after the second one."""

    def __init__(self):
        super().__init__()
        self.bn1, self.relu, self.bn2 = nn.BatchNorm1d(4), nn.ReLU(inplace=True), nn.BatchNorm1d(4)

    def forward(self, x):
        out = self.bn2(self.relu(self.bn1(x)))
        out += x
        return out


class Backwards(nn.Module):
    """Modules declared in the opposite order of their execution."""

    def __init__(self):
        super().__init__()
        self.last, self.first = nn.Linear(3, 2), nn.Linear(4, 3)

    def forward(self, x):
        return self.last(self.first(x))


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.relu, self.b = nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 4)

    def forward(self, x):
        return self.relu(self.b(self.relu(self.a(x))))


class Returns(nn.Module):
    """Wraps what a layer returns."""

    def __init__(self, wrap):
        super().__init__()
        self.inner, self.layer = nn.Linear(4, 4), Wrapped(wrap)

    def forward(self, x):
        self.layer(self.inner(x))
        return x


class Wrapped(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.wrap = wrap

    def forward(self, x):
        return self.wrap(x)


def test_values_are_those_before_in_place_changes():
    model, x = Residual(), torch.randn(6, 4)
    with Recorder(model) as recorder:
        model(x)
    with torch.inference_mode():
        model.eval()
        bn1 = model.bn1(x)
        relu = bn1.clamp(min=0)
        bn2 = model.bn2(relu)
    assert bn1.min() < 0
    for name, expected in {"bn1": bn1, "relu": relu, "bn2": bn2}.items():
        torch.testing.assert_close(recorder.activations[name], expected)


def test_names_come_in_the_order_of_execution():
    model = Backwards()
    with Recorder(model) as recorder:
        model(torch.randn(5, 4))
    assert {name: value.shape[1] for name, value in recorder.activations.items()} == {"first": 3, "last": 2}
    assert list(recorder.activations) == ["first", "last"]


def test_a_module_called_twice_gives_two_entries():
    model, x = Shared(), torch.randn(5, 4)
    with Recorder(model, "relu") as recorder:
        model(x)
        model(x)  # a second pass starts anew
    assert list(recorder.activations) == ["relu", "relu#2"]
    torch.testing.assert_close(recorder.activations["relu"], model.a(x).relu().detach())
    torch.testing.assert_close(recorder.activations["relu#2"], model(x).detach())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: (x, None),
        lambda x: [None, (x,)],
        lambda x: {"logits": x, "other": x + 1},
        lambda x: OrderedDict(pooled=x + 1, last_hidden_state=x),
    ],
)
def test_containers_are_opened(wrap):
    model, x = Returns(wrap), torch.randn(5, 4)
    with Recorder(model, "layer") as recorder:
        model(x)
    torch.testing.assert_close(recorder.activations["layer"], model.inner(x).detach())


def test_a_layer_that_never_runs_is_named():
    model = Backwards()
    model.spare = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"did not run.*spare"), Recorder(model, "*") as recorder:
        recorder.model(torch.randn(5, 4))
    assert not model.first._forward_hooks


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_restored(fails):
    model = Residual().train()
    model.bn2.eval()
    statistics = model.bn1.running_mean.clone()
    with pytest.raises(RuntimeError) if fails else nullcontext(), Recorder(model) as recorder:
        assert not model.training
        assert not torch.is_grad_enabled()
        recorder.model(torch.randn(6, 5 if fails else 4))
    assert (model.training, model.bn1.training, model.bn2.training) == (True, True, False)
    assert torch.is_grad_enabled()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(model.bn1.running_mean, statistics)


def test_only_the_own_models_pass_is_recorded():
    """A model inside another one: the outer pass must not disturb the inner recorder."""
    inner = Residual()
    outer = nn.Sequential(inner, nn.Linear(4, 4))
    with Recorder(outer, "0.relu") as recorder:
        inner(torch.randn(3, 4))
        with pytest.raises(ValueError, match="layers ran, but in no pass"):
            _ = recorder.activations
        outer(torch.randn(3, 4))
    assert list(recorder.activations) == ["0.relu"]


def test_layers_by_glob_list_and_callable():
    model = nn.Sequential(OrderedDict(body=nn.Sequential(nn.Linear(4, 4), nn.ReLU()), head=nn.Linear(4, 2)))
    assert select_layers(model, "body*") == ["body", "body.0", "body.1"]
    assert select_layers(model, ["head", "*.1"]) == ["body.1", "head"]
    assert select_layers(model, lambda name, module: isinstance(module, nn.ReLU)) == ["body.1"]


def test_a_second_name_of_a_shared_module_is_known():
    shared = nn.ReLU()
    model = nn.Sequential(OrderedDict(a=shared, b=shared))
    assert select_layers(model, "*") == ["a"]
    assert select_layers(model, "b") == ["b"]


@pytest.mark.parametrize(
    ("layers", "message"),
    [("heat", "close: head"), ("*.7", "is not in Sequential"), ([], "empty"), (lambda n, m: False, "chose none")],
)
def test_wrong_layers_are_named(layers, message):
    model = nn.Sequential(OrderedDict(body=nn.Linear(4, 4), head=nn.Linear(4, 2)))
    with pytest.raises(ValueError, match=message):
        select_layers(model, layers)


def nested():
    body = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 4)))
    return nn.Sequential(OrderedDict(body=body, act=nn.ReLU(), head=nn.Linear(4, 2)))


def test_layers_by_type():
    model = nested()
    assert select_layers(model, nn.Linear) == ["body.0", "body.2.0", "head"]
    assert select_layers(model, (nn.ReLU, nn.Sequential)) == ["body", "body.1", "body.2", "act"]
    assert select_layers(model, [nn.ReLU, "head"]) == ["body.1", "act", "head"]
    assert select_layers(model, nn.Module) == select_layers(model)
    with pytest.raises(ValueError, match="no layer of Sequential is a ReLU6; close: ReLU"):
        select_layers(model, [nn.Linear, nn.ReLU6])
    with Recorder(model, nn.ReLU) as recorder:
        model(torch.randn(3, 4))
    assert list(recorder.activations) == ["body.1", "act"]


def test_layers_by_depth():
    model = nested()
    assert select_layers(model, depth=1) == ["body", "act", "head"]
    assert select_layers(model, nn.Linear, depth=2) == ["body.0"]
    assert select_layers(model, "body*", depth=3) == ["body.2.0"]
    for depth in (0, 2):
        with pytest.raises(ValueError, match=rf"no chosen layer of Sequential is at depth {depth}; there are \[1\]"):
            select_layers(model, "head", depth=depth)


class TwoTowers(nn.Module):
    """Has entry points beside ``forward``, which needs two inputs."""

    def __init__(self):
        super().__init__()
        self.image, self.text = nn.Linear(4, 3), nn.Embedding(9, 3)

    def encode_image(self, x):
        return self.image(x)

    def forward(self, pixels, tokens):
        return self.encode_image(pixels) * self.text(tokens)


def test_a_method_is_recorded_and_put_back():
    torch.manual_seed(0)
    model, x = TwoTowers(), torch.randn(5, 4)
    with Recorder(model, "image", forward="encode_image") as recorder:
        model.encode_image(x)
        first = recorder.activations
        recorder.run(2 * x)
    assert "encode_image" not in model.__dict__
    torch.testing.assert_close(first["image"], model.image(x).detach())
    torch.testing.assert_close(recorder.activations["image"], model.image(2 * x).detach())


def test_a_function_of_the_batch_is_recorded():
    model, batch = TwoTowers(), {"pixels": torch.randn(5, 4), "tokens": torch.arange(5)}
    with Recorder(model, forward=lambda model, batch: model(**batch)) as recorder:
        recorder.run(batch)
    assert {name: tuple(value.shape) for name, value in recorder.activations.items()} == {
        "image": (5, 3),
        "text": (5, 3),
    }
    with Recorder(model, "text") as recorder:  # a call with several inputs needs no more than this
        model(**batch)
    torch.testing.assert_close(recorder.activations["text"], model.text(batch["tokens"]).detach())


def test_a_recorder_that_saw_no_pass_says_so():
    model, x = TwoTowers(), torch.randn(5, 4)
    with pytest.raises(ValueError, match=r"no pass that the recorder saw.*forward='forward_features'"), Recorder(model):
        model.encode_image(x)
    with pytest.raises(ValueError, match="the recorder saw no pass of TwoTowers"), Recorder(model):
        TwoTowers().encode_image(x)  # another model's
    with pytest.raises(ValueError, match="TwoTowers has no method 'encode_images'; close: encode_image"):
        Recorder(model, forward="encode_images")
    with pytest.raises(TypeError, match="a method's name or a function"):
        Recorder(model, forward=3)


def test_the_callers_tensors_stay_as_they_are():
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x):
            x -= 0.5
            return self.fc(x)

    model, x = Writes(), torch.randn(6, 4)
    kept = x.clone()
    for forward in (None, "forward", lambda model, batch: model(batch)):
        with Recorder(model, forward=forward) as recorder:
            recorder.run(x)
        assert torch.equal(x, kept)
        torch.testing.assert_close(recorder.activations["fc"], model.fc(x - 0.5).detach())


def test_a_pass_that_begins_with_more_images_is_looked_at_anew():
    """One image shows no order: what was seen of it is not taken for the truth of eight."""
    model = Returns(lambda x: torch.cat([x, -x]))
    with Recorder(model, "layer") as recorder:
        model(torch.randn(1, 4))
        x = torch.randn(8, 4)
        model(x)
    features = model.inner(x).detach()
    torch.testing.assert_close(recorder.activations["layer"], torch.stack([features, -features], 1))
