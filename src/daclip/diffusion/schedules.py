"""Schedules of the mean-reversion speed θ_t on the grid t = 0..T."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from daclip.errors import DaclipError

__all__ = ["ScheduleKind", "ThetaSchedule"]

ScheduleKind = Literal["cosine", "linear", "constant"]


class ThetaSchedule(nn.Module):
    """Tables of θ_t and of its integral θ̄_t = ∫ θ dt, scaled so that e^{−θ̄_T} = δ.

    Grid index 0 is the clean image, index T the start of sampling. θ is constant over a grid step, so
    the step from t − 1 to t contributes `thetas[t] * dt`:

        θ̄_t = dt Σ_{i=1..t} θ_i,    dt = −ln δ / Σ_{i=1..T} θ_i.

    The shapes of θ follow IR-SDE (Luo et al., ICML 2023, appendix): `cosine` is one minus the cosine
    ᾱ of Nichol and Dhariwal (2021, eq. 17), `linear` grows from 1e-4 to 2e-2 times 1000/(T+1).

    Args:
        kind: `cosine`, `linear` or `constant`.
        horizon: T, the number of grid steps, at least 1.
        delta: δ, what is left of x_0 − μ at t = T; in (0, 1).

    Attributes:
        thetas: θ_t, float32 `[T + 1]`; entry 0 is never a step.
        thetas_cumsum: Σ_{i=1..t} θ_i, float32 `[T + 1]`; entry 0 is 0.
        dt: Length of a grid step, float32 scalar.
        integral: θ̄_t, float32 `[T + 1]`, from 0 to −ln δ.

    All are buffers (they move with `.to()`) but in no checkpoint, since they follow from the arguments.
    """

    thetas: Tensor
    thetas_cumsum: Tensor
    dt: Tensor
    integral: Tensor

    def __init__(self, kind: ScheduleKind = "cosine", horizon: int = 100, delta: float = 0.005) -> None:
        super().__init__()
        if horizon < 1:
            raise DaclipError(f"the schedule needs horizon >= 1, got {horizon}")
        if not 0 < delta < 1:
            raise DaclipError(f"the schedule needs 0 < delta < 1, got {delta}")
        self.kind = kind
        self.horizon = horizon
        self.delta = delta
        thetas = _thetas(kind, horizon)
        # float32 throughout: the official weights were trained on tables with this rounding.
        cumsum = thetas.cumsum(0) - thetas[0]
        dt = -math.log(delta) / cumsum[-1]
        self.register_buffer("thetas", thetas, persistent=False)
        self.register_buffer("thetas_cumsum", cumsum, persistent=False)
        self.register_buffer("dt", dt, persistent=False)
        self.register_buffer("integral", cumsum * dt, persistent=False)

    def extra_repr(self) -> str:
        """Arguments, for printing."""
        return f"kind={self.kind!r}, horizon={self.horizon}, delta={self.delta}"


def _thetas(kind: str, horizon: int) -> Tensor:
    """θ_t up to a common factor, float32 `[horizon + 1]`."""
    if kind == "cosine":
        u = torch.arange(horizon + 2, dtype=torch.float32)
        bar = torch.cos((u / (horizon + 2) + 0.008) / 1.008 * math.pi / 2) ** 2
        return 1 - bar[1:] / bar[0]
    if kind == "linear":
        scale = 1000 / (horizon + 1)
        return torch.linspace(scale * 1e-4, scale * 0.02, horizon + 1, dtype=torch.float32)
    if kind == "constant":
        return torch.ones(horizon + 1, dtype=torch.float32)
    raise DaclipError(f"unknown schedule kind {kind!r}; choose cosine, linear or constant")
