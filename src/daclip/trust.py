"""What a configuration from outside, such as a stranger's artifact, may be: plain values of a bounded size that name
parts of this framework, and of packages that the user trusts."""

import importlib
import inspect
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from daclip.errors import DaclipError

# Section of an artifact's configuration → the parts that it may name: a package, or one function of a module.
ROOMS = {
    "clip": ("daclip.clip.controller.create_daclip",),
    "backbone": ("daclip.backbones.",),
    "process": ("daclip.diffusion.",),
    "stage": ("daclip.diffusion.",),
    "sampler": ("daclip.samplers.",),
    "degradation": ("daclip.degradations.",),
    "data": ("daclip.data.", "daclip.degradations."),
}
# Functions are named one by one: others of the same packages write files or reach the network.
FUNCTIONS = ("daclip.clip.controller.create_daclip",)
FUNCTION_MODULES = ("daclip.samplers.base",)

TRUSTED = "DACLIP_TRUSTED_PACKAGES"  # environment variable: names of packages, with commas
FLAG = "--trust-package"

YAML_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, ten times as fast, where PyYAML has it

# A resolved configuration has some 300 lines and six levels.
MOST_BYTES = 1_000_000
MOST_LEVELS = 40


def trusted_packages() -> list[str]:
    """The packages of the user's own whose parts an artifact may name."""
    return [name.strip() for name in os.environ.get(TRUSTED, "").split(",") if name.strip()]


def take_trust(words: Sequence[str]) -> list[str]:
    """A command line without its `--trust-package NAME`, which this process and those that it starts then trust."""
    kept: list[str] = []
    names: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            kept += [word, *rest]
        elif word == FLAG or word.startswith(f"{FLAG}="):
            names += (word.partition("=")[2] or next(rest, "")).split(",")
        else:
            kept.append(word)
    for name in names:
        if not name.isidentifier() or name in sys.stdlib_module_names:
            raise DaclipError(f"{FLAG} needs the name of a package of your own, got '{name}'")
    if names:
        os.environ[TRUSTED] = ",".join(dict.fromkeys([*trusted_packages(), *names]))
    return kept


def entries(node: Any) -> Iterator[tuple[Any, Any]]:
    """Keys and values of nested containers at any depth; the key is empty inside a list."""
    if isinstance(node, Mapping):
        pairs = list(node.items())
    else:
        pairs = [("", value) for value in node] if isinstance(node, (list, tuple)) else []
    for key, value in pairs:
        yield key, value
        yield from entries(value)


def targets(node: Any) -> Iterator[str]:
    """All that a configuration names in a `_target_`, at any depth."""
    return (str(value) for key, value in entries(node) if key == "_target_")


def own_packages(config: Mapping[str, Any]) -> list[str]:
    """Packages outside this framework whose parts a run needs again when its artifact is used."""
    # Of the stage an artifact's reader makes the parameterisation only.
    used = [config.get(section) for section in ROOMS if section != "stage"]
    used.append((config.get("stage") or {}).get("parameterization"))
    return sorted({target.partition(".")[0] for target in targets(used)} - {"daclip"})


def _is_part(target: Any, rooms: tuple[str, ...]) -> bool:
    """Whether a dotted name is that of a class or function defined in one of the rooms, not of one that they import,
    such as `daclip.commands.train.subprocess.run`."""
    module_name, _, name = str(target).rpartition(".")
    mine = tuple(f"{package}." for package in trusted_packages())
    if not isinstance(target, str) or not target.startswith((*rooms, *mine)) or not name.isidentifier():
        return False
    try:
        # The part itself is imported here, by its full name, which runs no code but the framework's own.
        part = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        if mine and target.startswith(mine):
            raise DaclipError(
                f"{target} cannot be imported ({error}); install its package, or put the folder above it on PYTHONPATH"
            ) from None
        return False
    home = f"{getattr(part, '__module__', '')}.{name}"
    if home.startswith(mine) and mine:
        return True
    if not home.startswith(rooms):
        return False
    if inspect.isclass(part):
        return True
    return inspect.isfunction(part) and (home in FUNCTIONS or home.rpartition(".")[0] in FUNCTION_MODULES)


def refuse_foreign_parts(node: Any, section: str, where: str) -> None:
    """Refuse a section (plain containers) of a configuration from the file `where` that names other parts than `ROOMS`
    and trusted packages have, or that refers to the environment or another resolver."""
    for key, value in entries(node):
        for text in (key, value):
            if isinstance(text, str) and "${" in text:
                raise DaclipError(
                    f"{where}: refuses the reference {text!r}; an artifact's configuration holds plain values"
                )
        if key == "_target_" and not _is_part(value, ROOMS[section.partition(".")[0]]):
            package = str(value).partition(".")[0]
            foreign = package.isidentifier() and package != "daclip" and package not in sys.stdlib_module_names
            cure = f", or {FLAG} {package} if it is your own" if foreign else ""
            raise DaclipError(f"{where}: refuses to make {value!r} in {section}; only parts of daclip for it{cure}")


def read_yaml(path: Path) -> Any:
    """The content of a YAML file from outside: containers, texts, numbers; else a `DaclipError`. Size and depth are
    bounded, and there are no aliases, of which a few lines can hold billions of entries."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DaclipError(f"{path}: refused, larger than {MOST_BYTES / 1e6:g} MB")
        text = path.read_text(encoding="utf-8")
        level = 0
        for event in yaml.parse(text, Loader=YAML_LOADER):
            level += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or level > MOST_LEVELS:
                raise DaclipError(f"{path}: refused, it holds aliases or more than {MOST_LEVELS} levels")
        content = yaml.load(text, Loader=YAML_LOADER)
    except (OSError, ValueError, yaml.YAMLError):
        raise DaclipError(f"{path}: damaged; train or copy the artifact again") from None
    for key, value in entries([content]):
        plain = isinstance(value, (dict, list, str, int, float, bool, type(None)))
        if not isinstance(key, str) or not plain:
            wrong = f"{value!r:.60}" if isinstance(key, str) else f"the key {key!r:.60}"
            raise DaclipError(f"{path}: damaged, it holds {wrong}; train or copy the artifact again")
    return content
