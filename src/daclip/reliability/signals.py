"""Signals that ask a run to stop: noted at once, obeyed at the next safe moment."""

import signal
import threading
from types import FrameType

__all__ = ["StopSignals"]


class StopSignals:
    """Remembers the first signal that asked to stop.

    SIGTERM comes from batch systems, container managers and `kill`; SIGUSR1 from `#SBATCH --signal=USR1@120`; SIGINT
    from Ctrl+C, whose second press interrupts at once.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def install(self) -> None:
        """Take over the signals; outside the main thread, where Python allows it not, nothing happens."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            self._before.setdefault(number, signal.getsignal(number))
            signal.signal(number, self._note)

    def restore(self) -> None:
        """Give the signals back."""
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or signal.Signals(number)
