"""Memory: what restoring takes of it, the largest pieces that keep within it, and turns for photos side by side."""

import contextlib
import ctypes
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from daclip.arithmetic import autocast
from daclip.diffusion.denoiser import Denoiser, Prediction
from daclip.errors import DaclipError
from daclip.pixels import Header
from daclip.rng import NoiseField
from daclip.samplers.base import Sampler
from daclip.types import Conditioning

# Pieces of photos begin at multiples of this, so that networks of up to six levels halve them on the grid on which they
# halve the whole photo.
GRID = 64
SMALLEST_TILE = 2 * GRID
ALWAYS_WHOLE = 256**2  # pixels up to which a photo is never cut, whatever the budget

GIB = 2**30

# What the interpreter and the libraries take before the first photo, 0.85 measured on Linux, and what glibc keeps of
# freed pieces: 24 megapixels in 2 GiB peak at 1.80, with 0.97 here at 2.02. A constant, since pieces that followed the
# process's present size would make results depend on what it did before.
RUNTIME = int(1.08 * GIB)

# Scratch space inside kernels and the allocator's leftovers do not show up as tensors.
MARGIN = 1.3


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
        storages = [leaf.untyped_storage() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        for storage in storages:
            if storage in self._storages or id(storage) in given:  # a view of what came in is nothing new
                continue
            self._storages.add(storage)
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._release, storage.nbytes())
        return result

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


@dataclass(frozen=True)
class Budget:
    """The memory of a restorer."""

    gib: float  # of the whole process, on a GPU of the GPU's memory
    weights: int  # bytes
    holds_photos: bool  # on a GPU it does not: they lie in the host's

    @property
    def left(self) -> float:
        """Bytes that libraries and weights leave for photos."""
        return self.gib * GIB - RUNTIME - self.weights

    def photo_bytes(self, header: Header) -> int:
        """Bytes of a photo, the restored floats, the result, and the encoder's copy of it."""
        return header.height * header.width * (9 * header.channel_bytes + 12) if self.holds_photos else 0

    def refuse_too_large(self, header: Header) -> None:
        """Refuse, from the header alone, a photo that the budget cannot hold however it is cut."""
        needed = self.photo_bytes(header)
        if needed > self.left:
            floor = RUNTIME + self.weights
            raise DaclipError(
                f"{self.gib:g} GiB of memory are too little for a photo of {header.width} x {header.height} "
                f"pixels: libraries and weights take {floor / GIB:.1f}, the photo {needed / GIB:.1f}; "
                f"give --max-memory {(floor + needed) / GIB + 0.3:.1f} or more"
            )


def check_pieces(tile: int | None, overlap: int, batch_size: int) -> None:
    """Refuse sizes of pieces that cannot be had."""
    if batch_size < 1:
        raise DaclipError(f"the batch size must be at least 1, got {batch_size}")
    if overlap % 64 or overlap < 64:
        raise DaclipError(f"the overlap must be a multiple of 64, at least 64, got {overlap}")
    if tile is not None and (tile % 64 or tile <= overlap):
        raise DaclipError(f"a tile must be a multiple of 64 and larger than the overlap of {overlap}, got {tile}")


def choose_pieces(
    budget: Budget,
    header: Header,
    photos: int,
    costs: Callable[[], tuple[Cost, Cost]],
    batch_size: int,
    tile: int | None,
    alone: bool = False,
) -> Pieces:
    """The largest pieces of photos of one size that keep within the budget; the whole photo if it fits. Block and tile,
    and so the result, do not depend on `batch_size`, which is lowered to fit. `costs` measures one call of the network,
    and a sampler's images. `alone`: each block is a tile, for a sampler of one evaluation that sees tiles one by one:
    no overlap is computed twice over."""
    height, width = header.height, header.width
    whole = -(-max(height, width) // GRID) * GRID
    if tile is None and height * width <= ALWAYS_WHOLE:
        return Pieces(whole, whole, batch_size)
    network, sampling = costs()
    sampling = Cost(sampling.fixed, sampling.per_pixel * photos)
    left = budget.left - photos * budget.photo_bytes(header)
    if tile is None:
        if network.bytes(height * width) + sampling.bytes(height * width) <= left:
            return Pieces(whole, whole, batch_size)
        # Half of it for the network, so that blocks hold some tiles.
        beside = sampling if alone else network
        cost = Cost(network.fixed + beside.fixed, network.per_pixel + beside.per_pixel)
        tile = cost.largest_square(left)
        if tile < SMALLEST_TILE:
            needed = budget.gib + (cost.bytes(SMALLEST_TILE**2) - left) / GIB
            raise DaclipError(
                f"{budget.gib:g} GiB of memory are too little for a photo of {width} x {height} pixels; "
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


class Turns:
    """Turns at a budget of memory, first come, first served. Whoever needs all of it works alone, on all `cores`; the
    others share it, on one core each, which wastes less than to spread a small picture over several."""

    def __init__(self, budget: int, cores: int) -> None:
        self.budget = budget
        self.cores = cores
        self._free = budget
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def turn(self, needed: int) -> Iterator[None]:
        """Wait for so many bytes, at most the budget, and hold them while in the context."""
        needed = min(needed, self.budget)
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            self._changed.wait_for(lambda: self._waiting[0] is ticket and self._free >= needed)
            self._waiting.popleft()
            self._free -= needed
            self._changed.notify_all()
        torch.set_num_threads(self.cores if needed == self.budget else 1)
        try:
            yield
        finally:
            with self._changed:
                self._free += needed
                self._changed.notify_all()
