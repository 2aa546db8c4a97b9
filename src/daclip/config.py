"""Composition and validation of the configuration, and the entry of the Hydra commands."""

import difflib
import functools
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import hydra
import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from daclip.errors import DaclipError, StoppedError
from daclip.files import cannot_be_written, choices, config_folder, one_line
from daclip.trust import take_trust

STAGES = {"daclip": "stage 1", "restorer": "stage 2"}
"""Last word of a training primary and of its recipes → what it trains."""


def config_dir() -> str:
    """Absolute path of `conf/`: beside the package in a wheel, else at the root of the checkout."""
    return str(config_folder())


@contextmanager
def _hydra() -> Iterator[None]:
    """Hydra's composition API beside a command that may be under way and holds Hydra's one global state."""
    held = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(config_dir(), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = held


def composed(config_name: str | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A primary with its groups (None: groups alone, as in `+sampler=ddim`), resolved to plain containers."""
    try:
        with _hydra():
            plain = OmegaConf.to_container(hydra.compose(config_name, _mended(config_name, overrides)), resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise DaclipError(_explain(error, config_name)) from None
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def validated(cfg: DictConfig, schema: type) -> DictConfig:
    """The composed configuration, checked against the schema's top level (keys and types) and read-only."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), cfg)
    except OmegaConfBaseException as error:
        message = _one_line(str(error))
        named = error.full_key and error.full_key not in message
        raise DaclipError(f"{error.full_key}: {message}" if named else message) from error
    assert isinstance(merged, DictConfig)
    OmegaConf.set_readonly(merged, True)
    return merged


def run_config(config_name: str, schema: type, run_folder: str | Path, overrides: Sequence[str]) -> DictConfig:
    """The configuration that an entry point would get, for scripts that train inside their own process. `schema` is the
    primary's top level; `run_folder` is what `${hydra:runtime.output_dir}` stands for."""
    with hydra.initialize_config_dir(config_dir(), version_base="1.3"):
        cfg = hydra.compose(
            config_name,
            [f"hydra.runtime.output_dir='{run_folder}'", *_mended(config_name, overrides)],
            return_hydra_config=True,
        )
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    return validated(cfg, schema)


def _mended(config_name: str | None, overrides: Sequence[str]) -> list[str]:
    """Overrides as Hydra takes them: `~group` for `group=null`, `group=name` for `+group=name` where it has a default.

    >>> _mended("train_daclip", ["experiment=smoke_daclip", "experiment=null", "resume=null", "+debug=limit"])
    ['~experiment', 'resume=null', 'debug=limit']
    """
    groups = _groups(config_name)
    kept: dict[str, str] = {}
    for number, override in enumerate(overrides):
        key, _, value = override.partition("=")
        group = key.removeprefix("+")
        if group in groups:
            kept[group] = f"~{group}" if value == "null" else f"{group}={value}"
        else:
            kept[f"{number} {key}"] = override
    return list(kept.values())


def _arranged(config_name: str, argv: Sequence[str]) -> list[str]:
    """A command line with its flags before its overrides: Hydra refuses `a=1 -m b=2`."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise DaclipError(f"{message}; options are KEY=VALUE, --help lists them")

    parser.error = refuse  # type: ignore[method-assign]
    overrides = parser.parse_intermixed_args(list(argv)).overrides
    for override in overrides:
        key, sign, value = override.partition("=")
        if not key or (not sign and not override.startswith("~")):
            raise DaclipError(f"'{override}' is no option; write KEY=VALUE, --help lists them")
        if sign and value.strip("'\"") in ("", "null") and (key == "output" or key.startswith("paths.")):
            raise DaclipError(f"{key} must name a folder; leave it out for the usual one")
    return [*(word for word in argv if word not in overrides), *_mended(config_name, overrides)]


def _one_line(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("full_key:", "object_type=", "reference_type="))]
    return "; ".join(kept[:3]).replace(".;", ";")


def _all_keys(config_name: str | None) -> set[str]:
    """Dotted names of all options of a primary, for suggestions."""

    def walk(node: Any, name: str) -> Iterator[str]:
        yield name
        if isinstance(node, dict):
            for key, value in node.items():
                yield from walk(value, f"{name}.{key}" if name else str(key))

    try:
        with _hydra():
            return set(walk(OmegaConf.to_container(hydra.compose(config_name)), ""))
    except (HydraException, OmegaConfBaseException):
        return set()


@functools.cache
def _groups(config_name: str | None) -> frozenset[str]:
    """Groups in a primary's defaults list."""
    if config_name is None:
        return frozenset()
    text = (Path(config_dir()) / f"{config_name}.yaml").read_text(encoding="utf-8")
    defaults = yaml.safe_load(text).get("defaults", [])
    return frozenset(str(next(iter(entry))).split("@")[0] for entry in defaults if isinstance(entry, dict))


def other_stage(config_name: str | None, recipe: str | None) -> str | None:
    """The refusal of a recipe of the other stage; None if it is of this one or of no known one."""
    word = str(recipe).rsplit("_", 1)[-1]
    if word not in STAGES or not config_name or not config_name.startswith("train_") or config_name == f"train_{word}":
        return None
    return f"experiment={recipe} is a recipe of {STAGES[word]}; use make train-{word} (daclip.commands.train_{word})"


def _explain(error: Exception, config_name: str | None) -> str:
    """One line for a mistake in overrides."""
    text = str(error)
    if isinstance(error, OverrideParseException):
        key, _, value = str(error.override).partition("=")
        quoted = value.strip("'\"").replace('"', '\\"')
        return f"{key}: the value has characters that need quotes; write '{key}=\"{quoted}\"', both kinds of quotes"
    if absent := re.search(r"Could not (?:find|load) '([\w/.-]+)/([^'/]*)'", text):
        group, name = absent.groups()
        known = re.findall(r"^\t([\w.-]+)$", text, re.MULTILINE) or choices(group)
        search = "; for a Bayesian search see docs/loggers.md" if group == "hydra/sweeper" else ""
        return f"there is no {group} '{name}'; choose from {', '.join(known)}{search}"
    missing = re.search(r"Could not (?:override|delete) '([^'=]+)", text)
    if not missing:
        return _one_line(text)
    key = missing.group(1)
    if recipe := re.search(r"In 'experiment/([^']+)'", text):
        return other_stage(config_name, recipe[1]) or _one_line(text)
    if choices(key) and key not in _groups(config_name):
        owners = [name for name in ("train_daclip", "train_restorer") if key in _groups(name)]
        where = f"; {', '.join(owners)} has it" if owners else ""
        stage_1 = ": it takes its CLIP from daclip=ARTIFACT" if (key, config_name) == ("clip", "train_restorer") else ""
        return f"{key} is no part of {config_name}{stage_1}{where}"
    keys = _all_keys(config_name)
    if key in keys:
        return f"the parts chosen have no option '{key}'" + (
            "; add data=folder" if key == "data.root" else "; see --cfg job"
        )
    close = difflib.get_close_matches(key, keys, n=1)
    return f"there is no option '{key}'" + (f"; did you mean '{close[0]}'?" if close else "; see --cfg job")


def user_error(error: BaseException) -> DaclipError | None:
    """The user's mistake behind an exception, which instantiation may have wrapped several times."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, DaclipError):
            # A loader process sends its error with the whole traceback as the message; the last line is the error.
            lines = str(seen).strip().splitlines()
            return seen if len(lines) <= 1 else DaclipError(lines[-1].removeprefix("daclip.errors.DaclipError: "))
        if type(seen).__name__ == "MisconfigurationException":  # Lightning's own, which need not be imported for it
            return DaclipError(one_line(seen))
        seen = seen.__cause__ or seen.__context__
    return None


def run_entry(task: Callable[[DictConfig], Any], config_name: str) -> None:
    """Compose a primary from the command line and run a task on it; a user's mistake is one line and exit status 1."""
    # Hydra then raises instead of printing several lines and leaving by itself.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        sys.argv[1:] = _arranged(config_name, take_trust(sys.argv[1:]))
    except DaclipError as error:
        sys.exit(f"error: {error}")

    def with_one_line_errors(cfg: DictConfig) -> Any:
        try:
            if message := other_stage(config_name, HydraConfig.get().runtime.choices.get("experiment")):
                raise DaclipError(message)
            return task(cfg)
        except Exception as error:
            mistake = user_error(error)
            _note(error)
            if mistake is None:
                raise
            if isinstance(mistake, StoppedError):
                if mistake.exit_status:
                    sys.stderr.write(f"{mistake}\n")
                raise SystemExit(mistake.exit_status) from None
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                # Launchers carry an exception home; a worker that exits is a crash, which ray retries three times.
                sys.stderr.write(f"{HydraConfig.get().job.override_dirname}: {mistake}\n")
                raise mistake from None
            raise SystemExit(f"error: {mistake}") from None

    # Hydra names the job after the function's module.
    with_one_line_errors.__module__ = "__main__"
    try:
        hydra.main(version_base="1.3", config_path=config_dir(), config_name=config_name)(with_one_line_errors)()
    except DaclipError as error:
        sys.exit(f"error: {error}")
    except (HydraException, OmegaConfBaseException) as error:
        if user_error(error) is None and error.__traceback__ and _from_task(error, task):
            raise
        sys.exit(f"error: {_explain(error, config_name)}")
    except OSError as error:
        if _from_task(error, task):
            raise
        # Hydra makes the run's folder and log file.
        sys.exit(f"error: {cannot_be_written(Path(str(error.filename)), error)}")


def _note(error: BaseException) -> None:
    """Write an error with its traceback into the run's log file; the screen gets what is for the user."""
    record = logging.LogRecord("daclip", logging.ERROR, __file__, 0, "the run ended here", (), None)
    record.exc_info = (type(error), error, error.__traceback__)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def _from_task(error: BaseException, task: Callable[[DictConfig], Any]) -> bool:
    """Whether the exception passed through the task itself, so that it is no mistake on the command line."""
    return any(frame.f_code is task.__code__ for frame, _ in traceback.walk_tb(error.__traceback__))
