"""Options made of signatures: a function or a dataclass says by itself which options a command has.

Types, defaults and help come from annotations and Google docstrings; `tyro <https://brentyi.github.io/tyro>`_ parses.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import json
import re
import sys
import types
import typing
from collections import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from utilities.cli.user_errors import fail, nearest
from utilities.cli.words import in_front, is_flag

Source = Callable[..., Any] | type
REQUIRED = "(required)"  # in the place of a default
_JSON = "JSON"
_PLAIN = (int, float, bool, str)


@dataclasses.dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        name: Name of the parameter.
        type: What a command line can give of it.
        help: From the docstring.
        default: `REQUIRED` where it has to be given.
        json: Whether the text is JSON.
        position: Whether it is given without a name.
        short: Another name, such as ``-p``, with which it is repeated.
    """

    name: str
    type: Any
    help: str = ""
    default: Any = REQUIRED
    json: bool = False
    position: bool = False
    short: str = ""
    metavar: str = ""

    @property
    def flag(self) -> str:
        """The option as it is written."""
        return f"--{self.name.replace('_', '-')}"


def options_of(source: Source, leave_out: Iterable[str] = ()) -> list[Option]:
    """Read the options of a function's keyword parameters, or of a dataclass's fields.

    Args:
        source: With annotations and a Google docstring.
        leave_out: Names that are no options.

    Returns:
        The options; those whose type no command line can give, such as modules and functions, are left out.

    Example:
        >>> def measure(model, *, bands: int = 9, loss: Callable[..., int] | None = None):
        ...     '''Measure.
        ...
        ...     Args:
        ...         bands: How many.
        ...     '''
        >>> [(one.flag, one.type, one.default, one.help) for one in options_of(measure)]
        [('--bands', <class 'int'>, 9, 'How many.')]
    """
    import docstring_parser

    said = docstring_parser.parse(inspect.getdoc(source) or "").params
    help_ = {one.arg_name.lstrip("*"): _plain(one.description or "") for one in said}
    found = []
    for name, annotation, default in _parameters(source):
        if name in leave_out:
            continue
        own, how = _unwrapped(annotation)
        usable = _usable(own)
        if usable is None and _is_free(own):
            found.append(Option(name, str | None, help_.get(name, ""), default, json=True, metavar=_JSON))
        elif usable is not None:
            default = tuple(default) if isinstance(default, list) else default
            found.append(Option(name, usable, help_.get(name, ""), default, **how))
    return found


def position(short: str = "", metavar: str = "") -> dict[str, Any]:
    """Mark a field as given without a name, as `typing.Annotated` metadata; with ``short``, as repeated."""
    return {"short": short, "position": not short, "metavar": metavar}


