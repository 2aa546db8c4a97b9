"""The command line of restoring: paths and `--options` as users expect them, turned into Hydra overrides."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

from daclip.errors import DaclipError
from daclip.schemas import RestoreConfig

__all__ = ["overrides", "quoted"]

# Hydra's own options that are followed by a value.
HYDRA_VALUES = {"-c", "--cfg", "-p", "--package", "-cp", "--config-path", "-cn", "--config-name", "-cd", "--config-dir"}

OVERRIDE = re.compile(r"[+~]{0,2}[\w@./-]+=.*", re.DOTALL)

# `degradation` is a group of the configuration, and Hydra would look for a file of that name.
RENAMED = {"degradation": "words"}

# Any text may be their value: on the command line it needs no quotes of Hydra's.
TEXTS = {"input", "output", "artifact", "mask", "summary", *RENAMED}


def quoted(text: str) -> str:
    r"""A text as Hydra's grammar and OmegaConf's interpolation take it literally.

    >>> print(quoted('a "b", c'), quoted("x${y}"))
    "a \"b\", c" "x\${y}"
    """
    escaped = re.sub(r'(\\*)("|$)', lambda match: match[1] * 2 + ('\\"' if match[2] else ""), text)
    return '"' + escaped.replace("${", "\\${") + '"'


def overrides(arguments: Sequence[str], schema: type = RestoreConfig, positional: str = "input") -> list[str]:
    """Turn `PATHS… --option value` into Hydra overrides; overrides and Hydra's own options pass unchanged.

    Args:
        arguments: The command line.
        schema: Dataclass of the command's options.
        positional: The option that arguments without a name belong to; only `input` takes several.

    Raises:
        DaclipError: An option without its value, or too many paths.

    >>> overrides(["a b.jpg", "photos", "--dry-run", "--strength", "0.5", "seed=3"])
    ['dry_run=true', 'strength=0.5', 'seed=3', 'input=["a b.jpg","photos"]']
    """
    kinds = {field.name: field.type for field in fields(schema)}
    options = kinds.keys() | RENAMED.keys()
    translated: list[str] = []
    paths: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if argument.startswith("--") and name in options:
            translated.append(
                _option(name, value if equals else "true" if kinds.get(name) is bool else _value(name, rest))
            )
        elif argument in HYDRA_VALUES:
            translated += [argument, *([value] if (value := next(rest, "")) else [])]
        elif argument.startswith("-"):
            translated.append(argument)
        elif OVERRIDE.fullmatch(argument) and not Path(argument).exists():
            translated.append(_option(name, value) if name in RENAMED else argument)
        else:
            paths.append(quoted(argument))
    if positional != "input" and len(paths) > 1:
        raise DaclipError(f"give one {positional}, got {', '.join(paths)}")
    if not paths:
        return translated
    return [*translated, f"input=[{','.join(paths)}]" if positional == "input" else f"{positional}={paths[0]}"]


def _value(name: str, rest: Iterator[str]) -> str:
    value = next(rest, None)
    if value is None:
        raise DaclipError(f"--{name.replace('_', '-')} needs a value")
    return value


def _option(name: str, value: str) -> str:
    # Mappings, lists and what is quoted already are Hydra's to read.
    literal = name in TEXTS and value[:1] not in ("{", "[", '"', "'")
    return f"{RENAMED.get(name, name)}={quoted(value) if literal and value != 'null' else value}"
