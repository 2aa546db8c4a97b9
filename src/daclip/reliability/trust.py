"""What a configuration that came with an artifact may name: parts of this framework, and nothing through them."""

import importlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from daclip.errors import DaclipError

__all__ = ["refuse_foreign_targets"]

# Classes defined in these packages build networks, samplers, data and corruptions; none of them runs what it is given.
PACKAGES = (
    "daclip.backbones.",
    "daclip.clip.",
    "daclip.data.",
    "daclip.degradations.",
    "daclip.diffusion.",
    "daclip.metrics.",
    "daclip.recognition.",
    "daclip.samplers.",
)
# What a recorded training run names beside them.
TRAINING_PACKAGES = (
    *PACKAGES,
    "daclip.averaging.",
    "daclip.callbacks.",
    "daclip.reliability.",
    "daclip.wandb_run.",
    "lightning.Trainer",
    "lightning.fabric.",
    "lightning.pytorch.",
    "timm.optim.",
    "torch.optim.",
)
# Functions are named one by one: others of the same modules write files or reach the network.
FUNCTION_MODULES = ("daclip.samplers.grids", "daclip.diffusion.weighting", "daclip.diffusion.times")
FUNCTIONS = (
    "daclip.clip.controller.create_daclip",
    "daclip.recognition.efficientnet_lite",
    "daclip.recognition.vgg16",
    "daclip.wandb_run.wandb_logger",
)


def _strings(node: Any) -> Iterator[tuple[str, str]]:
    """All strings of nested containers with the key in front of them."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield str(key), str(key)
            if isinstance(value, str):
                yield str(key), value
            else:
                yield from _strings(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            if isinstance(value, str):
                yield "", value
            else:
                yield from _strings(value)


def _is_part(target: str, packages: tuple[str, ...]) -> bool:
    """Whether a dotted name is that of a class or function defined in one of the packages.

    `daclip.train.subprocess.run` is not: the name begins with daclip, what it names does not.
    """
    module_name, _, name = target.rpartition(".")
    if not target.startswith(packages) or not name.isidentifier():
        return False
    try:
        # The part itself is imported here, by its full name, which runs no code but the framework's own.
        part = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError):
        return False
    home = getattr(part, "__module__", "")
    if not f"{home}.".startswith(packages):
        return False
    if inspect.isclass(part):
        return True
    return inspect.isfunction(part) and (home in FUNCTION_MODULES or f"{home}.{part.__name__}" in FUNCTIONS)


def refuse_foreign_targets(node: Any, where: str, training: bool = False) -> None:
    """Check a section of an artifact's configuration before anything is made of it.

    Args:
        node: Plain containers.
        where: File that errors name.
        training: Whether it describes a whole run, with the trainer, callbacks, loggers and optimisers of libraries.

    Raises:
        DaclipError: A `_target_` is no part of this framework, or a value is a reference that would read the
            environment or call a resolver.
    """
    packages = TRAINING_PACKAGES if training else PACKAGES
    for key, value in _strings(node):
        if "${" in value:
            raise DaclipError(
                f"{where}: refuses the reference {value!r}; an artifact's configuration holds plain values"
            )
        if key == "_target_" and value != "_target_" and not _is_part(value, packages):
            raise DaclipError(f"{where}: refuses to make {value}; only parts of daclip may be named")
    for target in _targets_of_wrong_type(node):
        raise DaclipError(f"{where}: refuses to make {target!r}; only parts of daclip may be named")


def _targets_of_wrong_type(node: Any) -> Iterator[Any]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == "_target_" and not isinstance(value, str):
                yield value
            yield from _targets_of_wrong_type(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _targets_of_wrong_type(value)
