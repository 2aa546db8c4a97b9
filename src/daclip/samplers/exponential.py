"""The formula behind the multistep solvers: linear part exact, data estimate as a polynomial in log-SNR."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from daclip.diffusion.process import MeanRevertingSDE
from daclip.errors import DaclipError
from daclip.samplers.grids import half_log_snr

__all__ = ["SlopeRule", "check_slope_rule", "exponential_step"]

SlopeRule = Literal["exact", "bh1", "bh2"]


def check_slope_rule(slope: str) -> None:
    """Refuse a rule that does not exist."""
    if slope not in ("exact", "bh1", "bh2"):
        raise DaclipError(f"unknown sampler.slope {slope!r}; choose exact, bh1 or bh2")


def exponential_step(
    process: MeanRevertingSDE,
    x_t: Tensor,
    mu: Tensor,
    t: Tensor,
    s: Tensor,
    nodes: Sequence[tuple[Tensor, Tensor]],
    slope: SlopeRule,
    tau: float = 0.0,
    noise: Tensor | None = None,
) -> Tensor:
    """From t to an earlier s, given estimates of the clean image at several times.

    In z = x − μ and ℓ = log(α/s) the reverse equation with noise strength τ (SA-Solver, Xue et al. 2023, section 4;
    τ = 0 is the probability flow ODE, τ = 1 the reverse SDE) has, with h = ℓ_s − ℓ_t and κ = (1 + τ²) h, the exact
    solution

        z_s = (s_s/s_t) e^{−τ²h} z_t + α_s κ ∫_0^1 e^{−κ(1−u)} D(u) du + λ s_s √(1 − e^{−2τ²h}) ξ,

    where D(u) = x̂_0 − μ at ℓ_t + u h. D is replaced by the polynomial P through the nodes, and P is integrated
    exactly: the moments are M_0 = 1 − e^{−κ} and M_k = 1 − (k/κ) M_{k−1}, and the weights w_i of the nodes solve
    Σ_i w_i u_i^k = M_k. With nodes at and before t this is DPM-Solver++ (Lu et al. 2022b), with a node at s as well
    the corrector of UniPC (Zhao et al. 2023, where B(h) cancels once all conditions are met).

    With two nodes those papers take the slope of P with another weight of the same order, M_1 = B/2:
    `bh2` is B = 1 − e^{−κ} (the midpoint rule of DPM-Solver++ 2M), `bh1` is B = κ, `exact` keeps M_1. Three or more
    nodes are always integrated exactly.

    Args:
        process: The diffusion.
        x_t: State at t, `[B, C, H, W]`.
        mu: LQ image, same shape.
        t: Long `[B]`, in 1..T.
        s: Long `[B]`, in 0..t − 1. For s = 0, where ℓ is infinite, there must be one node: x_s is its estimate.
        nodes: Pairs of time, long `[B]`, and x̂_0 there, `[B, C, H, W]`; the first at t.
        slope: Rule for two nodes.
        tau: τ ≥ 0.
        noise: ξ, unit normal, needed for τ > 0.

    Returns:
        x_s, `[B, C, H, W]`.
    """
    # Differences of logarithms cancel, so coefficients are made in float64; they are a few numbers an image.
    alpha_t, alpha_s = process.alpha(t).double(), process.alpha(s).double()
    std_t, std_s = process.relative_std(t).double(), process.relative_std(s).double()
    # e^{−h} as a ratio, since h is infinite at s = 0.
    shrink = std_s * alpha_t / (alpha_s * std_t)
    carry = std_s / std_t * shrink ** (tau**2)
    weights = _weights(process, t, s, [time for time, _ in nodes], 1 - shrink ** (1 + tau**2), slope, tau)
    z_s = carry.to(x_t) * (x_t - mu)
    for weight, (_, x0) in zip(weights, nodes, strict=True):
        z_s = z_s + (alpha_s * weight).to(x_t) * (x0 - mu)
    if tau > 0:
        assert noise is not None
        z_s = z_s + (process.lambda_ * std_s * (1 - shrink ** (2 * tau**2)).sqrt()).to(x_t) * noise
    return mu + z_s


def _weights(
    process: MeanRevertingSDE,
    t: Tensor,
    s: Tensor,
    times: Sequence[Tensor],
    first_moment: Tensor,
    slope: SlopeRule,
    tau: float,
) -> list[Tensor]:
    """w_i of each node, float64 `[B, 1, 1, 1]`; `first_moment` is M_0."""
    if len(times) == 1:
        return [first_moment]
    level = half_log_snr(process, t)
    h = half_log_snr(process, s) - level
    kappa = (1 + tau**2) * h
    moments = [first_moment]
    for k in range(1, len(times)):
        moments.append(1 - k / kappa * moments[-1])
    if len(times) == 2 and slope != "exact":
        moments[1] = (first_moment if slope == "bh2" else kappa) / 2
    position = torch.cat([(half_log_snr(process, time) - level) / h for time in times], dim=1)
    power = torch.arange(len(times), device=position.device)
    # Row k, column i: u_i^k.
    vandermonde = position.view(len(t), 1, -1) ** power.view(1, -1, 1)
    right = torch.cat(moments, dim=1).view(len(t), -1)
    solved = torch.linalg.solve(vandermonde, right)
    return [solved[:, i].view(-1, 1, 1, 1) for i in range(len(times))]
