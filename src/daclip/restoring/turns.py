"""Photos worked on side by side, within one budget of memory."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Turns:
    """Turns at a budget of memory, first come, first served. Whoever needs all of it works alone, on all `cores`; the
    others share it, on one core each, which wastes less than to spread a small picture over several."""

    def __init__(self, budget: int, cores: int) -> None:
        self.budget = budget
        self.cores = cores
        self._free = budget
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
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
