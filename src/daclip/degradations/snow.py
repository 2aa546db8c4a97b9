"""Snow of all depths: round and irregular flakes, streaks of a blizzard, discs out of focus, in a veil."""

import math

import torch
from torch import Generator, Tensor

from daclip.degradations.base import Degradation, Drawn
from daclip.degradations.draws import log_ramp, log_uniform, logarithms, ramp, scalar, tint, uniform
from daclip.degradations.fields import patches, smooth_noise, smoothstep, stamp, streak, strewn, torus
from daclip.degradations.options import Ends, Number, Range, Ranges, configured

FAR_KERNELS = 3  # sizes and directions of the farthest flakes
BREADTH, ASPECT = (1.2, 4.0), (2.5, 6.0)  # px, of driven flakes, and how many times as long they are
DENSE, BRIGHT = 0.2, 0.7  # least share of the picture under them, and least chance of glare
GLARE = (0.1, 0.6)  # share of an overexposed, colourless copy of the scene,
EXPOSURE = (0.8, 1.8)  # its contrast
LIFT = (0.2, 0.6)  # and what it adds


@configured
class Snow(Degradation):
    """Soft bright flakes of an `opacity` in [0, 1], drawn out up to `stretch` times, under a white `veil` in [0, 1]
    (Liu et al., "DesnowNet", 2018, Snow100K). `radii` in pixels, one `[smallest, largest]` a layer, far to near."""

    coverage: Range = Range(most=0.9)
    radii: Ranges = Ranges(0.5)
    opacity: Range = Range(most=1)
    veil: Range = Range(most=1)
    stretch: Number = Number()

    def draw(self, height: int, width: int, severity: float, generator: Generator) -> Drawn:
        """Opacity of the flakes `[1, 1, H, W]` and the veil `[1, 1, 1, 1]`."""
        coverage = ramp(self.coverage, severity, generator) / len(self.radii)
        opacity = ramp(self.opacity, severity, generator)
        veil = ramp(self.veil, severity, generator)
        wind = uniform(-math.pi / 4, math.pi / 4, generator)
        stretch = uniform(1, self.stretch, generator)
        flakes = torch.zeros(height, width)
        for small, large in self.radii:
            mean_area = math.pi * stretch * ((small + large) / 2) ** 2
            count = max(round(coverage * height * width / mean_area), 1)
            numbers = torch.rand(count, 6, generator=generator).T  # the first flakes do not depend on the count
            centres = numbers[:2].T * torch.tensor([height, width])
            radius = (small + (large - small) * numbers[2])[:, None, None]
            places, down, right = patches(centres, math.ceil(1.5 * large * stretch))
            # Every flake has its own direction near the wind's, so that they do not line up like rain.
            angle = (wind + 0.8 * (numbers[3] - 0.5))[:, None, None]
            along = down * angle.cos() + right * angle.sin()
            across = right * angle.cos() - down * angle.sin()
            squash = 0.7 + 0.3 * numbers[4][:, None, None]
            distance = ((along / stretch) ** 2 + (across / squash) ** 2).sqrt() / radius
            brightness = 0.6 + 0.4 * numbers[5][:, None, None]
            layer = stamp(brightness * smoothstep((1.4 - distance) / 0.9), places, height, width)
            flakes = torch.maximum(flakes, layer)
        return {"flakes": (opacity * flakes)[None, None], "veil": scalar(veil)}

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Veil `[B, 3, H, W]`, then cover it with white flakes."""
        white = torch.ones_like(drawn["veil"])
        veiled = torch.lerp(images, 0.9 * white, drawn["veil"])
        return torch.lerp(veiled, white, drawn["flakes"]).clamp(0, 1)


@configured
class Snowfall(Degradation):
    """Translucent flakes Z of light L before a veiled scene J, I = J·(1 - Z) + L·Z (Liu et al., "DesnowNet", 2018,
    Snow100K), the veil as in Chen et al., "ALL Snow Removed", 2021 (CSD). A flake that moves or is out of focus spreads
    its light over more pixels. Severity moves `coverage`, `opacity` and `veil`, all in [0, 1]. `radii` in pixels, one
    `[smallest, largest]` a layer, far to near, are all scaled by a factor within `zoom`; the flakes of the first layer
    are too small to have a shape. `motion` is the longest path during the exposure in pixels, `wind` the largest angle
    from the vertical in degrees. `light` in [0, 1] is the brightness of the flakes; its channels deviate by up to
    `tint`, and it takes on up to `ambience` of the scene's own colour. A share `glare` of the samples lies in the light
    that snow throws back: what is bright becomes white, more so at high severity. A share `driven` shows a storm near
    the camera instead: short, broad streaks of one direction, dense and bright, mostly in such light."""

    coverage: Range = Range(0.001, 0.9)
    opacity: Range = Range(most=1)
    veil: Range = Range(most=1)
    radii: Ranges = Ranges(0.3)
    zoom: Range = Range(0.1)
    motion: Number = Number()
    wind: Number = Number()
    light: Range = Range(most=1)
    tint: Number = Number()
    ambience: Number = Number(0, 1)
    glare: Number = Number(0, 1)
    driven: Number = Number(0, 1, default=0.0)

    def draw(self, height: int, width: int, severity: float, generator: Generator) -> Drawn:
        """Opacity of the flakes and of the veil, both `[1, 1, H, W]`, their light `[1, 3, 1, 1]`, the veil's share of
        it, the share of the scene's own colour; the glare's share, and how it brightens; how far the flakes' light is
        added and does not cover."""
        coverage = log_ramp(self.coverage, severity, generator)
        opacity = ramp(self.opacity, severity, generator)
        veil = ramp(self.veil, severity, generator) * uniform(0, 1, generator) ** 2
        storm = uniform(0, 1, generator) < self.driven
        flakes = opacity * (self._driven if storm else self._flakes)(coverage, height, width, generator)
        banks = torch.sigmoid(smooth_noise(height, width, max(height, width) / 2, generator))
        deviation = tint(self.tint, generator)
        shines = uniform(0, 1, generator) < (max(self.glare, BRIGHT) if storm else self.glare)
        glare = ramp(GLARE, severity, generator) * uniform(0.5, 1, generator) if shines else 0.0
        return {
            "glare": scalar(glare),
            "exposure": scalar(uniform(*EXPOSURE, generator)),
            "lift": scalar(uniform(*LIFT, generator)),
            "added": scalar(uniform(0, 1, generator) if storm else 0.0),
            "flakes": flakes[None, None],
            "veil": (veil * (0.5 + banks))[None, None].clamp(max=1),
            "light": (uniform(*self.light, generator) + deviation).clamp(0, 1),
            "grey": scalar(uniform(0.75, 1, generator)),
            "ambience": scalar(uniform(0, self.ambience, generator)),
        }

    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Light up `[B, 3, H, W]`, veil it, then cover it with flakes."""
        white = drawn["exposure"] * images.mean(dim=1, keepdim=True) + drawn["lift"]
        images = torch.lerp(images, torch.maximum(images, white.clamp(max=1)), drawn["glare"])
        scene = images.mean(dim=(2, 3), keepdim=True).clamp(min=0.01)
        colour = torch.lerp(torch.ones_like(scene), scene / scene.amax(dim=1, keepdim=True), drawn["ambience"])
        light = drawn["light"] * colour
        veiled = torch.lerp(images, drawn["grey"] * light, drawn["veil"])
        flakes = drawn["flakes"]
        return (veiled * (1 - (1 - drawn["added"]) * flakes) + light * flakes).clamp(0, 1)

    def _driven(self, coverage: float, height: int, width: int, generator: Generator) -> Tensor:
        """Streaks of driven snow `[H, W]` in [0, 1]."""
        wind = math.radians(self.wind)
        wind = uniform(-wind, wind, generator)
        breadth = math.exp(uniform(*logarithms(self.zoom), generator) + uniform(*logarithms(BREADTH), generator))
        aspect = uniform(*ASPECT, generator)
        numbers = torch.rand(4, FAR_KERNELS, 1, 1, generator=generator)
        breadths = breadth * (0.7 + 0.6 * numbers[0])
        lengths = (breadths * aspect * (0.8 + 0.4 * numbers[1])).clamp(max=min(height, width) / 2)
        angle = wind + 0.1 * (2 * numbers[2] - 1)
        kernels = streak(torus(height, width), lengths, breadths, angle, uniform(0.3, 0.9, generator))
        share = numbers[3] + 0.2
        cover = max(coverage, DENSE) * share / share.sum()
        return strewn(kernels, cover, torch.full_like(share, uniform(0.6, 1, generator)), generator)[:height, :width]

    def _flakes(self, coverage: float, height: int, width: int, generator: Generator) -> Tensor:
        """All layers `[H, W]` in [0, 1]."""
        zoom = log_uniform(self.zoom, generator)
        wind = math.radians(self.wind)
        wind = uniform(-wind, wind, generator)
        motion = self.motion * uniform(0, 1, generator)
        flutter = uniform(0.1, 0.8, generator)
        share = torch.rand(len(self.radii), generator=generator) ** 2 + 0.05
        share = share / torch.arange(1, len(share) + 1)  # near flakes are few
        cover = (coverage * share / share.sum()).tolist()
        numbers = torch.rand(3, FAR_KERNELS, 1, 1, generator=generator)
        small, large = self.radii[0]
        breadth = 2 * zoom * (small + (large - small) * numbers[0])
        length = breadth + 0.7 * motion * numbers[1]
        kernels = streak(torus(height, width), length, breadth, wind + flutter * (numbers[2] - 0.5), 0.5)
        light = 0.8 * (breadth / length).sqrt()
        snow = strewn(kernels, torch.full_like(light, cover[0] / FAR_KERNELS), light, generator)[:height, :width]
        for near, ((small, large), part) in enumerate(zip(self.radii[1:], cover[1:], strict=True), start=1):
            path = motion * (0.4 + 0.6 * near / len(self.radii))
            radii = (zoom * small, zoom * large)
            layer = _single(radii, path, wind, flutter, part, height, width, generator)
            snow = 1 - (1 - snow) * (1 - layer)
        return snow


