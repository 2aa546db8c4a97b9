"""Kill a real training again and again, wherever it hurts: is a complete state always there, and is nothing changed?

Question: what does a run lose when its process, its disk or its machine fails?
Command:  python experiments/fault_injection.py [--kills 42] [--steps 400] [--work FOLDER]
Expected: no corrupted state over all faults, and in the end the same weights, bit for bit, as a run nobody touched.

Both stages take turns. Each life of the run is a process of its own that goes on from the newest complete state; it is
struck behind a random step, in one of the ways of `FAULTS`. The table says how many optimiser steps were lost.
"""

import argparse
import contextlib
import errno
import json
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

import daclip.commands.assembly
import daclip.commands.train
from daclip import files
from daclip.commands.train import TrainConfig
from daclip.config import run_config
from daclip.errors import DaclipError, StoppedError
from daclip.training.checkpointing import SafeCheckpointIO, damage, newest_complete, read_checkpoint

FAULTS = {
    "SIGKILL at a random moment": "random",
    "SIGKILL in the middle of writing a state": "write",
    "SIGKILL between writing and renaming": "rename",
    "SIGKILL between renaming and deleting the oldest": "delete",
    "SIGTERM (preemption)": "term",
    "disk full while writing a state": "full",
    "power failure: newest state cut off afterwards": "torn",
}
SAVED_EVERY = 5  # steps
RECIPES = {
    "daclip": ["experiment=smoke_daclip", "clip.architecture.vision_cfg.width=32"],
    "restorer": [
        "experiment=smoke_restorer",
        "backbone=nafnet",
        "backbone.width=8",
        "~backbone.multipliers",
        "~callbacks.samples",
    ],
}
SHARED = [
    "~callbacks.progress",
    "~callbacks.learning_rate",
    "~callbacks.validation_log",
    "degradation=[noisy,uncompleted]",
    "data.batch_size=4",
    "data.samples_per_epoch=64",
    "data.validation_size=32",
    "data.validation_batch_size=2",
    "trainer.precision=32-true",
    "resume=auto",
]


def kill() -> None:
    """End this process as the kernel does."""
    os.kill(os.getpid(), signal.SIGKILL)


