"""The samplers. Without history: the exact posterior, Euler on the reverse SDE, and, on the probability flow ODE, Euler
in t and Heun in s_t/α_t. Exponential integrators, which solve the linear part exactly and take the estimate for a
polynomial in log-SNR: DDIM, DPM-Solver++, UniPC.
"""

from collections.abc import Sequence
from typing import Literal, Unpack

import torch
from torch import Tensor

from daclip.diffusion.denoiser import Denoiser, Prediction
from daclip.diffusion.sde import MeanRevertingSDE
from daclip.errors import DaclipError
from daclip.samplers.base import Sampler, SamplerOptions, Step, half_log_snr
from daclip.types import Conditioning


class PosteriorSampler(Sampler):
    """Ancestral sampling from the exact posterior p(x_s | x_t, x̂_0) (IR-SDE, proposition 3.2), for any stride:

        x_s = μ + A s_s²/s_t² (x_t − μ) + α_s (1 − A²)/s_t² (x̂_0 − μ) + λ √((1 − A²) s_s²/s_t²) ξ,    A = α_t/α_s.

    The reference samples in this way, one grid index a step. The last step gives x̂_0.
    """

    def step(self, step: Step) -> Tensor:
        """Posterior mean plus posterior noise, `[B, C, H, W]`."""
        assert step.noise is not None
        process = step.process
        mean = process.posterior_mean(step.x_t, step.lq, step.prediction.x0, step.t, step.s)
        return mean + process.posterior_std(step.t, step.s) * step.noise


class OriginalSampler(PosteriorSampler):
    """As the original samples with the official weights: the posterior of the network's noise as it is, the shift of
    its objective left in (`Denoiser.correct_epsilon_shift`). The original also takes all T steps and clamps nothing.
    """

    def predict(self, denoiser: Denoiser, x_t: Tensor, lq: Tensor, t: Tensor, conditioning: Conditioning) -> Prediction:
        """The estimate without the correction."""
        prediction = super().predict(denoiser, x_t, lq, t, conditioning)
        if not denoiser.correct_epsilon_shift:
            return prediction
        process = denoiser.process
        epsilon = process.shift_epsilon(prediction.epsilon, x_t, lq, t)
        return Prediction(process.data_from_epsilon(x_t, lq, epsilon, t), epsilon)


class ReverseSdeSampler(Sampler):
    """Euler–Maruyama on the reverse SDE (IR-SDE, section 3.2): x_s = x_t − [(μ − x_t) + 2 λ ε̂/s_t] Δ − λ √(2Δ) ξ with
    Δ = θ̄_t − θ̄_s. First order in the stride, so many steps are needed (the reference takes all T). `final_noise` adds
    noise in the last step too, as the reference does; over a long stride it stays visible.
    """

    def __init__(self, final_noise: bool, **options: Unpack[SamplerOptions]) -> None:
        super().__init__(**options)
        self.final_noise = final_noise

    def step(self, step: Step) -> Tensor:
        """Euler mean minus noise, `[B, C, H, W]`."""
        assert step.noise is not None
        process = step.process
        score = process.score(step.prediction.epsilon, step.t)
        mean = process.reverse_sde_mean(step.x_t, step.lq, score, step.t, step.s)
        std = process.reverse_sde_std(step.t, step.s)
        if not self.final_noise:
            std = std * (step.s > 0).view(-1, 1, 1, 1)
        # The sign is that of the reference, so that its recorded draws give its trajectories.
        return mean - std * step.noise


class FlowOdeSampler(Sampler):
    """Euler on the probability flow ODE (Song et al. 2021, eq. 13): x_s = x_t − [(μ − x_t) + λ ε̂/s_t] (θ̄_t − θ̄_s).
    First order in the stride, it needs many steps; `DdimSampler` with η = 0 and `HeunSampler` solve the same in few.
    """

    stochastic = False

    def step(self, step: Step) -> Tensor:
        """Euler step, `[B, C, H, W]`."""
        process = step.process
        score = process.score(step.prediction.epsilon, step.t)
        return process.reverse_ode_mean(step.x_t, step.lq, score, step.t, step.s)


