"""A command in a process of its own: it ends well, with a sentence, or when it is told to."""

import time

import pytest

from utilities.explorer.job import Job, read_progress

QUICK = ["models", "resnet1*"]


def finished(words, after=None):
    said, endings = [], []
    job = Job(words, said.append, endings.append)
    if after is not None:
        time.sleep(after)
        job.cancel()
    job.wait(120)
    (ending,) = endings
    return ending


def test_a_success_has_neither_error_nor_warning():
    ending = finished(QUICK)
    assert ending.succeeded
    assert ending.warnings == []


def test_an_error_is_the_sentence_of_the_command():
    assert finished(["compare", "resnet19", "--dataset", "digits", "--out", "x"]).error.startswith("unknown model")
    assert finished(["nothing"]).error.startswith("there is no verb")


def test_a_job_ends_when_it_is_cancelled(tmp_path):
    words = ["compare", "resnet101", "--dataset", "digits", "--batch-size", "4", "--out", str(tmp_path / "a")]
    started = time.monotonic()
    ending = finished(words, after=3)
    assert ending.cancelled
    assert not ending.error
    assert not ending.succeeded
    assert time.monotonic() - started < 60
    assert not (tmp_path / "a.npz").exists()


def test_colours_of_a_kernel_do_not_stand_in_sentences(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b" not in finished(["compare", "--no-such-option"]).error


@pytest.mark.parametrize("line", ["", "warning: 40% of all", "epoch  lr"])
def test_other_lines_are_no_progress(line):
    assert read_progress(line) is None
