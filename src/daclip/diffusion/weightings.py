"""Laws of the training times, and weights of the loss by time; in all of them SNR = α_t²/s_t²."""

from collections.abc import Callable

import torch
from torch import Tensor

from daclip.diffusion.sde import MeanRevertingSDE

TimeDraw = Callable[[MeanRevertingSDE, int, torch.Generator], Tensor]
"""Maps process, count and generator to grid indices in 1..T, long `[count]`, on the generator's device."""

Weighting = Callable[[MeanRevertingSDE, Tensor], Tensor]
"""Weights `[B]` of samples at grid indices `t` `[B]`."""


def uniform(process: MeanRevertingSDE, count: int, generator: torch.Generator) -> Tensor:
    """Every grid index equally often, as in the official training."""
    return torch.randint(1, process.horizon + 1, (count,), generator=generator, device=generator.device)


def log_snr(process: MeanRevertingSDE, count: int, generator: torch.Generator) -> Tensor:
    """Evenly in log(α²/s²): a grid index as often as its half of the way to its neighbours is long."""
    t = torch.arange(1, process.horizon + 1, device=process.schedule.integral.device)
    level = (process.alpha(t).log() - process.relative_std(t).log()).flatten().to(generator.device)
    share = torch.rand(count, generator=generator, device=generator.device)
    wanted = torch.lerp(level[:1], level[-1:], share)
    return (level - wanted[:, None]).abs().argmin(dim=1) + 1


def snr(process: MeanRevertingSDE, t: Tensor) -> Tensor:
    """α_t²/s_t² `[B]`, from about 3e-5 at T up to 1e4 and more at t = 1; t in 1..T."""
    return (process.alpha(t) / process.relative_std(t)).square().flatten()


def min_snr(process: MeanRevertingSDE, t: Tensor, limit: float, power: float) -> Tensor:
    """min(SNR, limit), `[B]` (Hang et al. 2023, eq. 8, limit 5)."""
    return snr(process, t).clamp_max(limit) ** power


def truncated_snr(process: MeanRevertingSDE, t: Tensor, floor: float, power: float) -> Tensor:
    """max(SNR, floor), `[B]` (Salimans and Ho 2022, section 4, floor 1)."""
    return snr(process, t).clamp_min(floor) ** power


def velocity(process: MeanRevertingSDE, t: Tensor, power: float) -> Tensor:
    """SNR + 1, `[B]`: the weight of x̂_0's error in that of v (Salimans and Ho 2022, appendix D)."""
    return (snr(process, t) + 1) ** power


def p2(process: MeanRevertingSDE, t: Tensor, offset: float, gamma: float, power: float) -> Tensor:
    """SNR / (offset + SNR)^gamma, `[B]` (Choi et al. 2022, eq. 8: offset 1, gamma 1)."""
    ratio = snr(process, t)
    return (ratio / (offset + ratio) ** gamma) ** power


def edm(process: MeanRevertingSDE, t: Tensor, data_std: float, power: float) -> Tensor:
    """(σ² + σ_d²)/(σ σ_d)² with σ = s/α, `[B]` (Karras et al. 2022, table 1): SNR + 1/σ_d²."""
    return (snr(process, t) + data_std**-2) ** power
