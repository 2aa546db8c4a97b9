"""Devices and ranks: precision, autocast, an exact LayerNorm on CPUs, the attention kernel, values of all ranks."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, distributed

from daclip.errors import DaclipError

T = TypeVar("T")


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
    """The device called `name`; `auto` takes a GPU where there is one."""
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
    """The autocast context for networks on a device, by `auto` (bf16 where supported), `bf16` or `fp32`."""
    if precision not in ("auto", "bf16", "fp32"):
        raise DaclipError(f"precision={precision} is not known; choose auto, bf16 or fp32")
    if precision == "bf16" or (precision == "auto" and supports_bf16(device.type)):
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def layer_norm_on_cpu(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    """LayerNorm under autocast on a CPU, in the precision of `x`, with exact gradients of `weight` and `bias`. PyTorch
    sums those in bfloat16 and loses, of the gain's, 3 % at 4096 rows and 72 % at 65536. Prediction stays as it is.
    """
    learns = torch.is_grad_enabled() and any(p is not None and p.requires_grad for p in (weight, bias))
    with torch.autocast("cpu", enabled=False):
        exact = x.float() if learns and x.dtype == torch.bfloat16 else x
        return F.layer_norm(exact, normalized_shape, weight, bias, eps).to(x.dtype)


_AUTOCAST = torch.library.Library("aten", "IMPL")
_AUTOCAST.impl("layer_norm", layer_norm_on_cpu, "AutocastCPU")


SMALL = 1024 * 1024
"""Entries of one head's matrix up to which it may be formed: CLIP's tokens, and the middle of the U-Net at 256²."""


def trains_on_cpu(device: torch.device) -> bool:
    """Whether plain products beat the fused kernel, whose bfloat16 backward pass takes 2 to 4 times as long."""
    return device.type == "cpu" and torch.is_grad_enabled()


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ / √D) v for q `[B, heads, N, D]` and k, v `[B, heads, M, D]`; forms the N×M matrix only if small."""
    if trains_on_cpu(q.device) and q.shape[-2] * k.shape[-2] <= SMALL:
        return (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v)


def is_distributed() -> bool:
    """Whether more than one process works on a batch."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def rank() -> int:
    """Number of this process among all, 0 in a single one."""
    return distributed.get_rank() if is_distributed() else 0


LAUNCH = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@contextlib.contextmanager
def launch_forgotten() -> Iterator[None]:
    """Forget at the end the ranks that Lightning has launched meanwhile. It leaves what they share in the environment
    and their process group open, and another run would take itself for one rank of a launcher's, and wait for the
    others. The jobs of a sweep are one launch: its ranks go from job to job together."""
    absent = [name for name in LAUNCH if name not in os.environ]
    alone = not is_distributed()
    try:
        yield
        # All ranks do so together; not after an error, when NCCL might wait for ranks that are gone.
        if alone and is_distributed():
            distributed.destroy_process_group()
    finally:
        for name in absent:
            os.environ.pop(name, None)


def gather_objects(value: T) -> list[T]:
    """The value of each rank, in the order of ranks; all ranks must call it together."""
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values
