"""Sampling of photos of any size, on noise that belongs to the photo, in the largest blocks that memory allows."""

import contextlib
import ctypes
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from daclip.arithmetic import autocast
from daclip.artifacts import Artifact
from daclip.diffusion.denoiser import Denoiser, Prediction
from daclip.errors import DaclipError
from daclip.files import choices, config_folder
from daclip.pixels import Pixels
from daclip.restoring.tiling import GRID, ScoutDenoiser, TiledDenoiser, Window, cover, has_pools, scouts, tile_calls
from daclip.rng import NoiseField
from daclip.samplers.base import Sampler
from daclip.types import Conditioning

GIB = 2**30

# What the interpreter and the libraries take before the first photo, 0.85 measured on Linux, and what glibc keeps of
# freed pieces: 24 megapixels in 2 GiB peak at 1.80, with 0.97 here at 2.02. A constant, since pieces that followed the
# process's present size would make results depend on what it did before.
RUNTIME = int(1.08 * GIB)

# Scratch space inside kernels and the allocator's leftovers do not show up as tensors.
MARGIN = 1.3

SMALLEST_TILE = 2 * GRID


class PeakMemory(TorchDispatchMode):
    """Peak of the bytes of all tensors that are made inside the context: exact, and the same on every device.

    >>> with PeakMemory() as memory:
    ...     a = torch.zeros(250)
    ...     b = a + 1
    ...     del a
    ...     c = b.view(5, 50) * 2
    >>> memory.peak
    2000
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._storages: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and count what it returns."""
        given = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage(), given)
        return result

    def _count(self, storage: Any, given: set[int]) -> None:
        # A view of what came in is nothing new.
        if storage in self._storages or id(storage) in given:
            return
        size = storage.nbytes()
        self._storages.add(storage)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._release, size)

    def _release(self, size: int) -> None:
        self.live -= size


@dataclass(frozen=True)
class Cost:
    """Bytes of memory for work on an image, linear in its pixels."""

    fixed: float
    per_pixel: float

    def bytes(self, pixels: float) -> float:
        """Bytes for an image of `pixels` pixels."""
        return self.fixed + self.per_pixel * pixels

    def largest_square(self, budget: float) -> int:
        """Side, a multiple of 64, of the largest square within the budget; 0 if there is none."""
        pixels = (budget - self.fixed) / self.per_pixel
        return int(max(pixels, 0) ** 0.5) // GRID * GRID


def linear_cost(run: Callable[[int], Any]) -> Cost:
    """Measured cost of `run(side)` on images of side² pixels; networks without quadratic attention are linear."""

    def peak(side: int) -> int:
        with PeakMemory() as memory:
            run(side)
        return memory.peak

    small, large = GRID, 2 * GRID
    low, high = peak(small), peak(large)
    slope = max(high - low, 0) / (large**2 - small**2)
    return Cost(max(low - slope * small**2, 0) * MARGIN, max(slope, 1) * MARGIN)


@dataclass(frozen=True)
class Pieces:
    """Sizes of the pieces of a photo."""

    block: int  # largest side of a piece that is sampled at once
    tile: int  # largest side of a piece that the network sees at once; at most `block`
    batch_size: int  # tiles in one call of the network


