"""Kill real trainings again and again, wherever it hurts: is a complete state always there, and is nothing changed?

Question: what does a run lose when its process, its disk or its machine fails?
Command:  python experiments/fault_injection.py [--kills 52] [--steps 32] [--work FOLDER]
Expected: no corrupted state over all faults, and in the end the same artifact, bit for bit, as of a run nobody touched.

Both stages take turns. Each run is struck once, at a random moment of one of the phases of `FAULTS`, and then goes on
in a process of its own from the newest complete state. The table says how many optimiser steps were lost.
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
    "SIGKILL in the first steps": "first",
    "SIGKILL between two saves": "random",
    "SIGKILL in the middle of writing a state": "write",
    "SIGKILL between writing and renaming": "rename",
    "SIGKILL between renaming and deleting the oldest": "delete",
    "SIGKILL in the first validation pass": "first pass",
    "SIGKILL in the last pass of training": "last pass",
    "SIGKILL in the final pass": "final pass",
    "SIGKILL while the artifact is written": "artifact",
    "SIGKILL behind the artifact": "end",
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
        self.left = 0 if fault == "first" else step

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Before a step."""
        if self.left == 0 and self.fault in STRIKES:
            STRIKES[self.fault](self.draw)
        self.left -= 1

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Behind a step; states are written after this."""
        self.report.write_text(str(trainer.global_step))

    def on_validation_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """In a validation pass."""
        first = trainer.current_epoch == 0
        phase = ("first pass" if first else "last pass") if trainer.state.fn == "fit" else "final pass"
        if self.fault == phase:
            _later(signal.SIGKILL, self.draw, 0.05)
            time.sleep(0.05)

    def on_train_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Behind the last step."""
        if self.fault == "artifact":
            _at_rename(self.draw, self.draw.randrange(4))  # configuration, scores, record, the folder itself
        if self.fault == "end":
            plain, before = daclip.commands.train.take_latest, self.draw.random() < 0.5

            def struck(*arguments: Any) -> bool:
                return kill() if before else (plain(*arguments), kill())[0]  # type: ignore[func-returns-value]

            daclip.commands.train.take_latest = struck  # type: ignore[attr-defined]


def _later(number: signal.Signals, draw: random.Random, within: float = 0.1) -> None:
    """Signal this process at a random moment of the next steps."""
    target, delay = os.getpid(), draw.uniform(0.0, within)
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


def _at_rename(draw: random.Random, left: int = 0) -> None:
    plain = Path.replace

    def replace(self: Path, target: Any) -> Path:
        nonlocal left
        if self.name.endswith(files.PARTIAL):
            if left == 0:
                kill()
            left -= 1
        return plain(self, target)

    Path.replace = replace  # type: ignore[method-assign, assignment]


def _at_delete(draw: random.Random) -> None:
    SafeCheckpointIO.remove_checkpoint = lambda self, path: kill()  # type: ignore[method-assign]


