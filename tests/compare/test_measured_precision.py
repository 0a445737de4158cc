"""``precision="auto"`` looks at the first images, takes what it finds there, and leaves no trace of having looked."""

import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from utilities.compare import compare, join, two_models
from utilities.compare import measured_precision as module
from utilities.compare.all_pairs import compare_all
from utilities.plots.captions import describe_similarity
from utilities.results.similarity import average

RUN = {"device": "cpu", "progress": False}


@pytest.fixture(autouse=True)
def bfloat16(monkeypatch):
    """Look however few the images are, on any CPU: it computes in bfloat16, if slowly."""
    monkeypatch.setattr(module, "FEWEST", 0)
    for where in ("utilities.compare.measured_precision", "utilities.hooks.precision"):
        monkeypatch.setattr(f"{where}.has_fast_bfloat16", lambda device: device.type == "cpu")


def images(n=64, width=64, seed=0):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def wide(seed=0):
    """Make a network with a layer that is wide enough for products in bfloat16."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 5000), nn.ReLU(), nn.Linear(5000, 16)).eval()


def decision(result):
    return result.provenance["auto_precision"]


def offset(size):
    """Make a network whose values share a large offset, which bfloat16 rounds, and hold a small signal."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.Identity())
    model[0].bias.data.fill_(size)
    return model


def test_small_whole_numbers_lose_nothing_in_bfloat16():
    """Bfloat16 holds whole numbers up to 256: sums of 8 products of up to 2 x 3 are exact."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12, bias=False), nn.ReLU())
    model[0].weight.data = torch.randint(-2, 3, (12, 8), generator=generator).float()
    x = torch.randint(-3, 4, (64, 8), generator=generator).float()
    result = compare(model, model, [x], **RUN)
    assert decision(result)["chosen"] == "half"
    assert decision(result)["differences"]["half"] < 1e-6  # float32's own rounding, of sums in another order
    assert result.provenance["precision"]["forward"] == "bfloat16"
    exact = compare(model, model, [x], precision="exact", **RUN)
    np.testing.assert_allclose(result.matrix, exact.matrix, atol=1e-6)


def test_a_similarity_that_bfloat16_destroys_is_computed_exactly():
    """At 1,000 neighbouring numbers are 4 apart, which is all of the signal."""
    model = offset(1000.0)
    result = compare(model, wide(), [images()], **RUN, tolerance=1e-6)
    assert decision(result)["differences"]["half"] > 0.05
    assert result.provenance["precision"]["name"] == decision(result)["chosen"] == "exact"
    np.testing.assert_array_equal(result.matrix, compare(model, wide(), [images()], precision="exact", **RUN).matrix)


def test_a_layer_that_bfloat16_makes_constant_is_an_infinite_difference():
    model = offset(1e4)
    found = decision(compare(model, model, [images()], **RUN))
    assert (found["chosen"], found["differences"]["half"]) == ("exact", np.inf)


def test_what_half_gets_wrong_may_be_right_enough_with_products_alone_in_bfloat16():
    model = nn.Sequential(offset(1000.0), nn.Linear(32, 5000))
    result = compare(model, model, [images()], **RUN)
    found = decision(result)
    assert found["chosen"] in ("centred", "fast")
    assert found["differences"]["half"] > 0.002 > found["differences"][found["chosen"]] > 0
    same = compare(model, model, [images()], precision=found["chosen"], **RUN)
    np.testing.assert_array_equal(result.matrix, same.matrix)


@pytest.mark.parametrize("options", [{}, {"measure": "rsa"}, {"kernel": "rbf"}, {"confounder": "input"}])
def test_the_difference_is_that_of_the_first_32_images_with_the_runs_measure(options):
    model, x = wide(), images(60)
    batches = list(x.split(12))
    result = compare(model, model, batches, **options, **RUN)
    first = [*batches[:2], x[24:32]]
    exact, half = (compare(model, model, first, precision=name, **options, **RUN) for name in ("exact", "half"))
    apart = np.abs(half.matrix - exact.matrix)
    found = decision(result)
    assert found["images"] == 32
    assert found["differences"]["half"] == pytest.approx(apart.max(), rel=1e-12)
    row, column = found["layers"]["half"]
    assert apart[half.layers1.index(row), half.layers2.index(column)] == apart.max()
    report = result.report()
    np.testing.assert_allclose(report["half_difference"], [*apart.max(1), *apart.max(0)])
    assert report.attrs["auto_precision"] == found
    assert found["tolerance"] == 0.002


def test_the_run_is_that_of_the_precision_chosen():
    one, two, x = wide(), wide(1), images(96)
    for tolerance, name in ((0.5, "half"), (1e-9, "exact")):
        found = compare(one, two, list(x.split(48)), tolerance=tolerance, permutations=3, per_batch=True, **RUN)
        same = compare(one, two, list(x.split(48)), precision=name, permutations=3, per_batch=True, **RUN)
        assert decision(found)["chosen"] == name
        for table in ("matrix", "stderr", "null_mean", "per_batch"):
            np.testing.assert_array_equal(getattr(found, table), getattr(same, table), err_msg=table)
        assert found.provenance["precision"] == same.provenance["precision"]


def test_where_looking_cannot_help_it_is_not_done(monkeypatch):
    monkeypatch.setattr(module, "_look", lambda *_: pytest.fail("looked"))
    x = images()
    assert "tolerance is 0" in decision(compare(wide(), wide(), [x], tolerance=0, **RUN))["reason"]
    double = compare(wide().double(), wide().double(), [x], **RUN)
    assert decision(double)["chosen"] == "exact"
    assert "auto_precision" not in compare(wide(), wide(), [x], precision="exact", **RUN).provenance
    monkeypatch.setattr(module, "FEWEST", 65)
    few = compare(wide(), wide(), [x], **RUN)
    assert "fewer than 65 images" in decision(few)["reason"]
    assert few.provenance["precision"]["name"] == "exact"
    monkeypatch.setattr(module, "has_fast_bfloat16", lambda device: False)
    assert "no bfloat16 in hardware" in decision(compare(wide(), wide(), [x] * 2, **RUN))["reason"]


@pytest.mark.parametrize(("count", "looks"), [(1, 0), (2, 1)])
def test_the_images_of_all_processes_count(monkeypatch, count, looks):
    seen = []
    monkeypatch.setattr(module, "FEWEST", 100)
    monkeypatch.setattr(module, "has_fast_bfloat16", lambda device: True)
    monkeypatch.setattr(module, "_candidates", lambda comparison: ["half"])
    monkeypatch.setattr(module, "_look", lambda *_: seen.append(1) or {"chosen": "half"})
    comparison = SimpleNamespace(
        sums=SimpleNamespace(decision=None), models=[nn.Identity()], devices=[], use=lambda chosen: None
    )
    comparison.options = SimpleNamespace(tolerance=0.1)
    processes = SimpleNamespace(rank=0, count=count, first=lambda value: value)
    list(module.settled(comparison, [(0, images(), images())], 1, processes))  # this process has 64
    assert len(seen) == looks


@pytest.mark.parametrize("tolerance", [-1, float("nan"), float("inf"), "0.1", True])
def test_a_tolerance_is_a_finite_number(tolerance):
    with pytest.raises(ValueError, match=r"tolerance=.* should be a number of 0 or more; 0 is always exact"):
        compare(wide(), wide(), [images()], tolerance=tolerance, **RUN)


def test_a_tolerance_goes_with_auto_alone():
    with pytest.raises(ValueError, match="tolerance is that of precision='auto'"):
        compare(wide(), wide(), [images()], precision="exact", tolerance=0.1, **RUN)


class Counts(nn.Module):
    """Counts its passes in a buffer and draws at random."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(64, 8), nn.Linear(8, 8)
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x):
        self.passes += 1
        return self.two(self.one(x)) + 1e-3 * torch.rand(()) + 1e-3 * np.random.rand() + 1e-3 * random.random()  # noqa: NPY002