class Strike(Callback):
    """Reports every step, and from a given step on brings about one fault.

    Args:
        report: File that gets the number of the last finished step.
        fault: Kind of fault, or None.
        step: Steps of this life before it strikes.
        draw: Source of randomness.
    """

    def __init__(self, report: Path, fault: str | None, step: int, draw: random.Random):
        self.report, self.fault, self.left, self.draw = report, fault, step, draw

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Behind a step; states are written after this."""
        self.report.write_text(str(trainer.global_step))
        self.left -= 1
        if self.left == 0 and self.fault:
            STRIKES[self.fault](self.draw)


def _later(number: signal.Signals, draw: random.Random) -> None:
    """Signal this process at a random moment of the next steps."""
    target, delay = os.getpid(), draw.uniform(0.0, 0.1)
    if os.fork() == 0:
        time.sleep(delay)
        with contextlib.suppress(ProcessLookupError):
            os.kill(target, number)
        os._exit(0)


def _in_write(draw: random.Random, act: Callable[[], None]) -> None:
    """Act when the next state has been written up to a random byte."""
    room = draw.randrange(0, 60_000)
    plain = files.WatchedFile.write

    def write(self: files.WatchedFile, content: Any) -> int:
        nonlocal room
        room -= memoryview(content).nbytes
        if room < 0:
            act()
        return plain(self, content)

    files.WatchedFile.write = write  # type: ignore[method-assign]


def _full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _watched_full(draw: random.Random) -> None:
    plain_open = Path.open

    class Full:
        def __init__(self, file: Any) -> None:
            self.file, self.room = file, draw.randrange(0, 60_000)

        def write(self, content: Any) -> int:
            self.room -= memoryview(content).nbytes
            if self.room < 0:
                _full()
            return int(self.file.write(content))

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *error: object) -> None:
            self.file.close()

    def limited(self: Path, *arguments: Any, **options: Any) -> Any:
        file = plain_open(self, *arguments, **options)
        return Full(file) if self.name.endswith(files.PARTIAL) else file

    Path.open = limited  # type: ignore[method-assign, assignment]


def _at_rename(draw: random.Random) -> None:
    plain = Path.replace

    def replace(self: Path, target: Any) -> Path:
        if self.name.endswith(files.PARTIAL):
            kill()
        return plain(self, target)

    Path.replace = replace  # type: ignore[method-assign, assignment]


def _at_delete(draw: random.Random) -> None:
    SafeCheckpointIO.remove_checkpoint = lambda self, path: kill()  # type: ignore[method-assign]


STRIKES: dict[str, Callable[[random.Random], None]] = {
    "random": lambda draw: _later(signal.SIGKILL, draw),
    "torn": lambda draw: _later(signal.SIGKILL, draw),
    "term": lambda draw: _later(signal.SIGTERM, draw),
    "write": lambda draw: _in_write(draw, kill),
    "rename": _at_rename,
    "delete": _at_delete,
    "full": _watched_full,
}


def live(stage: str, folder: Path, options: list[str], strike: Strike) -> int:
    """One life of a run in a process of its own; returns its wait status."""
    process = os.fork()
    if process:
        return os.waitpid(process, 0)[1]
    status = 1
    try:
        with (folder / "output.txt").open("a") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        cfg = run_config(f"train_{stage}", TrainConfig, folder, options)
        plain = daclip.commands.assembly.build_trainer

        def struck(given: Any) -> L.Trainer:
            trainer = plain(given)
            trainer.callbacks.insert(0, strike)
            return trainer

        daclip.commands.train.build_trainer = struck  # type: ignore[attr-defined]
        daclip.commands.train.train(cfg, folder)
        status = 0
    except StoppedError as stopped:
        status = stopped.exit_status
    except DaclipError as error:
        sys.stderr.write(f"error: {error}\n")
        status = 3
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def expected_end(fault: str, status: int) -> bool:
    """Whether a life ended in the way that its fault must end it."""
    if fault == "term":
        return os.WIFEXITED(status) and os.WEXITSTATUS(status) == 75
    if fault == "full":
        return os.WIFEXITED(status) and os.WEXITSTATUS(status) == 3
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def final_weights(folder: Path, steps: int) -> dict[str, Any]:
    """Weights, averages and moments at the end of a run."""
    state = read_checkpoint(folder / "checkpoints" / f"step_{steps:08d}.ckpt")
    names = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers")
    return {name: state[name] for name in names if name in state}


def equal(a: Any, b: Any) -> bool:
    """Whether two nested states are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


