"""Artifacts of strong JPEG compression."""

import io
import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from daclip.degradations.base import Degradation, Drawn, Span, span
from daclip.errors import DaclipError

__all__ = ["JpegCompression"]

BLOCK = 8  # side of JPEG's blocks


class JpegCompression(Degradation):
    """Through a real JPEG codec (libjpeg by way of Pillow) and back.

    kornia.enhance.jpeg_codec_differentiable is an approximation without entropy-coder rounding, and slower;
    torchvision's encoder is deprecated and does not expose the chroma subsampling.

    Args:
        quality: libjpeg's quality setting, 1 to 95.
        subsampling: Chroma subsamplings to draw from, such as `"4:4:4"`.
        grid_shift: Largest offset of the 8×8 block grid in pixels, 0 to 7, drawn for each axis: a photo that was
            cropped after compression has its grid anywhere. 0 starts it at the corner.
    """

    modes = ("4:4:4", "4:2:2", "4:2:0")

    def __init__(self, quality: Span, subsampling: Sequence[str], grid_shift: int) -> None:
        self.quality = span(quality, "quality", least=1, most=95)
        unknown = set(subsampling) - set(self.modes)
        if unknown or not subsampling:
            raise DaclipError(f"subsampling: expected some of {list(self.modes)}, got {list(subsampling)}")
        if not 0 <= grid_shift < BLOCK:
            raise DaclipError(f"grid_shift: expected 0 to {BLOCK - 1}, got {grid_shift}")
        self.subsampling = tuple(subsampling)
        self.grid_shift = grid_shift

    def draw(self, height: int, width: int, severity: float, generator: torch.Generator) -> Drawn:
        """The codec's settings (quality, index of the subsampling, grid offsets y and x), int64 `[1, 4]`."""
        # In equal ratios: from 50 to 40 hardly shows, from 18 to 8 destroys.
        low, high = (math.log(end) for end in self.quality)
        quality = round(math.exp(low + (high - low) * severity))
        choice = int(torch.randint(len(self.subsampling), (), generator=generator))
        mode = self.modes.index(self.subsampling[choice])
        offsets = torch.randint(self.grid_shift + 1, (2,), generator=generator).tolist()
        return {"settings": torch.tensor([[quality, mode, *offsets]])}

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Encode and decode each photo of `[B, 3, H, W]`; on the CPU, whatever the device."""
        pixels = (images.detach() * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        decoded = [
            _through_codec(photo, quality, self.modes[mode], top, left)
            for photo, (quality, mode, top, left) in zip(pixels, drawn["settings"].tolist(), strict=True)
        ]
        result = torch.from_numpy(np.stack(decoded)).to(images.device)
        return result.permute(0, 3, 1, 2).contiguous().float() / 255


def _through_codec(photo: np.ndarray, quality: int, subsampling: str, top: int, left: int) -> np.ndarray:
    """One uint8 photo `[H, W, 3]`, encoded and decoded as the part below `top` and right of `left`."""
    padded = np.pad(photo, ((top, 0), (left, 0), (0, 0)), mode="reflect")
    with io.BytesIO() as file:
        Image.fromarray(padded).save(file, "JPEG", quality=quality, subsampling=subsampling)
        return np.asarray(Image.open(file))[top:, left:]
