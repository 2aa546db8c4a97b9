"""Work that waits for its turn, can be watched and can be stopped."""

import html
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import Generic, TypeVar

from daclip.errors import DaclipError
from daclip.restoring.restorer import Stopped
from daclip.restoring.sampling import Progress

T = TypeVar("T")

# Seconds of waiting for one's turn before looking whether the work is still wanted.
PATIENCE = 0.2


class Turns:
    """One at a time, first come first served; at most so many wait."""

    def __init__(self, most: int = 32):
        self.most = most
        self._line: list[object] = []
        self._moved = threading.Condition()

    @contextmanager
    def turn(self, waiting: Callable[[int], None]) -> Iterator[None]:
        """Wait until it is one's turn, and have it; `waiting` gets the number of those before, and may raise."""
        ticket = object()
        with self._moved:
            if len(self._line) > self.most:
                raise DaclipError(f"{self.most} requests are waiting already; try again in a few minutes")
            self._line.append(ticket)
        try:
            while True:
                with self._moved:
                    if not (before := self._line.index(ticket)):
                        break
                waiting(before)
                with self._moved:
                    self._moved.wait_for(lambda: self._line.index(ticket) < before, PATIENCE)
            yield
        finally:
            with self._moved:
                self._line.remove(ticket)
                self._moved.notify_all()


class Watched(Generic[T]):
    """Runs a function in a thread when its turn has come; leaving the context makes its `on_progress` raise `Stopped`.

    >>> with Watched(lambda on_progress: 6 * 7, Turns()) as work:
    ...     shares = list(work.shares())
    >>> work.result()
    42
    """

    def __init__(self, run: Callable[[Progress], T], turns: Turns):
        self.before = 0  # requests before this one
        self._run = run
        self._turns = turns
        self._share = 0.0
        self._began: float | None = None
        self._stop = threading.Event()
        self._future: Future[T] = Future()

    def __enter__(self) -> "Watched[T]":
        threading.Thread(target=self._work, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def stop(self) -> None:
        """End the work at its next step; `result` then raises `Stopped`."""
        self._stop.set()

    @property
    def seconds(self) -> float:
        """Time since its turn came."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    def shares(self, every: float = 0.25) -> Iterator[float]:
        """Yield the finished share every so many seconds until the work is done or has failed."""
        while not wait([self._future], timeout=every).done:
            yield self._share

    def result(self) -> T:
        """The function's result; its exception is raised here."""
        return self._future.result()

    def _told(self, share: float) -> None:
        self._share = share
        if self._stop.is_set():
            raise Stopped

    def _waiting(self, before: int) -> None:
        self.before = before
        self._told(0.0)

    def _work(self) -> None:
        try:
            with self._turns.turn(self._waiting):
                self._began = time.monotonic()
                self._waiting(0)
                self._future.set_result(self._run(self._told))
        except BaseException as error:  # the watching thread raises it
            self._future.set_exception(error)


def progress_bar(what: str, share: float, seconds: float, before: int = 0) -> str:
    """A progress bar with the time left after so many seconds of work, or the place in the queue, as HTML that screen
    readers announce."""
    if before:
        left = f"waiting: {before} before you"
    else:
        left = f"about {seconds * (1 - share) / share:.0f} s left" if share > 0 else "working"
    value = "" if before or not share else f' value="{share:.3f}"'
    return (
        f'<div role="status"><label>{html.escape(what)} · {left}<br>'
        f'<progress max="1"{value} style="width: 100%"></progress></label></div>'
    )
