"""Run a module of the tests in several processes, as torchrun starts them."""

import os
import subprocess
import sys
from pathlib import Path

from utilities.utils import PROJECT_ROOT


def run_in_processes(count: int, module: str, folder: Path, timeout: float) -> None:
    """Run a module with a folder as its argument, on one thread in each process."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
    own = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT_ROOT)}
    options = {"env": own, "cwd": PROJECT_ROOT, "text": True, "capture_output": True, "timeout": timeout}
    done = subprocess.run([*command, "-m", module, str(folder)], check=False, **options)
    assert done.returncode == 0, done.stderr[-4000:]
