"""Photos with nothing wrong, and the faint traces that every photo carries."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from daclip.degradations.base import Degradation, Drawn, OneByOne
from daclip.degradations.compose import named, steps
from daclip.degradations.draws import logarithms, scalar, uniform
from daclip.degradations.fields import softened
from daclip.degradations.options import Span, fraction, span
from daclip.errors import DaclipError
from daclip.pixels import quantise

MODES = ("bilinear", "bicubic")


class Clean(Degradation):
    """Nothing: the class of photos that need no restoration."""

    def draw(self, height: int, width: int, severity: float, generator: Generator) -> Drawn:
        """Nothing to draw."""
        return {}

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """A copy."""
        return images.clone()


class Traces(OneByOne):
    """What a good photo goes through without harm, in this order and each with its own chance: `resample` to a `scale`
    and back, a change of `tone` (relative, of gamma and contrast), `sharpen` by a share of the detail (or soften by
    half of it), camera `noise` (largest standard deviation in 8-bit units), the `jpeg` codec. The result has 8 bit; no
    pixel moves. Severity bounds the strength of each."""

    kinds = ("resample", "tone", "sharpen", "noise", "jpeg")

    def __init__(
        self, chances: Mapping[str, float], scale: Span, tone: float, sharpen: float, noise: float, jpeg: Degradation
    ) -> None:
        if set(chances) != set(self.kinds):
            raise DaclipError(f"chances: expected one for each of {list(self.kinds)}, got {list(chances)}")
        self.chances = {kind: fraction(chances[kind], f"chances.{kind}") for kind in self.kinds}
        self.scale = span(scale, "scale", least=0.5, most=2)
        self.tone = fraction(tone, "tone")
        self.sharpen = fraction(sharpen, "sharpen")
        self.noise = float(noise)
        self.jpeg = jpeg

    def draw(self, height: int, width: int, severity: float, generator: Generator) -> Drawn:
        """Of those that take place: resampled size and mode, int64 `[1, 3]`; gamma and contrast; share of the detail;
        noise `[1, 3, H, W]`; and the codec's draw under `jpeg/`."""
        taken = {kind for kind, chance in self.chances.items() if uniform(0, 1, generator) < chance}
        drawn: Drawn = {}
        if "resample" in taken:
            factor = math.exp(severity * uniform(*logarithms(self.scale), generator))
            mode = int(torch.randint(len(MODES), (), generator=generator))
            drawn["resample/size"] = torch.tensor([[round(factor * height), round(factor * width), mode]])
        if "tone" in taken:
            gamma, contrast = (math.exp(severity * self.tone * uniform(-1, 1, generator)) for _ in range(2))
            drawn["tone/gamma"], drawn["tone/contrast"] = scalar(gamma), scalar(contrast)
        if "sharpen" in taken:
            drawn["sharpen/share"] = scalar(severity * self.sharpen * uniform(-0.5, 1, generator))
        if "noise" in taken:
            sigma = severity * self.noise * uniform(0, 1, generator) / 255
            drawn["noise/values"] = sigma * torch.randn(1, 3, height, width, generator=generator)
        if "jpeg" in taken:
            drawn.update(named("jpeg", self.jpeg.draw(height, width, severity, generator)))
        return drawn

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Leave the traces on `[B, 3, H, W]`."""
        parts = dict(steps(drawn))
        if "resample" in parts:
            height, width, mode = parts["resample"]["size"][0].tolist()
            for size in ((height, width), images.shape[-2:]):
                images = F.interpolate(images, size, mode=MODES[mode], antialias=True)
        if "tone" in parts:
            gamma, contrast = parts["tone"]["gamma"], parts["tone"]["contrast"]
            images = 0.5 + contrast * (images.clamp(0, 1).pow(gamma) - 0.5)
        if "sharpen" in parts:
            images = images + parts["sharpen"]["share"] * (images - softened(images, 1))
        if "noise" in parts:
            images = images + parts["noise"]["values"]
        if "jpeg" in parts:
            images = self.jpeg.apply(images.clamp(0, 1), parts["jpeg"])
        return quantise(images)
