"""At which times a network is trained."""

from collections.abc import Callable

import torch
from torch import Tensor

from daclip.diffusion.process import MeanRevertingSDE

__all__ = ["TimeDraw", "log_snr", "uniform"]

TimeDraw = Callable[[MeanRevertingSDE, int, torch.Generator], Tensor]
"""Maps process, count and generator to grid indices in 1..T, long `[count]`, on the generator's device."""


def uniform(process: MeanRevertingSDE, count: int, generator: torch.Generator) -> Tensor:
    """Every grid index equally often, as in the official training."""
    return torch.randint(1, process.horizon + 1, (count,), generator=generator, device=generator.device)


def log_snr(process: MeanRevertingSDE, count: int, generator: torch.Generator) -> Tensor:
    """Evenly in log(α²/s²): a grid index as often as its half of the way to its neighbours is long.

    >>> from daclip.diffusion import ThetaSchedule
    >>> process = MeanRevertingSDE(ThetaSchedule("cosine"), max_sigma=50)
    >>> drawn = log_snr(process, 1000, torch.Generator().manual_seed(0))
    >>> bool(drawn.float().mean() < 50)  # the small times are far apart
    True
    """
    t = torch.arange(1, process.horizon + 1, device=process.schedule.integral.device)
    level = (process.alpha(t).log() - process.relative_std(t).log()).flatten().to(generator.device)
    share = torch.rand(count, generator=generator, device=generator.device)
    wanted = torch.lerp(level[:1], level[-1:], share)
    return (level - wanted[:, None]).abs().argmin(dim=1) + 1
