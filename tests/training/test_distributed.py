"""Several processes do what one does: losses, weights, scores, skipped steps, stops and failures."""

import contextlib
import csv
import os
import signal
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from ranks import run_ranks, srun, torchrun
from running import forked, invoke
from runs import fit
from torch import distributed

from daclip.arithmetic import LAUNCH, launch_forgotten
from daclip.training.callbacks import NonFiniteSteps
from daclip.training.checkpointing import read_checkpoint

FASTER = ["stage.optimizer.lr=1e-3", "stage.warmup_steps=1"]
# Contrastive losses gather the batch of all ranks. Accumulated parts of a batch do not meet, so what equals the whole
# there is a mean over samples: distillation.
LOSS = {
    "daclip": FASTER,
    "distilled": [
        *FASTER,
        "stage.loss.degradation_weight=0",
        "stage.loss.caption_weight=0",
        "stage.loss.distillation_weight=1",
    ],
    "restorer": [],
}
STEPS = 4


def options(stage: str, world: int, trainer: str) -> list[str]:
    """Eight samples a step, over all ranks."""
    return [
        *LOSS[stage],
        f"trainer={trainer}",
        "trainer.accelerator=cpu",
        "trainer.precision=32-true",
        f"trainer.max_steps={STEPS}",
        "trainer.log_every_n_steps=1",
        f"data.batch_size={8 // world}",
        "data.samples_per_epoch=32",
    ]


def curve(stage: str, folder: Path, *changes: str) -> dict[str, Any]:
    """Losses by batch, scores, and a fingerprint of the final weights."""
    _, _, losses = fit(stage.replace("distilled", "daclip"), folder, *changes)
    state = read_checkpoint(folder / "checkpoints" / f"step_{STEPS:08d}.ckpt")
    weights = state.get("current_model_state", state["state_dict"])
    return {
        "loss": list(losses.loss.values()),
        "scores": losses.scores,
        "weights": {
            name: [float(value.double().sum()), float(value.double().norm())] for name, value in weights.items()
        },
    }


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What one process does with all eight samples of a step."""
    root = tmp_path_factory.mktemp("single")
    return {stage: curve(stage, root / stage, *options(stage, 1, "default")) for stage in LOSS}


def assert_same(curves: list[dict[str, Any]], expected: dict[str, Any]) -> None:
    mean = [sum(losses) / len(losses) for losses in zip(*(found["loss"] for found in curves), strict=True)]
    assert mean == pytest.approx(expected["loss"], abs=1e-5)
    for found in curves:
        for step, scores in expected["scores"].items():
            assert found["scores"][str(step)] == pytest.approx(scores, abs=1e-3)
        assert found["weights"].keys() == expected["weights"].keys()
        for name, values in expected["weights"].items():
            assert found["weights"][name] == pytest.approx(values, rel=1e-4, abs=1e-4), name
        assert found["weights"] == curves[0]["weights"]


@pytest.mark.parametrize(
    ("stage", "world", "nodes", "trainer"),
    [
        ("daclip", 4, 2, "torchrun"),
        ("restorer", 2, 2, "slurm"),
    ],
)
def test_ranks_do_what_one_process_does(
    stage: str, world: int, nodes: int, trainer: str, single: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    more = options(stage, world, trainer)
    starter = srun if trainer == "slurm" else torchrun
    curves, statuses = run_ranks(world, tmp_path, lambda rank: curve(stage, tmp_path / "run", *more), starter, nodes)
    assert statuses == [0] * world, (tmp_path / "rank_0.txt").read_text()
    assert_same(curves, single[stage])


@pytest.mark.parametrize("stage", ["distilled", "restorer"])
def test_accumulated_gradients_do_what_a_large_batch_does(
    stage: str, single: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    more = [*options(stage, 2, "default"), "trainer.accumulate_grad_batches=2"]
    found = curve(stage, tmp_path, *more)
    halves = found["loss"]  # each divided by their number already
    found["loss"] = [a + b for a, b in zip(halves[::2], halves[1::2], strict=True)]
    found["scores"] = {str(step): scores for step, scores in found["scores"].items()}
    assert_same([found], single[stage])


class SpoilRank(Callback):
    """Makes one rank's photos NaN in the second batch."""

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_rank == 1 and batch_idx == 1:
            batch.lq.fill_(torch.nan)


