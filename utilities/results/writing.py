"""Write files whole or not at all, and report clearly where there is no room for them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_FULL = (errno.ENOSPC, errno.EDQUOT)
ABANDONED = 24 * 3600  # seconds after which a temporary file is abandoned, if its process cannot be looked up


def check_writable(path: str | Path, needs: int = 0) -> None:
    """Make a file's folder and check that it is writable, before long work whose result goes there.

    Args:
        path: Path of the file.
        needs: Bytes that it will take at least.

    Raises:
        OSError: If it is not; the message names the folder, or the file, what it needs and what is free.

    Example:
        >>> check_writable(Path(tempfile.mkdtemp()) / "deep" / "a.txt")
    """
    folder = Path(path).absolute().parent
    with _naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    if needs > shutil.disk_usage(folder).free:
        raise _no_room(Path(path), f"about {in_bytes(needs)}", errno.ENOSPC)


def write_whole(path: str | Path, write: Callable[[Path], Any], needs: int | None = None) -> Path:
    """Write a file under a temporary name in the same folder and rename it: it is there whole or not at all.

    The temporary name states which process writes. The next process that writes the same file thus removes what killed
    processes left, and nothing of those that still run.

    Args:
        path: Where the file goes; its folder is made.
        write: Function of the temporary path, which has the same suffix.
        needs: Bytes that it takes, if known, for the message on a full disk.

    Returns:
        The path.

    Raises:
        OSError: If the folder cannot be made or written to; the message names it. If the disk is full; the message
            names the file, what it needs and what is free. Or what ``write`` raises.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_whole(folder / "a.txt", lambda p: p.write_text("hello")).read_text()
        'hello'
    """
    path = Path(path)
    with _naming(path.absolute().parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    clear_killed(path)
    suffix = f".{_place()}-{os.getpid()}{path.suffix}"
    temporary = None
    try:
        with _naming(path.absolute().parent):
            handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes files that only their owner can read
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as either
        code = next((cause.errno for cause in _causes(error) if getattr(cause, "errno", None) in _FULL), None)
        if code is None:
            raise
        written = temporary.stat().st_size if temporary and temporary.exists() else 0
        if temporary:
            temporary.unlink(missing_ok=True)
        least = f"more than {in_bytes(written)}" if written else ""
        needed = least if needs is None else f"about {in_bytes(needs)}"
        raise _no_room(path, needed, code) from error
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)
    return path


def write_json(path: str | Path, content: Any) -> Path:
    """Write JSON, whole or not at all, with the keys in the order given.

    Example:
        >>> path = write_json(Path(tempfile.mkdtemp()) / "a.json", {"n": 3})
        >>> json.loads(path.read_text())
        {'n': 3}
    """
    text = json.dumps(content, indent=2) + "\n"
    return write_whole(path, lambda p: p.write_text(text), needs=len(text.encode()))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; return an empty one if the file is missing or incomplete.

    Example:
        >>> read_json(Path("absent.json"))
        {}
    """
    with suppress(OSError, ValueError):
        content = json.loads(path.read_text())
        return content if isinstance(content, dict) else {}
    return {}


def clear_killed(path: str | Path) -> None:
    """Remove the temporary files of killed processes that were writing a file.

    A file is removed if the process in its name ran here and is gone. If that cannot be told, it is removed if nobody
    has written to it for a day.

    Example:
        >>> path = Path(tempfile.mkdtemp()) / "a.txt"
        >>> left = path.with_name(f".a-abcdefgh.{_place()}-999999999.txt")
        >>> left.touch(); clear_killed(path); left.exists()
        False
    """
    path = Path(path)
    name = re.compile(rf"\.{re.escape(path.stem)}-[^.-]{{8}}(?:\.([0-9a-f]{{8}})-(\d+))?{re.escape(path.suffix)}")
    try:
        entries = [entry for entry in os.scandir(path.parent) if entry.name.startswith(f".{path.stem}-")]
    except OSError:
        return
    for entry in entries:
        found = name.fullmatch(entry.name)
        try:
            if found and (_is_dead(found[1], found[2]) or time.time() - entry.stat().st_mtime > ABANDONED):
                Path(entry.path).unlink(missing_ok=True)
        except OSError:
            continue  # another process has removed it, or it belongs to another user


@contextmanager
def warning_of_failure(report: Callable[[str], Any] | None = None) -> Iterator[None]:
    """Let long work continue when a file that would only protect it from interruption cannot be written.

    Args:
        report: Function that receives the message; None warns instead.

    Example:
        >>> with warning_of_failure(print):
        ...     raise OSError("there is no room for a.npz")
        not saved for now: there is no room for a.npz; going on without, and trying again later
    """
    try:
        yield
    except OSError as error:
        text = f"not saved for now: {error}; going on without, and trying again later"
        report(text) if report else warnings.warn(text, stacklevel=4)


@contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Name the folder that cannot be made or written to, and what to do, where a system's error says less."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise
        raise OSError(
            f"nothing can be written to {folder}: {error.strerror or error}; choose another folder, or make it writable"
        ) from error


def _is_dead(place: str | None, process: str | None) -> bool:
    """Tell whether a process of this machine is gone; return False where that cannot be told."""
    if os.name != "posix" or place != _place():
        return False
    try:
        os.kill(int(process), 0)  # signal 0 sends nothing
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        return False
    return False


def _place() -> str:
    """Name the scope in which process numbers are unique: this machine, and the container in it."""
    try:
        inside = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        inside = ""
    return hashlib.sha256(f"{socket.gethostname()} {inside}".encode()).hexdigest()[:8]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _no_room(path: Path, needed: str, code: int) -> OSError:
    """Make the error for a file that finds no room."""
    folder = path.absolute().parent
    limit = ", and a quota is used up" if code == errno.EDQUOT else ""
    free = in_bytes(shutil.disk_usage(folder).free)
    needs = f"it needs {needed}, and " if needed else ""
    error = OSError(
        f"there is no room for {path}: {needs}{free} are free in {folder}{limit}; free some space "
        "there, or write elsewhere"
    )
    error.errno = code
    return error


def in_bytes(count: int) -> str:
    """Format a number of bytes in a unit that leaves a digit before the point.

    Example:
        >>> in_bytes(1_250_000), in_bytes(3_000_000_000)
        ('1.2 MB', '3.0 GB')
    """
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} byte{'s' * (count != 1)}"
