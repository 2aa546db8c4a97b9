"""Progress lines of a run whose output is a file, and the notes of libraries that stay out of it."""

import logging
import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import lightning as L
import pytest
from lightning.pytorch.callbacks import Callback
from runs import fit

from daclip.errors import DaclipError
from daclip.training.callbacks import ProgressLines, RunBar, progress_bar, quiet_libraries


def lines_every(seconds: float) -> list[str]:
    return [
        "+callbacks.progress._target_=daclip.training.callbacks.ProgressLines",
        f"+callbacks.progress.seconds={seconds}",
    ]


def test_a_run_prints_step_loss_rate_speed_and_time_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "daclip"):
        options = ["trainer.max_steps=4", "trainer.accumulate_grad_batches=2", *lines_every(1e-9)]
        _, _, losses = fit("daclip", tmp_path, *options)
    lines = [line for line in caplog.messages if line.startswith("step ")]
    pattern = r"step \d/4  loss (\S+)  lr \d\.\d\de-\d\d(  \S+ images/s)?  0:0\d:\d\d left"
    found = [re.fullmatch(pattern, line) for line in lines]
    assert all(found)
    assert "images/s" in lines[-1]
    assert [line[:8] for line in lines][-2:] == ["step 3/4", "step 4/4"]
    # The mean over the two batches of the last step.
    expected = 2 * sum(list(losses.loss.values())[-2:]) / 2
    assert found[-1] is not None
    assert float(found[-1][1]) == pytest.approx(expected, rel=1e-3)
    assert any(line.startswith("validation batch 1/") for line in caplog.messages)
    assert any(re.match(r"validation at step 2  degradation_accuracy \d\.\d\d\d", line) for line in caplog.messages)


def test_lines_keep_their_distance(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "daclip"):
        fit("daclip", tmp_path, "trainer.max_steps=2", *lines_every(1e6))
    assert not [line for line in caplog.messages if line.startswith(("step ", "validation batch"))]
    with pytest.raises(DaclipError, match="seconds must be above 0"):
        ProgressLines(0)


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal, kind in ((True, RunBar), (False, ProgressLines)):
        monkeypatch.setattr(
            "daclip.training.callbacks.sys", SimpleNamespace(stdout=SimpleNamespace(isatty=lambda t=terminal: t))
        )
        assert type(progress_bar(30, 10)) is kind


@pytest.mark.parametrize(("epochs", "text"), [(-1, "Epoch 3"), (None, "Epoch 3"), (5, "Epoch 3/5")])
def test_the_bar_counts_epochs_from_one_and_names_no_end_that_is_none(epochs: int | None, text: str) -> None:
    bar = RunBar()
    bar._trainer = SimpleNamespace(max_epochs=epochs)  # type: ignore[assignment]
    assert bar._get_train_description(2).rstrip() == text


def test_the_bar_tells_the_time_left_of_the_run(tmp_path: Path) -> None:
    class Values(Callback):
        found: ClassVar[list[dict[str, Any]]] = []

        def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
            bar = next(one for one in trainer.callbacks if isinstance(one, RunBar))  # type: ignore[attr-defined]
            self.found.append(bar.get_metrics(trainer, pl_module))

    bar = ["+callbacks.progress._target_=daclip.training.callbacks.RunBar"]
    fit("daclip", tmp_path, "trainer.max_steps=3", *bar, callbacks=[Values()])
    assert [values["step"] for values in Values.found] == ["1/3", "2/3", "3/3"]
    assert Values.found[-1]["left"] == "0:00:00"


def test_named_notes_are_kept_out_and_others_are_not(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.INFO, logger.name):
        warnings.simplefilter("always")
        quiet_libraries()
        logger.info("💡 Tip: try installing more")
        logger.info("Restored all states from a checkpoint")
        warnings.warn("The 'train_dataloader' does not have many workers which may be a bottleneck", stacklevel=1)
        warnings.warn("something that matters", stacklevel=1)
    assert [message for message in caplog.messages if "Tip" in message or "Restored" in message] == [
        "Restored all states from a checkpoint"
    ]
    assert [str(warning.message) for warning in caught] == ["something that matters"]
