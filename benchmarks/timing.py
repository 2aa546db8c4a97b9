"""Measuring speed and memory, and the rows of the benchmark."""

import contextlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch

MIB = 2**20
ALLOCATOR = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")


def row(name: str, unit: str, baseline: float, ours: float, higher_is_better: bool, note: str) -> dict[str, Any]:
    """One line of the benchmark; the ratio is above 1 where ours is better."""
    ratio = ours / baseline if higher_is_better else baseline / ours
    return {"name": name, "unit": unit, "baseline": baseline, "ours": ours, "ratio": ratio, "note": note}


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Median seconds of one call, after one call that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def in_new_process(work: Callable[..., Any], *arguments: Any, plain: bool = False) -> Any:
    """Result of a function of a module in a process of its own, whose peak memory is the function's.

    Args:
        work: The function.
        arguments: Its arguments.
        plain: Without the settings of the C library's allocator that our Makefile makes.

    Raises:
        BrokenProcessPool: The process died, for want of memory for example.
    """
    spawn = multiprocessing.get_context("spawn")
    threads = (torch.get_num_threads(),)
    with (
        _without(ALLOCATOR if plain else ()),
        ProcessPoolExecutor(1, mp_context=spawn, initializer=torch.set_num_threads, initargs=threads) as pool,
    ):
        return pool.submit(work, *arguments).result()


@contextlib.contextmanager
def _without(names: Iterable[str]) -> Iterator[None]:
    """The environment without some variables, for processes that are started meanwhile."""
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