def _parameters(source: Source) -> Iterable[tuple[str, Any, Any]]:
    """Name, annotation and default of keyword parameters or fields."""
    if dataclasses.is_dataclass(source):
        hints = typing.get_type_hints(source, include_extras=True)
        return [
            (field.name, hints[field.name], REQUIRED if field.default is dataclasses.MISSING else field.default)
            for field in dataclasses.fields(source)
        ]
    hints = _hints(source)
    empty, kinds = inspect.Parameter.empty, (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [
        (name, hints[name], REQUIRED if one.default is empty else one.default)
        for name, one in inspect.signature(source).parameters.items()
        if one.kind not in kinds and name in hints
    ]


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Read the annotations of a function, but for those whose names only a type checker knows."""
    found = {}
    for name, annotation in inspect.get_annotations(function).items():
        with contextlib.suppress(NameError):
            one = types.SimpleNamespace(__annotations__={name: annotation}, __globals__=function.__globals__)
            found |= typing.get_type_hints(one, vars(sys.modules[function.__module__]), include_extras=True)
    return found


def _unwrapped(annotation: Any) -> tuple[Any, dict[str, Any]]:
    if typing.get_origin(annotation) is Annotated:
        own, *how = typing.get_args(annotation)
        return own, next((one for one in how if isinstance(one, dict)), {})
    return annotation, {}


def _usable(annotation: Any) -> Any:
    """Keep of a type what a command line can give; None if nothing is left."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in _PLAIN or origin is Literal or getattr(annotation, "__name__", "") == "Path":
        return annotation
    if origin in (types.UnionType, typing.Union):
        kept = [one for one in map(_usable, (i for i in inner if i is not type(None))) if one is not None]
        kept.sort(key=lambda one: one is str)  # all words are strings: try numbers first
        if not kept:
            return None
        return typing.Union[tuple([type(None)] * (type(None) in inner) + kept)]  # noqa: UP007 - made at run time
    if origin in (abc.Sequence, abc.Iterable, list) or (origin is tuple and Ellipsis in inner):
        item = _usable(inner[0])
        return None if item is None else tuple[item, ...]
    if origin is tuple and all(_usable(one) is not None for one in inner):
        return annotation
    if origin in (abc.Mapping, dict) and all(one in _PLAIN for one in inner):
        return dict[inner]
    return None


def _is_free(annotation: Any) -> bool:
    """Tell whether a mapping of anything is asked for, which JSON can give."""
    parts = [annotation, *typing.get_args(annotation)]
    return any(typing.get_origin(one) in (abc.Mapping, dict) and typing.get_args(one)[0] is str for one in parts)


def _plain(text: str) -> str:
    """Take the marks of docstrings out of a text."""
    return re.sub(r"`+", "", " ".join(text.split()))


def parse(
    options: Sequence[Option], arguments: Sequence[str], prog: str, description: str, many: str = ""
) -> types.SimpleNamespace:
    """Parse a command line; what is wrong with it is said in a sentence, with exit status 2.

    Args:
        options: What `options_of` lists; a later option replaces an earlier one of the same name.
        arguments: The words.
        prog: How the command is called.
        description: For ``--help``.
        many: Name of a positional option of many words, which may be given as ``--NAME`` as well.

    Returns:
        The values by name.

    Example:
        >>> parse([Option("n_images", int | None, "How many.", None)], ["--n-images", "3"], "test", "").n_images
        3
    """
    import tyro

    options = list({one.name: one for one in options}.values())
    arguments = in_front(arguments, many, dict(_types_by_name(options)))
    _refuse_unknown(arguments, options, prog)
    made = dataclasses.make_dataclass("Given", [_field(one) for one in options], kw_only=True)
    shown = io.StringIO()
    try:
        with contextlib.redirect_stderr(shown):
            given = tyro.cli(made, args=arguments, prog=prog, description=description)
    except SystemExit as stop:
        if not stop.code:
            raise
        fail(_sentence(shown.getvalue(), options, arguments))
    values = {one.name: getattr(given, one.name) for one in options}
    for one in options:
        if one.json and isinstance(values[one.name], str):
            values[one.name] = _decoded(one, values[one.name])
    return types.SimpleNamespace(**values)


def _types_by_name(options: Iterable[Option]) -> Iterable[tuple[str, Any]]:
    """Yield each name of an option, as it is written, with the type of what follows it once."""
    for one in options:
        if one.short:
            yield one.short, typing.get_args(one.type)[0]
        if not one.position:
            yield one.flag, typing.get_args(one.type)[0] if one.short else one.type


def _field(one: Option) -> tuple[Any, ...]:
    import tyro

    clear = one.position or one.short or one.default in (None, (), "") or "efault:" in one.help
    how = {"help": one.help or " ", "metavar": one.metavar or _metavar(one)} | (
        {"help_behavior_hint": ""} if clear else {}
    )
    own: Any = Annotated[one.type, tyro.conf.arg(**how, aliases=[one.short] if one.short else None)]
    if one.position:
        own = tyro.conf.Positional[own]
    if one.short:
        own = tyro.conf.UseAppendAction[own]
    if one.default is REQUIRED:
        return one.name, own
    return one.name, own, dataclasses.field(default_factory=lambda: one.default)


def _metavar(one: Option) -> str | None:
    """Name what an optional value is, where tyro would list ``{None}`` beside it."""
    parts = typing.get_args(one.type)
    if typing.get_origin(one.type) is tuple and Ellipsis not in parts:
        return None
    if typing.get_origin(one.type) not in (typing.Union, types.UnionType, tuple, dict):
        return None
    parts = parts if typing.get_origin(one.type) in (typing.Union, types.UnionType) else (one.type,)
    words = {int: "INT", float: "FLOAT", str: "TEXT", bool: "{True,False}"}
    return "|".join(_word(part, words) for part in parts if part is not type(None))


def _word(part: Any, words: Mapping[Any, str]) -> str:
    origin, inner = typing.get_origin(part), typing.get_args(part)
    if origin is tuple:
        items = [words.get(one, "TEXT") for one in inner if one is not Ellipsis]
        return " ".join(items) + (" ..." if Ellipsis in inner else "")
    if origin is dict:
        return "NAME VALUE ..."
    if origin is Literal:
        return "{" + ",".join(map(str, inner)) + "}"
    return words.get(part, getattr(part, "__name__", "TEXT").upper())


def _refuse_unknown(arguments: Sequence[str], options: Sequence[Option], prog: str) -> None:
    known = {"--help", "-h"} | {one.flag for one in options if not one.position}
    known |= {f"--no-{one.flag[2:]}" for one in options if one.type is bool}
    known |= {one.short for one in options if one.short}
    if "--help" in arguments or "-h" in arguments:
        return
    for word in arguments:
        name = word.partition("=")[0].replace("_", "-")
        if is_flag(word) and name not in known:
            fail(f"{prog} has no option {name}{nearest(name, known)}; {prog} --help lists them")
    for one in options:
        given = any(word.partition("=")[0].replace("_", "-") == one.flag for word in arguments)
        if one.default is REQUIRED and not one.position and not given:
            fail(f"{one.flag} is missing: {one.help[:1].lower()}{one.help[1:]}")


def _sentence(text: str, options: Sequence[Option], arguments: Sequence[str]) -> str:
    """Make one line of what tyro says in a box, whether that is drawn with lines or with dashes."""
    text = " ".join(re.sub(r"[╭╮╰╯│─]+|\+?-{3,}\+?|(?<!\S)\|(?!\S)", " ", text).split())
    text = re.split(r"For full helptext|Got errors:|Argument helptext", text)[0].strip()
    text = re.sub(r"^((Value|Parsing) error|Invalid choice|(Required|Unrecognized) options) (?=\S)", "", text)
    if "Missing from" in text:
        given = next((i for i, word in enumerate(arguments) if is_flag(word)), len(arguments))
        wanted = [one.metavar for one in options if one.position and one.default is REQUIRED][given:]
        wanted += [one.flag for one in options if not one.position and one.default is REQUIRED]
        return f"missing: {', '.join(wanted)}"
    ends = r"(?:instantiated from|base 10:|to float:)"
    for one in options:
        name = one.metavar if one.position else one.flag
        value = re.match(rf"Error parsing {re.escape(name)}: .*?{ends} (.*)", text)
        if value:
            return f"{name} should be {_metavar(one) or one.type.__name__.upper()}, not {value[1].strip('[]. ')}"
    wrong = re.search(r"invalid choice '(.*?)' for argument '(.*?)'.*?Expected one of \((.*?)\)", text)
    if wrong is None:
        return text.rstrip(".")
    known = set(re.findall(r"'(.*?)'", wrong[3])) - {"None"}  # leaving it out says None
    return f"{wrong[2]} {wrong[1]!r} is not known{nearest(wrong[1], known)}; known: {', '.join(sorted(known))}"


def _decoded(one: Option, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        fail(f'{one.flag} should be JSON, such as \'{{"name": "value"}}\', not {text!r} ({error})')