class Trial:
    """One run of a stage that is struck again and again.

    Args:
        stage: `daclip` or `restorer`.
        work: Gets the runs.
        steps: Length of the run.
        options: Overrides.
        draw: Source of randomness.
    """

    def __init__(self, stage: str, work: Path, steps: int, options: list[str], draw: random.Random):
        self.stage, self.work, self.steps, self.options, self.draw = stage, work, steps, options, draw
        self.folder = work / stage
        self.rows: list[dict[str, Any]] = []
        self.equal = True
        self.cut: set[tuple[Path, int]] = set()  # files that the power failure has cut off, and when
        self.whole = self._fresh(work / f"{stage}_whole")
        status = live(stage, self.whole, options, Strike(self.whole / "step", None, 0, draw))
        if status:
            raise SystemExit(f"the undisturbed run failed: {(self.whole / 'output.txt').read_text()[-2000:]}")
        self._fresh(self.folder)

    @staticmethod
    def _fresh(folder: Path) -> Path:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def states(self) -> list[Path]:
        """All states of the run, torn ones too."""
        return list((self.folder / "checkpoints").glob("*.ckpt"))

    def _tear(self) -> None:
        """Cut the newest state off at a random byte, as a power failure does where nothing was flushed."""
        found = self.states()
        if len(found) > 1:
            newest = max(found, key=lambda path: path.stat().st_mtime_ns)
            os.truncate(newest, self.draw.randrange(newest.stat().st_size))
            self.cut.add((newest, newest.stat().st_mtime_ns))

    def strike(self, fault: str) -> None:
        """One life with one fault, and what is left behind it."""
        report = self.folder / "step"
        before = int(report.read_text()) if report.is_file() else 0
        if before + 4 * SAVED_EVERY > self.steps:
            self.finish()
            before = 0
        strike = Strike(report, fault, self.draw.randrange(1, 2 * SAVED_EVERY), self.draw)
        status = live(self.stage, self.folder, self.options, strike)
        # Before the power failure is played; what an earlier one cut off stays so until it is written again.
        torn = [path for path in self.states() if damage(path) and (path, path.stat().st_mtime_ns) not in self.cut]
        if fault == "torn":
            self._tear()
        newest = newest_complete(self.states())
        reached = int(report.read_text()) if report.is_file() else 0
        saved = int(read_checkpoint(newest)["global_step"]) if newest else 0
        self.rows.append(
            {
                "stage": self.stage,
                "fault": fault,
                "ended": expected_end(fault, status),
                "reached": reached,
                "saved": saved,
                "lost": reached - saved,
                # The first state may not have been due when the fault struck.
                "corrupted": bool(torn) or (newest is None and reached > 2 * SAVED_EVERY),
            }
        )
        report.write_text(str(saved))

    def finish(self) -> None:
        """Let the run end, compare its weights with those of the run that nobody touched, and begin anew."""
        status = live(self.stage, self.folder, self.options, Strike(self.folder / "step", None, 0, self.draw))
        same = status == 0 and equal(final_weights(self.folder, self.steps), final_weights(self.whole, self.steps))
        self.equal = self.equal and same
        self._fresh(self.folder)


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of one line a fault, as markdown."""
    lines = [
        "| fault | injected | steps lost, mean | most | corrupted states | result |",
        "|---|---|---|---|---|---|",
    ]
    for name, fault in FAULTS.items():
        found = [row for row in rows if row["fault"] == fault]
        if not found:
            continue
        lost = [row["lost"] for row in found]
        bad = sum(row["corrupted"] for row in found)
        ended = all(row["ended"] for row in found)
        result = "went on from the newest complete state" if ended and not bad else "FAILED"
        lines.append(f"| {name} | {len(found)} | {sum(lost) / len(lost):.1f} | {max(lost)} | {bad} | {result} |")
    return "\n".join(lines)


def main() -> None:
    """Strike, print the table, exit with 1 if anything was corrupted, lost or changed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=42, help="faults in all")
    parser.add_argument("--steps", type=int, default=400, help="length of a run in optimiser steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="folder for the runs; by default a temporary one that is deleted")
    parser.add_argument("--record", type=Path, help="JSON file that gets every fault")
    arguments = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    torch.set_num_threads(1)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        work = (arguments.work or Path(temporary)).resolve()
        draw = random.Random(arguments.seed)
        first = work / "stage_1"
        for folder in (first, work / "out"):
            folder.mkdir(parents=True, exist_ok=True)
        small = [*RECIPES["daclip"], *SHARED, f"output={work}/out"]
        if live("daclip", first, small, Strike(first / "step", None, 0, draw)):
            raise SystemExit((first / "output.txt").read_text()[-2000:])
        kinds = list(FAULTS.values())
        rows, same = [], True
        stages = ["daclip", "restorer"][: max(1, min(2, arguments.kills // 2))]
        for number, stage in enumerate(stages):
            options = [*RECIPES[stage], *SHARED, f"trainer.max_steps={arguments.steps}", f"output={work}/out"]
            options += [f"callbacks.checkpoint.every_n_steps={SAVED_EVERY}"]
            options += [f"daclip={first / 'artifact'}"] if stage == "restorer" else []
            trial = Trial(stage, work, arguments.steps, options, draw)
            for kind in range(number, arguments.kills, len(stages)):
                trial.strike(kinds[kind % len(kinds)])
            trial.finish()
            rows += trial.rows
            same = same and trial.equal
    corrupted = sum(row["corrupted"] for row in rows)
    ended = all(row["ended"] for row in rows)
    lines = (
        table(rows),
        f"\nfaults: {len(rows)}, corrupted states: {corrupted}, state saved every {SAVED_EVERY} steps",
        f"final weights equal those of an undisturbed run bit for bit: {'yes' if same else 'NO'}",
        f"every life ended as its fault demands: {'yes' if ended else 'NO'}; {time.monotonic() - started:.0f} s",
    )
    sys.stdout.write("\n".join(lines) + "\n")
    if arguments.record:
        arguments.record.write_text(json.dumps(rows, indent=2))
    sys.exit(0 if same and ended and not corrupted else 1)


if __name__ == "__main__":
    main()
