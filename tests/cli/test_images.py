"""The pictures of README and docs are drawn from saved results, the committed ones among them."""

import numpy as np
import pytest

from utilities.cli.images import main
from utilities.results.similarity import Similarity
from utilities.study.pictures import REAL, SMALL
from utilities.utils import PROJECT_ROOT


def test_pictures_are_made_from_saved_results(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--out", str(tmp_path / "images")])
    assert "make figures" in capsys.readouterr().err
    for name in {name for picture in SMALL.values() for name in picture.files.values()}:
        Similarity(np.eye(4), list("abcd"), list("abcd"), 9, provenance={"model": "m"}).save(tmp_path / name)
    main([str(tmp_path), "--out", str(tmp_path / "images")])
    made = sorted((tmp_path / "images").iterdir())
    assert [path.stem for path in made] == sorted([*SMALL, *REAL])
    assert all(path.stat().st_size < 300_000 for path in made)


def test_what_is_committed_is_small():
    files = [path for folder in ("results", "images") for path in (PROJECT_ROOT / folder).iterdir()]
    assert all(path.stat().st_size < (300_000 if path.suffix == ".png" else 1_000_000) for path in files)
