"""Compression by many encoders: JPEG with standard and other tables, once or twice, at several sizes, and WebP."""

import math
from collections.abc import Mapping, Sequence

import torch
from PIL import Image
from torch import Tensor

from daclip.degradations.base import Degradation, Drawn, Span, choose, logarithms, ramp, span, uniform, weights_of
from daclip.degradations.digital import JpegCompression, coded, pictures, tensors

MODES = JpegCompression.modes
JPEG, WEBP = 1, 2  # codes of the encoders in a draw; 0 is none
LUMA_STEP, CHROMA_STEP = 20.0, 35.0  # means of the standard's tables (ITU-T T.81, annex K), as `quantisation` weighs
FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS, Image.Resampling.BOX)
UNCHANGED = 1000  # thousandths of the size


class AnyCodec(Degradation):
    """Real encoders (libjpeg, libwebp by Pillow) at a `quality` falling with severity in equal ratios. `kinds` weigh:
    `once`; `twice`, with another block grid (saved, cropped, saved); `shrunk`, saved at another size and scaled back;
    `posted`, the same and saved again; `scaled`, scaled there and back and then saved; `webp`. `tables` weigh JPEG's
    quantisation: the `standard`, `flat`, `steep` and `mild` ones (image editors and mozjpeg raise the steps with the
    frequency faster or slower) of the same mean step. `scale` is the factor of the size."""

    names = ("once", "twice", "shrunk", "posted", "scaled", "webp")
    slopes: Mapping[str, tuple[float, float]] = {"flat": (0.0, 0.05), "mild": (0.1, 0.3), "steep": (0.6, 1.5)}

    def __init__(
        self,
        kinds: Mapping[str, float],
        quality: Span,
        webp_quality: Span,
        tables: Mapping[str, float],
        subsampling: Mapping[str, float],
        scale: Span,
    ) -> None:
        self.kinds = weights_of(self.names, kinds)
        self.quality = span(quality, "quality", least=1, most=95)
        self.webp_quality = span(webp_quality, "webp_quality", least=1, most=95)
        self.tables = weights_of(("standard", *self.slopes), tables)
        self.subsampling = weights_of(MODES, subsampling)
        self.scale = span(scale, "scale", least=0.5, most=2)

    def draw(self, height: int, width: int, severity: float, generator: torch.Generator) -> Drawn:
        """Size in thousandths and filter, int64 `[1, 2]`; for both rounds encoder, quality, subsampling, grid offsets y
        and x, int64 `[1, 2, 5]`, and tables of luma and chroma `[1, 2, 2, 64]`, 0 for the standard's."""
        kind = choose(self.kinds, generator)
        size = UNCHANGED
        if kind in ("shrunk", "posted", "scaled"):
            size = round(UNCHANGED * math.exp(uniform(*logarithms(self.scale), generator)))
        quality = math.exp(ramp(logarithms(self.webp_quality if kind == "webp" else self.quality), severity, generator))
        # Of two rounds the weaker is anywhere above.
        weaker = math.exp(uniform(math.log(quality), math.log(95), generator))
        first, second = (quality, weaker) if uniform(0, 1, generator) < 0.5 else (weaker, quality)
        qualities = {"twice": (first, second), "posted": (first, second), "scaled": (0.0, quality)}
        rounds, tables = zip(
            *(
                self._round(WEBP if kind == "webp" else JPEG, value, generator)
                for value in qualities.get(kind, (quality, 0.0))
            ),
            strict=True,
        )
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

    def _round(self, codec: int, quality: float, generator: torch.Generator) -> tuple[list[int], Tensor]:
        """Settings of one round and its tables `[2, 64]`; without a quality, none."""
        mode = MODES.index(choose(self.subsampling, generator))
        offsets = torch.randint(8, (2,), generator=generator).tolist()
        table = choose(self.tables, generator)
        steps = torch.zeros(2, 64, dtype=torch.long)
        if table != "standard" and codec == JPEG:
            steps = quantisation(max(quality, 1), uniform(*self.slopes[table], generator))
        return [codec if quality else 0, round(quality), mode, *offsets], steps


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
