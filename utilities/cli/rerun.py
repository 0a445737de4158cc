"""Run notebooks headless through papermill: in parallel, resumable, and without leaving half-written files.

    python -m utilities.cli.rerun "R18*" --profile paper --jobs 2 --resume -p EPOCHS 3

One process schedules and reports. Each notebook runs in a child process with a kernel of its own. Its executed copy
grows in ``out/<profile>/.partial/NAME/``, under a lock that the system releases when this process is killed.
``NAME.ipynb`` appears when it is complete. The stamp ``NAME.done.json`` follows; from it ``--resume`` knows what need
not run again. A child that finds its parent gone ends its kernel and itself.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import fnmatch
import glob
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from utilities.cli.notebook import read_json
from utilities.cli.notebook_source import UnreadableNotebook, check_parameters, read_notebook
from utilities.results.writing import check_writable

# utilities.utils is imported where it is used: it loads torch, which the child processes do not need.

PACKAGE = Path(__file__).resolve().parent
PROFILES = ("quick", "paper")
COPIES = (".nbconvert", ".executed", ".failed", "-checkpoint")  # executed copies that tools leave beside the notebooks
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True, eq=False)
class _Job:
    """One notebook to run. Its run counts as done only if its stamp holds the same facts."""

    name: str
    source: Path
    out: Path
    parameters: dict[str, Any]
    facts: dict[str, Any]

    def file(self, suffix: str) -> Path:
        return self.out / f"{self.name}{suffix}"

    @property
    def folder(self) -> Path:
        return self.out / ".partial" / self.name


def _parse(text: str) -> Any:
    """Read a parameter's value as papermill's command line does.

    Example:
        >>> [_parse(text) for text in ("3", "1e-3", "True", "None", "cifar100")]
        [3, 0.001, True, None, 'cifar100']
    """
    words = {"True": True, "False": False, "None": None}
    if text in words:
        return words[text]
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _cores() -> int:
    """Count the cores this process may use, which a scheduler may limit to fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _find(patterns: str | Iterable[str], notebooks: str | Path | None) -> list[Path]:
    """Find the notebooks that match any pattern: a name with or without .ipynb, or a path. No pattern means all.

    Executed copies are found only by their paths.
    """
    folder = PACKAGE.parent / "notebooks" if notebooks is None else Path(notebooks)
    there = {path.stem: path for path in sorted(folder.glob("*.ipynb")) if not path.stem.endswith(COPIES)}
    found: dict[str, Path] = {}
    for pattern in ([patterns] if isinstance(patterns, str) else list(patterns)) or ["*"]:
        stem = pattern.removesuffix(".ipynb")
        hits = {name: path for name, path in there.items() if fnmatch.fnmatchcase(name, stem)}
        if pattern.endswith(".ipynb") and Path(pattern).is_file():
            hits = {Path(pattern).stem: Path(pattern)}
        if not hits:
            close = ", ".join(difflib.get_close_matches(stem, there, cutoff=0.5)) or "none"
            names = ", ".join(there) or "none"
            raise FileNotFoundError(f"no notebook matches {pattern!r} in {folder}; close: {close}; there are: {names}")
        for name, path in hits.items():
            if found.setdefault(name, path).resolve() != path.resolve():
                raise ValueError(f"two notebooks are named {name}: {found[name]} and {path}; run them apart")
    return [path.resolve() for path in found.values()]


