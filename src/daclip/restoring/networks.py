"""Restoration networks of others, from files of an architecture that the package spandrel knows."""

from collections import Counter
from collections.abc import Container, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from daclip.backbones.layers import GlobalPool
from daclip.clip.official import read_weights
from daclip.diffusion.denoiser import Denoiser
from daclip.diffusion.sde import DirectRegression
from daclip.errors import DaclipError
from daclip.files import one_line
from daclip.restoring.instruction import Wish
from daclip.samplers.base import Sampler
from daclip.samplers.solvers import PosteriorSampler
from daclip.types import Conditioning


class OtherNetwork(nn.Module):
    """A network of others as a backbone: it sees the degraded photo alone. The descriptor, spandrel's, pads to the
    sizes that the network needs and takes one photo a call. Without `bf16` it never runs in bfloat16, which its authors
    may not have tried."""

    def __init__(self, descriptor: Any, bf16: bool):
        super().__init__()
        self.network: nn.Module = descriptor.model.eval().requires_grad_(False)
        self.descriptor = descriptor
        self.bf16 = bf16

    def forward(self, x_t: Tensor, lq: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """The clean photos, `[B, 3, H, W]` in [0, 1]."""
        with nullcontext() if self.bf16 else torch.autocast(lq.device.type, enabled=False):
            return torch.cat([self.descriptor(photo) for photo in lq[:, None]])


@dataclass(frozen=True)
class Other:
    """A network of others, ready to take the place of a restorer's own."""

    name: str  # architecture and file
    denoiser: Denoiser
    sampler: Sampler


def load_other(path: str | Path, device: torch.device, precision: str) -> Other:
    """The network in a file, a pickle of tensors alone or safetensors; one that is of no use here is a `DaclipError`.
    It runs in float32 unless `precision` is `bf16`."""
    try:
        import spandrel
    except ModuleNotFoundError as error:
        if error.name not in ("spandrel", "einops"):
            raise
        raise DaclipError("networks of others need spandrel; install it with pip install 'daclip[networks]'") from None
    state = read_weights(path)
    try:
        found: Any = spandrel.ModelLoader().load_from_state_dict(state)
    except spandrel.UnsupportedModelError:
        raise DaclipError(
            f"{path}: no network of an architecture that spandrel {spandrel.__version__} knows; "
            "https://github.com/chaiNNer-org/spandrel lists them"
        ) from None
    except Exception as error:  # its detection and its constructors trust the file
        raise DaclipError(f"{path}: damaged, or a variant that spandrel cannot load ({one_line(error)})") from None
    if (reason := _useless(found)) is not None:
        raise DaclipError(f"{path}: a network of the architecture {found.architecture.name} that {reason}")
    if precision == "bf16" and not found.supports_bfloat16:
        raise DaclipError(f"{path}: a network that cannot run in bfloat16; leave out --precision bf16")
    backbone = OtherNetwork(found.to(device), precision == "bf16")
    try:
        _share_pools(backbone, device)
    except RuntimeError as error:
        raise DaclipError(f"{path}: its network does not run ({one_line(error)})") from None
    denoiser = Denoiser(backbone, DirectRegression(), "image").to(device).eval()
    return Other(f"{found.architecture.name} {Path(path).name}", denoiser, PosteriorSampler(steps=1))


def unmet(wish: Wish, left: Sequence[str], others: Container[str]) -> Iterator[str]:
    """Remarks on classes that a pass by a network of `others`, which repairs its own alone, has left against a wish."""
    wanted = [name for name in left if wish.share(name)]
    for reason, has in (("for lack of a network", False), ("as a pass takes one network", True)):
        if names := [name for name in wanted if (name in others) == has]:
            yield f"left {reason}: {', '.join(names)}; several passes repair one after the other"


def _useless(found: Any) -> str | None:
    """Why a network cannot restore photos, or None."""
    if found.purpose == "Inpainting":
        return "needs a mask beside the photo; take one that restores"
    if found.scale != 1:
        return f"enlarges {found.scale} times; take one that keeps the size"
    if found.purpose == "FaceSR":
        return "restores single faces; take one for photos"
    if (found.input_channels, found.output_channels) != (3, 3):
        return f"turns {found.input_channels} channels into {found.output_channels}; take one for RGB"
    return None


def _share_pools(backbone: OtherNetwork, device: torch.device) -> None:
    """Put `GlobalPool` in the place of pools over the whole input that run once a call, so that tiles are given the
    means over the photo (`ScoutDenoiser`); their results are the same. Runs the network once, on a small photo."""
    pools = {
        module: (parent, name)
        for parent in backbone.network.modules()
        for name, module in parent.named_children()
        if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1))
    }
    runs: Counter[nn.Module] = Counter()

    def count(module: nn.Module, inputs: tuple[Tensor, ...], found: Tensor) -> None:
        # One that runs on windows of the input sees them as a batch.
        runs[module] += 1 if found.shape[0] == 1 and found.ndim == 4 else 2

    hooks = [module.register_forward_hook(count) for module in pools]
    photo = torch.full((1, 3, 64, 64), 0.5, device=device)
    try:
        with torch.inference_mode():
            backbone(photo, photo, torch.ones(1), Conditioning())
    finally:
        for hook in hooks:
            hook.remove()
    for module, (parent, name) in pools.items():
        if runs[module] == 1:
            setattr(parent, name, GlobalPool())
