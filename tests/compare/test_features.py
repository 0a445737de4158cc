"""Features kept on disk: what is compared from them is what the models give, and other images are refused."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from utilities.compare import compare, disk_needed, open_features, save_features
from utilities.compare.features import saving, writing
from utilities.compare.features.folder import UNFINISHED
from utilities.datasets import load_dataset, make_loader
from utilities.metrics import cka
from utilities.utils import PROJECT_ROOT
from utilities.zoo import create_model

# Kept in float32, features are those of the model bit by bit; sums differ in the order of float32 additions alone.
CLOSE = {"atol": 1e-6, "rtol": 0}
QUIET = {"device": "cpu", "progress": False}


class Numbers(Dataset):
    """Images with names of their own, which batches are made of without files."""

    def __init__(self, count, prefix="n", dtype=torch.float32):
        images = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.images, self.ids = images.to(dtype), [f"{prefix}{i}" for i in range(count)]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], 0


def cnn(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4 + seed, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(2), nn.Flatten())


@pytest.fixture(scope="module")
def digits():
    return make_loader(load_dataset("digits", "test", image_size=16, n_images=60), 20)


@pytest.fixture(scope="module")
def models():
    return create_model("plain_cnn8", 10, seed=0), create_model("vit_tiny_patch2_16", 10, seed=0, depth=2)


@pytest.fixture(scope="module")
def folders(digits, models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    for name, model in zip(("cnn", "vit"), models, strict=True):
        save_features(model, digits, folder / name, provenance={"model": name}, **QUIET)
    return folder / "cnn", folder / "vit"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kernel": "rbf", "estimator": "biased"},
        {"view": "gap"},
        {"view": "spatial", "per_batch": True, "permutations": 5},
        {"measure": "mutual_knn", "remove_top_pc": 0},
        {"remove_top_pc": 1, "repeats": 2},
        {"layers1": "block?.1", "layers2": "blocks.*.attn.proj"},
    ],
)
def test_what_was_kept_gives_what_the_models_give(options, digits, models, folders):
    expected = compare(*models, digits, precision="exact", **QUIET, **options)
    found = compare(*folders, **QUIET, **options)
    assert (found.layers1, found.layers2, found.n) == (expected.layers1, expected.layers2, 60)
    for name in ("matrix", "stderr", "per_batch", "p_value"):
        one, two = getattr(found, name), getattr(expected, name)
        assert (one is None) == (two is None)
        if one is not None:
            np.testing.assert_allclose(one, two, **CLOSE)


def test_float64_equals_brute_force(tmp_path):
    data = Numbers(24, dtype=torch.float64)
    one, two = cnn(0).double(), cnn(1).double()
    for name, model in (("one", one), ("two", two)):
        save_features(model, DataLoader(data, 24), tmp_path / name, dtype="float64", **QUIET)
    found = compare(tmp_path / "one", tmp_path / "two", **QUIET)
    with torch.no_grad():
        rows, columns = ([model[: k + 1](data.images).flatten(1) for k in range(3)] for model in (one, two))
    expected = [[cka(x, y) for y in columns] for x in rows]
    np.testing.assert_allclose(found.matrix[:3, :3], expected, atol=1e-10)


def test_a_view_that_a_layer_lacks_leaves_it_out_as_with_the_model(digits, models, folders):
    with pytest.warns(UserWarning, match="left out") as expected:
        one = compare(models[1], models[1], digits, view="cls", precision="exact", **QUIET)
    with pytest.warns(UserWarning, match="left out"):
        two = compare(folders[1], folders[1], view="cls", **QUIET)
    assert one.layers1 == two.layers1, expected
    np.testing.assert_allclose(one.matrix, two.matrix, **CLOSE)


def test_another_process_on_another_day_gives_the_same(digits, models, folders, tmp_path):
    code = (
        "import sys; from utilities.compare import compare\n"
        "compare(*sys.argv[1:3], device='cpu', progress=False).save(sys.argv[3])"
    )
    words = [sys.executable, "-c", code, *map(str, folders), str(tmp_path / "r")]
    done = subprocess.run(words, capture_output=True, text=True, cwd=PROJECT_ROOT, check=False)
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "r.json").read_text())["provenance"]
    assert (facts["model1"], facts["model2"]) == ("cnn", "vit")
    assert facts["features1"]["checksum"] == open_features(folders[0]).checksum
    expected = compare(*models, digits, precision="exact", **QUIET).matrix
    np.testing.assert_allclose(np.load(tmp_path / "r.npz")["matrix"], expected, **CLOSE)


def test_a_file_and_a_model_meet_by_ids(digits, models, folders):
    expected = compare(*models, digits, precision="exact", **QUIET).matrix
    turned = make_loader(load_dataset("digits", "test", image_size=16, n_images=60), 60, shuffle="never")
    np.testing.assert_allclose(
        compare(folders[0], models[1], digits, precision="exact", **QUIET).matrix, expected, **CLOSE
    )
    whole = compare(models[0], folders[1], turned, precision="exact", **QUIET).matrix
    np.testing.assert_allclose(whole, compare(*models, turned, precision="exact", **QUIET).matrix, **CLOSE)
    few = make_loader(load_dataset("digits", "test", image_size=16, n_images=30), 30, shuffle="never")
    with pytest.warns(UserWarning, match=r"the loader serves 30 of the 60 images kept in"):
        assert compare(models[0], folders[1], few, **QUIET).n == 30


def test_another_order_is_brought_to_one(tmp_path):
    data, model = Numbers(40), cnn()
    save_features(model, DataLoader(data, 20), tmp_path / "one", **QUIET)
    save_features(model, DataLoader(data, 8, sampler=list(range(39, -1, -1))), tmp_path / "two", **QUIET)
    found = compare(tmp_path / "one", tmp_path / "two", **QUIET)
    np.testing.assert_allclose(found.matrix.diagonal(), 1, **CLOSE)
    # batches of another size give another estimate, that of the model with such batches
    kept = open_features(tmp_path / "two")
    smaller = compare(kept, kept, kept.loader(10), **QUIET).matrix
    turned = DataLoader(data, 10, sampler=list(range(39, -1, -1)))
    np.testing.assert_allclose(smaller, compare(model, model, turned, precision="exact", **QUIET).matrix, **CLOSE)


def test_other_images_are_refused(tmp_path, models, folders):
    model = cnn()
    for name, data in (("one", Numbers(12)), ("less", Numbers(11)), ("other", Numbers(12, "m"))):
        save_features(model, DataLoader(data, 6), tmp_path / name, **QUIET)
    with pytest.raises(ValueError, match=r"1 of 12 are in .*one alone, 'n11' for one; keep both over the same"):
        compare(tmp_path / "one", tmp_path / "less", **QUIET)
    with pytest.raises(ValueError, match="12 of 12 are in"):
        compare(tmp_path / "one", tmp_path / "other", **QUIET)
    with pytest.raises(ValueError, match="the images do not match: 6 of 6 are not in"):
        compare(folders[0], model, DataLoader(Numbers(12), 6), **QUIET)
    with pytest.raises(ValueError, match="does not name its images"):
        compare(folders[0], model, DataLoader(TensorDataset(torch.zeros(8, 3, 8, 8)), 4), **QUIET)
    with pytest.raises(TypeError, match="a loader of images is needed"):
        compare(folders[0], model, **QUIET)
    with pytest.raises(TypeError, match="a loader of images is missing"):
        compare(model, model, **QUIET)
    with pytest.raises(ValueError, match="a confounder needs images"):
        compare(*folders, confounder="input", **QUIET)
    with pytest.raises(ValueError, match="does not name its images: pass ids="):
        save_features(model, [torch.zeros(8, 3, 8, 8)], tmp_path / "none", **QUIET)
    with pytest.raises(ValueError, match="there are 3 ids, and 8 images"):
        save_features(model, [torch.zeros(8, 3, 8, 8)], tmp_path / "none", ids="abc", **QUIET)
    with pytest.raises(ValueError, match="id 'a' names 7 images; give each image its own"):
        save_features(model, [torch.zeros(8, 3, 8, 8)], tmp_path / "none", ids="aaaaaaab", **QUIET)
    with pytest.raises(FileNotFoundError, match=r"u\.unfinished holds no kept features"):
        compare(tmp_path / "u.unfinished", model, **QUIET)


def test_names_may_come_with_the_batches(tmp_path):
    images = Numbers(8).images
    batches = [{"images": images[:4], "path": list("abcd")}, {"images": images[4:], "path": list("efgh")}]
    assert save_features(cnn(), batches, tmp_path / "kept", **QUIET).ids == list("abcdefgh")


class Stop(Exception):
    """What an interruption raises."""


def test_an_interrupted_run_goes_on_and_is_refused_till_then(tmp_path, monkeypatch):
    loader, model, ran = DataLoader(Numbers(20), 4), cnn(), []
    add = writing.UnfinishedFolder.add

    def stopping(folder, names, values):
        ran.append(names)
        if len(ran) == 3:
            raise Stop
        add(folder, names, values)

    monkeypatch.setattr(writing, "SECONDS_BETWEEN", -1)
    monkeypatch.setattr(writing.UnfinishedFolder, "add", stopping)
    with pytest.raises(Stop):
        save_features(model, loader, tmp_path / "kept", **QUIET)
    assert not (tmp_path / "kept").exists()
    with pytest.raises(ValueError, match="unfinished; the call that began them goes on"):
        open_features(tmp_path / "kept")
    with pytest.raises(ValueError, match="belongs to other features"):
        save_features(cnn(1), loader, tmp_path / "kept", **QUIET)
    save_features(model, loader, tmp_path / "kept", **QUIET)
    assert [names[0] for names in ran] == ["n0", "n4", "n8", "n8", "n12", "n16"]  # what was there did not run again
    assert not (tmp_path / f"kept{UNFINISHED}").exists()
    save_features(model, loader, tmp_path / "whole", **QUIET)
    assert open_features(tmp_path / "kept").checksum == open_features(tmp_path / "whole").checksum


def test_disk_is_said_and_looked_for_before(tmp_path, monkeypatch, capsys):
    model, loader = cnn(), DataLoader(Numbers(10), 5)
    needed = disk_needed(model, loader, view="gap", dtype="float16", device="cpu")
    assert needed == 10 * (4 + 4 + 4 + 16) * 2
    kept = save_features(model, loader, tmp_path / "kept", view="gap", dtype="float16", device="cpu")
    assert "kept takes 560 bytes of" in capsys.readouterr().out
    assert sum(values.nbytes for values in kept.maps.values()) == needed
    monkeypatch.setattr(saving, "_bytes_of", lambda *_: 10**18)
    with pytest.raises(OSError, match=r"no room for .*more: it needs about 1,000,000,000\.0 GB"):
        save_features(model, loader, tmp_path / "more", **QUIET)
    assert not list(tmp_path.glob("more*"))


def test_float16_is_near_and_refuses_what_it_cannot_hold(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 6))
    data = DataLoader(Numbers(32), 32)
    kept = save_features(model, data, tmp_path / "half", dtype="float16", **QUIET)
    expected = compare(model, model, data, precision="exact", **QUIET).matrix
    assert 0 < np.abs(compare(kept, kept, **QUIET).matrix - expected).max() < 1e-3  # values rounded to 11 bits
    model[1].bias.data += 100  # a spread of about 1 beside values of 100, rounded to 1/16
    with pytest.warns(UserWarning, match="float16 rounds 1 layer by more than 0.2% of the spread.* '1' by"):
        save_features(model, data, tmp_path / "rough", dtype="float16", **QUIET)
    large = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    large[1].weight.data *= 1e6
    with pytest.raises(ValueError, match=r"layer '1' has values up to .* float16 does not hold"):
        save_features(large, DataLoader(Numbers(8), 4), tmp_path / "large", dtype="float16", **QUIET)


def test_a_view_that_was_kept_is_the_only_one(tmp_path, digits, models):
    kept = save_features(models[0], digits, tmp_path / "gap", view="gap", **QUIET)
    expected = compare(models[0], models[0], digits, view="gap", precision="exact", **QUIET)
    np.testing.assert_allclose(compare(kept, kept, view="gap", **QUIET).matrix, expected.matrix, **CLOSE)
    assert compare(kept, kept, view="gap", **QUIET).details1["shape"] == expected.details1["shape"]
    with pytest.raises(ValueError, match="keeps the view 'gap' of each output, not 'flatten'; take view='gap'"):
        compare(kept, kept, **QUIET)


def test_damage_is_found(tmp_path):
    save_features(cnn(), DataLoader(Numbers(8), 4), tmp_path / "kept", **QUIET)
    with pytest.raises(FileExistsError, match="is there already"):
        save_features(cnn(), DataLoader(Numbers(8), 4), tmp_path / "kept", **QUIET)
    file = tmp_path / "kept" / "1.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"layer '1'.* is not what was written"):
        open_features(tmp_path / "kept")
    file.write_bytes(bytes(content[:-8]))
    with pytest.raises(ValueError, match="are damaged"):
        open_features(tmp_path / "kept")


def test_layers_have_their_names(folders):
    kept = open_features(folders[1])
    with pytest.raises(ValueError, match=r"layer 'blocks\.9' is not in KeptFeatures; close: blocks\."):
        compare(kept, kept, layers1="blocks.9", **QUIET)
    with pytest.raises(ValueError, match="not a model that can be run"):
        kept(torch.zeros(1, 3, 16, 16))
