"""The global random generators as part of a checkpoint."""

import random
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, distributed

__all__ = ["GlobalGenerators", "generator_states", "set_generator_states"]

State = dict[str, Any]


def generator_states() -> State:
    """States of Python's, NumPy's and torch's global generators (CPU and every GPU) as tensors and plain data."""
    name, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    version, internal, gauss_next = random.getstate()
    return {
        "python": [version, list(internal), gauss_next],
        "numpy": [str(name), torch.from_numpy(np.asarray(keys, np.int64)), int(position), int(has_gauss), float(gauss)],
        "torch": torch.get_rng_state(),
        "cuda": [state.cpu() for state in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else [],
    }


def set_generator_states(states: State) -> None:
    """Undo everything that was drawn since `generator_states`."""
    version, internal, gauss_next = states["python"]
    random.setstate((version, tuple(internal), gauss_next))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    cuda: list[Tensor] = states["cuda"]
    if len(cuda) == torch.cuda.device_count() and cuda:
        torch.cuda.set_rng_state_all(cuda)


class GlobalGenerators(Callback):
    """Saves the global generators of every rank and puts them back when training goes on.

    This framework draws from generators of its own, which depend on seed and step alone; this is for parts that do
    not, such as dropout.
    """

    def __init__(self) -> None:
        self._resumed: State | None = None

    def state_dict(self) -> dict[str, Any]:
        """States by rank. All ranks must call it together, as Lightning does when it saves."""
        ranks: list[Any] = [generator_states()]
        if distributed.is_available() and distributed.is_initialized():
            ranks = [None] * distributed.get_world_size()
            distributed.all_gather_object(ranks, generator_states())
        return {"ranks": ranks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember this rank's states until training begins."""
        rank = distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0
        ranks = state_dict["ranks"]
        self._resumed = ranks[rank] if rank < len(ranks) else None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Put the states back behind everything that starting up has drawn."""
        if self._resumed is not None:
            set_generator_states(self._resumed)
            self._resumed = None
