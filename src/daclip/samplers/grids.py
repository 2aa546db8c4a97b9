"""Time grids: `steps + 1` strictly falling grid indices from `start` to 0; the network sees all but the last. Levels go
to the nearest index; where there are too few indices, the surplus moves to free ones beside them.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from daclip.diffusion.sde import MeanRevertingSDE

TimeGrid = Callable[[MeanRevertingSDE, int, int], list[int]]


def half_log_snr(process: MeanRevertingSDE, t: Tensor) -> Tensor:
    """ℓ_t = log(α_t / s_t), half the log signal-to-noise ratio, float64 `[B, 1, 1, 1]`; +∞ at t = 0."""
    return process.alpha(t).double().log() - process.relative_std(t).double().log()


def trailing(process: MeanRevertingSDE, start: int, steps: int) -> list[int]:
    """Equal strides in t down to 0 (Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps are Flawed").

    >>> from daclip.diffusion import ThetaSchedule
    >>> trailing(MeanRevertingSDE(ThetaSchedule("cosine"), max_sigma=50), 100, 4)
    [100, 75, 50, 25, 0]
    """
    return [round(start * (steps - k) / steps) for k in range(steps + 1)]


def uniform(process: MeanRevertingSDE, start: int, steps: int) -> list[int]:
    """Network calls evenly from `start` to the last index 1, both included (`linspace` in diffusers).

    >>> from daclip.diffusion import ThetaSchedule
    >>> uniform(MeanRevertingSDE(ThetaSchedule("cosine"), max_sigma=50), 100, 4)
    [100, 67, 34, 1, 0]
    """
    return _evenly(torch.arange(1, start + 1, dtype=torch.float64), steps)


def log_snr(process: MeanRevertingSDE, start: int, steps: int) -> list[int]:
    """Network calls evenly in log-SNR from `start` to 1 (DPM-Solver, Lu et al. 2022, section 3.3).

    >>> from daclip.diffusion import ThetaSchedule
    >>> log_snr(MeanRevertingSDE(ThetaSchedule("constant"), max_sigma=50), 100, 4)
    [100, 60, 21, 1, 0]
    """
    return _evenly(-_levels(process, start), steps)


def karras(process: MeanRevertingSDE, start: int, steps: int, rho: float) -> list[int]:
    """Network calls evenly in (s_t/α_t)^{1/ρ} from `start` to 1 (EDM, Karras et al. 2022, eq. 5)."""
    return _evenly(torch.exp(-_levels(process, start) / rho), steps)


def _levels(process: MeanRevertingSDE, start: int) -> Tensor:
    """ℓ_t of t = 1..start, `[start]`."""
    device = process.schedule.integral.device
    return half_log_snr(process, torch.arange(1, start + 1, device=device)).flatten().cpu()


def _evenly(coordinate: Tensor, steps: int) -> list[int]:
    """Indices 1..start whose `coordinate` (`[start]`, rising with t) is nearest to even spacing, then 0."""
    start = len(coordinate)
    wanted = torch.linspace(float(coordinate[-1]), float(coordinate[0]), steps, dtype=torch.float64)
    nearest = (coordinate - wanted[:, None]).abs().argmin(dim=1) + 1
    times = [start]
    for k in range(1, steps):
        # Below the one before, and high enough for all that follow to be different.
        times.append(max(min(int(nearest[k]), times[-1] - 1), steps - k))
    return [*times, 0]
