"""The published DA-CLIP checkpoints: reading, renaming in both directions, writing."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import open_clip
import torch
from open_clip.transformer import VisionTransformer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from daclip.clip.controller import DaClip
from daclip.errors import DaclipError
from daclip.files import atomic_file, one_line

T = TypeVar("T")

# Official prefix and ours; the longer of two that fit comes first.
PREFIXES = (
    ("visual_control.transformer.transformer.", "controller.tower.transformer."),
    ("visual_control.transformer.zero_modules.", "controller.links."),
    ("visual_control.", "controller.tower."),
    ("clip.", "clip.model."),
)
SHOWN = 20  # names in an error message


def from_official(state: Mapping[str, T]) -> dict[str, T]:
    """Rename an official state dict for `DaClip.load_state_dict`; `visual.*`, a copy of `clip.visual.*`, is left out.

    >>> from_official({"module.visual_control.transformer.zero_modules.0.bias": 1, "visual.proj": 2})
    {'controller.links.0.bias': 1}
    """
    names = {name: name.removeprefix("module.") for name in state}
    return {_renamed(name, PREFIXES): state[key] for key, name in names.items() if not name.startswith("visual.")}


def to_official(state: Mapping[str, T]) -> dict[str, T]:
    """Rename a state dict of `DaClip` to the official names, `visual.*` included, in the official order.

    >>> list(to_official({"logit_scale": 1, "controller.links.0.bias": 2, "clip.model.visual.proj": 3}))
    ['logit_scale', 'clip.visual.proj', 'visual.proj', 'visual_control.transformer.zero_modules.0.bias']
    """
    ours = tuple((own, official) for official, own in PREFIXES)
    named = {_renamed(name, ours): value for name, value in state.items()}
    named |= {name.removeprefix("clip."): value for name, value in named.items() if name.startswith("clip.visual.")}
    order = ("logit_scale", "clip", "visual", "visual_control")
    return {name: named[name] for name in sorted(named, key=lambda name: order.index(name.split(".")[0]))}


def _renamed(name: str, prefixes: tuple[tuple[str, str], ...]) -> str:
    for before, after in prefixes:
        if name.startswith(before):
            return after + name[len(before) :]
    return name


def read_weights(path: str | Path) -> Any:
    """Content (or its `state_dict`) of a safetensors file or a pickle of tensors and plain values; else a
    `DaclipError`.
    """
    path = Path(path)
    if not path.is_file():
        raise DaclipError(f"{path}: no such checkpoint file")
    try:
        content: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except pickle.UnpicklingError:
        raise DaclipError(f"{path}: refused, it holds more than tensors and plain values, or is damaged") from None
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, SafetensorError) as error:
        raise DaclipError(f"{path}: damaged or no checkpoint ({one_line(error)})") from None
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    return content


def is_daclip(content: Any) -> bool:
    """Whether a checkpoint's content is stage 1's rather than a restoration network's."""
    return isinstance(content, dict) and any(
        str(name).removeprefix("module.").startswith("visual_control.") for name in content
    )


def official_state(content: Any, path: str | Path) -> dict[str, Tensor]:
    """The tensors of an official checkpoint, the content of `path`, by their official names without `module.`."""
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise DaclipError(f"{path}: not a state dict, nor a training checkpoint with one under 'state_dict'")
    if not is_daclip(content):
        raise DaclipError(f"{path}: no DA-CLIP checkpoint, it has no weight called visual_control.*")
    state: dict[str, Tensor] = {name.removeprefix("module."): value for name, value in content.items()}
    for name, value in state.items():
        twin = state.get(f"clip.{name}") if name.startswith("visual.") else None
        if twin is not None and twin.data_ptr() != value.data_ptr() and not torch.equal(twin, value):
            raise DaclipError(f"{path}: contradicts itself, {name} differs from clip.{name}")
    return state


def load_official(daclip: DaClip, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Load the weights of `official_state` into a model of the same architecture; any other is a `DaclipError`."""
    own = to_official(daclip.state_dict())
    patches = "visual_control.conv1.weight"
    if patches in state and patches in own and state[patches].shape != own[patches].shape:
        described = ["width {0} and patches of {2} px".format(*x.shape) for x in (state[patches], own[patches])]
        raise DaclipError(
            f"{source}: holds a tower with {described[0]}, but the chosen one has {described[1]}; "
            "choose another, as in `daclip convert FILE --clip vit_l_14`"
        )
    given = {name for name in state if not name.startswith("visual.")}
    wanted = {name for name in own if not name.startswith("visual.")}
    shapes = sorted(
        f"{name} {list(state[name].shape)} for {list(own[name].shape)}"
        for name in given & wanted
        if state[name].shape != own[name].shape
    )
    problems = {"missing": sorted(wanted - given), "unknown": sorted(given - wanted), "of another shape": shapes}
    if any(problems.values()):
        told = "; ".join(f"{_listed(names)} {what}" for what, names in problems.items() if names)
        raise DaclipError(f"{source}: does not fit the chosen clip: {told}")
    daclip.load_state_dict(from_official(state))
    daclip.clip.forget_texts()


def _listed(names: list[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more are" if rest > 0 else " is" if len(names) == 1 else " are")


def write_official(daclip: DaClip, path: str | Path) -> None:
    """Write a model as a bare state dict in the official layout, if the official code can compute it."""
    if not isinstance(daclip.clip.model, open_clip.CLIP) or not isinstance(daclip.clip.tower, VisionTransformer):
        raise DaclipError("the official layout is for open_clip's own CLIP models only, not for timm towers")
    if daclip.injection != "reversed":
        raise DaclipError(f"the official code injects in reversed order, but this model was made {daclip.injection}")
    state = {name: value.detach() for name, value in to_official(daclip.state_dict()).items()}
    with atomic_file(path) as file:
        torch.save(state, cast(IO[bytes], file))
