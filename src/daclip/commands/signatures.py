"""Settings held against the signature of their `_target_`, so that a wrong one is named before anything runs."""

import difflib
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from daclip.errors import DaclipError

WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}


def check_options(node: Any, place: str) -> None:
    """Refuse settings that their `_target_` does not take, or takes with another type; `place` is the node's name."""
    if isinstance(node, list):
        for number, item in enumerate(node):
            check_options(item, f"{place}[{number}]")
    if not isinstance(node, Mapping):
        return
    target = node.get("_target_")
    taken, hints = _signature(target) if isinstance(target, str) else (None, {})
    for key, value in node.items():
        where = f"{place}.{key}" if place else str(key)
        if str(key).startswith("_") and str(key).endswith("_"):
            continue
        if taken is not None and key not in taken:
            close = difflib.get_close_matches(str(key), taken, n=1)
            hint = f"did you mean '{close[0]}'?" if close else "it takes " + ", ".join(taken)
            raise DaclipError(f"there is no option '{where}': {str(target).rpartition('.')[2]} has none; {hint}")
        if key in hints and not _fits(value, hints[key]):
            raise DaclipError(f"{where} must be {_described(hints[key])}, got {value!r}")
        check_options(value, where)


def _signature(target: str) -> tuple[list[str] | None, dict[str, Any]]:
    """Names of the parameters of a target, None where it takes any, and the types of those that have one."""
    from hydra.utils import get_object

    try:
        found: Callable[..., Any] = get_object(target)
        parameters = inspect.signature(found).parameters.values()
    except Exception:  # building it says what is wrong
        return None, {}
    try:
        hints = get_type_hints(found.__init__ if inspect.isclass(found) else found)
    except Exception:  # names that only a type checker sees
        hints = {}
    kinds = {parameter.kind for parameter in parameters}
    return None if inspect.Parameter.VAR_KEYWORD in kinds else [one.name for one in parameters], hints


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain setting is of a type; objects, and types that no plain setting can have, are left alone."""
    origin, inner = get_origin(hint), get_args(hint)
    if not isinstance(value, (type(None), bool, int, float, str, list, tuple, Mapping)):
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if isinstance(value, Mapping):  # an object of its own, or a mapping
        return hint not in WORDS
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    if hint in WORDS:
        return isinstance(value, hint)
    if hint is Path:
        return isinstance(value, str)
    if origin is tuple and inner and inner[-1] is not Ellipsis:
        return isinstance(value, (list, tuple)) and len(value) == len(inner) and all(map(_fits, value, inner))
    if origin in (tuple, list, Sequence):
        return isinstance(value, (list, tuple)) and all(_fits(item, inner[0]) for item in value) if inner else True
    # A class that has no plain values, such as a tensor; protocols and enumerations may have some.
    own = inspect.isclass(hint) and hint not in (Any, object) and not getattr(hint, "_is_protocol", False)
    return not own or value is None or isinstance(value, hint) or issubclass(hint, (str, int, float))


def _described(hint: Any) -> str:
    """A type in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_described, inner)))
    if origin is Literal:
        return ", ".join(map(str, inner))
    if origin is tuple and inner[-1] is not Ellipsis:
        return f"a list of {len(inner)}: " + ", ".join(map(_described, inner))
    if origin in (tuple, list, Sequence):
        return f"a list, each {_described(inner[0])}" if inner else "a list"
    return WORDS.get(hint, "text" if hint is Path else f"a {getattr(hint, '__name__', hint)}")
