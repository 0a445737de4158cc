"""Relevance by attention and gradients against a plain loop over one image."""

import pytest
import torch

from tests.analysis.class_embedding.test_importance import IMAGES, KINDS, LABELS, toy
from utilities.analysis.class_embedding.relevance import propagate, relevance_maps


def by_loops(model, image, target):
    """Follow Chefer et al. 2021 for one image, entry by entry."""
    matrices, handles = [], []
    for block in model.blocks:
        block.attn.fused_attn = False

        def keep(module, args, output):
            output.retain_grad()
            matrices.append(output)

        handles.append(block.attn.attn_drop.register_forward_hook(keep))
    model(image[None])[0, target].backward()
    for handle, block in zip(handles, model.blocks, strict=True):
        handle.remove()
        block.attn.fused_attn = True
    tokens = matrices[0].shape[-1]
    relevance = torch.eye(tokens).double()
    for matrix in matrices:
        bar = torch.zeros(tokens, tokens).double()
        heads = matrix.shape[1]
        for i in range(tokens):
            for j in range(tokens):
                for head in range(heads):
                    product = matrix.grad[0, head, i, j] * matrix[0, head, i, j]
                    bar[i, j] += max(0.0, product.item()) / heads
        relevance = relevance + bar @ relevance
    prefix = model.num_prefix_tokens
    if hasattr(model, "head_dist"):
        return relevance[:2, prefix:].mean(0)
    if model.global_pool == "token":
        return relevance[0, prefix:]
    return relevance[0 if model.pool_include_prefix else prefix :, prefix:].mean(0)


@pytest.mark.parametrize("kind", KINDS)
def test_rule_is_that_of_a_plain_loop(kind):
    model = toy(kind)
    maps = relevance_maps(model, IMAGES[:2], LABELS[:2])
    expected = torch.stack([by_loops(model, IMAGES[i], LABELS[i]) for i in range(2)])
    assert expected.std() > 1e-3
    torch.testing.assert_close(maps, expected, rtol=1e-10, atol=1e-12)  # float64 on both sides


def test_model_without_trainable_weights():
    expected = relevance_maps(toy(), IMAGES, 3)
    model = toy().requires_grad_(False)
    torch.testing.assert_close(relevance_maps(model, IMAGES, 3), expected, rtol=1e-12, atol=1e-12)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_no_gradient_is_left_behind():
    model = toy()
    with torch.no_grad():
        maps = relevance_maps(model, IMAGES, LABELS)
    assert not maps.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_relevance_is_never_negative_and_of_the_class():
    one, two = (relevance_maps(toy(), IMAGES, target) for target in (0, 1))
    assert (one >= 0).all()
    assert (one - two).abs().max() > 1e-3


def test_attention_is_fused_again_also_after_an_error():
    model = toy().train()
    model.blocks[0].attn.fused_attn = False  # as somebody wanted it
    relevance_maps(model, IMAGES, LABELS)

    def fail(module, args, output):
        raise RuntimeError("broken")

    handle = model.norm.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="broken"):
        relevance_maps(model, IMAGES, LABELS)
    handle.remove()
    assert [block.attn.fused_attn for block in model.blocks] == [False, True]
    assert not any(block.attn.attn_drop._forward_hooks for block in model.blocks)
    assert model.training


def test_without_positive_products_nothing_flows():
    attention = torch.full((2, 3, 4, 4), 0.25)
    torch.testing.assert_close(propagate([attention] * 2, [-attention] * 2), torch.eye(4).expand(2, 4, 4))


def test_heads_are_averaged_after_the_rectifier():
    attention = torch.ones(1, 2, 1, 1)
    gradient = torch.tensor([4.0, -4.0]).view(1, 2, 1, 1)
    assert propagate([attention], [gradient]).item() == 3.0  # 1 + mean(4, 0); the mean first would give 1


def test_another_model_is_refused():
    with pytest.raises(ValueError, match="relevance needs timm's VisionTransformer, not a Linear"):
        relevance_maps(torch.nn.Linear(2, 2), IMAGES, LABELS)
    with pytest.raises(ValueError, match="3 targets"):
        relevance_maps(toy(), IMAGES, LABELS[:3])
