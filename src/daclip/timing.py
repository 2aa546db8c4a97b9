"""Measuring speed and memory, and the rows of the benchmark."""

import contextlib
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

__all__ = ["in_new_process", "median_seconds", "peak_memory", "plain_layout", "row"]

MIB = 2**20


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


@contextlib.contextmanager
def plain_layout(module: nn.Module) -> Iterator[None]:
    """Contiguous weights for the baseline, channels-last again afterwards."""
    module.to(memory_format=torch.contiguous_format)
    yield
    module.to(memory_format=torch.channels_last)


def peak_memory() -> float:
    """The most memory that this process has ever held, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 if sys.platform == "darwin" else 1024) / (MIB if sys.platform == "darwin" else 1)


def in_new_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """Result of a function of a module in a process of its own, whose peak memory is the function's."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(torch.set_num_threads, (torch.get_num_threads(),))
        return pool.apply(work, arguments)
