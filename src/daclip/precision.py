"""Which arithmetic a device is fast in."""

import contextlib
from typing import Any

import torch

from daclip.errors import DaclipError

__all__ = ["autocast", "device_by_name", "supports_bf16", "trainer_precision"]


def supports_bf16(device_type: str) -> bool:
    """Whether bfloat16 is arithmetic of the hardware and not emulated."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def trainer_precision(name: str, accelerator: str) -> str:
    """The Trainer's precision for `auto`: bf16-mixed where supported, else 32-true; other names pass."""
    if name != "auto":
        return name
    cuda = torch.cuda.is_available() and accelerator in ("auto", "gpu", "cuda")
    return "bf16-mixed" if supports_bf16("cuda" if cuda else "cpu") else "32-true"


def device_by_name(name: str) -> torch.device:
    """The device called `name`; `auto` takes a GPU where there is one.

    Raises:
        DaclipError: Unknown name, or a GPU that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DaclipError(f"device={name} is not known; choose auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DaclipError("device=cuda, but this machine has no usable GPU; choose device=cpu")
    return device


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """The context that networks run in.

    Args:
        device: Where they run.
        precision: `auto`, `bf16` or `fp32`.
    """
    if precision not in ("auto", "bf16", "fp32"):
        raise DaclipError(f"precision={precision} is not known; choose auto, bf16 or fp32")
    if precision == "bf16" or (precision == "auto" and supports_bf16(device.type)):
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()
