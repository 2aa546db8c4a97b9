"""Work in a thread that a page watches, and that ends soon after nobody watches any more."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from typing import Generic, TypeVar

from daclip.restoring.results import Stopped
from daclip.restoring.sampling import Progress

__all__ = ["Watched"]

T = TypeVar("T")

# How long the network of another request may keep us waiting before we look whether we are still wanted.
PATIENCE = 0.2


class Watched(Generic[T]):
    """Runs a function in a thread; a context manager, on whose exit the work is told to stop.

    Args:
        run: Called with an `on_progress` that raises `Stopped` once the work is no longer wanted.
        alone: Held while the function runs, so that requests use the network one after the other.

    >>> with Watched(lambda on_progress: 6 * 7, threading.Lock()) as work:
    ...     shares = list(work.shares())
    >>> work.result()
    42
    """

    def __init__(self, run: Callable[[Progress], T], alone: threading.Lock):
        self._run = run
        self._alone = alone
        self._share = 0.0
        self._stop = threading.Event()
        self._future: Future[T] = Future()

    def __enter__(self) -> "Watched[T]":
        threading.Thread(target=self._work, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the work at its next step; `result` then raises `Stopped`."""
        self._stop.set()

    def shares(self, every: float = 0.25) -> Iterator[float]:
        """The finished share, again and again until the work is done or has failed.

        Args:
            every: Seconds between two.
        """
        while not wait([self._future], timeout=every).done:
            yield self._share

    def result(self) -> T:
        """What the function returned; its exception is raised here."""
        return self._future.result()

    def _told(self, share: float) -> None:
        self._share = share
        if self._stop.is_set():
            raise Stopped

    def _work(self) -> None:
        try:
            while not self._alone.acquire(timeout=PATIENCE):
                self._told(0.0)
            try:
                self._told(0.0)
                self._future.set_result(self._run(self._told))
            finally:
                self._alone.release()
        except BaseException as error:  # the watching thread raises it
            self._future.set_exception(error)
