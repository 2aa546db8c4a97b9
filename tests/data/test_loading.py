"""Loader processes: where shared memory is small, and when one dies."""

import os
import re
import signal
import time
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks
from torch.utils.data import Dataset

from daclip.data import loading
from daclip.data.loading import data_loader, loaders_watched
from daclip.errors import DaclipError
from daclip.types import RestorationBatch


class Numbered(Dataset[Any]):
    """Batches of one photo; in the loader process of the third, something goes wrong."""

    def __init__(self, trouble: str | None = None):
        self.trouble = trouble

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> RestorationBatch:
        if index == 2 and self.trouble == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        photo = torch.full((1, 3, 8, 8), float(index))
        name: Any = (lambda: None) if index == 2 and self.trouble == "lost" else "name"
        return RestorationBatch(photo, photo[:, :, ::2] + 0.5, [""], ["noisy"], [name])


def loaded(trouble: str | None = None) -> list[RestorationBatch]:
    with loaders_watched():
        try:
            return list(data_loader(Numbered(trouble), None, 1, 0))
        except Exception:
            time.sleep(1)  # PyTorch's signal handler has its own error, while Lightning ends the run
            raise


@pytest.mark.parametrize("enough", [0, 2**60])
def test_batches_arrive_whole_with_shared_memory_and_without(enough: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "ENOUGH", enough)
    photo = torch.ones(1, 3, 8, 8)
    for index, batch in enumerate(loaded()):
        assert torch.equal(batch.lq, index * photo)
        assert torch.equal(batch.hq, index * photo[:, :, ::2] + 0.5)
        assert batch.lq.is_shared() is (enough == 0)


def test_a_batch_that_breaks_off_is_of_a_dead_loader_and_other_connections_are_not() -> None:
    ours, its = Pipe()
    its.close()
    with pytest.raises(DaclipError, match="a loader process died"), loaders_watched():
        ours.recv()
    with pytest.raises(ConnectionResetError), loaders_watched():
        raise ConnectionResetError


@pytest.mark.parametrize("trouble", ["killed", "lost"])
def test_a_dead_loader_ends_the_run_with_the_reason(trouble: str, tmp_path: Path) -> None:
    def end(_: int) -> str:
        try:
            return f"{len(loaded(trouble))} batches"
        except DaclipError as error:
            return str(error)

    # In a fork: PyTorch's error could strike in a later test.
    (reason,), _ = run_ranks(1, tmp_path, end, started_by=lambda *_: {})
    assert re.fullmatch("a loader process died .*resume=last", str(reason))
