"""How loader processes meet the signals of a batch system."""

import os
import signal
import threading

__all__ = ["ignore_job_signals"]


def _obey_parent() -> None:
    """End when the training process says so; it may do it by SIGTERM."""
    while True:
        if signal.sigwaitinfo({signal.SIGTERM}).si_pid == os.getppid():
            os._exit(0)


def ignore_job_signals(worker: int) -> None:
    """Leave it to the training process to stop: `worker_init_fn` of all loaders.

    SLURM, `timeout` and Ctrl+C signal every process of a job at once. A loader process that obeyed would be missed by
    the training process just while that finishes its step and saves its state.

    Args:
        worker: Number of the loader process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):  # macOS and Windows cannot tell who signals
        return
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_obey_parent, daemon=True).start()
