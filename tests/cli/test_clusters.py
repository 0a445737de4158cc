"""Commands in several processes, as torchrun and SLURM start them: shares of the work, and one that writes."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest

from utilities.analysis.blocks.variance import Variance
from utilities.cli.verbs import main
from utilities.utils import PROJECT_ROOT

SCRIPTS = PROJECT_ROOT / "docs" / "slurm"
IMAGES = ["--dataset", "digits", "--n-images", "29", "--batch-size", "6", "--image-size", "16", "--device", "cpu"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "utilities"]


def environment(*folders, **more):
    """Return an environment in which ``python`` and ``torchrun`` are those of the tests."""
    path = os.pathsep.join([*map(str, folders), str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(PROJECT_ROOT), "OMP_NUM_THREADS": "1", **more}


def finished(command, folder, env=None, code=0):
    """Run a command to its end, and see that it ends with this code."""
    run = {"cwd": folder, "env": env or environment(), "text": True, "capture_output": True, "timeout": 300}
    done = subprocess.run(command, check=False, **run)
    assert done.returncode == code, done.stderr[-4000:]
    return done


@pytest.mark.slow
def test_an_analysis_of_two_processes_is_written_once(tmp_path, monkeypatch, capsys):
    words = ["analyse", "variance", "--models", "resnet18", *IMAGES, "--out"]
    done = finished([*TORCHRUN, *words, "two"], tmp_path)
    assert done.stdout.count("wrote ") == 1
    monkeypatch.chdir(tmp_path)
    main([*words, "one"])
    names = [{path.name.removeprefix(stem) for path in tmp_path.glob(f"{stem}*")} for stem in ("one", "two")]
    assert names[0] == names[1]
    one, two = (Variance.load(tmp_path / f"{stem}.npz") for stem in ("one", "two"))
    assert (one.names, one.provenance) == (two.names, two.provenance)
    np.testing.assert_allclose(two.variance, one.variance, rtol=1e-9)
    np.testing.assert_allclose(two.stderr, one.stderr, rtol=1e-9)


@pytest.mark.slow
def test_an_error_is_said_and_ends_both_processes(tmp_path):
    words = ["analyse", "landscape", "--models", "resnet18", *IMAGES, "--jobs", "2", "--out", "two"]
    done = finished([*TORCHRUN, *words], tmp_path, code=1)
    assert "error: the processes of torchrun share the points by themselves; leave out --jobs and --part" in done.stderr


def fake(folder, name, text):
    """Write a command that stands for one of SLURM's."""
    path = folder / name
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


@pytest.mark.slow
def test_the_script_for_several_machines_runs_on_each(tmp_path):
    fake(tmp_path, "scontrol", "echo localhost; echo other")
    fake(tmp_path, "srun", 'for node in 0 1; do "$@" & done; wait')
    slurm = {"SLURM_JOB_NODELIST": "localhost,other", "SLURM_NNODES": "2", "SLURM_JOB_ID": "7", "PROCESSES": "1"}
    with socket.socket() as free:  # another run may hold the usual port
        free.bind(("localhost", 0))
        slurm["PORT"] = str(free.getsockname()[1])
    words = ["evaluate", "--models", "resnet18", *IMAGES, "--out"]
    done = finished(
        ["bash", SCRIPTS / "torchrun.sbatch", *words, "two.csv"], tmp_path, env=environment(tmp_path, **slurm)
    )
    assert done.stdout.count("wrote two.csv") == 1
    main([*words, str(tmp_path / "one.csv")])
    assert (tmp_path / "two.csv").read_text() == (tmp_path / "one.csv").read_text()


@pytest.fixture
def notebooks(tmp_path):
    """Write three tiny notebooks, which note the task that runs them."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name in ("A", "B", "C"):
        cells = [nbformat.v4.new_code_cell("PROFILE = 'quick'\nOUTPUT_DIR = 'runs'")]
        cells[0].metadata["tags"] = ["parameters"]
        task = f"open(f'{{OUTPUT_DIR}}/{name}.task', 'w').write(os.environ['SLURM_ARRAY_TASK_ID'])"
        cells.append(nbformat.v4.new_code_cell(f"import os\n{task}"))
        kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernelspec})
        nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder


def array_task(number, count, notebooks, *words, **more):
    slurm = {"SLURM_ARRAY_TASK_ID": str(number), "SLURM_ARRAY_TASK_COUNT": str(count), **more}
    command = ["bash", SCRIPTS / "notebooks.sbatch", "--notebooks", notebooks, "--out", "runs", *words]
    return command, environment(**slurm)


def test_tasks_of_an_array_have_each_notebook_once(tmp_path, notebooks):
    def listed(number, count, **more):
        command, env = array_task(number, count, notebooks, "--list", **more)
        return finished(command, tmp_path, env).stdout.split()

    assert [listed(0, 2), listed(1, 2)] == [["A", "C"], ["B"]]
    assert listed(8, 2, SLURM_ARRAY_TASK_MIN="7", NOTEBOOKS="[BC]") == ["C"]
    assert "no notebook is left for task 3 of 4" in " ".join(listed(3, 4))


@pytest.mark.slow
def test_tasks_of_an_array_run_side_by_side(tmp_path, notebooks):
    orders = [array_task(number, 2, notebooks) for number in (0, 1)]
    tasks = [subprocess.Popen(command, cwd=tmp_path, env=env) for command, env in orders]
    waited = time.monotonic()
    assert [task.wait(max(1, 240 - (time.monotonic() - waited))) for task in tasks] == [0, 0]
    found = {path.stem: path.read_text() for path in (tmp_path / "runs" / "quick").glob("*.task")}
    assert found == {"A": "0", "B": "1", "C": "0"}
    command = [sys.executable, "-m", "utilities", "rerun", "--notebooks", notebooks, "--out", "runs", "--resume"]
    assert "3 notebooks, 0 failed" in finished(command, tmp_path).stdout
    assert len((tmp_path / "runs" / "quick" / "summary.csv").read_text().splitlines()) == 4
