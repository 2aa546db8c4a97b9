"""Checkpoints under faults: torn files, full disks, unwritable folders, signals, and which ones are deleted."""

import contextlib
import io
import logging
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from ranks import run_ranks
from runs import fit

from daclip import files
from daclip.errors import DaclipError, StoppedError
from daclip.files import atomic_file, remove_partial
from daclip.training.checkpointing import (
    RollingCheckpoint,
    SafeCheckpointIO,
    StopSignals,
    damage,
    keep_logs,
    newest_complete,
    read_checkpoint,
)

STATE: dict[str, Any] = {
    "state_dict": {"weight": torch.arange(5000.0)},
    "optimizer_states": [],
    "loops": {},
    "pytorch-lightning_version": "2.6.0",
}


def save(path: Path, **changes: Any) -> Path:
    SafeCheckpointIO().save_checkpoint({**STATE, **changes}, path)
    return path


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    path = save(tmp_path / "new folder" / "a.ckpt")
    assert torch.equal(read_checkpoint(path)["state_dict"]["weight"], torch.arange(5000.0))
    assert [found.name for found in path.parent.iterdir()] == ["a.ckpt"]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_off_anywhere_is_recognised(tmp_path: Path, share: float) -> None:
    path = save(tmp_path / "a.ckpt")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert damage(path)
    with pytest.raises(DaclipError, match=r"a\.ckpt: cut off or damaged") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_single_wrong_bit_of_a_weight_is_recognised(tmp_path: Path) -> None:
    path = save(tmp_path / "a.ckpt")
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda part: part.file_size)
    content = bytearray(path.read_bytes())
    content[largest.header_offset + 2000] ^= 1
    path.write_bytes(bytes(content))
    assert damage(path) == "its content does not match its checksum"
    with pytest.raises(DaclipError, match="checksum"):
        SafeCheckpointIO().load_checkpoint(path)


def test_the_newest_complete_state_is_found_and_torn_ones_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [save(tmp_path / f"step_{step:08d}.ckpt") for step in (1, 2, 3)]
    for age, path in enumerate(reversed(paths)):
        os.utime(path, (1000 - age, 1000 - age))
    assert newest_complete(paths) == paths[2]
    paths[2].write_bytes(paths[2].read_bytes()[:-50])
    os.utime(paths[2], (1000, 1000))
    with caplog.at_level(logging.WARNING):
        assert newest_complete(paths) == paths[1]
    assert "step_00000003.ckpt: skipped, cut off or damaged" in caplog.text
    for path in paths:
        path.write_bytes(b"")
    assert newest_complete(paths) is None


def test_the_only_complete_checkpoint_is_never_deleted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good, torn = save(tmp_path / "good.ckpt"), tmp_path / "torn.ckpt"
    torn.write_bytes(good.read_bytes()[:500])
    storage = SafeCheckpointIO()
    with caplog.at_level(logging.WARNING):
        storage.remove_checkpoint(good)
    assert good.exists()
    assert "only complete checkpoint" in caplog.text
    storage.remove_checkpoint(torn)
    assert not torn.exists()
    another = tmp_path / "another.ckpt"
    storage.save_checkpoint(STATE, another)
    storage.remove_checkpoint(good)
    assert not good.exists()
    assert damage(another) is None


class FailingFile:
    """Stands for a disk that takes so many bytes and no more."""

    def __init__(self, file: Any, room: int):
        self.file, self.room = file, room

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> "FailingFile":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def write(self, content: Any) -> int:
        self.room -= memoryview(content).nbytes
        if self.room < 0:
            raise OSError(28, "No space left on device")
        return int(self.file.write(content))


