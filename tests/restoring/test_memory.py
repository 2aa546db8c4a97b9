"""Memory is counted and kept to; photos side by side never hold more than the budget, and nobody waits for ever."""

import contextlib
import resource
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from daclip.errors import DaclipError
from daclip.pixels import Header
from daclip.restoring.memory import (
    GIB,
    RUNTIME,
    Budget,
    Cost,
    PeakMemory,
    Pieces,
    Turns,
    choose_pieces,
    linear_cost,
    return_freed_memory,
)

THREADS = torch.get_num_threads()


def test_turns_keep_within_the_budget_and_give_the_largest_all_cores() -> None:
    turns, held, most, alone = Turns(100, cores=2), [0], [0], []
    lock = threading.Lock()

    def work(needed: int) -> None:
        with turns.turn(needed):
            with lock:
                held[0] += min(needed, 100)
                most[0] = max(most[0], held[0])
            time.sleep(0.002)
            if needed >= 100:
                alone.append((held[0], torch.get_num_threads()))
            else:
                assert torch.get_num_threads() == 1
            with lock:
                held[0] -= min(needed, 100)

    workers = [threading.Thread(target=work, args=(needed,)) for needed in (30, 100, 50, 250, 60, 30, 10, 90) * 3]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=30)
    assert not any(worker.is_alive() for worker in workers)
    assert 30 < most[0] <= 100
    assert alone == [(100, 2)] * 6
    assert torch.get_num_threads() == THREADS


def test_a_large_photo_is_not_overtaken() -> None:
    turns, order = Turns(100, cores=2), []

    def work(needed: int) -> None:
        with turns.turn(needed):
            order.append(needed)

    with turns.turn(60):
        large, small = (threading.Thread(target=work, args=(needed,)) for needed in (100, 20))
        large.start()
        while not turns._waiting:
            time.sleep(0.001)
        small.start()
        while len(turns._waiting) < 2:
            time.sleep(0.001)
        assert order == []  # the small one would fit, and waits its turn
    large.join(timeout=30)
    small.join(timeout=30)
    assert order == [100, 20]


def test_a_failure_gives_its_share_back() -> None:
    turns = Turns(100, cores=2)
    for _ in range(3):
        with contextlib.suppress(ValueError), turns.turn(80):
            raise ValueError
    with turns.turn(100):
        pass
    torch.set_num_threads(THREADS)


def test_peak_memory_counts_what_is_alive() -> None:
    def run(side: int) -> None:
        a = torch.zeros(side, side)
        b = a.view(-1) + 1
        del a
        (b * 2).sum()

    with PeakMemory() as memory:
        run(128)
    assert 2 * 128**2 * 4 <= memory.peak <= 2 * 128**2 * 4 + 64
    cost = linear_cost(run)
    assert cost.per_pixel == pytest.approx(8 * 1.3, rel=0.01)


def test_pieces_keep_to_the_budget() -> None:
    network, sampling = Cost(0, 2000), Cost(0, 200)

    def pieces(height: int, width: int, gib: float, batch: int = 1, alone: bool = False) -> Pieces:
        budget = Budget(gib, 10**8, holds_photos=True)
        return choose_pieces(budget, Header(width, height), 1, lambda: (network, sampling), batch, None, alone)

    assert pieces(512, 512, 4) == Pieces(512, 512, 1)
    cut = pieces(4000, 6000, 2)
    assert cut.tile < cut.block < 6000
    left = 2 * GIB - RUNTIME - 10**8 - 4000 * 6000 * 21
    assert network.bytes(cut.tile**2) + sampling.bytes(cut.block**2) <= left
    # Another batch changes the speed and not the pieces, so not the result.
    many = pieces(4000, 6000, 2, batch=64)
    assert (many.block, many.tile) == (cut.block, cut.tile)
    assert many.batch_size < 64
    alone = pieces(4000, 6000, 2, alone=True)
    assert alone.block == alone.tile > cut.tile
    assert network.bytes(alone.tile**2) + sampling.bytes(alone.block**2) <= left
    with pytest.raises(DaclipError, match=r"0.7 GiB of memory are too little .* --max-memory"):
        pieces(4000, 6000, 0.7)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_freed_images_leave_the_process() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    def image() -> Tensor:
        return torch.ones(2, 2**20)

    torch.ones(7, 2**20)  # glibc learns from its end to keep smaller ones
    return_freed_memory()
    before = resident()
    images = [image() for _ in range(12)]
    last = image()
    assert resident() > before + 80 * 2**20
    images.clear()
    return_freed_memory()
    assert resident() < before + 20 * 2**20
    assert last.sum() == 2**21