@pytest.mark.filterwarnings("ignore:values of Counts do not follow")
def test_a_look_leaves_generators_and_buffers_as_they_were():
    states = []
    for options in ({"tolerance": 1e-9}, {"precision": "exact"}):
        torch.manual_seed(0)
        model = Counts()
        for seed in (torch.manual_seed, np.random.seed, random.seed):
            seed(1)
        matrix = compare(model, model, [images()], layers1=["one"], layers2=["two"], **options, **RUN).matrix
        states.append((matrix.tolist(), model.passes.item(), torch.rand(()).item(), np.random.rand(), random.random()))  # noqa: NPY002
    assert states[0] == states[1]


def test_what_needs_more_than_32_images_is_looked_at_with_whole_batches():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 20))
    found = decision(compare(model, model, [images(60)], measure="svcca", **RUN))
    assert found["images"] in (32, 60)

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(64, 8)

        def forward(self, x):
            if len(x) != 60:
                raise RuntimeError("60 images, please")
            return self.one(x)

    model = Whole()
    assert decision(compare(model, model, [images(60)] * 2, **RUN))["images"] == 60


def test_several_inputs_are_cut_together():
    model = nn.ModuleDict({"both": nn.Bilinear(6, 5, 8)})
    batch = {"a": images(40, 6), "b": images(40, 5)}
    found = decision(compare(model, model, [batch], forward=lambda m, b: m["both"](b["a"], b["b"]), **RUN))
    assert found["images"] == 32


