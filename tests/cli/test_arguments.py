"""Options made of signatures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from utilities.cli.analyse import all_options
from utilities.cli.analyses import ANALYSES, find
from utilities.cli.arguments import REQUIRED, options_of, parse


def measured(
    model: Any,
    loader: Sequence[Any],
    *,
    kind: str,
    bands: int | Sequence[float] = 9,
    layers: Mapping[str, str] | None = None,
    names: Mapping[str, Any] | None = None,
    target: int | str = "label",
    ends: Sequence[str] = ("largest",),
    exact: bool = False,
    loss: Callable[[int], int] | None = None,
    **more: Any,
) -> None:
    """Measure.

    Args:
        model: A model.
        loader: A loader.
        kind: ``All`` kinds of it.
        bands: How many,
            or their edges.
    """


def test_types_defaults_and_help_come_from_the_signature():
    options = {one.name: one for one in options_of(measured, ["loader"])}
    assert list(options) == ["kind", "bands", "layers", "names", "target", "ends", "exact"]
    assert (options["kind"].default, options["kind"].help) == (REQUIRED, "All kinds of it.")
    assert (options["bands"].default, options["bands"].help) == (9, "How many, or their edges.")
    assert options["names"].json


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--bands", "7"], "bands", 7),
        (["--bands", "0", "0.5", "1"], "bands", (0.0, 0.5, 1.0)),
        (["--layers", "a.0", "conv", "a.1", "msa"], "layers", {"a.0": "conv", "a.1": "msa"}),
        (["--names", '{"head": ["fc"]}'], "names", {"head": ["fc"]}),
        (["--target", "3"], "target", 3),
        (["--target", "prediction"], "target", "prediction"),
        (["--ends", "largest", "smallest"], "ends", ("largest", "smallest")),
        (["--exact"], "exact", True),
        ([], "layers", None),
    ],
)
def test_values_are_read(words, name, value):
    given = parse(options_of(measured, ["loader"]), ["--kind", "x", *words], "test", "")
    assert getattr(given, name) == value


@dataclass
class Fields:
    """Fields.

    Attributes:
        speed: How fast.
    """

    speed: Literal["slow", "fast"] = "slow"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--sped", "slow"], "test has no option --sped; close: --speed"),
        (["--speed", "fst"], "--speed 'fst' is not known; close: fast; known: fast, slow"),
        (["more"], "Unrecognized options: more"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(words, said, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(options_of(Fields), words, "test", "")
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {said}")
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ANALYSES)
def test_every_analysis_has_options_figures_and_claims(name):
    entry = ANALYSES[name]
    options, own = all_options(entry)
    assert {"models", "dataset", "out", "seed", "device"} <= {one.name for one in options}
    assert {"model", "loader", "provenance"}.isdisjoint(own)
    plots = [entry.figures] if isinstance(entry.figures, str) else list(entry.figures.values())
    for other in [*plots, *filter(None, [entry.claims, entry.about, entry.report])]:
        assert callable(find(other))
