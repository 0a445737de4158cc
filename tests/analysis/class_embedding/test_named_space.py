"""Class-embedding space of a model whose parts are named: the same numbers as where they are known, and refusals."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer as TorchvisionTransformer

from utilities.analysis.class_embedding.agreement import class_value_agreement
from utilities.analysis.class_embedding.identifiability import identifiability
from utilities.analysis.class_embedding.key_value import key_value_agreement
from utilities.analysis.class_embedding.lens import lens
from utilities.analysis.class_embedding.lens_kl import tuned_lens_kl
from utilities.analysis.class_embedding.named_space import NamedSpace
from utilities.analysis.class_embedding.probes import linear_probes
from utilities.analysis.class_embedding.space import LensOptions
from utilities.analysis.class_embedding.spaces import class_space, space_of
from utilities.analysis.class_embedding.tuned_fit import fit_tuned_lens
from utilities.zoo.vit import vit_tiny_patch2_16

OPTIONS = {"device": "cpu", "progress": False}


def batches(seed: int = 0, size: int = 16) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(6, 3, size, size, generator=generator)
    return [(images[:4], torch.tensor([0, 1, 2, 3])), (images[4:], torch.tensor([4, 0]))]


class Own(nn.Module):
    """A small transformer of one's own, with or without a class token."""

    def __init__(self, pool: str, batch_first: bool = True, in_tuples: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.pool, self.batch_first, self.in_tuples = pool, batch_first, in_tuples
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.first = nn.Parameter(torch.randn(1, int(pool == "token"), 8))
        self.layers = nn.ModuleList(OwnBlock(in_tuples) for _ in range(3))
        self.last_norm, self.to_classes = nn.LayerNorm(8), nn.Linear(8, 5)
        nn.init.normal_(self.last_norm.weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patches(images).flatten(2).mT
        x = torch.cat([self.first.expand(len(x), -1, -1), x], 1)
        x = x if self.batch_first else x.transpose(0, 1)
        for layer in self.layers:
            x = layer(x)[0] if self.in_tuples else layer(x)
        x = x if self.batch_first else x.transpose(0, 1)
        if self.pool == "avg_before_norm":
            return self.to_classes(self.last_norm(x.mean(1)))
        x = self.last_norm(x)
        return self.to_classes(x[:, 0] if self.pool == "token" else x.mean(1))


class OwnBlock(nn.Module):
    """A block without attention, which no reader of blocks looks at."""

    def __init__(self, in_tuples: bool) -> None:
        super().__init__()
        self.mlp, self.in_tuples = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU()), in_tuples

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, None]:
        x = x + self.mlp(x)
        return (x, None) if self.in_tuples else x


NAMES = {"blocks": "layers", "norm": "last_norm", "classifier": "to_classes"}


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_names_give_what_is_known_of_timms_transformer(pool: str) -> None:
    torch.manual_seed(0)
    known = {"class_token": pool == "token", "global_pool": pool}
    model = vit_tiny_patch2_16(5, depth=2, **known).eval()
    names = {"blocks": "blocks", "norm": "norm" if pool == "token" else "fc_norm", "classifier": "head"}
    names |= {"prefix": int(pool == "token"), "pool": "token" if pool == "token" else "avg_before_norm"}
    one = lens(model, batches(), top=2, logits=True, **OPTIONS)
    two = lens(model, batches(), top=2, logits=True, names=names, **OPTIONS)
    assert two.parts == ["block"]
    assert two.names == one.names
    assert (two.grid, two.prefix, two.class_token) == (one.grid, one.prefix, one.class_token)
    np.testing.assert_array_equal(two.rank, one.rank[:, :1])
    np.testing.assert_allclose(two.logits, one.logits[:, :1], atol=1e-6)
    one, two = (identifiability(model, batches(), resamples=10, **given, **OPTIONS) for given in ({}, {"names": names}))
    np.testing.assert_allclose(two.score[0], one.score[0], atol=1e-12)
    assert two.class_token_decides == one.class_token_decides == (pool == "token")


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (Own("token"), NAMES),
        (Own("token"), {**NAMES, "blocks": "layers.?"}),
        (Own("token", in_tuples=True), NAMES),
        (Own("token", batch_first=False), {**NAMES, "batch_first": False}),
        (Own("avg"), {**NAMES, "prefix": 0, "pool": "avg"}),
        (Own("avg_before_norm"), {**NAMES, "prefix": 0, "pool": "avg_before_norm", "grid": [4, 4]}),
        (
            TorchvisionTransformer(16, 4, num_layers=3, num_heads=2, hidden_dim=8, mlp_dim=8, num_classes=5),
            {"blocks": "encoder.layers", "norm": "encoder.ln", "classifier": "heads.head"},
        ),
    ],
)
def test_every_analysis_of_blocks_takes_names(model: nn.Module, names: dict) -> None:
    if isinstance(model, TorchvisionTransformer):
        nn.init.normal_(model.heads.head.weight)
    result = lens(model, batches(), top=1, names=names, **OPTIONS)
    assert result.grid == [4, 4]
    last = identifiability(model, batches(), resamples=10, names=names, **OPTIONS)
    if names.get("pool", "token") == "token":  # the last block's first token is what the model classifies
        assert last.rate[0, -1, 0] == last.accuracy
    space = class_space(model.eval(), names=names)
    shared = {"tokens": "shared", "resamples": 10}
    probes = linear_probes(model, batches(), batches(1), names=names, **shared, **OPTIONS)
    assert probes.accuracy.shape[1:3] == (1, 3)
    tuned = fit_tuned_lens(model, batches(), epochs=1, names=names, **OPTIONS)
    assert tuned_lens_kl(model, tuned, batches(1), names=names, **OPTIONS).kl[:, -1].max() < 1e-12
    read = lens(model, batches(), top=1, lens=LensOptions(tuned=tuned), names=names, **OPTIONS)
    np.testing.assert_array_equal(read.rank[..., -1, :], result.rank[..., -1, :])
    assert isinstance(space, NamedSpace)
    assert space_of(space) is space