def test_passes_and_seeds():
    """One look serves all passes over the data of a pair of models; another pair is looked at by itself."""
    looks = []
    original = module._look

    def look(*arguments):
        looks.append(1)
        return original(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_look", look)
        loader = torch.utils.data.DataLoader(images(), 32)
        result = compare([wide(), wide(1)], [wide(2), wide(3)], loader, repeats=2, **RUN)
    assert len(looks) == 2
    assert [one["chosen"] for one in decision(result)] == ["half", "half"]
    assert result.provenance["precision"]["name"] == "half"


def test_parts_and_means_of_results_tell_every_decision():
    model, x = wide(), [images()]
    parts = [compare(model, model, x, layers1=[name], layers2=["0", "2"], tolerance=t, **RUN) for name, t in
             (("0", 0.002), ("2", 0.0))]  # fmt: skip
    whole = join(parts)
    assert [one["chosen"] for one in decision(whole)] == ["half", "exact"]
    assert [one["name"] for one in whole.provenance["precision"]] == ["half", "exact"]
    mean = average([compare(model, model, x, tolerance=t, **RUN) for t in (0.002, 0.0)])
    assert [one["chosen"] for one in decision(mean)] == ["half", "exact"]


class Killed(Exception):
    pass


def test_a_run_that_goes_on_keeps_its_decision_and_does_not_look_again(tmp_path, monkeypatch):
    monkeypatch.setattr("utilities.compare.unfinished_sums.UnfinishedSums.seconds_between", 0)
    model, loader = wide(), torch.utils.data.DataLoader(images(), 16)
    whole = compare(model, model, loader, **RUN)
    add = two_models.Comparison.add

    def dies(self, index, *batches):
        if index == 2:  # the third batch, behind those looked at
            raise Killed
        add(self, index, *batches)

    with monkeypatch.context() as patch:
        patch.setattr(two_models.Comparison, "add", dies)
        with pytest.raises(Killed):
            compare(model, model, loader, resume=tmp_path / "run", **RUN)
    monkeypatch.setattr(module, "_look", lambda *_: pytest.fail("looked again"))
    monkeypatch.setattr(module, "_by_rule", lambda *_: pytest.fail("decided again"))
    result = compare(model, model, loader, resume=tmp_path / "run", **RUN)
    assert decision(result) == decision(whole)
    assert decision(result)["chosen"] == "half"
    np.testing.assert_allclose(result.matrix, whole.matrix, atol=1e-12)
    assert result.report().equals(whole.report())


SHARED = """
import sys, numpy as np, torch
from torch import distributed
import tests.compare.test_measured_precision as here
from utilities.compare import compare, measured_precision as module

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
module.FEWEST = 0
for name in ("utilities.compare.measured_precision", "utilities.hooks.precision"):
    sys.modules[name].has_fast_bfloat16 = lambda device: True
if rank:
    module._look = None  # only the first process looks
loader = torch.utils.data.DataLoader(here.images(), 16)
result = compare(here.wide(), here.wide(), loader, sharded=True, **here.RUN)
result.save(f"{folder}/{rank}")
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_processes_share_the_first_ones_decision(tmp_path):
    from utilities.results.similarity import Similarity

    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", SHARED]
    processes = [subprocess.Popen([*command, str(rank), str(tmp_path)], cwd=root) for rank in range(2)]
    assert [process.wait(120) for process in processes] == [0, 0]
    one, two = (Similarity.load(tmp_path / str(rank)) for rank in range(2))
    assert decision(one) == decision(two)
    assert decision(one)["chosen"] == "half"
    np.testing.assert_array_equal(one.matrix, two.matrix)
    alone = compare(wide(), wide(), torch.utils.data.DataLoader(images(), 16), precision="half", **RUN)
    np.testing.assert_allclose(one.matrix, alone.matrix, atol=1e-6)


def test_a_group_has_one_decision_and_names_the_models_of_the_layers():
    results = compare_all({"first": wide(), "second": wide(1)}, [images()], **RUN)
    found = {str(decision(result)) for result in results.values()}
    assert len(found) == 1
    assert all(
        name.startswith(("first: ", "second: ")) for name in decision(results["first", "second"])["layers"]["half"]
    )
    assert len(results["first", "second"].report()["half_difference"]) == 6


def test_a_caption_tells_of_bfloat16_and_of_nothing_else():
    model = wide()
    told = describe_similarity(compare(model, model, [images()], **RUN))
    assert "Forward passes in bfloat16: within 0.000" in told
    assert "on 32 images (tolerance 0.002)" in told
    assert "bfloat16" not in describe_similarity(compare(model, model, [images()], tolerance=0, **RUN))


def test_a_model_that_autocast_breaks_is_compared_without_it():
    class Picky(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(64, 5000)

        def forward(self, x):
            if self.one(x).dtype != torch.float32:
                raise RuntimeError("float32, please")
            return self.one(x)

    model = Picky()
    found = decision(compare(model, model, [images()], **RUN))
    assert found["failed"] == {"half": "float32, please"}
    assert "half" not in found["differences"]
