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


def torchrun(rank: int, world: int, nodes: int) -> dict[str, str]:
    """The environment that torchrun gives a rank."""
    local = world // nodes
    return {
        "RANK": f"{rank}",
        "LOCAL_RANK": f"{rank % local}",
        "WORLD_SIZE": f"{world}",
        "LOCAL_WORLD_SIZE": f"{local}",
        "GROUP_RANK": f"{rank // local}",
        "GROUP_WORLD_SIZE": f"{nodes}",
        "TORCHELASTIC_RUN_ID": "test",
    }


def srun(rank: int, world: int, nodes: int) -> dict[str, str]:
    """The environment that srun gives a rank."""
    local = world // nodes
    return {
        "SLURM_PROCID": f"{rank}",
        "SLURM_LOCALID": f"{rank % local}",
        "SLURM_NTASKS": f"{world}",
        "SLURM_NTASKS_PER_NODE": f"{local}",
        "SLURM_NODEID": f"{rank // local}",
        "SLURM_NNODES": f"{nodes}",
        "SLURM_JOB_NAME": "test",
    }


def run_ranks(
    world: int,
    folder: Path,
    work: Callable[[int], Any],
    started_by: Callable[[int, int, int], dict[str, str]] = torchrun,
    nodes: int = 1,
) -> tuple[list[Any], list[int]]:
    """What `work(rank)` returns on each rank as JSON (None where it raised), and the exit statuses.

    A rank that raises writes its error to `rank_N.txt` in the folder.

    Args:
        world: Number of ranks.
        folder: Gets what they return.
        work: Called in each rank.
        started_by: What the environment is that of.
        nodes: Machines that the ranks take themselves to be spread over.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    children = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            _be_rank(rank, port, folder, work, started_by(rank, world, nodes))
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


def _be_rank(rank: int, port: int, folder: Path, work: Callable[[int], Any], environment: dict[str, str]) -> None:
    status = 1
    try:
        os.environ.update(environment, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        result = work(rank)
        (folder / f"rank_{rank}.json").write_text(json.dumps(result))
        status = 0
    except BaseException as error:
        (folder / f"rank_{rank}.txt").write_text(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
