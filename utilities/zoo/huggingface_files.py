"""Load Hugging Face's configurations and weights by transformers, and say what their files lack or why they fail.

transformers gives random values to tensors that a file lacks, and a report of them that scripts do not see. Here they
are refused. Parts that the saved model never had, such as a classifier, are newly initialised, with a warning.
"""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

PATIENCE = 5  # seconds to wait for the hub's first answer
NAMED = 5  # tensors that a message names
UNREAD = ("mask_token", "num_batches_tracked")  # no image's output depends on them
AGAIN = "write the folder again by save_pretrained(FOLDER), or copy all its files again"


def reach(place: str) -> dict[str, Any]:
    """Ask the hub once for a model; where nobody answers, return the option that takes what is here alone.

    Without it, transformers asks six times for each file that is not here, and waits half a minute in all.

    Example:
        >>> reach(".")
        {}
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.utils import HfHubHTTPError, HFValidationError

    if Path(place).is_dir():
        return {}
    try:
        get_hf_file_metadata(hf_hub_url(place, "config.json"), timeout=PATIENCE)
    except (HfHubHTTPError, HFValidationError):
        return {}  # an answer, or no name of the hub's: transformers explains either
    except Exception:  # versions of the hub's library differ in what they raise without a connection
        return {"local_files_only": True}
    return {}


@contextmanager
def quietly() -> Iterator[None]:
    """Keep transformers from printing bars and configurations, and put its settings back."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


@contextmanager
def explaining(name: str, place: str) -> Iterator[None]:
    """Explain what to do where files cannot be read, or the hub cannot be reached.

    Args:
        name: Name of the model, for messages.
        place: Folder, or name on the hub.

    Raises:
        ValueError: If a file is cut short, or is not what its name says.
        ConnectionError: If there is no such folder, and the hub gives nothing.

    Example:
        >>> with explaining("hf/.", "."):
        ...     raise EOFError
        Traceback (most recent call last):
        ValueError: the files of hf/. cannot be read (EOFError); write the folder again by ...
    """
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    broken = (SafetensorError, StrictDataclassError, json.JSONDecodeError, pickle.UnpicklingError, EOFError)
    try:
        yield
    except (*broken, OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "PytorchStreamReader" not in str(error):
            raise  # all but an archive of torch that is cut short
        reason = " ".join(str(error).split()).partition(". ")[0].rstrip(".") or type(error).__name__
        if isinstance(error, OSError) and not Path(place).is_dir():
            raise ConnectionError(
                f"cannot find {name} here or on the hub ({reason}); save it elsewhere by save_pretrained(FOLDER), copy "
                "the folder here and write hf/FOLDER"
            ) from error
        remedy = (
            AGAIN if Path(place).is_dir() else "delete the copy that the hub's library keeps of it, and fetch it again"
        )
        raise ValueError(f"the files of {name} cannot be read ({reason}); {remedy}") from error


def read_json(file: Path) -> Any:
    """Read a file of JSON; where it is none, say which.

    Raises:
        ValueError: If the file is not valid JSON.
    """
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON ({error}); {AGAIN}") from error


def read_config(name: str, place: str, **options: Any) -> Any:
    """Read a model's configuration.

    Args:
        name: Name of the model, for messages.
        place: Folder, or name on the hub.
        **options: Options of ``from_pretrained``.

    Raises:
        ValueError: If it names no type of model, or one that transformers does not know.
    """
    import transformers

    kind = transformers.PreTrainedConfig.get_config_dict(place, **options)[0].get("model_type")
    if not kind:
        raise ValueError(f"the config.json of {name} names no model_type; {AGAIN}")
    if kind not in transformers.CONFIG_MAPPING:
        raise ValueError(
            f"{name} is of the type {kind!r}, which transformers {transformers.__version__} does not know; a newer one "
            "may: pip install --upgrade transformers"
        )
    return transformers.AutoConfig.from_pretrained(place, **options)


def load_weights(kind: Any, config: Any, name: str, place: str, saved: Any, fresh: bool, **options: Any) -> nn.Module:
    """Load a model, and refuse tensors that would be left at random.

    Args:
        kind: Class of transformers to load.
        config: Its configuration.
        name: Name of the model, for messages.
        place: Folder, or name on the hub.
        saved: Function that builds the model that was saved, for the names of its tensors.
        fresh: Whether the classifier is to be a new one.
        **options: Options of ``from_pretrained``.

    Raises:
        ValueError: If tensors are missing, or have other shapes; the message names them.
    """
    model, report = kind.from_pretrained(
        place, config=config, ignore_mismatched_sizes=True, output_loading_info=True, **options
    )
    new = {key for key in model.state_dict() if fresh and "classifier" in key}
    other = [f"{key} {tuple(found)} instead of {tuple(asked)}" for key, found, asked in report["mismatched_keys"]
             if key not in new]  # fmt: skip
    if other:
        raise ValueError(
            f"tensors of {name} have other shapes than its config.json asks for: {_listed(other)}; mend config.json, "
            f"or {AGAIN}"
        )
    missing = {key for key in report["missing_keys"] if key not in new and key.rpartition(".")[2] not in UNREAD}
    unexpected = set(report["unexpected_keys"])
    if missing or unexpected:
        _judge(missing, unexpected, model, name, saved)
    return model


def _judge(missing: set[str], unexpected: set[str], model: nn.Module, name: str, saved: Any) -> None:
    """Refuse missing tensors of parts that were saved, and warn of parts without weights and weights without a part."""
    with torch.device("meta"):
        known = set(saved().state_dict())
    poolers = {key for key in model.state_dict() if "pooler" in key.split(".")}
    absent = {key for key in missing if not _is_among(known, key)}
    absent |= poolers if poolers <= missing else set()  # no configuration says whether a model was saved with one
    foreign = {key for key in unexpected if not _is_among(known, key)}
    kind = type(model).__name__
    if lost := missing - absent:
        raise ValueError(
            f"the weights of {name} lack tensors of its {kind}, which would be random: {_listed(lost)}; mend "
            f"config.json if it asks for too many, {AGAIN}, or take weights='random' (=random)"
        )
    if absent:
        warnings.warn(f"{name} was saved without {_listed(absent)}: newly initialised", stacklevel=6)
    if foreign:
        warnings.warn(f"{kind} has no place for some tensors of {name}: {_listed(foreign)}", stacklevel=6)


def _is_among(known: set[str], key: str) -> bool:
    """Tell whether a tensor has one of some names, but for the first word that a tower has in a whole model."""
    return key in known or key.partition(".")[2] in known or key in {name.partition(".")[2] for name in known}


def _listed(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
