"""Shared by the commands: parser, common options, parts of the configuration, tables and one-line errors."""

import argparse
import difflib
import inspect
import re
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from daclip.commands.main import COMMANDS
from daclip.errors import DaclipError, markdown, printable
from daclip.files import choices, one_line
from daclip.trust import FLAG, TRUSTED, take_trust

# Types of settings in words.
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}


class Parser(argparse.ArgumentParser):
    """Parser of one of `COMMANDS`: options may stand among the paths, and a mistake is reported in one line."""

    def __init__(self, name: str, usage: str, examples: Sequence[str]):
        super().__init__(
            prog=f"daclip {name}",
            usage=f"daclip {name} {usage}",
            description=f"{COMMANDS[name]}.",
            epilog="\n".join(["examples:", *(f"  {example}" for example in examples)]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """End with the message and status 2."""
        self.exit(2, f"error: {message}; `{self.prog} --help` lists the options\n")

    def read(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """The options of a command line, by default the process's own."""
        try:
            words = take_trust(sys.argv[1:] if arguments is None else arguments)
        except DaclipError as error:
            self.error(str(error))
        if "--" in words:
            end = words.index("--")
            # Names of files, also where they start with a dash; argparse itself loses some of them here.
            words[end:] = [f"./{word}" if word.startswith("-") else word for word in words[end + 1 :]]
        found, rest = self.parse_known_intermixed_args(words)
        if rest:
            name = rest[0].partition("=")[0]
            is_option = name.startswith("-")
            close = difflib.get_close_matches(name if is_option else f"--{name}", self._option_string_actions, n=1)
            known = f"there is no option '{name}'" if is_option else f"unexpected argument '{rest[0]}'"
            self.error(known + (f"; did you mean '{close[0]}'?" if close else ""))
        return found


def add_artifact(parser: argparse.ArgumentParser) -> None:
    """Add `--artifact`."""
    text = "artifact folder, or OWNER/NAME on the hub (default: the restorer in the package)"
    parser.add_argument("--artifact", metavar="FOLDER", default="pretrained", help=text)
    add_trust(parser)


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add `--trust-package` to the help; `take_trust` reads it."""
    text = f"package of your own whose parts the artifact may name; may be repeated, or {TRUSTED}=NAME,NAME"
    parser.add_argument(FLAG, metavar="NAME", help=text)


def add_network(parser: Any) -> None:
    """Add `--network`; `named_network` reads it."""
    text = "network of others, in a file that spandrel reads, for all photos or for those of one class; may be repeated"
    parser.add_argument("--network", action="append", default=[], metavar="[CLASS=]FILE", help=text)


def named_network(text: str) -> tuple[str, str | None]:
    """File and class of `FILE` or `CLASS=FILE`.

    >>> named_network("rainy=nets/derain.pth")
    ('nets/derain.pth', 'rainy')
    """
    class_name, equals, path = text.partition("=")
    return (path, class_name) if equals and not Path(text).exists() else (text, None)


def add_machine(parser: Any, memory: bool = True) -> None:
    """Add what decides where and how the networks run to a parser or a group of options."""
    if memory:
        text = "memory of the process, on a GPU of the GPU; larger photos are cut into pieces (default: %(default)g)"
        parser.add_argument("--max-memory", type=float, default=2.0, metavar="GIB", help=text)
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--precision", default="auto", metavar="NAME", help="auto, bf16 or fp32 (default: auto)")


def add_set(parser: argparse.ArgumentParser, example: str) -> None:
    """Add `--set KEY=VALUE` for the configuration's own options."""
    text = f"a value of the configuration, such as {example}; may be repeated"
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help=text)


def known(group: str, name: str) -> str:
    """The name of a file of a configuration group; another name is refused with the list of them."""
    if name not in choices(group):
        raise DaclipError(f"there is no {group} '{name}'; choose from {', '.join(choices(group))}")
    return name


def part(group: str, name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The settings of one choice of a configuration group."""
    from daclip.config import composed

    node: dict[str, Any] = composed(None, [f"+{group}={known(group, name)}", *overrides])[group]
    return node


def make(node: Any, place: str = "") -> Any:
    """The object, or plain containers of objects, that settings with a `_target_` describe. Settings that do not fit
    are a `DaclipError` that names them; `place` is the node's own name in the configuration."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate
    from omegaconf import DictConfig, OmegaConf

    from daclip.config import user_error

    plain = node
    if isinstance(node, DictConfig):
        plain, place = OmegaConf.to_container(node, resolve=True), place or str(node._get_full_key(None) or "")
    check_options(plain, place)
    try:
        return instantiate(node, _convert_="object")
    except InstantiationException as error:
        cause = error.__cause__
        if user_error(error) or not isinstance(cause, (TypeError, ValueError, ImportError, AttributeError)):
            raise
        target = re.search(r"target '([^']+)'", str(error))
        key = re.search(r"full_key: (\S+)", str(error))
        absent = str(error).startswith("Error locating")
        reason = "there is no such class or function, or it cannot be imported" if absent else one_line(cause)
        names = (key[1] if key else place, target[1] if target else "")
        raise DaclipError(": ".join([*filter(None, names), reason])) from error


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


def say(text: str, style: str | None = None) -> None:
    """Print one line as it is."""
    Console(soft_wrap=True, emoji=False).print(printable(text), style=style, highlight=False, markup=False)


def shown(text: str) -> str:
    """A text for rich's tables, which else read markup and terminals escapes in it."""
    return escape(printable(text))


def text_table(title: str, heading: Sequence[str], rows: Sequence[Sequence[str]], last: int = 0) -> Table:
    """A table for the console: the first column to the left, numbers to the right, a line above the `last` rows."""
    table = Table(title=shown(title))
    for index, name in enumerate(heading):
        table.add_column(shown(name), justify="right" if index else "left", no_wrap=not index)
    for number, row in enumerate(rows):
        table.add_row(*map(shown, row), end_section=number + 1 == len(rows) - last)
    return table


def markdown_table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The same as lines of Markdown."""
    rule = ["---", *("---:" for _ in heading[1:])]
    return ["| " + " | ".join(row) + " |" for row in (map(markdown, heading), rule, *(map(markdown, r) for r in rows))]


def entry_point(*commands: tuple[Parser, Callable[[argparse.Namespace], object]]) -> Callable[..., None]:
    """The `main` of a module: runs the command of a name, by default its first. A user's mistake ends in one line, exit
    status 1 and no traceback."""

    def main(name: str | None = None) -> None:
        parser, command = next((pair for pair in commands if pair[0].prog == f"daclip {name}"), commands[0])
        options = parser.read()
        try:
            command(options)
        except KeyboardInterrupt:
            sys.stderr.write("stopped\n")
            raise SystemExit(130) from None
        except Exception as error:
            from daclip.config import user_error

            mistake = user_error(error)
            if mistake is None:
                raise
            raise SystemExit(f"error: {mistake}") from None

    return main
