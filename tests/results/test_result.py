"""A saved result is one whole, whatever an interruption leaves, and files of earlier versions load."""

import json
from dataclasses import dataclass, field

import numpy as np
import pytest

from utilities.results import result as results
from utilities.results.result import Result


@dataclass(frozen=True)
class Curve(Result):
    y: np.ndarray
    unit: str
    provenance: dict = field(default_factory=dict)


OLD, NEW = Curve(np.zeros(2), "px", {"model": "a"}), Curve(np.ones(3), "mm", {"model": "b"})


def parts(curve):
    return curve.y.tolist(), curve.unit, curve.provenance


def test_killed_between_its_files_a_result_loads_as_one_whole(tmp_path, monkeypatch):
    OLD.save(tmp_path / "curve")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(results, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        NEW.save(tmp_path / "curve")
    assert json.loads((tmp_path / "curve.json").read_text())["unit"] == "px"  # beside the new npz file
    with pytest.warns(UserWarning, match=r"curve\.json is of another run than curve\.npz"):
        assert parts(Curve.load(tmp_path / "curve")) == parts(NEW)
    (tmp_path / "curve.json").unlink()
    assert parts(Curve.load(tmp_path / "curve")) == parts(NEW)


def test_what_cannot_be_written_leaves_the_earlier_result(tmp_path):
    OLD.save(tmp_path / "curve")
    with pytest.raises(TypeError, match="not JSON serializable"):
        Curve(np.ones(3), "mm", {"model": object()}).save(tmp_path / "curve")
    assert parts(Curve.load(tmp_path / "curve")) == parts(OLD)


def test_an_earlier_version_is_read_and_what_was_changed_by_hand_holds(tmp_path, recwarn):
    np.savez_compressed(tmp_path / "curve.npz", y=NEW.y)
    (tmp_path / "curve.json").write_text(json.dumps({"type": "Curve", "unit": "mm", "provenance": {"model": "b"}}))
    assert parts(Curve.load(tmp_path / "curve")) == parts(NEW)
    text = NEW.save(tmp_path / "new").with_suffix(".json")
    text.write_text(text.read_text().replace('"mm"', '"cm"'))
    assert Curve.load(tmp_path / "new").unit == "cm"
    assert not recwarn.list


def test_files_that_do_not_belong_together_are_named(tmp_path):
    np.savez_compressed(tmp_path / "curve.npz", y=OLD.y)
    with pytest.raises(FileNotFoundError, match=r"curve\.json is missing"):
        Curve.load(tmp_path / "curve")
    text = NEW.save(tmp_path / "new").with_suffix(".json")
    (tmp_path / "curve.json").write_text(text.read_text())
    with pytest.raises(ValueError, match=r"curve\.json is of another run than curve\.npz"):
        Curve.load(tmp_path / "curve")


def test_equal_results_give_equal_files(tmp_path):
    one, two = (NEW.save(tmp_path / name).with_suffix(".json") for name in "ab")
    assert one.read_bytes() == two.read_bytes()