def _single(
    radii: Ends, path: float, wind: float, flutter: float, share: float, height: int, width: int, generator: Generator
) -> Tensor:
    """Flakes that each have a size, a shape and a path of their own, `[H, W]` in [0, 1]."""
    small, large = radii
    soft = math.exp(uniform(math.log(0.15), math.log(1.2), generator))  # width of the edge, in radii
    ragged = uniform(0, 0.35, generator)
    middle = math.sqrt(small * large)
    area = math.pi * middle**2 + 1.4 * middle * path
    count = max(round(-math.log(1 - share) * height * width / area), 1)
    numbers = torch.rand(count, 8, generator=generator).T  # the first flakes do not depend on the count
    centres = numbers[:2].T * torch.tensor([height, width])
    numbers = numbers[2:, :, None, None]
    radius = small * (large / small) ** numbers[0]
    length = path * (0.4 + 0.6 * numbers[1])
    places, down, right = patches(centres, math.ceil(large * (1 + ragged + soft / 2) + path / 2 + 0.5))
    angle = wind + flutter * (2 * numbers[2] - 1)
    along = down * angle.cos() + right * angle.sin()
    across = right * angle.cos() - down * angle.sin()
    # A disc swept along its path: the distance to a line of that length.
    crosswise = across.square()
    distance = ((along.abs() - length / 2).clamp_(min=0).square_() + crosswise).sqrt_()
    # Two and three lobes make the outline irregular; cos 2φ and sin 3φ by their polynomials.
    sine = across * (along.square_() + crosswise + 0.01).rsqrt_()
    square = sine.square()
    edge = 1 + soft * radius
    two, three = (ragged * radius / edge * (numbers[row] - 0.5) for row in (3, 4))
    lobes = two * (1 - 2 * square) + three * sine * (3 - 4 * square)
    spread = math.pi * radius / (math.pi * radius * (1 + soft / 2) ** 2 + 2 * length)
    light = (0.5 + 0.5 * numbers[5]) * spread.sqrt()
    body = light * smoothstep(lobes.sub_(distance / edge).add_(radius / edge + 0.5))
    return stamp(body, places, height, width)