def _sha256(parts: Iterable[str | bytes]) -> str:
    """Hash a sequence of parts; the boundaries between parts count."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def _make_jobs(
    sources: Iterable[Path],
    out: Path,
    profile: str,
    extra: Mapping[str, Any],
    rows: dict[str, dict[str, Any]] | None = None,
) -> list[_Job]:
    """Check every notebook and collect the facts of its run. One that cannot be run gets its row at once."""
    rows = {} if rows is None else rows
    for name, option in {"PROFILE": "profile", "OUTPUT_DIR": "out"}.items():
        if name in extra:
            raise ValueError(f"parameter {name} follows from the option {option}; pass that instead")
    told = {"PROFILE": profile, **extra}
    parameters = {**told, "OUTPUT_DIR": str(out)}  # not among the facts, because a folder may move
    files = sorted(PACKAGE.rglob("*.py"))
    package = _sha256(part for f in files for part in (f.relative_to(PACKAGE).as_posix(), f.read_bytes()))
    jobs, unreadable, data = [], None, _data_facts(told)
    for source in sources:
        try:
            content = read_notebook(source)
        except UnreadableNotebook as error:
            rows[source.stem] = {**_row(source.stem), "verdict": f"FAILED: {error}"}
            unreadable = unreadable or error
            continue
        check_parameters(source.stem, content, parameters)
        notebook = _sha256(cell.source for cell in content.cells if cell.cell_type == "code")
        facts = {"parameters": told, "notebook": notebook, "package": package, **data}
        jobs.append(_Job(source.stem, source, out, parameters, json.loads(json.dumps(facts))))
    if unreadable is not None and not jobs:
        raise unreadable
    return jobs


def _data_facts(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Collect the contents of image folders among the parameters, which may change while their names do not."""
    folders = sorted({str(value) for value in parameters.values() if str(value).startswith("folder:")})
    if not folders:
        return {}
    from utilities.training.resumption import parts_now

    return {"data": {name: parts_now(name) for name in folders}}


def _row(name: str, seconds: float = 0.0) -> dict[str, Any]:
    """Begin a notebook's row of the summary."""
    return {"notebook": name, "seconds": round(seconds, 1), "model": None, "accuracy": None}


def _clear(name: str, out: Path) -> None:
    """Remove the temporary files of a notebook that no process is running, including those of `write_whole`."""
    shutil.rmtree(out / ".partial" / name, ignore_errors=True)
    for path in out.glob(f".{glob.escape(name)}-????????.*"):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _claimed(names: set[str], out: Path) -> Iterator[None]:
    """Hold each notebook's lock, clear what killed runs left behind, and leave no temporary files."""
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


def _start(job: _Job, timeout: float | None, threads: int) -> subprocess.Popen:
    """Start a child on one notebook; from now on the notebook does not count as done."""
    job.file(".done.json").unlink(missing_ok=True)
    job.folder.mkdir(parents=True, exist_ok=True)
    order = {"source": str(job.source), "parameters": job.parameters, "timeout": timeout, "parent": os.getpid()}
    (job.folder / "order.json").write_text(json.dumps(order))
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    limits = dict.fromkeys(THREADS, str(threads))  # jobs share the cores and do not compete for them
    quiet = {"PYDEVD_DISABLE_FILE_VALIDATION": "1"}
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


def _settle(job: _Job, code: int, started: float) -> dict[str, Any]:
    """Move the output of a finished child into place, stamp it if it succeeded, and return its summary row."""
    from utilities.utils import write_json

    last = (job.folder / "log").read_text(errors="replace").strip().splitlines()[-1:] or ["no message"]
    result = read_json(job.folder / "result.json")
    error = result.get("error", f"its process ended with code {code}: {last[0]}")
    place, other = job.file(".ipynb"), job.file(".failed.ipynb")
    if error is not None:
        place, other = other, place
    other.unlink(missing_ok=True)
    if executed := read_json(job.folder / "executed.ipynb"):
        executed["metadata"]["papermill"]["output_path"] = str(place)
        write_json(place, executed)
    row = _row(job.name, time.time() - started)
    if error is not None:
        return {**row, "verdict": f"FAILED: {error}"}
    written = job.file(".json")
    fresh = written.exists() and written.stat().st_mtime >= started  # otherwise it is an earlier run's
    provenance = read_json(written).get("provenance") if fresh else None
    if isinstance(provenance, dict):
        row |= {key: provenance.get(key) for key in ("model", "accuracy", "verdict")}
    row["verdict"] = row.get("verdict") or "ok"
    write_json(job.file(".done.json"), {**job.facts, "files": _files(job), "outcome": row})
    return row


def _files(job: _Job) -> dict[str, list[int]]:
    """Return size and time of all files that a run wrote, so that removed or rewritten files count as changed."""
    paths = (job.file(suffix) for suffix in (".ipynb", ".npz", ".json", ".png", ".pdf"))
    return {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in paths if path.is_file()}


def _kept(job: _Job) -> dict[str, Any] | None:
    """Return the summary row of a notebook that is done with the same facts, or None."""
    stamp = read_json(job.file(".done.json"))
    row = stamp.pop("outcome", None)
    if row is None or stamp != {**job.facts, "files": _files(job)}:
        return None
    return {**row, "verdict": "kept" if row["verdict"] == "ok" else f"kept: {row['verdict']}"}


