"""Losses and gradients that are not finite, and photos that cannot be decoded."""

import copy
import logging
import struct
from pathlib import Path
from types import MethodType, SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig
from PIL import Image
from runs import compose, fit
from skimage import data as photos
from torch import nn

from daclip.artifacts import read_metrics
from daclip.commands.assembly import build_trainer
from daclip.commands.train import train
from daclip.data.loading import DamagedPhotos, WithoutDamaged
from daclip.errors import DaclipError, DamagedPhotoError
from daclip.training.callbacks import NonFiniteSteps
from daclip.training.checkpointing import newest_complete
from daclip.training.optimizers import StageModule


class BadBatches(Callback):
    """Spoils the photos of some batches, so that loss and gradients are NaN."""

    def __init__(self, *batches: int, value: float = torch.nan):
        self.batches, self.value = batches, value
        self.weights: dict[int, list[torch.Tensor]] = {}

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.fit_loop.total_batch_idx in self.batches:
            batch.lq[0, 0, 0, 0] = self.value

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self.weights[trainer.fit_loop.total_batch_idx] = [
            p.detach().clone() for p in pl_module.parameters() if p.requires_grad
        ]


def counter(trainer: L.Trainer) -> NonFiniteSteps:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return next(callback for callback in callbacks if isinstance(callback, NonFiniteSteps))


