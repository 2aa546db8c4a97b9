"""Memory of restoring: measured costs, and the largest pieces of a photo within a budget."""

import contextlib
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from daclip.errors import DaclipError
from daclip.restoring.tiling import GRID

GIB = 2**30

# What the interpreter and the libraries take before the first photo: 0.86 measured on Linux. A constant, since pieces
# that followed the process's present size would make results depend on what it did before.
RUNTIME = int(0.9 * GIB)

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
) -> Pieces:
    """The largest pieces that keep within the budget; the whole photo if it fits. Block and tile, and so the result, do
    not depend on `batch_size`, which is lowered to fit. `photo_bytes` counts photo and result, `network` one call,
    `sampling` the sampler's images; `max_memory` is GiB of the whole process, on a GPU of its memory."""
    left = max_memory * GIB - RUNTIME - weight_bytes - photo_bytes
    whole = -(-max(height, width) // GRID) * GRID
    if tile is None:
        if network.bytes(height * width) + sampling.bytes(height * width) <= left:
            return Pieces(whole, whole, batch_size)
        # Half of it for the network, so that blocks hold some tiles.
        tile = network.largest_square(left / 2)
        if tile < SMALLEST_TILE:
            needed = max_memory + (2 * network.bytes(SMALLEST_TILE**2) - left) / GIB
            raise DaclipError(
                f"{max_memory:g} GiB of memory are too little for a photo of {width} x {height} pixels; "
                f"give --max-memory {needed + 0.05:.1f} or more"
            )
    block = sampling.largest_square(left - network.bytes(tile**2))
    block = min(max(block, tile), max(whole, tile))
    fitting = (left - sampling.bytes(block**2) - network.fixed) / (network.per_pixel * tile**2)
    return Pieces(block, tile, max(1, min(batch_size, int(fitting))))


def tensor_bytes(module: torch.nn.Module) -> int:
    """Bytes of a module's parameters and buffers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Turn the allocator's error into one line: the user can change how much memory is needed."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error):
            raise DaclipError("the memory does not suffice; lower --max-memory (or --tile and --batch-size)") from None
        raise
