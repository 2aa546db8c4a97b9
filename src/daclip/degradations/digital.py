"""Losses of digital processing: compression by many encoders, and changes of size."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor

from daclip.degradations.base import Degradation, Drawn
from daclip.degradations.draws import choose, log_ramp, log_uniform, logarithms, uniform
from daclip.degradations.options import Range, Span, Weights, configured, span, weights_of
from daclip.errors import DaclipError

MODES = ("4:4:4", "4:2:2", "4:2:0")  # of JPEG's chroma
BLOCK = 8  # side of JPEG's blocks
JPEG, WEBP = 1, 2  # codes of the encoders in a draw; 0 is none
LUMA_STEP, CHROMA_STEP = 20.0, 35.0  # means of the standard's tables (ITU-T T.81, annex K), as `quantisation` weighs
SLOPES = {"flat": (0.0, 0.05), "mild": (0.1, 0.3), "steep": (0.6, 1.5)}  # of other tables, see `quantisation`
FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS, Image.Resampling.BOX)
UNCHANGED = 1000  # thousandths of the size
SMALLEST_RESULT = 16  # pixels a side: what later parts of a pipeline can still work on


class JpegCompression(Degradation):
    """Through a real JPEG codec (libjpeg by Pillow); kornia's is approximate, torchvision's hides the chroma
    subsampling. `quality` is libjpeg's, 1 to 100; `subsampling` lists those to draw from, such as `"4:4:4"`;
    `grid_shift`, 0 to 7, is the largest offset of the 8×8 block grid in pixels, as after cropping."""

    def __init__(self, quality: Span, subsampling: Sequence[str], grid_shift: int) -> None:
        self.quality = span(quality, "quality", least=1, most=100)
        self.subsampling = some_of(MODES, subsampling, "subsampling")
        if not 0 <= grid_shift < BLOCK:
            raise DaclipError(f"grid_shift: expected 0 to {BLOCK - 1}, got {grid_shift}")
        self.grid_shift = grid_shift

    def draw(self, height: int, width: int, severity: float, generator: Generator) -> Drawn:
        """The codec's settings (quality, index of the subsampling, grid offsets y and x), int64 `[1, 4]`."""
        low, high = logarithms(self.quality)  # in equal ratios: from 50 to 40 hardly shows, from 18 to 8 destroys
        quality = round(math.exp(low + (high - low) * severity))
        choice = int(torch.randint(len(self.subsampling), (), generator=generator))
        mode = MODES.index(self.subsampling[choice])
        offsets = torch.randint(self.grid_shift + 1, (2,), generator=generator).tolist()
        return {"settings": torch.tensor([[quality, mode, *offsets]])}

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Encode and decode each photo of `[B, 3, H, W]`; on the CPU, whatever the device."""
        done = [
            coded(photo, offsets, "JPEG", quality=quality, subsampling=MODES[mode])
            for photo, (quality, mode, *offsets) in zip(pictures(images), drawn["settings"].tolist(), strict=True)
        ]
        return tensors(done, images)


@configured
class AnyCodec(Degradation):
    """Real encoders (libjpeg, libwebp by Pillow) at a `quality` falling with severity in equal ratios. `kinds` weigh:
    `once`; `twice`, with another block grid (saved, cropped, saved); `shrunk`, saved at another size and scaled back;
    `posted`, the same and saved again; `scaled`, scaled there and back and then saved; `webp`. `tables` weigh JPEG's
    quantisation: the `standard`, `flat`, `steep` and `mild` ones (image editors and mozjpeg raise the steps with the
    frequency faster or slower) of the same mean step. `scale` is the factor of the size."""

    names = ("once", "twice", "shrunk", "posted", "scaled", "webp")

    kinds: Weights = Weights(names)
    quality: Range = Range(1, 95)
    webp_quality: Range = Range(1, 95)
    tables: Weights = Weights(("standard", *SLOPES))
    subsampling: Weights = Weights(MODES)
    scale: Range = Range(0.5, 2)

    def draw(self, height: int, width: int, severity: float, generator: Generator) -> Drawn:
        """Size in thousandths and filter, int64 `[1, 2]`; for both rounds encoder, quality, subsampling, grid offsets y
        and x, int64 `[1, 2, 5]`, and tables of luma and chroma `[1, 2, 2, 64]`, 0 for the standard's."""
        kind = choose(self.kinds, generator)
        size = UNCHANGED
        if kind in ("shrunk", "posted", "scaled"):
            size = round(UNCHANGED * log_uniform(self.scale, generator))
        quality = log_ramp(self.webp_quality if kind == "webp" else self.quality, severity, generator)
        weaker = log_uniform((quality, 95), generator)  # of two rounds
        first, second = (quality, weaker) if uniform(0, 1, generator) < 0.5 else (weaker, quality)
        qualities = {"twice": (first, second), "posted": (first, second), "scaled": (0.0, quality)}
        codec = WEBP if kind == "webp" else JPEG
        drawn = [self._round(codec, value, generator) for value in qualities.get(kind, (quality, 0.0))]
        rounds, tables = zip(*drawn, strict=True)
        chosen = int(torch.randint(len(FILTERS), (), generator=generator))
        return {
            "scaling": torch.tensor([[size, chosen]]),
            "rounds": torch.tensor([rounds]),
            "tables": torch.stack(tables)[None],
        }

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Scale, encode, decode and scale back each photo of `[B, 3, H, W]`; on the CPU, whatever the device."""
        scaling, rounds, tables = drawn["scaling"].tolist(), drawn["rounds"].tolist(), drawn["tables"].tolist()
        done = []
        for photo, (size, chosen), (first, second), (early, late) in zip(
            pictures(images), scaling, rounds, tables, strict=True
        ):
            full, small = photo.size, tuple(max(round(side * size / UNCHANGED), 16) for side in photo.size)
            if size != UNCHANGED:
                photo = photo.resize(small, FILTERS[chosen])
            photo = _coded(photo, first, early)
            if size != UNCHANGED:
                photo = photo.resize(full, FILTERS[chosen])
            done.append(_coded(photo, second, late))
        return tensors(done, images)

    def _round(self, codec: int, quality: float, generator: Generator) -> tuple[list[int], Tensor]:
        """Settings of one round and its tables `[2, 64]`; without a quality, none."""
        mode = MODES.index(choose(self.subsampling, generator))
        offsets = torch.randint(8, (2,), generator=generator).tolist()
        table = choose(self.tables, generator)
        steps = torch.zeros(2, 64, dtype=torch.long)
        if table != "standard" and codec == JPEG:
            steps = quantisation(max(quality, 1), uniform(*SLOPES[table], generator))
        return [codec if quality else 0, round(quality), mode, *offsets], steps


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


def quantisation(quality: float, slope: float) -> Tensor:
    """Tables of luma and chroma, int64 `[2, 64]`: steps rising along the frequency |(u, v)| by `slope`, of the mean
    (geometric, mostly of low frequencies) step that libjpeg's `quality` gives the standard's tables."""
    scale = 50 / quality if quality < 50 else 2 - quality / 50
    place = torch.arange(8, dtype=torch.float32)
    squared = (place[:, None] ** 2 + place[None] ** 2).flatten()
    shape, weights = (1 + slope * squared.sqrt()).log(), 1 / (1 + squared)
    level = torch.tensor([LUMA_STEP, CHROMA_STEP]).log() + math.log(scale)
    return (level[:, None] + shape - weights @ shape / weights.sum()).exp().round().clamp(1, 255).long()


def resaved(images: Tensor, qualities: Tensor) -> Tensor:
    """Photos `[B, 3, H, W]` at 8 bit, through JPEG (4:2:0) at a quality a sample, int64 `[B, 1]`; 0 leaves it out."""
    photos = [
        _coded(photo, (JPEG if quality else 0, quality, MODES.index("4:2:0"), 0, 0), ((0,), (0,)))
        for photo, (quality,) in zip(pictures(images), qualities.tolist(), strict=True)
    ]
    return tensors(photos, images)


def _coded(photo: Image.Image, settings: Sequence[int], tables: Sequence[Sequence[int]]) -> Image.Image:
    """One photo encoded and decoded, with its block grid offset."""
    codec, quality, mode, *offsets = settings
    if codec == WEBP:
        return coded(photo, offsets, "WEBP", quality=quality, method=0)
    if codec == JPEG:
        strength = {"qtables": tables} if any(tables[0]) else {"quality": quality}
        return coded(photo, offsets, "JPEG", subsampling=MODES[mode], **strength)
    return photo


def some_of(known: Sequence[str], names: Sequence[str], option: str) -> tuple[str, ...]:
    """Configured names, at least one and all of them known."""
    if not names or not set(names) <= set(known):
        raise DaclipError(f"{option}: expected some of {list(known)}, got {list(names)}")
    return tuple(names)


class Resize:
    """A change of size, as a step of a pipeline that undoes it in the end; hence no `Degradation`. No antialiasing, as
    in "Real-ESRGAN" (Wang et al. 2021, section 3). `directions` are frequencies of `down` and `up`, the factors of both
    sides; `modes` to draw from: `area`, `bilinear`, `bicubic`."""

    known = ("area", "bilinear", "bicubic")

    def __init__(self, directions: Mapping[str, float], down: Span, up: Span, modes: Sequence[str]) -> None:
        self.directions = weights_of(("down", "up"), directions)
        self.ranges = {"down": span(down, "down", least=0.05, most=1), "up": span(up, "up", least=1, most=4)}
        self.modes = some_of(self.known, modes, "modes")

    def draw(self, height: int, width: int, severity: float, generator: Generator) -> Drawn:
        """Weights of the resampling along rows `[1, H', H]` and along columns `[1, W', W]`."""
        direction = choose(self.directions, generator)
        factor = log_ramp(self.ranges[direction], severity, generator)
        rows, columns = (max(round(side * factor), SMALLEST_RESULT) for side in (height, width))
        return self.draw_to((height, width), (rows, columns), generator)

    def draw_to(self, size: tuple[int, int], target: tuple[int, int], generator: Generator) -> Drawn:
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
