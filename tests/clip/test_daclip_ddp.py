"""Stage 1 in two processes, started as users start it, does what one process with the whole batch does."""

import contextlib
import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from running import invoke

COMMON = [
    "experiment=smoke_daclip",
    "trainer.accelerator=cpu",
    "trainer.max_steps=2",
    "trainer.limit_val_batches=1",
    "trainer.log_every_n_steps=1",
    "trainer.precision=32-true",
    "stage.loss.distillation_weight=0",  # no term looks at the content: links must not be waited for
]


def losses(folder: Path) -> list[tuple[float, float]]:
    """Loss and gradient norm of each step of the run in a folder."""
    with (folder / "latest" / ".." / "logs" / "metrics.csv").resolve().open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    return [(float(row["train/loss"]), float(row["train/grad_norm"])) for row in rows]


def test_two_ranks_train_as_one_process_with_the_whole_batch(tmp_path: Path) -> None:
    command = ["daclip.commands.train_daclip", *COMMON]
    shared = ["trainer=ddp", "trainer.devices=2", "data.batch_size=5", "stage.chunk_size=3"]
    done = subprocess.run(
        [sys.executable, "-m", *command, *shared, "output=two"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,  # a rank that never joins would be waited for half an hour
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with contextlib.chdir(tmp_path):
        assert invoke(*command, "data.batch_size=10", "output=one") is None
    together, alone = losses(tmp_path / "two"), losses(tmp_path / "one")
    assert len(together) == 2
    for found, expected in zip(together, alone, strict=True):
        assert found == pytest.approx(expected, rel=1e-4)
