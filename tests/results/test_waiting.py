"""What a process shows while it waits for another one."""

import threading
import time

import pytest

from utilities.results.waiting import WAITING, waiting
from utilities.training.resumption import locked


def test_the_mark_is_there_during_a_wait_alone(tmp_path, monkeypatch):
    mark = tmp_path / "mark"
    monkeypatch.setenv(WAITING, str(mark))
    with waiting():
        assert mark.exists()
    assert not mark.exists()
    with pytest.raises(KeyError), waiting():
        raise KeyError
    assert not mark.exists()
    monkeypatch.setenv(WAITING, str(tmp_path / "gone" / "mark"))  # its folder has been removed
    with waiting():
        pass


def test_a_lock_that_another_holds_is_waited_for_with_a_mark(tmp_path, monkeypatch):
    mark, path = tmp_path / "mark", tmp_path / "model.pth"
    monkeypatch.setenv(WAITING, str(mark))
    order = []

    def second():
        with locked(path):
            order.append("second")

    with locked(path):
        assert not mark.exists()
        thread = threading.Thread(target=second)
        thread.start()
        deadline = time.monotonic() + 20
        while not mark.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        order.append("first")
    thread.join(20)
    assert order == ["first", "second"]
    assert not mark.exists()
