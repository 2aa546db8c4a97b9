"""Values shared between the processes (ranks) of a distributed run."""

from typing import Any, TypeVar

from torch import distributed

T = TypeVar("T")


def is_distributed() -> bool:
    """Whether more than one process works on a batch."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def rank() -> int:
    """Number of this process among all, 0 in a single one."""
    return distributed.get_rank() if is_distributed() else 0


def gather_objects(value: T) -> list[T]:
    """The value of each rank, in the order of ranks; all ranks must call it together."""
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values
