"""Libraries with circular imports, asked for by several threads."""

import subprocess
import sys
import textwrap


def test_threads_that_ask_for_libraries_at_once_all_find_them_whole():
    """As when a list is filled while a model is chosen and a command ends; in a process that has imported nothing."""
    code = """
        from concurrent.futures import ThreadPoolExecutor
        from utilities.explorer import catalogue
        with ThreadPoolExecutor(3) as pool:
            counted = pool.submit(catalogue.count_layers, "resnet18", ["layer1.*"])
            listed = pool.submit(catalogue.models)
            weights = pool.submit(catalogue.weights_of, "resnet18")
        assert counted.result().endswith("of 74 layers")
        assert "resnet18" in listed.result() and weights.result()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
