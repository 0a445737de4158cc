"""Inside `evaluating`, a model's own copy of its inputs: of any structure, once, differentiable, and gone on exit."""

from collections import UserDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from utilities.hooks.calls import copies
from utilities.hooks.calls.copies import copied, own_inputs
from utilities.hooks.calls.nested import map_tensors
from utilities.utils import evaluating


class Writer(nn.Module):
    """Writes into every tensor that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x -= 0.5
        x *= 3
        return self.linear(x)


class Taker(nn.Module):
    """Writes into tensors in whatever it is given."""

    def forward(self, *args: object, **kwargs: object) -> object:
        map_tensors(lambda tensor: tensor.add_(1), [args, kwargs])
        return args, kwargs


class Feature(UserDict):
    """What processors of the Hugging Face hub give: a mapping with attributes."""

    def __getattr__(self, name: str) -> object:
        if name not in self.__dict__.get("data", {}):
            raise AttributeError(name)
        return self.data[name]


@dataclass(frozen=True)
class Padded:
    """What a detector takes."""

    tensors: torch.Tensor
    mask: object = None


Pair = namedtuple("Pair", ["a", "b"])


def test_all_arguments_are_copied_and_keep_their_kind() -> None:
    x = torch.zeros(2)
    given = [x, [x], (x, 3), Pair(x, None), {"x": x}, Feature(pixel_values=x), Padded(x), "text", None, torch.Size([2])]
    with evaluating(model := Taker()):
        args, kwargs = model(*given, images=x, nested={"x": [x]})
    assert x.tolist() == [0, 0]
    assert [type(one) for one in args] == [type(one) for one in given]
    assert args[5].pixel_values.tolist() == [1, 1]
    assert given[5].pixel_values is x
    assert kwargs["nested"]["x"][0].tolist() == [1, 1]
    assert not model._forward_pre_hooks


def test_contexts_within_each_other_copy_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, calls = Writer(), torch.ones(4, 3), []
    monkeypatch.setattr(copies, "copied", lambda value: calls.append(1) or copied(value))
    with evaluating(model), evaluating(model), own_inputs(model):
        model(x)
        assert len(calls) == 2  # positional arguments and keywords
        with pytest.raises(KeyError), evaluating(model):
            raise KeyError
        model(x)
    assert len(calls) == 4
    assert torch.equal(x, torch.ones(4, 3))
    assert not model._forward_pre_hooks


def test_gradients_by_the_input_flow_through() -> None:
    model, x = Writer(), torch.ones(4, 3, requires_grad=True)
    with evaluating(model):
        model(x).sum().backward()  # in place on a leaf is an error otherwise
    expected = 3 * model.linear.weight.detach().sum(0).expand(4, 3)
    torch.testing.assert_close(x.grad, expected)
    with evaluating(model):
        parameters = dict(model.named_parameters())
        per_image = torch.func.vmap(torch.func.grad(lambda image: model(image).sum()))(torch.ones(4, 3))
        answer = torch.func.functional_call(model, parameters, (torch.ones(4, 3),))
    torch.testing.assert_close(per_image, expected)
    torch.testing.assert_close(answer, model(torch.ones(4, 3)))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("kind", ["script", "trace", "frozen", "graph"])
def test_models_that_are_no_python_classes(kind: str) -> None:
    model, x = Writer().eval(), torch.ones(4, 3)
    make = {
        "script": torch.jit.script,
        "trace": lambda m: torch.jit.trace(m, torch.ones(4, 3)),
        "frozen": lambda m: torch.jit.freeze(torch.jit.script(m)),
        "graph": torch.fx.symbolic_trace,
    }
    with torch.no_grad(), evaluating(other := make[kind](model)):
        one, two = other(x), other(x)
    assert torch.equal(one, two)
    assert torch.equal(x, torch.ones(4, 3))


def test_a_hook_of_the_users_sees_the_copy() -> None:
    model, x = Writer(), torch.ones(4, 3)
    model.register_forward_pre_hook(lambda module, args: (args[0].mul_(2),))
    with evaluating(model):
        model(x)
    assert torch.equal(x, torch.ones(4, 3))
