"""Where the configuration lives, and how entry points run."""

import difflib
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from daclip.errors import DaclipError, StoppedError
from daclip.files import config_folder


def config_dir() -> str:
    """Absolute path of `conf/`: beside the package in a wheel, else at the root of the checkout."""
    return str(config_folder())


# Recipes live beside conf/ in experiments/; primaries put this folder on Hydra's search path.
OmegaConf.register_new_resolver("daclip_root", lambda: str(Path(config_dir()).parent), replace=True)


def composed(config_name: str | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A primary with its groups (None: groups alone, as in `+sampler=ddim`), resolved to plain containers.

    Raises:
        DaclipError: An override that does not fit.
    """
    # Hydra has one global state, which a command that is under way holds.
    held = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(config_dir(), version_base="1.3"):
            plain = OmegaConf.to_container(hydra.compose(config_name, list(overrides)), resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise DaclipError(_explain(error, config_name)) from None
    finally:
        GlobalHydra.instance().hydra = held
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def validated(cfg: DictConfig, schema: type) -> DictConfig:
    """The composed configuration, checked against the schema's top level and read-only.

    Raises:
        DaclipError: A top-level key that the schema lacks, or a value of the wrong type.
    """
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
    """The configuration that an entry point would get, for scripts that train inside their own process.

    Args:
        config_name: A primary, such as `train_daclip`.
        schema: Its top level.
        run_folder: What `${hydra:runtime.output_dir}` stands for.
        overrides: As on the command line.
    """
    with hydra.initialize_config_dir(config_dir(), version_base="1.3"):
        cfg = hydra.compose(
            config_name, [f"hydra.runtime.output_dir='{run_folder}'", *overrides], return_hydra_config=True
        )
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    return validated(cfg, schema)


def _one_line(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("full_key:", "object_type=", "reference_type="))]
    return "; ".join(kept[:3]).replace(".;", ";")


def _all_keys(config_name: str | None) -> set[str]:
    """Dotted names of all options of a primary, for suggestions."""

    def walk(node: Any, prefix: str) -> set[str]:
        if not OmegaConf.is_dict(node):
            return {prefix}
        children = [walk(node._get_node(key), f"{prefix}.{key}" if prefix else str(key)) for key in node]
        return {prefix}.union(*children)

    with hydra.initialize_config_dir(config_dir(), version_base="1.3"):
        return walk(hydra.compose(config_name), "")


def _explain(error: Exception, config_name: str | None) -> str:
    message = _one_line(str(error))
    missing = re.search(r"Could not override '([^']+)'", message)
    if not missing:
        return message
    key = missing.group(1)
    try:
        close = difflib.get_close_matches(key, _all_keys(config_name), n=1)
    except (HydraException, OmegaConfBaseException):
        close = []
    return f"there is no option '{key}'" + (
        f"; did you mean '{close[0]}'?" if close else "; see --cfg job" if config_name else ""
    )


def user_error(error: BaseException) -> DaclipError | None:
    """The user's mistake behind an exception, which instantiation may have wrapped several times."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, DaclipError):
            # A loader process sends its error with the whole traceback as the message; the last line is the error.
            lines = str(seen).strip().splitlines()
            return seen if len(lines) <= 1 else DaclipError(lines[-1].removeprefix("daclip.errors.DaclipError: "))
        seen = seen.__cause__ or seen.__context__
    return None


def run_entry(task: Callable[[DictConfig], Any], config_name: str) -> None:
    """Compose a primary from the command line and run a task on it.

    A user's mistake ends with one line on standard error and exit status 1; anything else is a bug and
    keeps its traceback. `--config-name` chooses another primary.
    """
    # Hydra then raises instead of printing several lines and leaving by itself.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")

    def with_one_line_errors(cfg: DictConfig) -> Any:
        try:
            return task(cfg)
        except Exception as error:
            mistake = user_error(error)
            if mistake is None:
                raise
            if isinstance(mistake, StoppedError):
                if mistake.exit_status:
                    sys.stderr.write(f"{mistake}\n")
                raise SystemExit(mistake.exit_status) from None
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                # Launchers carry an exception home and let the other runs finish; a worker that exits is a crash to
                # them, which ray answers with three more attempts.
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


def _from_task(error: BaseException, task: Callable[[DictConfig], Any]) -> bool:
    """Whether the exception passed through the task itself, so that it is no mistake on the command line."""
    frame = error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code is task.__code__:
            return True
        frame = frame.tb_next
    return False