def choose_pieces(
    height: int,
    width: int,
    photo_bytes: int,
    weight_bytes: int,
    network: Cost,
    sampling: Cost,
    max_memory: float,
    batch_size: int,
    tile: int | None,
    alone: bool = False,
) -> Pieces:
    """The largest pieces that keep within the budget; the whole photo if it fits. Block and tile, and so the result, do
    not depend on `batch_size`, which is lowered to fit. `photo_bytes` counts photo and result, `network` one call,
    `sampling` the sampler's images; `max_memory` is GiB of the whole process, on a GPU of its memory. `alone`: each
    block is a tile, for a sampler of one evaluation that sees tiles one by one: no overlap is computed twice over."""
    left = max_memory * GIB - RUNTIME - weight_bytes - photo_bytes
    whole = -(-max(height, width) // GRID) * GRID
    if tile is None:
        if network.bytes(height * width) + sampling.bytes(height * width) <= left:
            return Pieces(whole, whole, batch_size)
        # Half of it for the network, so that blocks hold some tiles.
        beside = sampling if alone else network
        cost = Cost(network.fixed + beside.fixed, network.per_pixel + beside.per_pixel)
        tile = cost.largest_square(left)
        if tile < SMALLEST_TILE:
            needed = max_memory + (cost.bytes(SMALLEST_TILE**2) - left) / GIB
            raise DaclipError(
                f"{max_memory:g} GiB of memory are too little for a photo of {width} x {height} pixels; "
                f"give --max-memory {needed + 0.05:.1f} or more"
            )
    block = tile if alone else sampling.largest_square(left - network.bytes(tile**2))
    block = min(max(block, tile), max(whole, tile))
    fitting = (left - sampling.bytes(block**2) - network.fixed) / (network.per_pixel * tile**2)
    return Pieces(block, tile, max(1, min(batch_size, int(fitting))))


def tensor_bytes(module: torch.nn.Module) -> int:
    """Bytes of a module's parameters and buffers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())


def return_freed_memory() -> None:
    """Let glibc give freed memory back, of which it keeps pieces of up to 32 MiB for tensors to come: 160 MiB beside a
    photo of 24 million pixels. Not by a lower threshold, since fresh pages take longer than the network."""
    with contextlib.suppress(AttributeError, OSError):  # other C libraries
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Turn the allocator's error into one line: the user can change how much memory is needed."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error):
            raise DaclipError("the memory does not suffice; lower --max-memory (or --tile and --batch-size)") from None
        raise


Progress = Callable[[float], None]
"""Called with the finished share in [0, 1] after each call of the network; may raise `Stopped` to end the work."""


def part_of(on_progress: Progress, index: int, count: int) -> Progress:
    """Progress of the whole from that of part number `index` of `count`."""
    return lambda share: on_progress((index + share) / count)


def chunks_of(photos: Sequence[Pixels], size: int) -> Iterator[list[int]]:
    """Indices of photos that are restored together: neighbours of equal size, at most `size` of them."""
    chunk: list[int] = []
    for i, photo in enumerate(photos):
        first = photos[chunk[0]] if chunk else photo
        if chunk and (len(chunk) == size or (first.height, first.width) != (photo.height, photo.width)):
            yield chunk
            chunk = []
        chunk.append(i)
    if chunk:
        yield chunk


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


class _Still(Denoiser):
    """A denoiser without a network: x̂_0 = μ, so that the cost of sampling is the sampler's own."""

    def __init__(self, denoiser: Denoiser):
        super().__init__(denoiser.backbone, denoiser.process)

    def forward(self, x_t: Tensor, lq: Tensor, t: Tensor, conditioning: Conditioning) -> Prediction:
        """x̂_0 = μ."""
        return Prediction(lq.clone(), self.process.epsilon_from_data(x_t, lq, lq, t))


@torch.inference_mode()
def measured_costs(
    sampler: Sampler, denoiser: Denoiser, conditioning: Conditioning, precision: str
) -> tuple[Cost, Cost]:
    """Memory of one call of the network for one tile, and of the sampler's images around it; embeddings `[1, D]`."""
    device = next(denoiser.parameters()).device

    def images(side: int) -> Tensor:
        return torch.full((1, 3, side, side), 0.5, device=device)

    def network(side: int) -> None:
        with autocast(device, precision):
            denoiser(images(side), images(side), torch.ones(1, dtype=torch.long, device=device), conditioning)

    def sampling(side: int) -> None:
        noise = NoiseField((0,), side, side).window(0, 0)
        sampler.sample(_Still(denoiser), images(side), conditioning, [noise])

    return linear_cost(network), linear_cost(sampling)


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
