"""The verbs of ``python -m utilities``, a line each."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from utilities.cli.user_errors import fail, nearest, plainly

# Each verb is a module of this folder under its own name.
VERBS = {
    "compare": "compare the layers of two models, or of one with itself",
    "features": "keep the features of a model's layers on disk, to compare later",
    "contributions": "show on which images two layers agree",
    "calibrate": "set similarities of two models against permuted images",
    "nearer": "tell which of two models a model is more like",
    "measures": "put measures of similarity to tests with known answers",
    "stitching": "measure what accuracy is left when one model's layers feed another's",
    "analyse": "run an analysis by name for one or more models",
    "train": "train a model with the study's recipe or another one",
    "evaluate": "measure loss and accuracy of models",
    "rerun": "run the notebooks, and gather their figures and results",
    "gallery": "turn results into a static site that opens from disk",
    "claims": "print the claims that notebooks have tested, as one table",
    "layers": "list the layers of a model: names, types, shapes",
    "models": "list the models that can be named",
    "datasets": "list the data sets that can be named",
    "fetch": "download data sets ahead of time",
    "images": "redraw the pictures of the README",
}
ANEW = "nothing is kept; the same call begins anew"
# What Ctrl-C leaves of a verb, and how to go on.
KEPT = {
    "compare": "the sums up to the last minute are kept beside --out; the same call goes on from there",
    "features": "the features up to the last minute are kept beside --out; the same call goes on from there",
    "analyse": "points of a landscape and epochs of a training are kept, and the same call goes on with them; all else "
    "begins anew",
    "measures": "trained models and epochs are kept; the same call goes on with them",
    "train": "all steps so far are kept; the same call with --resume goes on from there",
    "evaluate": ANEW,
    "rerun": "finished notebooks are kept; the same call with --resume goes on",
    "fetch": "complete data sets are kept; the same call goes on",
    "images": "complete pictures are kept; the same call draws all of them",
}


def overview() -> str:
    """List the verbs with a line each."""
    lines = [f"  {name:<14}{line}" for name, line in VERBS.items()]
    return "\n".join(
        ["usage: python -m utilities VERB ...", "", *lines, "", "python -m utilities VERB --help has the rest"]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb.

    Args:
        arguments: Command line; None takes that of the process.

    Returns:
        The exit code.

    Example:
        >>> main(["models", "resnet1?"])
        resnet18
        0
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return 0
    verb, *rest = arguments
    if verb not in VERBS:
        fail(f"there is no verb {verb!r}{nearest(verb, VERBS)}; python -m utilities lists all verbs")
    with plainly(KEPT.get(verb, ANEW)):
        return import_module(f"utilities.cli.{verb}").main(rest) or 0