def _stop(processes: Sequence[subprocess.Popen]) -> None:
    """End the children, which end their kernels."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()


def _run_all(waiting: list[_Job], workers: int, timeout: float | None, rows: dict[str, dict]) -> None:
    """Run notebooks, at most ``workers`` at a time; each adds its row when it ends."""
    threads = max(1, _cores() // workers)
    running: dict[_Job, tuple[subprocess.Popen, float]] = {}
    shown = None
    with tqdm(total=len(waiting), unit="notebook") as bar:
        try:
            while waiting or running:
                while waiting and len(running) < workers:
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
    error. A notebook that is damaged or in another language fails without being run.

    Args:
        patterns: Names with or without ``.ipynb``, with ``*`` and ``?``, or paths; none means all.
        profile: ``"quick"`` or ``"paper"``; passed as PROFILE.
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
        FileNotFoundError: no notebook matches 'R18*' in ...; close: none; there are: none
    """
    if profile not in PROFILES:
        raise ValueError(f"profile {profile!r} is unknown; choose from {', '.join(PROFILES)}")
    if (jobs is not None and jobs < 1) or (timeout is not None and timeout <= 0):
        raise ValueError(f"jobs and timeout must be positive, not {jobs} and {timeout}")
    begun, folder = time.monotonic(), Path(out or PACKAGE.parent / "runs").resolve() / profile
    sources, rows = _find(patterns, notebooks), {}
    planned = _make_jobs(sources, folder, profile, parameters or {}, rows)
    rows |= {job.name: row for job in planned if resume and (row := _kept(job))}
    waiting = [job for job in planned if job.name not in rows]
    if waiting:
        with _claimed({job.name for job in waiting}, folder):
            _run_all(waiting, min(jobs or min(2, _cores()), len(waiting)), timeout, rows)
    return _summarise([rows[source.stem] for source in sources], folder, round(time.monotonic() - begun, 1))


def _summarise(rows: list[dict[str, Any]], out: Path, seconds: float) -> pd.DataFrame:
    """Write the summary and return it as a table, with the total time in its attrs."""
    from utilities.utils import write_json, write_whole

    table = pd.DataFrame(rows, columns=["notebook", "seconds", "model", "accuracy", "verdict"])
    table.attrs["seconds"] = seconds
    write_whole(out / "summary.csv", lambda path: table.to_csv(path, index=False))
    write_json(out / "summary.json", {"seconds": seconds, "notebooks": rows})
    return table


def _read_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("python -m utilities.cli.rerun", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("patterns", nargs="*", metavar="GLOB", help="notebook names such as 'R18*', or paths; none means all")
    add("--profile", default="quick", choices=PROFILES, help="size of the study (default: quick)")
    pair = {"nargs": 2, "metavar": ("NAME", "VALUE"), "action": "append", "default": []}
    add("-p", dest="parameters", help="set a notebook's parameter; may be repeated", **pair)
    add("--jobs", type=int, metavar="N", help="notebooks at a time (default: two, or one on one core)")
    add("--out", metavar="DIR", help="results go to DIR/<profile> (default: runs, in the project's folder)")
    add("--resume", action="store_true", help="keep what is done with the same parameters and sources")
    add("--timeout", type=float, metavar="SECONDS", help="time limit for each notebook (default: none)")
    add("--notebooks", metavar="DIR", help="the folder of notebooks (default: the project's)")
    add("--list", action="store_true", help="print the notebooks that match, and run none")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 1 if a notebook failed, 2 on wrong use, 130 if interrupted."""
    options = vars(_read_arguments(argv))
    only_list = options.pop("list")
    options["parameters"] = {name: _parse(value) for name, value in options["parameters"]}
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if only_list:
            print(*(path.stem for path in _find(options["patterns"], options["notebooks"])), sep="\n")
            return 0
        table = rerun(**options)
    except (FileNotFoundError, ValueError, BlockingIOError) as error:
        print(f"rerun: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interruption:
        print(f"\nrerun: stopped; {interruption}", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    print(table.astype(object).where(table.notna(), "-").to_string(index=False))
    failed = int(table["verdict"].str.startswith("FAILED").sum())
    print(f"{len(table)} notebooks, {failed} failed, {table.attrs['seconds']} s in all")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