def test_all_ranks_skip_the_step_that_one_of_them_spoils(tmp_path: Path) -> None:
    """With the official network, all of whose parameters take part: DDP refuses any that does not."""
    more = [*options("restorer", 2, "torchrun"), "backbone=unet", "trainer.max_steps=3"]

    def work(rank: int) -> Any:
        trainer, module, _ = fit("restorer", tmp_path / "run", *more, callbacks=[SpoilRank()])
        assert distributed.is_initialized()
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        counter = next(found for found in callbacks if isinstance(found, NonFiniteSteps))
        return counter.skipped, [float(p.detach().double().sum()) for p in module.parameters()]

    found, statuses = run_ranks(2, tmp_path, work)
    assert statuses == [0, 0], (tmp_path / "rank_0.txt").read_text()
    assert found[0] == found[1]
    assert found[0][0] == 1
    assert all(value == value for value in found[0][1])


class SignalRank(Callback):
    """Asks one rank to stop in the second batch."""

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_rank == 1 and batch_idx == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_to_one_rank_stops_all_and_they_resume_exactly(
    single: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    more = options("restorer", 2, "torchrun")
    run = tmp_path / "run"
    _, statuses = run_ranks(2, tmp_path / "a", lambda rank: fit("restorer", run, *more, callbacks=[SignalRank()]))
    assert statuses == [1, 1]
    for rank in range(2):
        assert "at step 2; the state is saved" in (tmp_path / "a" / f"rank_{rank}.txt").read_text()
    rest: dict[str, Any] = {}

    def resume(rank: int) -> Any:
        _, _, losses = fit("restorer", run, *more, resume=run / "checkpoints" / "step_00000002.ckpt")
        return list(losses.loss.values())

    rest, statuses = run_ranks(2, tmp_path / "b", resume)  # type: ignore[assignment]
    assert statuses == [0, 0]
    mean = [sum(losses) / 2 for losses in zip(*rest, strict=True)]
    assert mean == pytest.approx(single["restorer"]["loss"][2:], abs=1e-5)


class FailRank(Callback):
    """One rank breaks in the second batch."""

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_rank == 1 and batch_idx == 1:
            raise RuntimeError("the graphics card fell out")


def test_a_rank_that_fails_ends_the_others(tmp_path: Path) -> None:
    more = options("restorer", 2, "torchrun")
    _, statuses = run_ranks(2, tmp_path, lambda rank: fit("restorer", tmp_path / "run", *more, callbacks=[FailRank()]))
    # Not killed for hanging, which would be -9.
    assert statuses == [1, 1]
    assert "the graphics card fell out" in (tmp_path / "rank_1.txt").read_text()


# Where nothing has started several processes, Lightning starts the others itself.
TYPED = [
    "daclip.commands.train_daclip",
    "experiment=smoke_daclip",
    "trainer.accelerator=cpu",
    "trainer.max_steps=2",
    "trainer.limit_val_batches=1",
    "trainer.log_every_n_steps=1",
    "trainer.precision=32-true",
    "stage.loss.distillation_weight=0",  # no term looks at the content: links must not be waited for
]


def logged(folder: Path) -> list[tuple[float, float]]:
    """Loss and gradient norm of each step of the run in a folder."""
    with (folder / "latest" / ".." / "logs" / "metrics.csv").resolve().open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    return [(float(row["train/loss"]), float(row["train/grad_norm"])) for row in rows]


def test_what_a_launch_leaves_in_the_environment_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCH:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MASTER_PORT", "1")
    with launch_forgotten():
        os.environ.update(dict.fromkeys(LAUNCH, "2"))
    assert [name for name in LAUNCH if name in os.environ] == ["MASTER_PORT"]


# A program that trains twice; of the process that Lightning starts, one run is wanted.
TWICE = """
import os, sys
from daclip.commands.train_daclip import main
launched = "LOCAL_RANK" in os.environ
main()
if not launched:
    sys.argv[-1] = "output=again"
    main()
"""


def test_stage_1_on_two_devices_trains_as_one_process_with_the_whole_batch_and_does_so_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "twice.py").write_text(TWICE)
    monkeypatch.syspath_prepend(tmp_path)
    shared = ["trainer=ddp", "trainer.devices=2", "data.batch_size=5", "stage.chunk_size=3"]
    status, shown = forked("twice", *TYPED[1:], *shared, "output=two", cwd=tmp_path)
    assert status == 0, shown
    with contextlib.chdir(tmp_path):
        assert invoke(*TYPED, "data.batch_size=10", "output=one") is None
    alone = logged(tmp_path / "one")
    for folder in ("two", "again"):
        together = logged(tmp_path / folder)
        assert len(together) == 2
        for found, expected in zip(together, alone, strict=True):
            assert found == pytest.approx(expected, rel=1e-4)
