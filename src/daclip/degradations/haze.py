"""Haze, fog, smoke and dust of any density and colour, over depths like those of real scenes."""

import math

import torch
from torch import Generator, Tensor

from daclip.degradations.base import Degradation, Drawn, OneByOne
from daclip.degradations.draws import choose, log_ramp, ramp, scalar, tint, uniform
from daclip.degradations.fields import fractal, pixels, polygon, smooth_noise, smoothstep, softened
from daclip.degradations.options import Colours, Number, Range, Weights, configured
from daclip.pixels import quantise

HORIZON_SHARPNESS = 6.0  # of the sky's edge, in heights of the picture


@configured
class Haze(Degradation):
    """Atmospheric scattering, I = J·t + A·(1 - t), t = exp(-β·d): Koschmieder's law as in RESIDE (Li et al.,
    "Benchmarking Single-Image Dehazing and Beyond", 2019). Depth d is drawn, from `nearest` to 1 (a slope rising to the
    top, smooth variation). Airlight A does not follow severity; `tint` is the largest deviation of its channels."""

    beta: Range = Range()
    nearest: Number = Number()
    airlight: Range = Range(most=1)
    tint: Number = Number()

    def draw(self, height: int, width: int, severity: float, generator: Generator) -> Drawn:
        """Transmission `[1, 1, H, W]` in (0, 1] and airlight `[1, 3, 1, 1]`."""
        rows, columns = pixels(height, width)
        lean = uniform(-0.5, 0.5, generator)
        slope = lean * columns / width - rows / height
        distance = slope + 0.25 * smooth_noise(height, width, max(height, width) / 3, generator)
        distance = (distance - distance.min()) / (distance.max() - distance.min())
        distance = self.nearest + (1 - self.nearest) * distance
        transmission = torch.exp(-ramp(self.beta, severity, generator) * distance)
        airlight = uniform(*self.airlight, generator) + tint(self.tint, generator)
        return {"transmission": transmission[None, None], "airlight": airlight.clamp(0, 1)}

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Blend `[B, 3, H, W]` with the airlight by the transmission."""
        return torch.lerp(drawn["airlight"], images, drawn["transmission"]).clamp(0, 1)


@configured
class Fog(OneByOne):
    """Koschmieder's law, I = J·t + A·(1 - t), t = exp(-τ) (Narasimhan and Nayar, "Vision and the Atmosphere", 2002).
    The optical depth τ follows a drawn depth: a plane, a ground with sky, objects one behind another, smooth, or clouds
    of smoke (NH-HAZE: Ancuti et al., 2020). Far parts lose detail, as light is scattered several times. For a share
    `shaded` of the samples the airlight differs from place to place, where clouds of fog shade one another."""

    names = ("plane", "ground", "objects", "smooth", "smoke")

    thickness: Range = Range(1e-3)
    fields: Weights = Weights(names)
    nearest: Range = Range(most=1)
    guided: Number = Number(0, 1)
    airlight: Range = Range(most=1)
    tints: Colours = Colours()
    gradient: Number = Number()
    shaded: Number = Number(0, 1)
    scatter: Number = Number(0, 1)
    noise: Number = Number()

    def draw(self, height: int, width: int, severity: float, generator: Generator) -> Drawn:
        """Depth `[1, 1, H, W]` in [0, 1], how the photo's own colours move it `[1, 3, 1, 1]`, optical depth of the
        farthest point and share of the nearest, airlight `[1, 3, H, W]`, blur of the farthest, noise `[1, 3, H, W]`."""
        thickness = log_ramp(self.thickness, severity, generator)
        depth = self._depth(choose(self.fields, generator), height, width, generator)
        guide = torch.randn(1, 3, 1, 1, generator=generator)
        if uniform(0, 1, generator) >= self.guided:
            guide = torch.zeros_like(guide)
        rows, columns = pixels(height, width)
        tint = self.tints[choose(dict.fromkeys(self.tints, 1.0), generator)]
        dim, bright = self.airlight
        brightness = bright - (bright - dim) * uniform(0, 1, generator) ** 2  # mostly as bright as the sky
        colour = brightness * torch.lerp(torch.ones(()), tint, uniform(0, 1, generator))
        angle = uniform(0, 2 * math.pi, generator)
        slope = uniform(0, self.gradient, generator)
        light = 1 + slope * (math.sin(angle) * rows / height + math.cos(angle) * columns / width)
        if uniform(0, 1, generator) < self.shaded:
            clouds = self._depth("smoke", height, width, generator)
            light = light * torch.lerp(torch.ones(()), clouds, uniform(0.3, 1, generator))
        sigma = max(uniform(-self.noise, self.noise, generator), 0.0) / 255  # half of the photos have none
        return {
            "depth": depth[None, None],
            "guide": guide,
            "thickness": scalar(thickness),
            "nearest": scalar(uniform(*self.nearest, generator)),
            "airlight": (colour * light).clamp(0, 1),
            "scatter": scalar(uniform(0, self.scatter, generator)),
            "noise": sigma * torch.randn(1, 3, height, width, generator=generator),
        }

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Veil `[B, 3, H, W]`, add the noise and round to 8 bit."""
        soft = softened(images, 2)
        # Objects differ in colour and in depth: where the depth follows colours, the veil ends at true edges.
        pushed = torch.sigmoid(8 * (drawn["guide"] * (soft - 0.5)).sum(dim=1, keepdim=True))
        share = 0.5 * (drawn["guide"].abs().sum(dim=1, keepdim=True) > 0)
        depth = torch.lerp(drawn["depth"], pushed, share)
        transmission = torch.exp(-drawn["thickness"] * torch.lerp(depth, torch.ones_like(depth), drawn["nearest"]))
        scene = torch.lerp(images, soft, drawn["scatter"] * (1 - transmission))
        return quantise(torch.lerp(drawn["airlight"], scene, transmission) + drawn["noise"])

    def _depth(self, kind: str, height: int, width: int, generator: Generator) -> Tensor:
        """A field `[H, W]` from 0 to 1."""
        rows, columns = pixels(height, width)
        side = max(height, width)
        smooth = smooth_noise(height, width, side / uniform(1, 4, generator), generator)
        if kind == "plane":
            angle = uniform(0, 2 * math.pi, generator)
            field = math.sin(angle) * rows / height + math.cos(angle) * columns / width + 0.1 * smooth
        elif kind == "ground":
            # A ground plane's distance grows like 1/(rows below the horizon); above it is sky, as far as can be.
            horizon = uniform(-0.9, 0.3, generator) + uniform(-0.5, 0.5, generator) * columns / width + 0.05 * smooth
            below = (rows / height - horizon).clamp(min=0)
            field = torch.exp(-uniform(0.5, 1, generator) * HORIZON_SHARPNESS * below)
        elif kind == "objects":
            field = 0.5 * (1 - rows / height) + 0.2 * smooth
            for nearer in torch.rand(6, generator=generator).sort(descending=True).values.tolist():
                shape = polygon(height, width, generator)
                shift = uniform(0, 0.25, generator) * min(height, width)
                edge = uniform(0.5, 3, generator)
                field = torch.lerp(field, torch.full_like(field, nearer), torch.sigmoid((shift - shape) / edge))
        elif kind == "smooth":
            field = smooth
        else:
            cell, roughness = side / uniform(1, 4, generator), uniform(0.35, 0.6, generator)
            field = smoothstep(0.4 + 0.35 * fractal(height, width, cell, roughness, generator))
        return (field - field.min()) / (field.max() - field.min()).clamp(min=1e-6)
