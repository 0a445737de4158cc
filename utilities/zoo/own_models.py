"""Build your own models by name: ``package.module:function`` or ``path/to/file.py:function``.

The function makes the model; a class works as well. Its code is run: name only what you trust.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

HOW = "name the function that makes the model as package.module:function or path/to/file.py:function"


def is_own(name: str) -> bool:
    """Tell whether a name is that of a function, rather than of this package or the libraries.

    Example:
        >>> is_own("my_package.models:make"), is_own("models/net.py:Net"), is_own("timm/resnet18.a1_in1k")
        (True, True, False)
    """
    return ":" in name and not name.startswith(("timm/", "torchvision/", "hf/"))


def own_function(name: str) -> Callable[..., Any]:
    """Find the function that a name refers to, importing its module or file.

    Args:
        name: A module that can be imported from the current folder, or a file that ends in .py, followed by a colon
            and the function's name in it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there is no such module or function, or it cannot be imported.
        TypeError: If the object of that name cannot be called.

    Example:
        >>> own_function("torch.nn:Linear").__name__
        'Linear'
    """
    where, _, attribute = name.rpartition(":")
    module = _from_file(Path(where).expanduser()) if where.endswith(".py") else _from_package(where)
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            close = difflib.get_close_matches(part, [key for key in vars(found) if not key.startswith("_")], cutoff=0.4)
            raise ValueError(f"there is no {attribute!r} in {where}; close: {', '.join(close) or 'none'}; {HOW}")
        found = getattr(found, part)
    if not callable(found):
        raise TypeError(f"{name} is {_with_article(type(found).__name__)}, not a function; {HOW}")
    return found


def build_own(name: str, num_classes: int | None, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    """Call the function that a name refers to.

    Args:
        name: See `own_function`.
        num_classes: Passed on where the function takes ``num_classes``.
        pretrained: Passed on; True is an error where the function takes no ``pretrained``.
        kwargs: Options passed on.

    Raises:
        ValueError: See `own_function`; or if the function has no weights to offer but is asked for them, or raises
            another error.
        TypeError: If it returns no module, or does not take an option.

    Example:
        >>> build_own("torch.nn:Linear", 10, False, {"in_features": 2, "out_features": 3})
        Linear(in_features=2, out_features=3, bias=True)
    """
    function = own_function(name)
    options = dict(kwargs)
    if num_classes is not None and _takes(function, "num_classes"):
        options["num_classes"] = num_classes
    if pretrained:
        if not _takes(function, "pretrained", any_keyword=False):
            raise ValueError(
                f"{name} has no argument 'pretrained'; weights='random' leaves the weights that it makes, and a "
                "checkpoint's path loads them"
            )
        options["pretrained"] = True
    try:
        model = function(**options)
    except TypeError as error:
        given = ", ".join(f"{key}={value!r}" for key, value in options.items())
        raise TypeError(f"{name} was called with ({given}) and refuses: {error}") from error
    except (Exception, SystemExit) as error:  # the function may raise anything
        raise ValueError(f"{name} raised {_in_words(error)}") from error
    if not isinstance(model, nn.Module):
        raise TypeError(f"{name} should return a torch module, not {_with_article(type(model).__name__)}")
    return model


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


def _in_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _takes(function: Callable[..., Any], argument: str, any_keyword: bool = True) -> bool:
    """Tell whether a function has an argument of this name, or takes any keyword."""
    try:
        known = inspect.signature(function).parameters
    except ValueError:  # for a function in another language
        return False
    named = argument in known and known[argument].kind is not inspect.Parameter.POSITIONAL_ONLY
    return named or (any_keyword and any(one.kind is inspect.Parameter.VAR_KEYWORD for one in known.values()))


def _from_package(where: str) -> ModuleType:
    with _importing_from(Path.cwd()):
        try:
            return importlib.import_module(where)
        except (ModuleNotFoundError, ValueError, TypeError) as error:
            missing = getattr(error, "name", None)
            if isinstance(error, ModuleNotFoundError) and missing and not f"{where}.".startswith(f"{missing}."):
                raise ValueError(f"{where} cannot be imported: {error}") from error
            raise ValueError(f"there is no module {where!r} to import from {Path.cwd()}; {HOW}") from error
        except (Exception, SystemExit) as error:  # the module may raise anything
            raise ValueError(f"{where} cannot be imported: {_in_words(error)}") from error


def _from_file(path: Path) -> ModuleType:
    """Run a file as a module, which may import its neighbours; run it again only if it has changed."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r} in {Path.cwd()}; {HOW}")
    path = path.resolve()
    name = f"_own_models_{path.stem}_{abs(hash((path, path.stat().st_mtime_ns)))}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up their module
    try:
        with _importing_from(path.parent):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the file may raise anything
        del sys.modules[name]
        raise ValueError(f"{path} cannot be imported: {_in_words(error)}") from error
    return module


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """Let modules of a folder be imported, after all others."""
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