class HeunSampler(Sampler):
    """Heun on the probability flow ODE in the noise-to-signal ratio r = s_t/α_t (EDM, Karras et al. 2022, alg. 1):

        d[(x − μ)/α] / dr = λ ε̂,    x_s = μ + α_s/α_t (x_t − μ) + λ α_s (r_s − r_t) (ε̂_t + ε̂_s)/2.

    ε̂_s is the estimate after an Euler step (DDIM). The last step is Euler and gives x̂_0: 2N − 1 estimates in N steps.
    """

    stochastic = False

    @property
    def estimates(self) -> int:
        """Two a step but for the last."""
        return 2 * self.steps - 1

    def step(self, step: Step) -> Tensor:
        """Trapezoidal rule, Euler in the last step, `[B, C, H, W]`."""
        euler = self._move(step, step.prediction.epsilon)
        if step.remaining == 1:
            return euler
        end = step.estimate(euler, step.s)
        return self._move(step, (step.prediction.epsilon + end.epsilon) / 2)

    @staticmethod
    def _move(step: Step, epsilon: Tensor) -> Tensor:
        """From t to s along a straight line in r."""
        process = step.process
        scale = process.alpha(step.s) / process.alpha(step.t)
        # λ α_s (r_s − r_t), written without r, which is 200 at T.
        shift = process.marginal_std(step.s) - scale * process.marginal_std(step.t)
        return step.lq + scale * (step.x_t - step.lq) + shift * epsilon