def test_a_model_that_pools_otherwise_is_refused() -> None:
    for names in ({**NAMES, "grid": [1, 15]}, {**NAMES, "prefix": 0, "pool": "avg_before_norm"}):
        with pytest.raises(ValueError, match="the model's logits are not its classifier's"):
            lens(Own("avg"), batches(), top=1, names=names, **OPTIONS)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"norm": "last_nrm"}, ValueError, "layer 'last_nrm' is not in Own; close: last_norm"),
        ({"classifier": "last_norm"}, TypeError, "'last_norm' is a LayerNorm, not a linear layer"),
        ({"classifier": "layers.*.mlp.1"}, ValueError, "names 3 layers"),
        ({"pool": "max"}, ValueError, "pool 'max' is not known"),
        ({"prefix": 0}, ValueError, "1 or more with pool='token'"),
        ({"prefix": 2}, ValueError, "15 image tokens, after 2 others, are no grid"),
        ({"batch_first": False}, ValueError, "its last block's tokens|are no grid"),
        ({"norm": None}, ValueError, "the model's logits are not its classifier's"),
        ({"blocks": "patches"}, ValueError, "not tokens"),
        (
            {"blok": "layers"},
            TypeError,
            "no key 'blok'; needed are blocks and classifier, and known norm, prefix,",
        ),
        ({"blocks": "last_norm"}, ValueError, "block 'last_norm' is the norm or a part of it, .* name the list of"),
        ({"blocks": ["layers.0", "to_classes"]}, ValueError, "block 'to_classes' is the classifier or a part of it"),
    ],
)
def test_wrong_names_are_refused(change: dict, error: type, match: str) -> None:
    with pytest.raises(error, match=match):
        lens(Own("token"), batches(), top=1, names={**NAMES, **change}, **OPTIONS)


@pytest.mark.parametrize(
    ("names", "match"),
    [
        ({"blocks": "layers"}, "names lack 'classifier'; needed are blocks and classifier"),
        ({"norm": "last_norm"}, "names lack 'blocks' and 'classifier'; needed"),
        ("layers", "names should be a dictionary of the model's parts, not a str; needed"),
        (["layers", "to_classes"], "not a list; needed"),
    ],
)
def test_names_that_are_no_table_of_the_parts(names: object, match: str) -> None:
    with pytest.raises(TypeError, match=match):
        lens(Own("token"), batches(), top=1, names=names, **OPTIONS)
    with pytest.raises(TypeError, match=match):
        linear_probes(Own("token"), batches(), batches(1), names=names, **OPTIONS)


@pytest.mark.parametrize(("pool", "count"), [("token", 1), ("token", 4), ("token", 16), ("avg", 1), ("avg", 4)])
def test_tokens_first_names_the_option(pool: str, count: int) -> None:
    """Whether or not the images, taken for tokens, would make a grid."""
    images, names = torch.randn(count, 3, 16, 16), {**NAMES, "pool": pool, "prefix": int(pool == "token")}
    with pytest.raises(ValueError, match="batch_first=False"):
        identifiability(Own(pool, batch_first=False), [(images, torch.zeros(count).long())], names=names, **OPTIONS)
    with pytest.raises(ValueError, match="batch_first=True"):
        identifiability(Own("avg"), batches(), names={**NAMES, "pool": "avg", "batch_first": False}, **OPTIONS)


def test_what_needs_attention_says_so() -> None:
    for analysis in (lambda m: key_value_agreement(m, batches(), **OPTIONS), class_value_agreement):
        with pytest.raises(ValueError, match="not a Own: it looks into attention and MLP, whose parts are not known"):
            analysis(Own("token"))
    with pytest.raises(ValueError, match=r"names=\{'blocks': 'NAME'"):
        lens(Own("token"), batches(), **OPTIONS)
    with pytest.raises(ValueError, match="a space has options of its own"):
        space_of(class_space(Own("token"), names=NAMES), names=NAMES)
