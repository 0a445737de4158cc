import pytest
import torch

from utilities.resnet import resnet18
from utilities.zoo import create_model, list_models
from utilities.zoo.alternet import alternet18, alternet50, msa_counts, pattern
from utilities.zoo.build_up import BUILD_UP_ORDER, MSA_COUNTS, build_up
from utilities.zoo.preact_resnet import PreActBlock, PreActBottleneck, PreActResNet, preact_resnet50


def test_build_up_follows_the_paper():
    with torch.device("meta"):
        start = alternet50(num_classes=5, msa=(0, 0, 0, 0))
        models = build_up(start, 4)
    assert [msa_counts(model) for model in models] == list(MSA_COUNTS["alternet50"])
    assert [pattern(model) for model in models] == [
        "CCC/CCCC/CCCCCC/CCCC",
        "CCC/CCCC/CCCCCC/CCCA",
        "CCC/CCCC/CCCCCC/CACA",
        "CCC/CCCC/CCCCCA/CACA",
        pattern(alternet50()),
    ]
    assert BUILD_UP_ORDER == (4, 4, 3, 2)
    shapes = [{key: value.shape for key, value in m.state_dict().items()} for m in (models[-1], alternet50(5))]
    assert shapes[0] == shapes[1]


def test_build_up_replaces_one_block_at_a_time_and_leaves_its_base_alone():
    torch.manual_seed(0)
    base = PreActResNet(PreActBlock, (1, 2, 2, 4), num_classes=3, drop_path=0.2).eval()
    before = {key: value.clone() for key, value in base.state_dict().items()}
    generator = torch.get_rng_state()
    models = build_up(base)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, before[key]) for key, value in base.state_dict().items())
    assert pattern(base) == "C/CC/CC/CCCC"
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(models[0](x), base(x))  # no MSA block, and eval mode as before
    for model, grown, place in zip(models[:-1], models[1:], ("4.3.", "4.1.", "3.1.", "2.1."), strict=True):
        state, after = model.state_dict(), grown.state_dict()
        changed = {key for key in state.keys() & after.keys() if not torch.equal(state[key], after[key])}
        assert all(key.startswith(f"layer{place}") for key in changed | (state.keys() ^ after.keys()))
        assert (
            grown.get_submodule(f"layer{place[:-1]}").drop_path.p
            == model.get_submodule(f"layer{place[:-1]}").drop_path.p
        )
        assert not torch.equal(grown(x), model(x))
    tensors = [value.data_ptr() for model in (base, *models) for value in model.parameters()]
    assert len(set(tensors)) == len(tensors)  # nothing is shared


def test_build_up_is_seeded_by_place():
    def new_block(order, seed=0):
        base = build_up("alternet18", 0, seed=1, num_classes=2)[0]
        return build_up(base, order=order, seed=seed)[-1].layer4[1].attn.qkv.weight

    first = new_block((4, 3))
    assert torch.equal(first, new_block((3, 4)))  # in whatever order
    assert not torch.equal(first, new_block((4, 3), seed=1))
    bases = [build_up("alternet18", 0, seed=seed)[0].conv1.weight for seed in (0, 0, 1)]
    assert torch.equal(bases[0], bases[1])
    assert not torch.equal(bases[0], bases[2])


def test_build_up_goes_on_from_an_alternet_and_takes_other_orders():
    with torch.device("meta"):
        assert [pattern(m) for m in build_up(alternet50(), order=(1,))] == [
            "CCC/CCCA/CCCCCA/CACA",
            "CCA/CCCA/CCCCCA/CACA",
        ]
        half = alternet18(msa=(0, 0, 0, 1), window=5, heads=(1, 2, 3, 4))
        grown = build_up(half)[-1]
        assert msa_counts(grown) == (0, 1, 1, 1)
        assert (grown.layer3[1].attn.window, grown.layer3[1].attn.heads) == (5, 3)
        other = build_up(half, heads=(2, 2, 2, 2), window=3)[-1]
        assert (other.layer3[1].attn.window, other.layer3[1].attn.heads) == (3, 2)
        assert msa_counts(build_up(preact_resnet50())[-1]) == (0, 1, 1, 1)  # three blocks in stage 4 have room for one
        large = build_up(preact_resnet50(stem="imagenet"), 1)[-1]
        assert large.layer4[2].attn.window == 7


def test_build_up_names_what_does_not_fit():
    with torch.device("meta"):
        base = PreActResNet(PreActBottleneck, (2, 2, 2, 3))
        with pytest.raises(ValueError, match=r"2 MSA blocks in stage 4: its 3 blocks have room for 1"):
            build_up(base, order=(4, 4))
        with pytest.raises(ValueError, match=r"steps=4 must be between 0 and 3.*\(4, 3, 2\)"):
            build_up(base, 4)
        with pytest.raises(ValueError, match=r"order=\(0,\)"):
            build_up(base, order=(0,))
        with pytest.raises(TypeError, match="num_classes"):
            build_up(base, 1, num_classes=3)
        with pytest.raises(TypeError, match="ResNet"):
            build_up(resnet18(), 1)
    with pytest.raises(ValueError, match="'resnet18'; choose from alternet18, "):
        build_up("resnet18", 1)


def test_every_step_has_a_name_in_the_zoo():
    """Steps of one base share its initial weights with one seed, and the last one is the AlterNet itself."""
    assert list_models("alternet50_msa?") == [f"alternet50_msa{step}" for step in range(4)]
    for base, steps in (("alternet18", 3), ("alternet50", 4)):
        counts = MSA_COUNTS[base]
        assert len(counts) == steps + 1
        with torch.device("meta"):
            assert [msa_counts(m) for m in build_up(base)] == list(counts)
            assert msa_counts(create_model(base)) == counts[-1]
            assert [msa_counts(create_model(f"{base}_msa{i}")) for i in range(steps)] == list(counts[:-1])
    one, two = (create_model(name, 5, seed=3).layer1[0].conv1.weight for name in ("alternet18_msa0", "alternet18"))
    assert torch.equal(one, two)