SlopeRule = Literal["exact", "bh1", "bh2"]


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
    """State x_s at an earlier s, given estimates of the clean image at several times.

    In z = x − μ and ℓ = log(α/s) the reverse equation with noise strength τ ≥ 0 (SA-Solver, Xue et al. 2023, section 4;
    τ = 0 is the probability flow ODE, τ = 1 the reverse SDE) has, with h = ℓ_s − ℓ_t and κ = (1 + τ²) h, the solution

        z_s = (s_s/s_t) e^{−τ²h} z_t + α_s κ ∫_0^1 e^{−κ(1−u)} D(u) du + λ s_s √(1 − e^{−2τ²h}) ξ,

    where D(u) = x̂_0 − μ at ℓ_t + u h. The polynomial P through the nodes stands for D and is integrated exactly: with
    moments M_0 = 1 − e^{−κ} and M_k = 1 − (k/κ) M_{k−1}, the weights w_i of the nodes solve Σ_i w_i u_i^k = M_k. Nodes
    at and before t give DPM-Solver++ (Lu et al. 2022b), with one at s as well the corrector of UniPC (Zhao et al. 2023,
    where B(h) cancels once all conditions are met). For two nodes those papers weigh the slope of P by M_1 = B/2, of
    the same order: `bh2` is B = 1 − e^{−κ} (midpoint rule of DPM-Solver++ 2M), `bh1` is B = κ, `exact` keeps M_1.
    `nodes` are pairs of time, long `[B]`, and x̂_0, `[B, C, H, W]`, the first at t; for s = 0, where ℓ is infinite,
    only one, and x_s is its estimate. `noise` ξ, unit normal, is needed for τ > 0.
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


class DdimSampler(Sampler):
    """DDIM (Song, Meng and Ermon 2021, eq. 12) on y = (x − μ)/λ, first order, with the ratios of the stride:

        x_s = μ + α_s (x̂_0 − μ) + λ √(s_s² − ς²) ε̂ + λ ς ξ,    ς = η × the posterior's deviation.

    η = `eta` in [0, 1]: 1 is `PosteriorSampler`, 0 is first-order DPM-Solver++. The last step gives x̂_0.
    """

    def __init__(self, eta: float, **options: Unpack[SamplerOptions]) -> None:
        super().__init__(**options)
        if not 0 <= eta <= 1:
            raise DaclipError(f"sampler.eta must lie in [0, 1], got {eta}")
        self.eta = eta
        self.stochastic = eta > 0

    def step(self, step: Step) -> Tensor:
        """The estimate, noised to the level of s, `[B, C, H, W]`."""
        process, estimate = step.process, step.prediction
        fresh = self.eta * process.posterior_std(step.t, step.s)
        kept = (process.marginal_std(step.s) ** 2 - fresh**2).clamp(min=0).sqrt()
        x_s = process.marginal_mean(estimate.x0, step.lq, step.s) + kept * estimate.epsilon
        return x_s if step.noise is None else x_s + fresh * step.noise


class Multistep(Sampler):
    """Base class of samplers that take `exponential_step` with up to `order` estimates, 1 to 3; `slope` is its rule."""

    title: str
    tau = 0.0

    def __init__(self, order: int, slope: SlopeRule, **options: Unpack[SamplerOptions]) -> None:
        super().__init__(**options)
        if order not in (1, 2, 3):
            raise DaclipError(f"sampler.order of {self.title} must be 1, 2 or 3, got {order}")
        if slope not in ("exact", "bh1", "bh2"):
            raise DaclipError(f"unknown sampler.slope {slope!r}; choose exact, bh1 or bh2")
        self.order = order
        self.slope: SlopeRule = slope
        self.lookback = order - 1

    def step(self, step: Step) -> Tensor:
        """Extrapolate the estimates of this step and of as many earlier ones as the order allows, `[B, C, H, W]`."""
        order = min(self.order, len(step.history) + 1, step.remaining)
        nodes = [(one.t, one.prediction.x0) for one in [step, *reversed(step.history)][:order]]
        return exponential_step(
            step.process, step.x_t, step.lq, step.t, step.s, nodes, self.slope, self.tau, step.noise
        )


class DpmSolverSampler(Multistep):
    """Multistep DPM-Solver++ (Lu et al. 2022b, algorithm 2) and its SDE form, on y = (x − μ)/λ:

        x_s = μ + (s_s/s_t) e^{−τ²h} (x_t − μ) + α_s Σ_i w_i (x̂_0^{(i)} − μ) + λ s_s √(1 − e^{−2τ²h}) ξ,

    with the weights w_i of `exponential_step` for the x̂_0^{(i)} of this step and up to `order − 1` (0 to 2) earlier
    ones. τ = `tau` in [0, 1] is 0 for the ODE, 1 for the SDE (`sde-dpmsolver++`); order 1 is DDIM (τ = 0) or
    `PosteriorSampler` (τ = 1). The order rises over the first steps and falls over the last, which gives x̂_0. `slope`
    at order 2 is `bh2` as published, `bh1` or `exact`. Order 3 is exact; the published 3M halves the second difference.
    """

    title = "DPM-Solver++"

    def __init__(self, order: int, tau: float, slope: SlopeRule, **options: Unpack[SamplerOptions]) -> None:
        super().__init__(order, slope, **options)
        if not 0 <= tau <= 1:
            raise DaclipError(f"sampler.tau must lie in [0, 1], got {tau}")
        self.tau = tau
        self.stochastic = tau > 0


class UniPcSampler(Multistep):
    """UniPC (Zhao et al. 2023, algorithms 5 and 8, data prediction) on y = (x − μ)/λ:

        x_s = μ + (s_s/s_t) (x_t − μ) + α_s Σ_i w_i (x̂_0^{(i)} − μ).

    Predicts by multistep DPM-Solver++ of order p = `order`, 1 to 3, then repeats the step with the estimate at the
    predicted state as one more node, for order p + 1, but makes no new estimate. `slope`, the paper's B(h), is for two
    estimates: `bh1`, `bh2` or `exact`. The order rises over the first steps and falls to the last, which gives x̂_0.
    """

    title = "UniPC"
    stochastic = False

    def __init__(self, order: int, slope: SlopeRule, **options: Unpack[SamplerOptions]) -> None:
        super().__init__(order, slope, **options)
        self.lookback = order

    def correct(self, step: Step) -> Tensor:
        """UniC: the step to t again, now with the estimate at t, `[B, C, H, W]`."""
        if not step.history:
            return step.x_t
        # The order that the predictor had in that step.
        order = min(self.order, len(step.history), step.remaining + 1)
        previous, *older = list(reversed(step.history))[:order]
        nodes = [(one.t, one.prediction.x0) for one in (previous, step, *older)]
        return exponential_step(step.process, previous.x_t, step.lq, previous.t, step.t, nodes, self.slope)
