"""The pictures of README and docs are drawn from saved results, the committed ones among them."""

import shutil

import numpy as np
import pandas as pd
import pytest

from utilities.analysis.blocks.localisation import Localisation
from utilities.cli.images import main
from utilities.results.similarity import Similarity
from utilities.study.pictures import NATURAL, REAL, SMALL, TEN_THOUSAND, _smaller, keep
from utilities.utils import PROJECT_ROOT


def test_pictures_are_made_from_saved_results(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--out", str(tmp_path / "images")])
    assert "make figures" in capsys.readouterr().err
    for name in {name for picture in SMALL.values() for name in picture.files.values()}:
        Similarity(np.eye(4), list("abcd"), list("abcd"), 9, provenance={"model": "m"}).save(tmp_path / name)
    main([str(tmp_path), "--out", str(tmp_path / "images")])
    made = sorted((tmp_path / "images").iterdir())
    assert [path.stem for path in made] == sorted([*SMALL, *REAL, *NATURAL, *TEN_THOUSAND])
    assert all(path.stat().st_size < 300_000 for path in made)


def test_pictures_of_real_weights_need_no_runs_of_small_models(tmp_path, capsys):
    main([str(tmp_path / "absent"), "--out", str(tmp_path / "images")])
    assert sorted(path.stem for path in (tmp_path / "images").iterdir()) == sorted([*REAL, *NATURAL, *TEN_THOUSAND])
    assert "resnet.png, lambda.png, vit.png stay as they are; make figures" in capsys.readouterr().err


def test_claims_that_rest_on_real_weights_are_kept(tmp_path):
    copied = shutil.copytree(PROJECT_ROOT / "results", tmp_path / "runs")
    pd.DataFrame(
        {"claim": list("abcd"), "weights": ["real", "trained here", "trained here + real", None], "holds": True}
    ).to_csv(copied / "One_claims.csv", index=False)
    (copied / "Old_claims.csv").write_text("claim,holds\na,True\n")
    paths = keep(copied, tmp_path / "kept", REAL, "real")
    assert list(pd.read_csv(tmp_path / "kept" / "One_claims.csv")["claim"]) == ["a", "c"]
    names = {path.name for path in paths}
    assert "Old_claims.csv" not in names
    assert {f"{name}.npz" for picture in REAL.values() for name in picture.files.values()} <= names
    keep(copied, tmp_path / "all", {})
    assert list(pd.read_csv(tmp_path / "all" / "One_claims.csv")["claim"]) == list("abcd")


def test_nothing_is_kept_of_a_folder_that_lacks_results(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lacks Real_Weights.*real_weights\.png is made; docs/findings\.md"):
        keep(tmp_path, tmp_path / "kept", REAL, "real")
    assert not (tmp_path / "kept").exists()


def test_kept_results_leave_out_maps_and_nothing_else():
    """A count of layers that is also that of another axis, here of measures, cuts neither."""
    count, rng = 6, np.random.default_rng(0)
    maps, measures = rng.random((count, 4, 4)), ["own", "others", "contrast", "found", "near", "distance"]
    per_layer = {name: rng.random((count, 6)) for name in ("summary", "summary_stderr", "chance")}
    full = Localisation(
        list("abcdef"), maps, maps, np.full((count, 2), 2), rng.random((count, 4, 2)), np.ones((count, 2)), measures,
        **per_layer, patch=4, patch_grid=[2, 2], provenance={"depth": list(np.linspace(0, 1, count))},
    )  # fmt: skip
    kept = _smaller(full, True)
    for name in ("names", "grids", "centres", "cells", "measures", "summary", "summary_stderr", "chance", "depth"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(full, name))
    there = np.isfinite(kept.similarity).all((1, 2))
    assert there.tolist() == [True, False, False, True, False, True]
    np.testing.assert_array_equal(kept.similarity[there], maps[there])
    assert kept.provenance["maps_of"] == ["a", "d", "f"]
    assert kept.map("d", 1, 1).tolist() == full.map("d", 1, 1).tolist()
    with pytest.raises(ValueError, match="the maps of b were left out; there are those of a, d, f"):
        kept.map("b", 1, 1)


def test_what_is_committed_is_small():
    files = [path for folder in ("results", "images") for path in (PROJECT_ROOT / folder).rglob("*.*")]
    assert all(path.stat().st_size < (300_000 if path.suffix == ".png" else 1_000_000) for path in files)
