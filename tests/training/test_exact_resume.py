"""Stopped anywhere and resumed equals never stopped, bit for bit: losses, weights, moments, averages, generators."""

import os
import random
import signal
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins import MixedPrecision
from runs import Losses, differences, fit

from daclip.errors import DaclipError, StoppedError
from daclip.training.checkpointing import (
    checkpoint_to_resume,
    generator_states,
    read_checkpoint,
    set_generator_states,
)

STEPS = 6  # one and a half epochs


class StopAt(Callback):
    """Sends this process SIGTERM while it computes a step, as a batch system does."""

    def __init__(self, step: int):
        self.step = step

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


class Draws(Callback):
    """Draws from the global generators in every step, as dropout would."""

    def __init__(self) -> None:
        self.drawn: dict[int, tuple[float, float, float]] = {}

    def on_before_zero_grad(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        drawn = float(torch.rand(())), float(np.random.rand()), random.random()  # noqa: NPY002
        self.drawn[trainer.fit_loop.total_batch_idx] = drawn


def last_state(folder: Path) -> dict[str, Any]:
    return read_checkpoint(folder / "checkpoints" / f"step_{STEPS:08d}.ckpt")


def comparable(state: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint without three things that no weight depends on.

    The paths of the best states hold the folder's name. Counts of validation batches lack the passes that a stop came
    in front of. And Lightning counts the epoch behind such a stop as completed but not as begun.
    """
    callbacks = {name: value for name, value in state["callbacks"].items() if "ModelCheckpoint" not in name}
    loop = {name: value for name, value in state["loops"]["fit_loop"].items() if "val_loop" not in name}
    epochs = {part: (count["processed"], count["completed"]) for part, count in loop.pop("epoch_progress").items()}
    return {**state, "callbacks": callbacks, "loops": {**loop, "epochs": epochs}}


class Undisturbed:
    """Runs that nobody stopped, by stage; each is trained once."""

    def __init__(self, root: Path):
        self.root = root
        self.found: dict[str, tuple[dict[str, Any], Losses, Draws]] = {}

    def __call__(self, stage: str) -> tuple[dict[str, Any], Losses, Draws]:
        if stage not in self.found:
            draws = Draws()
            folder = self.root / stage
            _, _, losses = fit(stage, folder, f"trainer.max_steps={STEPS}", callbacks=[draws])
            self.found[stage] = comparable(last_state(folder)), losses, draws
        return self.found[stage]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return Undisturbed(tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.parametrize(
    ("stage", "stops"),
    [
        ("daclip", [4]),  # behind the last batch of an epoch, in front of its validation pass
        ("daclip", [3, 5]),  # stopped twice
        ("restorer", [2]),
    ],
    ids=str,
)
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(
    stage: str, stops: list[int], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    expected, expected_losses, expected_draws = undisturbed(stage)
    loss: dict[int, float] = {}
    scores: dict[int, dict[str, float]] = {}
    drawn: dict[int, tuple[float, float, float]] = {}
    for stop in [*stops, STEPS + 1]:
        resume = checkpoint_to_resume("auto", "nowhere", tmp_path)
        draws, losses = Draws(), Losses()
        run = {"resume": resume, "callbacks": [StopAt(stop), draws, losses]}
        if stop <= STEPS:
            with pytest.raises(StoppedError, match=rf"SIGTERM at step {stop}; .* resume=.*step_0000000{stop}\.ckpt"):
                fit(stage, tmp_path, f"trainer.max_steps={STEPS}", **run)  # type: ignore[arg-type]
        else:
            fit(stage, tmp_path, f"trainer.max_steps={STEPS}", **run)  # type: ignore[arg-type]
        loss |= losses.loss
        scores |= losses.scores
        drawn |= draws.drawn
    assert loss == expected_losses.loss
    # A pass that a stop came in front of is not made up for.
    missing = {step: found for step, found in expected_losses.scores.items() if step in stops}
    assert {**missing, **scores} == expected_losses.scores
    assert drawn == expected_draws.drawn
    assert differences(comparable(last_state(tmp_path)), expected) == []


def test_the_comparison_sees_a_single_bit(undisturbed: Undisturbed) -> None:
    expected, *_ = undisturbed("daclip")
    name = next(name for name in expected["state_dict"] if "controller" in name)
    weight = expected["state_dict"][name]
    changed = {**expected, "state_dict": {**expected["state_dict"], name: torch.nextafter(weight, weight + 1)}}
    assert differences(changed, expected) == [f"/state_dict/{name}"]


@pytest.mark.parametrize("optimizer", ["adamw_clip", "muon"])
def test_loader_processes_accumulated_gradients_and_optimizers_resume_exactly(optimizer: str, tmp_path: Path) -> None:
    options = ["trainer.max_steps=4", "data.num_workers=1", "trainer.accumulate_grad_batches=2"]
    options.append(f"optimizer={optimizer}")
    _, _, expected = fit("daclip", tmp_path / "a", *options)
    # The signal comes between the two halves of step 2 and is obeyed behind it.
    with pytest.raises(StoppedError, match="at step 2"):
        fit("daclip", tmp_path / "b", *options, callbacks=[StopAt(3)])
    resume = checkpoint_to_resume("auto", "nowhere", tmp_path / "b")
    _, _, rest = fit("daclip", tmp_path / "b", *options, resume=resume)
    assert rest.loss == {step: expected.loss[step] for step in range(4, 8)}
    states = [read_checkpoint(tmp_path / run / "checkpoints" / "step_00000004.ckpt") for run in "ab"]
    assert differences(comparable(states[0]), comparable(states[1])) == []


def test_the_scale_of_float16_gradients_is_part_of_the_state(tmp_path: Path) -> None:
    class Scaled(Callback):
        """Gives the run a gradient scaler, which Lightning keeps for GPUs, and counts its scales."""

        def __init__(self) -> None:
            self.scales: dict[int, float] = {}

        def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
            scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=2)
            trainer.strategy.precision_plugin = MixedPrecision("16-mixed", "cpu", scaler)

        def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
            self.scales[trainer.global_step] = trainer.precision_plugin.scaler.get_scale()  # type: ignore[attr-defined]

    whole, first, second = Scaled(), Scaled(), Scaled()
    fit("restorer", tmp_path / "a", "trainer.max_steps=6", callbacks=[whole])
    with pytest.raises(StoppedError):
        fit("restorer", tmp_path / "b", "trainer.max_steps=6", callbacks=[first, StopAt(3)])
    resume = checkpoint_to_resume("auto", "nowhere", tmp_path / "b")
    fit("restorer", tmp_path / "b", "trainer.max_steps=6", resume=resume, callbacks=[second])
    assert {**first.scales, **second.scales} == whole.scales
    assert len(set(whole.scales.values())) > 1
    states = [read_checkpoint(tmp_path / run / "checkpoints" / "step_00000006.ckpt") for run in "ab"]
    assert differences(comparable(states[0]), comparable(states[1])) == []


def test_global_generators_go_back() -> None:
    before = generator_states()
    drawn = torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002
    set_generator_states(before)
    again = torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002
    assert torch.equal(drawn[0], again[0])
    assert (drawn[1] == again[1]).all()
    assert drawn[2] == again[2]


def test_last_is_the_newest_of_all_runs_and_auto_that_of_this_one(tmp_path: Path) -> None:
    with pytest.raises(DaclipError, match="no run below"):
        checkpoint_to_resume("last", tmp_path, tmp_path / "new")
    assert checkpoint_to_resume("auto", tmp_path, tmp_path / "new") is None
    for number, run in enumerate(["a", "b"]):
        path = tmp_path / run / "checkpoints" / f"step_{8 - number:08d}.ckpt"
        path.parent.mkdir(parents=True)
        torch.save({"state_dict": {}}, path)
        os.utime(path, (number, number))
    assert checkpoint_to_resume("last", tmp_path, tmp_path / "new") == tmp_path / "b/checkpoints/step_00000007.ckpt"
    assert checkpoint_to_resume("auto", tmp_path, tmp_path / "a") == tmp_path / "a/checkpoints/step_00000008.ckpt"
    with pytest.raises(DaclipError, match="no such checkpoint"):
        checkpoint_to_resume("gone.ckpt", tmp_path, tmp_path)
