"""Sampling of photos of any size: where tiles lie, how their estimates are blended, and what networks know of the whole
photo, on noise that belongs to the photo and in the largest blocks that memory allows."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, groupby, pairwise, product
from typing import Any, NamedTuple, TypeVar

import torch
import yaml
from torch import Tensor, nn

from daclip.arithmetic import autocast
from daclip.artifacts import Artifact
from daclip.backbones.layers import GlobalPool
from daclip.diffusion.denoiser import Denoiser, Prediction
from daclip.errors import DaclipError
from daclip.files import choices, config_folder
from daclip.pixels import Pixels
from daclip.restoring.memory import GRID, Pieces
from daclip.rng import NoiseField
from daclip.samplers.base import Sampler
from daclip.types import Conditioning

T = TypeVar("T")

FINE = 16  # windows begin at multiples of this, which serves networks of up to four levels


@dataclass(frozen=True)
class Span:
    """The pixels from `start` to `stop` of one axis."""

    start: int
    stop: int
    weight: Tensor  # share of each pixel in the blended result, float32 `[stop − start]`; all pieces add up to 1


@dataclass(frozen=True)
class Tile:
    """A rectangle of a photo: a span of its rows and one of its columns."""

    rows: Span
    columns: Span

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start

    def of(self, image: Tensor) -> Tensor:
        """The rectangle of `[…, H, W]`, a view."""
        return image[..., self.rows.start : self.rows.stop, self.columns.start : self.columns.stop]

    def add(self, piece: Tensor, to: Tensor) -> None:
        """Add a weighted piece `[…, h, w]` in its place of `[…, H, W]`."""
        weight = self.rows.weight[:, None] * self.columns.weight
        self.of(to).add_(piece * weight.to(piece.device))


def spans(length: int, size: int, overlap: int) -> list[Span]:
    """Cut an axis into pieces of at most `size` pixels that overlap by at least `overlap`, both multiples of 64; as few
    pieces as that allows, and these as small. Starts are multiples of 64, evenly spaced. Pieces fade in and out with a
    raised cosine over what they share, but for its outer eighth, which gets no weight: there a network sees the rim of
    its piece and not the photo.

    >>> [(piece.start, piece.stop) for piece in spans(1000, 512, 64)]
    [(0, 384), (320, 704), (640, 1000)]
    """
    if length <= size:
        return [Span(0, length, torch.ones(length))]
    if size % GRID or overlap % GRID or not 0 < overlap < size:
        raise DaclipError(
            f"pieces of {size} pixels with an overlap of {overlap}: both must be multiples of {GRID}, and the "
            "overlap smaller"
        )
    count = _count(length, size, overlap)
    while size - GRID > overlap and _count(length, size - GRID, overlap) == count:
        size -= GRID
    last = math.ceil((length - size) / GRID)
    starts = [round(last * i / (count - 1)) * GRID for i in range(count)]
    stops = [min(start + size, length) for start in starts]
    weights = []
    total = torch.zeros(length, dtype=torch.float64)
    for i, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        weight = torch.ones(stop - start, dtype=torch.float64)
        pixels = torch.arange(start, stop, dtype=torch.float64)
        if i > 0:
            weight *= _rise(pixels, start, stops[i - 1])
        if i < count - 1:
            weight *= 1 - _rise(pixels, starts[i + 1], stop)
        total[start:stop] += weight
        weights.append(weight)
    pieces = zip(starts, stops, weights, strict=True)
    return [Span(start, stop, (weight / total[start:stop]).float()) for start, stop, weight in pieces]


def _count(length: int, size: int, overlap: int) -> int:
    # The last piece must reach the end from a multiple of 64.
    return math.ceil(math.ceil((length - size) / GRID) / ((size - overlap) // GRID)) + 1


def _rise(pixels: Tensor, start: int, stop: int) -> Tensor:
    """From 0 to 1 across [start, stop), flat over its outer eighths."""
    share = (pixels + 0.5 - start) / (stop - start)
    return 0.5 - 0.5 * torch.cos(math.pi * ((share - 0.125) / 0.75).clamp(0, 1))


def cover(height: int, width: int, size: int, overlap: int) -> list[Tile]:
    """Tiles over a whole photo, row by row; see `spans`."""
    rows, columns = spans(height, size, overlap), spans(width, size, overlap)
    return [Tile(row, column) for row, column in product(rows, columns)]


def batches(items: Iterable[T], key: Callable[[T], Any], size: int) -> Iterator[list[T]]:
    """Neighbours with equal keys, at most `size` of them."""
    for _, group in groupby(items, key=key):
        same = list(group)
        yield from (same[first : first + size] for first in range(0, len(same), size))


def tile_calls(
    photos: int, height: int, width: int, tile: int, overlap: int, batch_size: int
) -> list[list[tuple[int, Tile]]]:
    """The (photo, tile) pairs of each call of the network: equal shapes, at most `batch_size` of them."""
    jobs = sorted(product(range(photos), cover(height, width, tile, overlap)), key=lambda job: job[1].shape)
    return list(batches(jobs, lambda job: job[1].shape, batch_size))


Pooled = list[Tensor]
"""Means over a photo, `[1, C, 1, 1]`, one for each `GlobalPool` of a network."""


def has_pools(network: nn.Module) -> bool:
    """Whether a network looks at means over the whole image."""
    return any(isinstance(module, GlobalPool) for module in network.modules())


@contextmanager
def pooling(
    network: nn.Module, given: Pooled | None = None, gathered: list[list[Tensor]] | None = None
) -> Iterator[None]:
    """While in the context, a network's pools put out the means that are given, if any. `gathered` gets the means that
    they find: one list a pool with float32 `[B, C, 1, 1]` for each call."""
    pools = [module for module in network.modules() if isinstance(module, GlobalPool)]
    if gathered is not None:
        gathered.extend([] for _ in pools)

    def hook_of(number: int) -> Any:
        def hook(module: nn.Module, inputs: Any, found: Tensor) -> Tensor | None:
            if gathered is not None:
                gathered[number].append(found.float())
            return None if given is None else given[number].to(found.dtype).expand_as(found)

        return hook

    hooks = [pool.register_forward_hook(hook_of(number)) for number, pool in enumerate(pools)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class ScoutDenoiser(Denoiser):
    """A denoiser that finds the means over a photo that a network needs, from some windows of the photo.

    A network that was trained on means over its whole input sees other means in every tile, and two tiles of one hazy
    photo come out differently bright. So windows are sampled first, as one batch with common means; `record` holds the
    means of each call, for the tiles. A pool's mean depends on the pools before it: the first pass takes each window's
    own means, the next the averages found (a fixed point iteration). `weights` are the windows' shares of the photo, up
    to a factor; `batch_size` windows go into one call of the network, and `on_call` follows each."""

    passes = 2

    def __init__(self, denoiser: Denoiser, batch_size: int, weights: Sequence[float], on_call: Callable[[], None]):
        super().__init__(denoiser.backbone, denoiser.process, denoiser.parameterization, denoiser.correct_epsilon_shift)
        self.train(denoiser.training)
        self.batch_size = batch_size
        self.shares = torch.tensor(weights) / sum(weights)
        self.on_call = on_call
        self.record: list[Pooled] = []

    def forward(self, x_t: Tensor, lq: Tensor, t: Tensor, conditioning: Conditioning) -> Prediction:
        """Estimate the clean windows; shapes as in `Denoiser.forward`, the batch being windows of one photo."""
        given: Pooled | None = None
        for _ in range(self.passes):
            gathered: list[list[Tensor]] = []
            found: list[Tensor] = []
            with pooling(self.backbone, given, gathered):
                for first in range(0, len(lq), self.batch_size):
                    part = list(range(first, min(first + self.batch_size, len(lq))))
                    found.append(super().forward(x_t[part], lq[part], t[part], conditioning.rows(part)).x0)
                    self.on_call()
            shares = self.shares.to(x_t.device).view(-1, 1, 1, 1)
            given = [(torch.cat(means) * shares).sum(0, keepdim=True) for means in gathered]
        assert given is not None
        self.record.append(given)
        x0 = torch.cat(found)
        with torch.autocast(x_t.device.type, enabled=False):
            return Prediction(x0, self.process.epsilon_from_data(x_t, lq, x0, t))


class Window(NamedTuple):
    """Rows top:bottom and columns left:right of a photo, which stand for `weight` pixels around them."""

    top: int
    bottom: int
    left: int
    right: int
    weight: float


def scouts(height: int, width: int, side: int, most: int) -> list[Window]:
    """At most `most` windows of at most `side` pixels a side, of one size, spread evenly over a photo.

    >>> [window[:4] for window in scouts(100, 500, 256, 9)]
    [(0, 100, 0, 256), (0, 100, 240, 496)]
    """
    down, across = -(-height // side), -(-width // side)
    if down * across > most:
        share = (most / (down * across)) ** 0.5
        down = max(1, round(down * share))
        across = min(across, max(1, most // down))
        down = min(down, most // across)
    return [
        Window(top, bottom, left, right, rows * columns)
        for top, bottom, rows in _line(height, side, down)
        for left, right, columns in _line(width, side, across)
    ]


def _line(length: int, side: int, count: int) -> list[tuple[int, int, float]]:
    """`count` windows along an axis: start, stop, and the length of the axis that is nearest to the window."""
    if count * side >= length:
        side = -(-length // count // FINE) * FINE  # no larger than it takes to cover the axis
    last = max(length - side, 0)
    starts = [round(last * (i / (count - 1) if count > 1 else 0.5)) // FINE * FINE for i in range(count)]
    stops = [min(start + side, length) for start in starts]
    centres = [(start + stop) / 2 for start, stop in zip(starts, stops, strict=True)]
    borders = [0.0, *((a + b) / 2 for a, b in pairwise(centres)), float(length)]
    return [(start, stop, b - a) for start, stop, (a, b) in zip(starts, stops, pairwise(borders), strict=True)]


class TiledDenoiser(Denoiser):
    """A denoiser that looks at an image tile by tile and blends the estimates x̂_0.

    Blending at each step of the sampler, whose one state covers the whole image, leaves no seams. (Tiles sampled to the
    end by themselves may settle on different detail, and their blend is a double exposure.) `tile` is the largest side,
    `overlap` what neighbours share at least, in pixels, multiples of 64; `batch_size` tiles go into one call of the
    network, and `on_call` follows each. `pooled` holds means over the photo for the network's pools, call by call; None
    leaves each tile its own."""

    def __init__(
        self,
        denoiser: Denoiser,
        tile: int,
        overlap: int,
        batch_size: int,
        pooled: Sequence[Pooled] | None = None,
        on_call: Callable[[], None] | None = None,
    ):
        super().__init__(denoiser.backbone, denoiser.process, denoiser.parameterization, denoiser.correct_epsilon_shift)
        self.train(denoiser.training)
        self.tile = tile
        self.overlap = overlap
        self.batch_size = batch_size
        self.pooled = None if pooled is None else iter(pooled)
        self.on_call = on_call or (lambda: None)

    def forward(self, x_t: Tensor, lq: Tensor, t: Tensor, conditioning: Conditioning) -> Prediction:
        """Estimate the clean image; shapes as in `Denoiser.forward`, any height and width."""
        calls = tile_calls(len(lq), lq.shape[-2], lq.shape[-1], self.tile, self.overlap, self.batch_size)
        if max(lq.shape[-2:]) <= self.tile and len(calls) == 1 and self.pooled is None:
            whole = super().forward(x_t, lq, t, conditioning)
            self.on_call()
            return whole
        x0 = torch.zeros_like(x_t)
        with pooling(self.backbone, None if self.pooled is None else next(self.pooled)):
            for jobs in calls:
                photos = [photo for photo, _ in jobs]
                states = torch.stack([tile.of(x_t[photo]) for photo, tile in jobs])
                given = torch.stack([tile.of(lq[photo]) for photo, tile in jobs])
                estimates = super().forward(states, given, t[photos], conditioning.rows(photos)).x0
                for (photo, tile), estimate in zip(jobs, estimates, strict=True):
                    tile.add(estimate, x0[photo])
                self.on_call()
        with torch.autocast(x_t.device.type, enabled=False):
            return Prediction(x0, self.process.epsilon_from_data(x_t, lq, x0, t))


Progress = Callable[[float], None]
"""Called with the finished share in [0, 1] after each call of the network; may raise `Stopped` to end the work."""


def part_of(on_progress: Progress, index: int, count: int) -> Progress:
    """Progress of the whole from that of part number `index` of `count`."""
    return lambda share: on_progress((index + share) / count)


# Windows for the means over a photo: large enough for the network's view, enough of them for an average.
SCOUT, MOST_SCOUTS = 256, 25


@torch.inference_mode()
def sample_photos(
    sampler: Sampler,
    denoiser: Denoiser,
    photos: Sequence[Pixels],
    conditioning: Conditioning,
    fields: Sequence[NoiseField],
    pieces: Pieces,
    overlap: int,
    precision: str,
    on_progress: Progress | None = None,
) -> Tensor:
    """Restore photos of one size: float32 `[B, 3, H, W]` in [0, 1], on the CPU. Within a block the estimates of its
    tiles are blended at each step (`TiledDenoiser`). Only a photo whose sampler states exceed memory gets several
    blocks; they share its noise and conditioning, and so agree where they are blended at the end."""
    device = next(denoiser.parameters()).device
    height, width = photos[0].height, photos[0].width
    blocks = cover(height, width, pieces.block, overlap)
    windows: list[Window] = []
    if max(height, width) > pieces.tile and has_pools(denoiser.backbone):
        if len(photos) != 1:
            raise ValueError(f"photos that are cut are restored one by one, got {len(photos)}")
        side = min(pieces.tile, SCOUT)
        # Together no larger than a block, for which there is memory.
        windows = scouts(height, width, side, min(pieces.block**2 // side**2, MOST_SCOUTS))
    calls = sum(len(tile_calls(len(photos), *block.shape, pieces.tile, overlap, pieces.batch_size)) for block in blocks)
    calls += ScoutDenoiser.passes * -(-len(windows) // pieces.batch_size)
    done = count(1)

    def tick() -> None:
        if on_progress is not None:
            on_progress(min(next(done) / (calls * sampler.nfe), 1.0))

    pooled = None
    if windows:
        # The means over the photo that the network's pools need in each call, from windows of it.
        lq = torch.stack([photos[0].crop(*window[:4]) for window in windows])
        noise = [fields[0].window(window.top, window.left) for window in windows]
        scout = ScoutDenoiser(denoiser, pieces.batch_size, [window.weight for window in windows], tick)
        with autocast(device, precision):
            sampler.sample(scout, lq.to(device), conditioning.rows([0] * len(windows)), noise)
        pooled = scout.record
    out = torch.zeros(len(photos), 3, height, width)
    for block in blocks:
        top, left = block.rows.start, block.columns.start
        lq = torch.stack([photo.crop(top, block.rows.stop, left, block.columns.stop) for photo in photos])
        noise = [field.window(top, left) for field in fields]
        tiled = TiledDenoiser(denoiser, pieces.tile, overlap, pieces.batch_size, pooled, tick)
        with autocast(device, precision):
            piece = sampler.sample(tiled, lq.to(device), conditioning, noise)
        block.add(piece.float().cpu(), out)
    return out.clamp_(0, 1)


def sampler_options(name: str, folder: str = "sampler") -> dict[str, Any]:
    """The options of a sampler of `conf/sampler/`, as Hydra composes them, for Python users."""
    path = config_folder() / folder / f"{name}.yaml"
    if not path.is_file():
        raise DaclipError(f"there is no {folder} '{name}'; choose from {', '.join(choices(folder))}")
    own = yaml.safe_load(path.read_text(encoding="utf-8"))
    options: dict[str, Any] = {}
    for default in own.pop("defaults", []):
        if isinstance(default, dict):  # such as `grid: trailing`
            options |= {group: sampler_options(chosen, f"{folder}/{group}") for group, chosen in default.items()}
        elif default != "_self_":
            options |= sampler_options(default.removesuffix("@_here_"), folder)
    return options | own


def sampler_of(artifact: Artifact, sampler: str | Sampler | None, steps: int | None) -> Sampler:
    """A sampler by name, or the one the artifact was trained with, with so many steps."""
    if isinstance(sampler, Sampler):
        if steps is not None:
            raise DaclipError(f"steps={steps} goes with a sampler's name; give the sampler itself its steps")
        return sampler
    artifact.require("restorer")
    chosen = dict(artifact.config["sampler"]) if sampler is None else sampler_options(sampler)
    if steps is not None:
        chosen["steps"] = steps
    built: Sampler = artifact.build("sampler", chosen)
    return built
