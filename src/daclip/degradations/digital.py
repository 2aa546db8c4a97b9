"""Losses of digital processing: JPEG compression and changes of size."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from daclip.degradations.base import Degradation, Drawn, Span, choose, logarithms, ramp, span, weights_of
from daclip.errors import DaclipError

BLOCK = 8  # side of JPEG's blocks


class JpegCompression(Degradation):
    """Through a real JPEG codec (libjpeg by Pillow); kornia's is approximate, torchvision's hides the chroma
    subsampling. `quality` is libjpeg's, 1 to 100; `subsampling` lists those to draw from, such as `"4:4:4"`;
    `grid_shift`, 0 to 7, is the largest offset of the 8×8 block grid in pixels, as after cropping."""

    modes = ("4:4:4", "4:2:2", "4:2:0")

    def __init__(self, quality: Span, subsampling: Sequence[str], grid_shift: int) -> None:
        self.quality = span(quality, "quality", least=1, most=100)
        unknown = set(subsampling) - set(self.modes)
        if unknown or not subsampling:
            raise DaclipError(f"subsampling: expected some of {list(self.modes)}, got {list(subsampling)}")
        if not 0 <= grid_shift < BLOCK:
            raise DaclipError(f"grid_shift: expected 0 to {BLOCK - 1}, got {grid_shift}")
        self.subsampling = tuple(subsampling)
        self.grid_shift = grid_shift

    def draw(self, height: int, width: int, severity: float, generator: torch.Generator) -> Drawn:
        """The codec's settings (quality, index of the subsampling, grid offsets y and x), int64 `[1, 4]`."""
        low, high = logarithms(self.quality)  # in equal ratios: from 50 to 40 hardly shows, from 18 to 8 destroys
        quality = round(math.exp(low + (high - low) * severity))
        choice = int(torch.randint(len(self.subsampling), (), generator=generator))
        mode = self.modes.index(self.subsampling[choice])
        offsets = torch.randint(self.grid_shift + 1, (2,), generator=generator).tolist()
        return {"settings": torch.tensor([[quality, mode, *offsets]])}

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Encode and decode each photo of `[B, 3, H, W]`; on the CPU, whatever the device."""
        done = [
            coded(photo, offsets, "JPEG", quality=quality, subsampling=self.modes[mode])
            for photo, (quality, mode, *offsets) in zip(pictures(images), drawn["settings"].tolist(), strict=True)
        ]
        return tensors(done, images)


def pictures(images: Tensor) -> list[Image.Image]:
    """Photos `[B, 3, H, W]` in [0, 1] at 8 bit."""
    pixels = (images.detach() * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(photo) for photo in pixels]


def tensors(photos: Sequence[Image.Image], images: Tensor) -> Tensor:
    """The way back, float32 `[B, 3, H, W]` on the device of `images`."""
    result = torch.from_numpy(np.stack([np.asarray(photo) for photo in photos])).to(images.device)
    return result.permute(0, 3, 1, 2).contiguous().float() / 255


def coded(photo: Image.Image, offsets: Sequence[int], encoder: str, **options: Any) -> Image.Image:
    """A photo encoded and decoded by Pillow, the codec's blocks beginning `offsets` (y and x) before its corner."""
    top, left = offsets
    padded = np.pad(np.asarray(photo), ((top, 0), (left, 0), (0, 0)), mode="reflect")
    with io.BytesIO() as file:
        Image.fromarray(padded).save(file, encoder, **options)
        decoded = Image.open(file).convert("RGB")
    return decoded.crop((left, top, *decoded.size))


SMALLEST_RESULT = 16  # pixels a side: what later parts of a pipeline can still work on


class Resize:
    """A change of size, as a step of a pipeline that undoes it in the end; hence no `Degradation`. No antialiasing, as
    in "Real-ESRGAN" (Wang et al. 2021, section 3). `directions` are frequencies of `down` and `up`, the factors of both
    sides; `modes` to draw from: `area`, `bilinear`, `bicubic`."""

    known = ("area", "bilinear", "bicubic")

    def __init__(self, directions: Mapping[str, float], down: Span, up: Span, modes: Sequence[str]) -> None:
        self.directions = weights_of(("down", "up"), directions)
        self.ranges = {"down": span(down, "down", least=0.05, most=1), "up": span(up, "up", least=1, most=4)}
        unknown = set(modes) - set(self.known)
        if unknown or not modes:
            raise DaclipError(f"modes: expected some of {list(self.known)}, got {list(modes)}")
        self.modes = tuple(modes)

    def draw(self, height: int, width: int, severity: float, generator: torch.Generator) -> Drawn:
        """Weights of the resampling along rows `[1, H', H]` and along columns `[1, W', W]`."""
        direction = choose(self.directions, generator)
        factor = math.exp(ramp(logarithms(self.ranges[direction]), severity, generator))
        rows, columns = (max(round(side * factor), SMALLEST_RESULT) for side in (height, width))
        return self.draw_to((height, width), (rows, columns), generator)

    def draw_to(self, size: tuple[int, int], target: tuple[int, int], generator: torch.Generator) -> Drawn:
        """The same towards a given height and width, with only the interpolation drawn."""
        mode = self.modes[int(torch.randint(len(self.modes), (), generator=generator))]
        rows, columns = (resampling(*sides, mode)[None] for sides in zip(size, target, strict=True))
        return {"rows": rows, "columns": columns}

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Resample `[B, 3, H, W]` to `[B, 3, H', W']`."""
        # As two products of matrices, samples of one size may differ in their interpolation.
        rows, columns = drawn["rows"][:, None], drawn["columns"][:, None]
        return (rows @ images @ columns.mT).clamp(0, 1)  # a bicubic kernel overshoots at edges


def resampling(before: int, after: int, mode: str) -> Tensor:
    """Weights `[after, before]` of an interpolation (a mode of `torch.nn.functional.interpolate`) along one axis."""
    corners = {} if mode == "area" else {"align_corners": False}
    identity = torch.eye(before)[None, None]
    return F.interpolate(identity, (after, before), mode=mode, **corners)[0, 0]