@pytest.mark.parametrize("room", [0, 100, 10_000, 20_000])
def test_a_full_disk_costs_the_new_state_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    path = save(tmp_path / "a.ckpt")
    before = path.read_bytes()
    real_open = Path.open

    def limited(self: Path, *arguments: Any, **options: Any) -> Any:
        file = real_open(self, *arguments, **options)
        return FailingFile(file, room) if self.name.endswith(files.PARTIAL) else file

    monkeypatch.setattr(Path, "open", limited)
    with pytest.raises(DaclipError, match=r"a\.ckpt: cannot be written \(No space left on device\)") as caught:
        save(path, state_dict={"weight": torch.zeros(5000)})
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["a.ckpt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_really_full_device_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"), Path("/dev/full").open("wb", buffering=0) as full:
        files.WatchedFile(full).write(b"x")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DaclipError, match=r"cannot be written"), atomic_file(tmp_path / "file" / "a.ckpt") as file:
        file.write(b"x")


def test_what_a_killed_process_left_is_cleared_away_and_what_a_live_one_writes_is_not(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    alive = os.getppid()
    names = [f".{name}-{process}{files.PARTIAL}" for name in ("a.ckpt", "b-c.ckpt") for process in (dead.pid, alive)]
    for name in names:
        (tmp_path / name).write_bytes(b"half")
    # Saving clears nothing away: another run may have just begun to write there.
    save(tmp_path / "a.ckpt")
    assert len(list(tmp_path.iterdir())) == 5
    remove_partial(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"a.ckpt", names[1], names[3]}


def test_a_run_that_goes_on_clears_away_what_a_kill_left(tmp_path: Path) -> None:
    options = ["trainer.max_steps=4", "callbacks.checkpoint.every_n_steps=1"]
    fit("daclip", tmp_path, *options)
    folder = tmp_path / "checkpoints"
    best = next(folder.glob("best_*.ckpt"))
    shutil.copy(best, folder / "best_00000001.ckpt")
    os.utime(best)  # the newest, as behind a kill before its forerunner was deleted
    (folder / f".step_00000003.ckpt-999999999{files.PARTIAL}").write_bytes(b"half")
    fit("daclip", tmp_path, "trainer.max_steps=5", options[1], resume=best)
    assert not list(folder.glob(f".*{files.PARTIAL}"))
    assert not (folder / "best_00000001.ckpt").exists()
    assert best.exists()


def test_an_error_inside_the_block_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    with contextlib.suppress(ValueError), atomic_file(path) as file:
        file.write(b"new")
        raise ValueError
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["a.txt"]


def test_the_newest_states_and_the_best_stay(tmp_path: Path) -> None:
    fit("daclip", tmp_path, "trainer.max_steps=8", "callbacks.checkpoint.every_n_steps=1")
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    steps = [name for name in names if name.startswith("step_")]
    assert steps == ["step_00000007.ckpt", "step_00000008.ckpt"]
    best = [name for name in names if name.startswith("best_")]
    assert len(best) == 1
    assert len(names) == 3
    assert all(damage(tmp_path / "checkpoints" / name) is None for name in names)


class Break(Callback):
    """Makes the folder unusable behind a step."""

    def __init__(self, folder: Path, step: int):
        self.folder, self.step = folder, step

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            self.folder.rename(self.folder.with_name("moved"))
            self.folder.write_text("no folder any more")


def test_a_run_whose_folder_breaks_ends_in_one_line_with_its_states_intact(tmp_path: Path) -> None:
    options = ["trainer.max_steps=8", "callbacks.checkpoint.every_n_steps=1"]
    with pytest.raises(DaclipError, match="cannot be written") as caught:
        fit("daclip", tmp_path, *options, callbacks=[Break(tmp_path / "checkpoints", 3)])
    assert "\n" not in str(caught.value)
    kept = sorted((tmp_path / "moved").glob("step_*.ckpt"))
    assert [path.name for path in kept] == ["step_00000001.ckpt", "step_00000002.ckpt"]
    assert newest_complete(kept) == kept[-1]


def test_weights_that_are_not_finite_never_replace_a_state(tmp_path: Path) -> None:
    class Poison(Callback):
        def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
            if trainer.global_step == 3:
                with torch.no_grad():
                    next(p for p in pl_module.parameters() if p.requires_grad).fill_(torch.nan)

    options = ["trainer.max_steps=8", "callbacks.checkpoint.every_n_steps=1"]
    with pytest.raises(DaclipError, match="no longer finite at step 3"):
        fit("daclip", tmp_path, *options, callbacks=[Poison()])
    newest = newest_complete((tmp_path / "checkpoints").glob("*.ckpt"))
    assert newest is not None
    assert newest.name == "step_00000002.ckpt"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_signals_save_and_queue_again_where_time_is_up(
    tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = tmp_path / "calls"
    tool = tmp_path / "bin" / "scontrol"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\necho $@ >> {calls}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")

    class Send(Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
            if trainer.fit_loop.total_batch_idx == 1:
                os.kill(os.getpid(), number)

    before = [signal.getsignal(known) for known in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)]
    with pytest.raises(StoppedError, match=f"{number.name} at step 2") as caught:
        fit("daclip", tmp_path, "trainer.max_steps=8", callbacks=[Send()])
    assert caught.value.exit_status == 75
    assert [signal.getsignal(known) for known in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)] == before
    assert damage(tmp_path / "checkpoints" / "step_00000002.ckpt") is None
    assert calls.exists() is (number == signal.SIGUSR1)
    if calls.exists():
        assert calls.read_text() == "requeue 4711\n"


def test_a_signal_in_a_validation_pass_is_obeyed_there(tmp_path: Path) -> None:
    class Send(Callback):
        def on_validation_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StoppedError, match="at step 4"):
        fit("daclip", tmp_path, "trainer.max_steps=8", callbacks=[Send()])
    assert damage(tmp_path / "checkpoints" / "step_00000004.ckpt") is None


