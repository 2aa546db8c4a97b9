"""Metrics over several ranks: every validation photo counts once, and all ranks see the same scores."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ranks import run_ranks
from torch import distributed
from torch.utils.data import DataLoader, DistributedSampler

from daclip.metrics.classification import CalibrationError, ConfusionMatrix, MeansByLabel
from daclip.metrics.image import Psnr
from daclip.training.optimizers import StageModule

CLASSES = ["rainy", "hazy", "noisy"]
LABELS = ["rainy", "hazy", "hazy, rainy", "noisy", "rainy"]


def scores(rows: list[int]) -> dict[str, Any]:
    """What the metrics say when this process gives them some of five photos."""
    confusion, means, psnr, calibration = ConfusionMatrix(CLASSES), MeansByLabel("psnr"), Psnr(), CalibrationError(5)
    labels = [LABELS[row] for row in rows]
    values = torch.tensor([float(row) for row in rows])
    confusion.update(torch.tensor([row % 3 for row in rows], dtype=torch.long), labels)
    means.update(labels, psnr=values)
    images = (values / 8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)
    psnr.update(images, torch.full_like(images, 0.9))
    calibration.update(values / 5, values > 1)
    return {
        "confusion": confusion.table(),
        "means": means.compute(),
        "psnr": psnr.compute().item(),
        "calibration": calibration.compute().item(),
    }


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_together_score_what_one_process_scores(world: int, tmp_path: Path) -> None:
    """The last of three ranks has no photo at all."""
    share = [[0, 2, 4], [1, 3], []]

    def work(rank: int) -> dict[str, Any]:
        distributed.init_process_group("gloo", rank=rank, world_size=world)
        return scores(share[rank])

    found, statuses = run_ranks(world, tmp_path, work)
    assert statuses == [0] * world, [path.read_text() for path in tmp_path.glob("*.txt")]
    whole = scores([0, 2, 4, 1, 3])
    assert all(one == whole for one in found)


@pytest.mark.parametrize(("photos", "world", "batch"), [(7, 1, 3), (7, 2, 3), (8, 3, 2), (2, 4, 5)])
def test_every_validation_photo_counts_once(photos: int, world: int, batch: int) -> None:
    counted: list[int] = []
    batches = set()
    for rank in range(world):
        sampler: Any = DistributedSampler(range(photos), world, rank, shuffle=False)  # type: ignore[arg-type]
        loader: Any = DataLoader(range(photos), batch, sampler=sampler)  # type: ignore[arg-type]
        module = StageModule(torch.optim.AdamW, 0, 0.0)
        module._trainer = SimpleNamespace(val_dataloaders=loader, world_size=world, global_rank=rank)  # type: ignore[assignment]
        batches.add(len(loader))
        for index, rows in enumerate(loader):
            numbers = module.validation_numbers(index, len(rows))
            assert [number % photos for number in numbers] == rows.tolist()
            counted += numbers[: module.counted(numbers)]
    assert sorted(counted) == list(range(photos))
    assert len(batches) == 1  # ranks that wait for each other at every batch wait equally often
