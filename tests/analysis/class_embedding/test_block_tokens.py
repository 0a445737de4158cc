"""Tokens handed over block by block, and a model left as it was."""

import weakref

import pytest
import torch
from torch import nn

from tests.analysis.class_embedding.test_transformer_space import CLOSE, built, images, visited
from utilities.analysis.class_embedding.block_tokens import read_blocks
from utilities.analysis.class_embedding.spaces import class_space


def state(model):
    modes = {name: module.training for name, module in model.named_modules()}
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
    fused = [block.attn.fused_attn for block in model.blocks]
    return modes, hooks, fused, {key: value.clone() for key, value in model.state_dict().items()}


def same(one, other):
    return one[:3] == other[:3] and all(torch.equal(value, other[3][key]) for key, value in one[3].items())


@pytest.mark.parametrize("fails_at", [None, 0, 1])
def test_nothing_is_left_behind_also_after_an_exception(fails_at):
    model = built("LayerScale")
    model.blocks[0].attn.fused_attn = False
    model.blocks[1].mlp.train()
    before = state(model)

    def visit(tokens):
        if tokens.index == fails_at:
            raise KeyError("stop")

    if fails_at is None:
        read_blocks(class_space(model), images(), visit)
    else:
        with pytest.raises(KeyError, match="stop"):
            read_blocks(class_space(model), images(), visit)
    assert same(before, state(model))
    assert before[2] == [False, True]


def test_hooks_of_others_stay():
    model, calls = built("pre-norm"), []
    model.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    visited(model)
    model(images())
    assert len(calls) == 2


def test_a_blocks_tokens_are_let_go_of_after_the_visit():
    alive = []

    def visit(tokens):
        assert tokens.logits("attn") is tokens.logits("attn")  # computed once
        assert not any(one() is not None for one in alive)
        alive.extend(weakref.ref(value) for value in (tokens, tokens.attn, tokens.mlp_keys, tokens.logits("attn")))

    with torch.no_grad():
        read_blocks(class_space(built("LayerScale")), images(), visit)
    assert len(alive) == 8


def test_blocks_that_do_not_run_once_are_an_error():
    model = built("pre-norm")
    model.blocks = nn.Sequential(model.blocks[0], model.blocks[0])
    with pytest.raises(RuntimeError, match=r"blocks ran in the order \[0, 1, 0, 1\], not each once"):
        visited(model)
    model = built("pre-norm")
    space = class_space(model)
    model.blocks = model.blocks[:1]
    with pytest.raises(RuntimeError, match=r"blocks ran in the order \[0\], not each once"):
        read_blocks(space, images(), lambda tokens: None)


def test_forward_options_reach_the_model():
    model = built("pre-norm")
    mask = torch.zeros(5, 5, dtype=torch.float64)
    mask[0, 1:] = -torch.inf  # the class token sees itself alone: the image is lost on it
    _, logits = visited(model, attn_mask=mask)
    assert torch.allclose(logits, logits[:1].expand(3, -1), **CLOSE)
    assert not torch.allclose(visited(model)[1], logits, atol=0.01)
