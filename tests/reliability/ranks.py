"""Several ranks as forked processes that talk over gloo on this machine."""

import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE = 240  # s, before ranks that hang are killed


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_ranks(world: int, folder: Path, work: Callable[[int], Any]) -> tuple[list[Any], list[int]]:
    """What `work(rank)` returns on each rank as JSON (None where it raised), and the exit statuses.

    A rank that raises writes its error to `rank_N.txt` in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    children = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            _be_rank(rank, world, port, folder, work)
        children.append(child)
    deadline = time.monotonic() + PATIENCE
    statuses: list[int] = []
    for child in children:
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                statuses.append(os.waitstatus_to_exitcode(status))
                break
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.02)
    results = [folder / f"rank_{rank}.json" for rank in range(world)]
    return [json.loads(path.read_text()) if path.is_file() else None for path in results], statuses


def _be_rank(rank: int, world: int, port: int, folder: Path, work: Callable[[int], Any]) -> None:
    status = 1
    try:
        os.environ.update(
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(world),
            LOCAL_WORLD_SIZE=str(world),
            GROUP_RANK="0",
            GROUP_WORLD_SIZE="1",
            TORCHELASTIC_RUN_ID="test",
        )
        result = work(rank)
        (folder / f"rank_{rank}.json").write_text(json.dumps(result))
        status = 0
    except BaseException as error:
        (folder / f"rank_{rank}.txt").write_text(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
