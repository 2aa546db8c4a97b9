"""Exponential moving average (EMA) of the weights, as the original computes it."""

from typing import Any

from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


def warmed_up_decay(call: int, decay: float, start: int, power: float) -> float:
    """Decay of the average at a call, counted from 0: 0 (a copy) up to `start`, then 1 − (1 + call − start)^−power.

    >>> [round(warmed_up_decay(call, 0.995, 100, 2 / 3), 4) for call in (100, 110, 500, 10**6)]
    [0.0, 0.7978, 0.9816, 0.995]
    """
    if call <= start:
        return 0.0
    return min(1 - (1 + call - start) ** -power, decay)


class WarmedUpEMA(WeightAveraging):
    """Exponential moving average of the weights whose decay rises, as `ema_pytorch` computes it.

    Args:
        decay: Largest decay.
        every: Training steps from one update to the next; the decay counts updates, not steps.
        start: Up to this step an update is a copy.
        power: Speed at which the decay rises.
    """

    def __init__(self, decay: float, every: int, start: int, power: float) -> None:
        super().__init__(use_buffers=False, avg_fn=self._average)
        self.decay = decay
        self.every = every
        self.start = start
        self.power = power
        self._now = 0.0

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Every so many steps, the first included."""
        if step_idx is None or step_idx % self.every:
            return False
        self._now = warmed_up_decay(step_idx, self.decay, self.start, self.power)
        return True

    def _average(self, averaged: Tensor, current: Tensor, count: Any) -> Tensor:
        return averaged.lerp(current, 1 - self._now)
