"""Value vectors: exact identities of memories, folding, cosines, and what chance gives."""

from functools import partial
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import ResPostBlock, VisionTransformer

from utilities.analysis.class_embedding.block_tokens import read_blocks
from utilities.analysis.class_embedding.space import LensOptions
from utilities.analysis.class_embedding.spaces import transformer_space
from utilities.analysis.class_embedding.values import (
    MEMORY_PARTS,
    chance_of_best_cosine,
    chance_of_overlap,
    class_rows,
    memory_cosines,
    memory_logits,
    value_vectors,
)

TOY = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 5}
GAP = {"global_pool": "avg", "class_token": False}
VARIANTS = {
    "plain": VisionTransformer,
    "gap": partial(VisionTransformer, **GAP),
    "gap without fc_norm": partial(VisionTransformer, fc_norm=False, **GAP),
    "residual-post-norm": partial(VisionTransformer, block_fn=ResPostBlock, **GAP),
    "layer scale": partial(VisionTransformer, init_values=0.5),
    "registers": partial(VisionTransformer, reg_tokens=2),
    "norm inside": partial(VisionTransformer, scale_attn_norm=True, scale_mlp_norm=True),
    "distilled": VisionTransformerDistilled,
}


def toy(variant="plain", seed=0):
    """Make a model in float64 all of whose weights, gains and biases differ clearly."""
    torch.manual_seed(seed)
    model = VARIANTS[variant](**TOY).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def images(n=3):
    return torch.rand(n, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def blocks_of(space):
    """Keep, for each block and part, the coefficients and what the branch adds."""
    kept = []

    def visit(tokens):
        kept.append({part: (getattr(tokens, f"{part}_keys"), getattr(tokens, part)) for part in MEMORY_PARTS})

    read_blocks(space, images(), visit)
    return kept


def bias_of(space, index, part):
    block = space.blocks[index]
    return (block.attn.proj if part == "attn" else block.mlp.fc2).bias.detach()


@pytest.mark.parametrize("part", MEMORY_PARTS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_memories_add_up_to_what_the_branch_gives(variant, part):
    space = transformer_space(toy(variant), LensOptions(scale=False))
    for index, kept in enumerate(blocks_of(space)):
        keys, output = kept[part]
        total = keys @ value_vectors(space, index, part).T + bias_of(space, index, part)
        torch.testing.assert_close(total, output, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("part", MEMORY_PARTS)
def test_memories_with_layer_scale_add_up_to_what_is_added(part):
    space = transformer_space(toy("layer scale"))
    for index, kept in enumerate(blocks_of(space)):
        block, (keys, output) = space.blocks[index], kept[part]
        gamma = (block.ls1 if part == "attn" else block.ls2).gamma
        total = keys @ value_vectors(space, index, part, "scale").T + gamma * bias_of(space, index, part)
        torch.testing.assert_close(total, output, rtol=1e-12, atol=1e-12)
        unfolded = keys @ value_vectors(space, index, part).T + bias_of(space, index, part)
        assert not torch.allclose(unfolded, output, atol=0.1)


@pytest.mark.parametrize("part", MEMORY_PARTS)
def test_memories_before_a_norm_add_up_but_for_its_mean_and_deviation(part):
    space = transformer_space(toy("residual-post-norm"))
    raw = blocks_of(transformer_space(space.model, LensOptions(scale=False)))
    for index, kept in enumerate(blocks_of(space)):
        block, (keys, added), branch = space.blocks[index], kept[part], raw[index][part][1]
        norm = block.norm1 if part == "attn" else block.norm2
        total = keys @ value_vectors(space, index, part, "scale").T + norm.weight * bias_of(space, index, part)
        mean, variance = branch.mean(-1, keepdim=True), branch.var(-1, correction=0, keepdim=True)
        normed = (total - norm.weight * mean) / (variance + norm.eps).sqrt() + norm.bias
        torch.testing.assert_close(normed, added, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("variant", ["plain", "gap", "gap without fc_norm", "residual-post-norm", "layer scale"])
def test_final_norm_that_is_there_is_folded_in(variant):
    space = transformer_space(toy(variant))
    norm = space.model.fc_norm if variant in ("gap", "residual-post-norm") else space.model.norm
    for part in MEMORY_PARTS:
        scaled, both = (value_vectors(space, 1, part, fold) for fold in ("scale", "scale+norm"))
        torch.testing.assert_close(both, norm.weight.detach()[:, None] * scaled, rtol=1e-14, atol=0)
        same = variant not in ("layer scale", "residual-post-norm")
        assert torch.equal(scaled, value_vectors(space, 1, part)) == same


def test_without_a_final_norm_there_is_nothing_more_to_fold():
    torch.manual_seed(0)
    space = transformer_space(VisionTransformer(**TOY, final_norm=False))
    assert torch.equal(value_vectors(space, 0, "mlp", "scale+norm"), value_vectors(space, 0, "mlp"))


@pytest.mark.parametrize("part", MEMORY_PARTS)
def test_logits_and_cosines_are_those_of_plain_loops(part):
    space = transformer_space(toy(seed=1))
    layer = space.blocks[-1].attn.proj if part == "attn" else space.blocks[-1].mlp.fc2
    rows, columns = space.model.head.weight.detach().numpy(), layer.weight.detach().numpy().T
    logits = np.array([[sum(row * column) for column in columns] for row in rows])
    lengths = np.array([[(row @ row * (column @ column)) ** 0.5 for column in columns] for row in rows])
    np.testing.assert_allclose(memory_logits(space, -1, part), logits, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(memory_cosines(space, 1, part), logits / lengths, rtol=1e-10, atol=1e-12)


def test_cosines_are_over_features_and_do_not_know_lengths():
    model = toy()
    space = transformer_space(model)
    before = memory_cosines(space, 0, "mlp")
    assert before.abs().max() < 1
    assert not torch.allclose(before.norm(dim=1), torch.ones(5, dtype=torch.float64), atol=0.05)
    with torch.no_grad():  # divided by lengths over classes, cosines would change with those of other classes
        model.head.weight.mul_(torch.tensor([[1.0], [100.0], [3.0], [0.2], [7.0]]))
        model.blocks[0].mlp.fc2.weight.mul_(torch.linspace(0.1, 9, 64))
    torch.testing.assert_close(memory_cosines(space, 0, "mlp"), before, rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        model.blocks[0].mlp.fc2.weight[:, 7] = model.head.weight[2]
    assert memory_cosines(space, 0, "mlp")[2, 7].item() == pytest.approx(1, abs=1e-12)


def test_a_value_vector_of_zeros_has_no_direction():
    model = toy()
    with torch.no_grad():
        model.blocks[0].attn.proj.weight[:, 3] = 0
    cosines = memory_cosines(transformer_space(model), 0, "attn")
    assert cosines[:, 3].isnan().all()
    assert cosines.isnan().sum() == 5


def test_half_precision_and_gradients_change_nothing():
    model = toy().bfloat16()
    space = transformer_space(model)
    assert memory_logits(space, 0, "mlp").dtype == torch.float64
    exact = transformer_space(toy().bfloat16().double())
    torch.testing.assert_close(
        memory_logits(space, 0, "mlp", "scale+norm"), memory_logits(exact, 0, "mlp", "scale+norm")
    )
    assert not class_rows(space).requires_grad
    assert not memory_cosines(space, 0, "attn", "scale+norm").requires_grad


@pytest.mark.parametrize(
    ("width", "memories", "value"),
    [(768, 3072, 0.1277), (768, 768, 0.1139), (1024, 4096, 0.1130), (1024, 1024, 0.1013)],
)
def test_chance_of_the_best_cosine(width, memories, value):
    chance = chance_of_best_cosine(width, memories)
    assert chance == pytest.approx(value, abs=5e-5)
    # The mean is 1 less the integral of the distribution of the largest, by another route than the quantile's.
    t = np.linspace(-1, 1, 100_001)
    below = stats.beta.cdf((1 + t) / 2, (width - 1) / 2, (width - 1) / 2) ** memories
    assert chance == pytest.approx(1 - integrate.trapezoid(below, t), abs=1e-7)


def test_chance_of_the_best_cosine_is_what_random_vectors_give():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(400, 12, 30))
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    row = rng.normal(size=(400, 12))
    best = np.einsum("nd,ndm->nm", row / np.linalg.norm(row, axis=1, keepdims=True), values).max(1)
    assert best.mean() == pytest.approx(chance_of_best_cosine(12, 30), abs=4 * best.std() / 20)
    # Closed forms: one cosine has mean 0; on a sphere it is uniform in -1..1, so that the best of M has (M-1)/(M+1).
    assert chance_of_best_cosine(50, 1) == pytest.approx(0, abs=1e-12)
    assert chance_of_best_cosine(3, 9) == pytest.approx(0.8, abs=1e-9)
    assert chance_of_best_cosine(16, 64) > chance_of_best_cosine(16, 16) > chance_of_best_cosine(32, 16)


def test_chance_of_overlap():
    for memories, percent in ((3072, 0.81), (768, 3.22), (4096, 0.61), (1024, 2.42)):
        assert 100 * chance_of_overlap(memories) == pytest.approx(percent, abs=0.005)
    shared = [bool({0, 1, 2} & set(chosen)) for chosen in combinations(range(8), 3)]
    assert chance_of_overlap(8, 3) == pytest.approx(np.mean(shared), rel=1e-12)
    assert chance_of_overlap(5, 3) == 1


def zeroed():
    model = toy()
    with torch.no_grad():
        model.head.weight[1:3] = 0
    return model


def broken():
    model = toy()
    with torch.no_grad():
        model.blocks[0].mlp.fc2.weight[0, 0] = float("nan")
    return model


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: value_vectors(transformer_space(toy()), 2, "mlp"), "block 2 is not in .*; it has blocks 0 to 1"),
        (lambda: value_vectors(transformer_space(toy()), -3, "mlp"), "block -3 is not in"),
        (lambda: memory_logits(transformer_space(toy()), 0, "block"), "part 'block' has no memories; .*attn, mlp"),
        (lambda: memory_logits(transformer_space(toy()), 0, "mlp", "all"), "fold 'all' is not known; .*scale[+]norm"),
        (lambda: memory_cosines(transformer_space(zeroed()), 0, "mlp"), "2 of 5 rows of .* classifier are zero"),
        (lambda: memory_cosines(transformer_space(broken()), 0, "mlp"), "are not all finite"),
        (lambda: chance_of_best_cosine(1, 5), "2 dimensions and 1 memory at least, got 1 and 5"),
        (lambda: chance_of_overlap(3, 4), "from 1 to the number of memories, 3, got 4"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