@pytest.mark.parametrize("stage", ["daclip", "restorer"])
def test_a_bad_step_is_skipped_counted_and_named(stage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spoiled = BadBatches(2)
    with caplog.at_level(logging.WARNING):
        trainer, module, _ = fit(stage, tmp_path, "trainer.max_steps=5", callbacks=[spoiled])
    weights = spoiled.weights
    assert all(torch.equal(a, b) for a, b in zip(weights[1], weights[2], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(weights[2], weights[3], strict=True))
    assert all(torch.isfinite(p).all() for p in module.parameters())
    assert (counter(trainer).skipped, counter(trainer).in_a_row) == (1, 0)
    lines = [line for line in caplog.messages if line.startswith("step 3 skipped")]
    assert len(lines) == 1
    assert "(noisy)" in lines[0]
    assert "loss nan" in lines[0]


def test_the_scores_of_a_run_say_how_many_steps_were_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_a_bad_batch(cfg: DictConfig) -> L.Trainer:
        trainer = build_trainer(cfg)
        trainer.callbacks.append(BadBatches(1))  # type: ignore[attr-defined]
        return trainer

    monkeypatch.setattr("daclip.commands.train.build_trainer", with_a_bad_batch)
    cfg = compose("daclip", tmp_path / "run", "trainer.max_steps=3", f"output={tmp_path}")
    train(cfg, tmp_path / "run")
    assert read_metrics(tmp_path / "latest")["skipped_steps"] == 1


def test_a_loss_that_is_not_finite_counts_even_with_finite_gradients(tmp_path: Path) -> None:
    class Infinite(Callback):
        def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
            plain = pl_module.training_step

            def step(module: Any, batch: Any, batch_index: int) -> torch.Tensor:
                loss: torch.Tensor = plain(batch, batch_index)
                return loss + torch.inf if batch_index == 1 else loss

            pl_module.training_step = MethodType(step, pl_module)

    trainer, _, _ = fit("daclip", tmp_path, "trainer.max_steps=3", callbacks=[Infinite()])
    assert counter(trainer).skipped == 1


def test_too_many_in_a_row_end_the_run_and_keep_the_last_good_state(tmp_path: Path) -> None:
    options = ["trainer.max_steps=8", "callbacks.checkpoint.every_n_steps=1", "callbacks.non_finite.most_in_a_row=3"]
    spoiled = BadBatches(2, 3, 4)
    with pytest.raises(DaclipError, match=r"3 steps in a row up to step 5 .* resume=last") as caught:
        fit("daclip", tmp_path, *options, callbacks=[spoiled])
    assert "\n" not in str(caught.value)
    assert all(torch.equal(a, b) for a, b in zip(spoiled.weights[1], spoiled.weights[4], strict=True))
    newest = newest_complete((tmp_path / "checkpoints").glob("*.ckpt"))
    assert newest is not None
    # The run goes on from there, without the bad batches.
    trainer, _, _ = fit("daclip", tmp_path, *options, resume=newest)
    assert trainer.global_step == 8
    assert counter(trainer).skipped == 2


def test_one_bad_part_spoils_an_accumulated_step_only(tmp_path: Path) -> None:
    options = ["trainer.max_steps=2", "trainer.accumulate_grad_batches=2"]
    trainer, module, _ = fit("daclip", tmp_path, *options, callbacks=[BadBatches(1)])
    assert counter(trainer).skipped == 1
    assert all(torch.isfinite(p).all() for p in module.parameters())


@pytest.mark.parametrize("algorithm", [None, "value"])
def test_gradients_are_clipped_as_torch_does(algorithm: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: dict[str, Any] = {}
    monkeypatch.setattr(StageModule, "log", lambda self, name, value: logged.update({name: value}))
    monkeypatch.setattr(StageModule, "trainer", SimpleNamespace(precision_plugin=None))
    stage = StageModule(torch.optim.SGD, 0, 0.0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    stage.network = network
    optimizer = torch.optim.SGD(stage.parameters())
    stage.configure_gradient_clipping(optimizer)
    assert logged == {"train/grad_norm": 0}  # no parameter has a gradient
    generator = torch.Generator().manual_seed(0)
    for parameter in stage.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    theirs = copy.deepcopy(network)
    for parameter, other in zip(stage.parameters(), theirs.parameters(), strict=True):
        assert parameter.grad is not None
        other.grad = parameter.grad.clone()
    stage.configure_gradient_clipping(optimizer, 0.5, algorithm)
    if algorithm == "value":
        nn.utils.clip_grad_value_(theirs.parameters(), 0.5)
    else:
        assert torch.equal(nn.utils.clip_grad_norm_(theirs.parameters(), 0.5), logged["train/grad_norm"])
    for parameter, other in zip(stage.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-6, atol=0)


BOMB = "huge.bmp"


def folder_of_photos(root: Path) -> Path:
    """Eight photos, of which two that training sees are cut off behind their headers, and the header of a huge one."""
    root.mkdir()
    for number in range(8):
        path = root / f"{number:02d}.png"
        Image.fromarray(photos.coffee()[: 64 + number, :80]).save(path)
        if number in (1, 5):
            path.write_bytes(path.read_bytes()[:2000])
    Image.new("RGB", (1, 1)).save(root / BOMB)
    header = bytearray((root / BOMB).read_bytes())
    header[18:26] = struct.pack("<ii", 50_000, 50_000)  # width and height
    (root / BOMB).write_bytes(header)
    return root


def options_for(root: Path, limit: int) -> list[str]:
    return ["data=folder", f"data.root={root}", f"data.max_damaged={limit}", "trainer.max_steps=8"]


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_photos_are_left_out_counted_and_listed(tmp_path: Path, workers: int) -> None:
    root = folder_of_photos(tmp_path / "photos")
    damaged = {"01.png": "damaged", "05.png": "damaged", BOMB: "million pixels"}
    options = [*options_for(root, 3), f"data.num_workers={workers}"]
    seen: set[str] = set()

    class Names(Callback):
        def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
            seen.update(batch.name)
            assert sorted(batch.degradation) == ["noisy", "noisy", "uncompleted", "uncompleted"]

    trainer, _, _ = fit("daclip", tmp_path / "run", *options, callbacks=[Names()])
    listed = trainer.datamodule.damaged.names()  # type: ignore[attr-defined]
    assert len(listed) == 3
    assert all(any(name in line and reason in line for line in listed) for name, reason in damaged.items())
    assert seen
    assert not seen & damaged.keys()


def test_more_damaged_photos_than_the_limit_end_the_run(tmp_path: Path) -> None:
    root = folder_of_photos(tmp_path / "photos")
    with pytest.raises(DaclipError, match=r"2 photos are damaged and data\.max_damaged=1") as caught:
        fit("daclip", tmp_path / "run", *options_for(root, 1))
    assert "\n" not in str(caught.value)
    with pytest.raises(DaclipError, match=r"data\.max_damaged=0"):
        fit("daclip", tmp_path / "run2", *options_for(root, 0))


class Numbers:
    """Sample i is i; some cannot be decoded."""

    def __init__(self, bad: set[int]):
        self.bad = bad

    def __getitem__(self, index: int) -> Any:
        if index % 7 in self.bad:
            raise DamagedPhotoError(f"{index % 7}: damaged")
        return index


def test_what_replaces_a_sample_depends_on_its_number_alone() -> None:
    source: Any = Numbers({3})
    a, b = (WithoutDamaged(source, 5, DamagedPhotos(1)) for _ in range(2))
    _ = [a[i] for i in range(10)]
    assert a[3] == b[3]
    assert (int(a[3]) - 3) % 5 == 0  # type: ignore[call-overload]
    assert a[4] == 4
    everything: Any = Numbers(set(range(10)))
    with pytest.raises(DaclipError, match="draws in a row"):
        _ = WithoutDamaged(everything, 10, DamagedPhotos(10))[0]