STRIKES: dict[str | None, Callable[[random.Random], None]] = {
    "first": lambda draw: _later(signal.SIGKILL, draw),
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
    """Runs of a stage that are struck once each.

    Args:
        stage: `daclip` or `restorer`.
        work: Gets the runs.
        steps: Length of a run.
        options: Overrides.
        draw: Source of randomness.
    """

    def __init__(self, stage: str, work: Path, steps: int, options: list[str], draw: random.Random):
        self.stage, self.work, self.steps, self.options, self.draw = stage, work, steps, options, draw
        self.folder = work / stage
        self.rows: list[dict[str, Any]] = []
        self.whole = self._fresh(work / f"{stage}_whole")
        status = live(stage, self.whole, options, Strike(self.whole / "step", None, 0, draw))
        if status:
            raise SystemExit(f"the undisturbed run failed: {(self.whole / 'output.txt').read_text()[-2000:]}")

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

    def strike(self, fault: str) -> None:
        """One run with one fault, what is left behind it, and whether its end is that of the run nobody touched."""
        report = self._fresh(self.folder) / "step"
        strike = Strike(report, fault, self.draw.randrange(1, self.steps - 2 * SAVED_EVERY), self.draw)
        if fault == "final pass":  # there is one only where the last pass of training is missing
            live(self.stage, self.folder, self.options, Strike(report, "last pass", 0, self.draw))
        status = live(self.stage, self.folder, self.options, strike)
        torn = [path for path in self.states() if damage(path)]  # before the power failure is played
        if fault == "torn":
            self._tear()
        newest = newest_complete(self.states())
        reached = int(report.read_text()) if report.is_file() else 0
        saved = int(read_checkpoint(newest)["global_step"]) if newest else 0
        row = {"stage": self.stage, "fault": fault, "reached": reached, "saved": saved, "lost": reached - saved}
        row["ended"] = expected_end(fault, status)
        # The first state may not have been due when the fault struck.
        row["corrupted"] = bool(torn) or (newest is None and reached > 2 * SAVED_EVERY)
        status = live(self.stage, self.folder, self.options, Strike(report, None, 0, self.draw))
        row["same"] = status == 0 and self.same_end()
        self.rows.append(row)
        if not (row["same"] and row["ended"]):
            sys.stderr.write(f"{row}\n{(self.folder / 'output.txt').read_text()[-2000:]}\n")

    def same_end(self) -> bool:
        """Whether artifact, last state and what lies around are those of the run that nobody touched."""
        names = ["artifact/weights.safetensors", "artifact/metrics.json", "artifact/config.yaml"]
        contents = [
            [(folder / name).read_bytes().replace(str(folder).encode(), b"RUN") for name in names]
            for folder in (self.folder, self.whole)
        ]
        # A validation pass that was struck is missing, so the best state may be another one.
        left = [
            sorted(path.name.split("_0")[0] if path.name.startswith("best") else path.name for path in folder.iterdir())
            for folder in (self.folder / "checkpoints", self.whole / "checkpoints")
        ]
        states = [final_weights(folder, self.steps) for folder in (self.folder, self.whole)]
        return contents[0] == contents[1] and left[0] == left[1] and equal(*states)


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of one line a fault, as markdown."""
    lines = [
        "| fault | injected | steps lost, mean | most | corrupted states | artifacts bit-equal |",
        "|---|---|---|---|---|---|",
    ]
    for name, fault in FAULTS.items():
        found = [row for row in rows if row["fault"] == fault]
        if not found:
            continue
        lost = [row["lost"] for row in found]
        bad = sum(row["corrupted"] for row in found)
        same = sum(row["same"] for row in found)
        lines.append(f"| {name} | {len(found)} | {sum(lost) / len(lost):.1f} | {max(lost)} | {bad} | {same} |")
    return "\n".join(lines)


def main() -> None:
    """Strike, print the table, exit with 1 if anything was corrupted, lost or changed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=52, help="faults in all")
    parser.add_argument("--steps", type=int, default=32, help="length of a run in optimiser steps, 16 an epoch")
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
        kinds = list(FAULTS.values())
        rows: list[dict[str, Any]] = []
        stages = ["daclip", "restorer"][: max(1, min(2, arguments.kills // 2))]
        for number, stage in enumerate(stages):
            options = [*RECIPES[stage], *SHARED, f"trainer.max_steps={arguments.steps}", f"output={work}/out"]
            options += [f"callbacks.checkpoint.every_n_steps={SAVED_EVERY}"]
            if stage == "restorer":
                small = [*RECIPES["daclip"], *SHARED, f"output={work}/out"]
                if live("daclip", first, small, Strike(first / "step", None, 0, draw)):
                    raise SystemExit((first / "output.txt").read_text()[-2000:])
                options += [f"daclip={first / 'artifact'}"]
            trial = Trial(stage, work, arguments.steps, options, draw)
            for kind in range(number, arguments.kills, len(stages)):
                trial.strike(kinds[kind // len(stages) % len(kinds)])
            rows += trial.rows
    corrupted = sum(row["corrupted"] for row in rows)
    ended, same = (all(row[key] for row in rows) for key in ("ended", "same"))
    lines = (
        table(rows),
        f"\nfaults: {len(rows)}, corrupted states: {corrupted}, state saved every {SAVED_EVERY} steps",
        f"artifacts and last states equal those of an undisturbed run bit for bit: {'yes' if same else 'NO'}",
        f"every life ended as its fault demands: {'yes' if ended else 'NO'}; {time.monotonic() - started:.0f} s",
    )
    sys.stdout.write("\n".join(lines) + "\n")
    if arguments.record:
        arguments.record.write_text(json.dumps(rows, indent=2))
    sys.exit(0 if same and ended and not corrupted else 1)


if __name__ == "__main__":
    main()
