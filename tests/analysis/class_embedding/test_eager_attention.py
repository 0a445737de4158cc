"""Attention computed step by step: the matrix handed over, edited, and put back."""

import pytest
import torch

from tests.analysis.class_embedding.test_block_tokens import same, state
from tests.analysis.class_embedding.test_transformer_space import CLOSE, built, images
from utilities.analysis.class_embedding.block_tokens import read_blocks
from utilities.analysis.class_embedding.eager_attention import eager_attention
from utilities.analysis.class_embedding.spaces import class_space, transformer_space


def rows_of(seen):
    def edit(weights):
        seen.append(weights)

    return edit


@pytest.mark.parametrize("name", ["pre-norm", "registers", "normed queries", "post-norm"])
def test_eager_attention_hands_over_rows_that_sum_to_one(name):
    model, seen = built(name), []
    before, space, expected = state(model), transformer_space(model), model(images())
    with eager_attention(space, {0: rows_of(seen), 1: rows_of(seen)}):
        logits = model(images())
    tokens = 4 + space.prefix
    assert [tuple(weights.shape) for weights in seen] == [(3, 2, tokens, tokens)] * 2
    for weights in seen:
        assert torch.allclose(weights.sum(-1), torch.ones_like(weights[..., 0]), **CLOSE)
        assert (weights >= 0).all()
    assert torch.allclose(logits, expected, **CLOSE)
    assert same(before, state(model))


def test_eager_attention_gives_the_memories_of_its_rows():
    """Keys of attention are the values averaged by the rows, head by head."""
    model, rows, values, keys = built("pre-norm"), [], [], []
    block = model.blocks[1]
    block.attn.qkv.register_forward_hook(lambda m, a, output: values.append(output))
    with torch.no_grad(), eager_attention(transformer_space(model), {1: rows_of(rows)}):
        read_blocks(class_space(model), images(), lambda tokens: keys.append(tokens.attn_keys))
    by_head = values[0].reshape(3, 5, 3, 2, 8)[:, :, 2].transpose(1, 2)
    assert torch.allclose((rows[0] @ by_head).transpose(1, 2).reshape(3, 5, 16), keys[1], **CLOSE)


def test_an_edit_takes_the_place_of_the_rows():
    model = built("pre-norm")
    space, one_hot = transformer_space(model), torch.eye(5, dtype=torch.float64)
    with torch.no_grad():
        with eager_attention(space, dict.fromkeys(range(2), lambda weights: one_hot.expand_as(weights))):
            edited = model(images())
        mask = torch.full((5, 5), -torch.inf, dtype=torch.float64).fill_diagonal_(0)
        assert torch.allclose(edited, model(images(), attn_mask=mask), **CLOSE)
        assert not torch.allclose(edited, model(images()), atol=0.01)


def test_eager_attention_is_put_back_after_an_exception():
    model = built("pre-norm")
    model.blocks[1].attn.fused_attn = False
    before = state(model)

    def fail(weights):
        raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"), eager_attention(transformer_space(model), {0: fail, 1: fail}):
        model(images())
    assert same(before, state(model))


def test_attention_that_did_not_run_is_an_error():
    model = built("pre-norm")
    before = state(model)
    with (
        pytest.raises(RuntimeError, match=r"no attention matrix came out of blocks.0, blocks.1; did the model run"),
        eager_attention(transformer_space(model), {0: rows_of([]), 1: rows_of([])}),
    ):
        pass
    assert same(before, state(model))


def test_blocks_that_are_not_there_are_named():
    space = transformer_space(built("pre-norm"))
    with (
        pytest.raises(ValueError, match="there is no block 2; the model has 0 to 1"),
        eager_attention(space, {2: print}),
    ):
        pass