@pytest.mark.parametrize(
    ("second", "together", "status"),
    [(signal.SIGINT, 100.0, 130), (signal.SIGTERM, 0.0, 143), (signal.SIGTERM, 100.0, 0)],
)
def test_a_second_signal_ends_a_process_whatever_it_waits_for(
    second: signal.Signals, together: float, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StopSignals, "together", together)
    child = os.fork()
    if child == 0:
        StopSignals().install()
        os.kill(os.getpid(), signal.SIGINT if second == signal.SIGINT else signal.SIGTERM)
        time.sleep(0.01)
        os.kill(os.getpid(), second)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == status


def test_nonsense_settings_are_refused() -> None:
    with pytest.raises(DaclipError, match="keep=0"):
        RollingCheckpoint("x", 1, 0)


def test_curves_of_a_run_that_goes_on_in_its_folder_are_kept(tmp_path: Path) -> None:
    keep_logs(tmp_path)
    for text in ("first", "second"):
        (tmp_path / "logs").mkdir(exist_ok=True)
        (tmp_path / "logs" / "metrics.csv").write_text(text)
        keep_logs(tmp_path)
    assert [path.read_text() for path in sorted((tmp_path / "logs").iterdir())] == ["first", "second"]


def test_a_few_real_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault injection of `experiments/`, small; the table of many kills is in docs/reliability.md."""
    script = Path(__file__).parents[2] / "experiments" / "fault_injection.py"

    monkeypatch.setattr(sys, "argv", ["", "--kills=2", "--steps=16", f"--work={tmp_path / 'work'}"])

    def strike(_: int) -> tuple[object, str]:
        with contextlib.redirect_stdout(io.StringIO()) as shown, pytest.raises(SystemExit) as ended:
            runpy.run_path(str(script), run_name="__main__")
        return ended.value.code, shown.getvalue()

    # A fork has the imports done, and what it sets stays in it.
    (found,), statuses = run_ranks(1, tmp_path, strike, started_by=lambda *_: {})
    assert statuses == [0], (tmp_path / "rank_0.txt").read_text(encoding="utf-8")
    assert found[0] == 0, found[1]
    assert "corrupted states: 0" in found[1]
