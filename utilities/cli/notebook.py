"""Run one notebook in a process of its own, for `utilities.cli.rerun`: ``python -m utilities.cli.notebook FOLDER``."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from traitlets.config import Config

from utilities.results.writing import read_json


class _Kernel(AsyncKernelManager):
    """A kernel of the running interpreter, whichever kernelspecs are installed."""

    current: ClassVar[_Kernel | None] = None
    kernel_spec = KernelSpec(
        argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], language="python"
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _Kernel.current = self

    @classmethod
    def kill(cls) -> None:
        """Kill the kernel and all processes it started, such as the workers of a data loader."""
        process = getattr(getattr(cls.current, "provisioner", None), "process", None)
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()


def _watch(order: dict[str, Any], sockets: Path) -> None:
    """End this process and its kernel when told to or when the parent is gone; end the kernel when time is up."""
    deadline = time.monotonic() + (order["timeout"] or float("inf"))

    def end(*_: Any) -> None:
        _Kernel.kill()
        shutil.rmtree(sockets, ignore_errors=True)
        os._exit(128 + signal.SIGTERM)

    def poll() -> None:
        while os.getppid() == order["parent"]:
            if time.monotonic() > deadline:
                order["late"] = True
                _Kernel.kill()
            time.sleep(0.2)
        end()

    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=poll, daemon=True).start()


def _papermill() -> ModuleType:
    """Import papermill without a grammar of addresses, which takes most of its time.

    jsonschema, by which papermill's libraries check notebooks, imports that grammar where it is installed, and uses it
    for formats that notebooks do not have.
    """
    sys.modules.setdefault("rfc3987_syntax", None)
    import papermill

    return papermill


def _execute(order: dict[str, Any], executed: Path, sockets: Path) -> None:
    """Run the notebook with papermill, using files as sockets where possible: no port, no network."""
    connection = {"connection_file": str(sockets / "kernel.json"), "ip": "127.0.0.1"}
    if os.name == "posix":
        connection |= {"transport": "ipc", "ip": str(sockets / "kernel")}

    def report(cell: Any, cell_index: int) -> None:
        order["cell"] = cell_index
        executed.with_name("cell.json").write_text(json.dumps({"cell": cell_index + 1}))

    _papermill().execute_notebook(
        order["source"],
        executed,
        parameters=order["parameters"],
        kernel_name="python3",
        language="python",
        progress_bar=False,
        start_timeout=300,
        kernel_manager_class=_Kernel,
        config=Config({"KernelManager": connection}),
        on_cell_start=report,
    )


def run_notebook(folder: Path) -> int:
    """Run the notebook named in folder/order.json; leave the executed copy and any error in the folder.

    Args:
        folder: Folder with the order. It receives ``executed.ipynb``, ``cell.json`` (the current cell) and
            ``result.json`` (the error, or null, and whether it only means that weights cannot be had).

    Returns:
        Always 0; an error in the notebook is written to ``result.json``.
    """
    order, executed = json.loads((folder / "order.json").read_text()), folder / "executed.ipynb"
    sockets = Path(tempfile.mkdtemp(prefix="rerun-"))  # not in folder, because the path of a socket must be short
    _watch(order, sockets)
    error, skipped = None, False
    try:
        _execute(order, executed, sockets)
    except _papermill().PapermillExecutionError as failure:
        skipped = failure.ename == "WheelMissing"  # of utilities.zoo.wheels: nothing is wrong with the notebook
        where = f"In [{failure.exec_count}]: {failure.ename}: "
        # A skipped notebook's remedy may be anywhere in the message.
        error = " ".join(failure.evalue.split()) if skipped else f"{where}{failure.evalue}".splitlines()[0]
    except Exception as failure:  # the kernel died or never started, so it could not show the error itself
        late = f"timed out after {order['timeout']:g} s" if order.get("late") else ""
        error = late or f"{type(failure).__name__}: {failure}".splitlines()[0]
        if (content := read_json(executed)) and "cell" in order:
            cell, error = content["cells"][order["cell"]], f"cell {order['cell'] + 1}: {error}"
            shown = {"output_type": "error", "ename": "rerun", "evalue": error, "traceback": [error]}
            cell.get("outputs", []).append(shown)
            executed.write_text(json.dumps(content))
    shutil.rmtree(sockets, ignore_errors=True)
    (folder / "result.json").write_text(json.dumps({"error": error, "skipped": skipped}))
    return 0


if __name__ == "__main__":
    sys.exit(run_notebook(Path(sys.argv[1])))
