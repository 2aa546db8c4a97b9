"""How much a sample's error counts at its time.

All are stated for the squared error of x̂_0, as the papers do; `power` turns them into weights of what is
minimised here, a mean absolute error: 0.5 keeps the meaning, 1 takes the published factor as it is.
"""

from collections.abc import Callable

from torch import Tensor

from daclip.diffusion.process import MeanRevertingSDE

__all__ = ["Weighting", "edm", "min_snr", "p2", "snr", "truncated_snr", "velocity"]

Weighting = Callable[[MeanRevertingSDE, Tensor], Tensor]
"""Weights `[B]` of samples at grid indices `t` `[B]`."""


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
    """SNR + 1, `[B]`: what the error of v amounts to (Salimans and Ho 2022, appendix D)."""
    return (snr(process, t) + 1) ** power


def p2(process: MeanRevertingSDE, t: Tensor, offset: float, gamma: float, power: float) -> Tensor:
    """SNR / (offset + SNR)^gamma, `[B]` (Choi et al. 2022, eq. 8: offset 1, gamma 1)."""
    ratio = snr(process, t)
    return (ratio / (offset + ratio) ** gamma) ** power


def edm(process: MeanRevertingSDE, t: Tensor, data_std: float, power: float) -> Tensor:
    """(σ² + σ_d²)/(σ σ_d)² with σ = s/α, `[B]` (Karras et al. 2022, table 1): SNR + 1/σ_d²."""
    return (snr(process, t) + data_std**-2) ** power
