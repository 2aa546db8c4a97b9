"""The mean-reverting SDE of IR-SDE: the schedule θ_t, the process with its exact formulas, and its one-step limit."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from daclip.errors import DaclipError

ScheduleKind = Literal["cosine", "linear", "constant"]


class ThetaSchedule(nn.Module):
    """Tables of the mean-reversion speed θ_t, constant over a grid step, and of its integral θ̄_t = dt Σ_{i=1..t} θ_i.

    Grid index 0 is the clean image, T = `horizon` the start of sampling; dt = −ln δ / Σ_{i=1..T} θ_i, so that a share
    e^{−θ̄_T} = δ = `delta` in (0, 1) of x_0 − μ is left at T. Shapes as in IR-SDE (Luo et al., ICML 2023, appendix):
    `cosine` is one minus the cosine ᾱ of Nichol and Dhariwal (2021, eq. 17), `linear` grows from 1e-4 to 2e-2 times
    1000/(T+1). Tables, float32 `[T + 1]`: `thetas` (entry 0 is never a step), `thetas_cumsum` Σ θ_i, `integral` θ̄_t.
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
        self.horizon = horizon
        thetas = _thetas(kind, horizon)
        # float32 throughout: the official weights were trained on tables with this rounding.
        cumsum = thetas.cumsum(0) - thetas[0]
        dt = -math.log(delta) / cumsum[-1]
        self.register_buffer("thetas", thetas, persistent=False)
        self.register_buffer("thetas_cumsum", cumsum, persistent=False)
        self.register_buffer("dt", dt, persistent=False)
        self.register_buffer("integral", cumsum * dt, persistent=False)


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


class MeanRevertingSDE(nn.Module):
    """dx = θ_t (μ − x) dt + σ_t dw with σ_t² = 2 λ² θ_t: from the clean image x_0 to the noisy LQ image μ.

    Luo et al., "Image Restoration with Mean-Reverting Stochastic Differential Equations" (IR-SDE, 2023), section 3.1;
    x_t given x_0 is Gaussian (proposition 3.1):

        x_t = μ + (x_0 − μ) α_t + λ s_t ε,    α_t = e^{−θ̄_t},    s_t = √(1 − α_t²).

    In y = (x − μ)/λ this is the variance preserving diffusion. All methods are pure functions in float32: `t` and `s`
    are long grid indices `[B]` in 0..T (0 = clean), images `[B, C, H, W]`, coefficients `[B, 1, 1, 1]`. λ, the
    stationary standard deviation, is `max_sigma`, in units of 1/255 if that is at least 1. With `stationary_start` the
    state drawn at T is `terminal`, where sampling starts: the share δ of x_0 − μ, averaged over a photo, stands out of
    the noise, so that a network that is only asked at T learns to read x_0's brightness from it and cannot do without
    when sampling (Lin et al., "Common diffusion noise schedules and sample steps are flawed", 2024, section 3.1).
    """

    def __init__(self, schedule: ThetaSchedule, max_sigma: float = 50.0, stationary_start: bool = False) -> None:
        super().__init__()
        if max_sigma <= 0:
            raise DaclipError(f"the process needs max_sigma > 0, got {max_sigma}")
        self.schedule = schedule
        self.lambda_ = max_sigma / 255 if max_sigma >= 1 else max_sigma
        self.stationary_start = stationary_start

    @property
    def horizon(self) -> int:
        """T, the last grid index."""
        return self.schedule.horizon

    def alpha(self, t: Tensor) -> Tensor:
        """α_t = e^{−θ̄_t} in [δ, 1]: the share of x_0 − μ left at t."""
        return torch.exp(-self._integral(t))

    def relative_std(self, t: Tensor) -> Tensor:
        """s_t = √(1 − α_t²) in [0, 1)."""
        return _one_minus_square(self._integral(t)).sqrt()

    def marginal_std(self, t: Tensor) -> Tensor:
        """Standard deviation λ s_t of x_t given x_0."""
        return self.lambda_ * self.relative_std(t)

    def marginal_mean(self, x0: Tensor, mu: Tensor, t: Tensor) -> Tensor:
        """Mean μ + (x_0 − μ) α_t of x_t given x_0."""
        return mu + (x0 - mu) * self.alpha(t)

    def perturb(self, x0: Tensor, mu: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t = μ + (x_0 − μ) α_t + λ s_t ε for unit normal `noise` ε; with `stationary_start` `terminal` at T."""
        x_t = self.marginal_mean(x0, mu, t) + self.marginal_std(t) * noise
        if self.stationary_start:
            x_t = torch.where((t == self.horizon).view(-1, 1, 1, 1), self.terminal(mu, noise), x_t)
        return x_t

    def terminal(self, mu: Tensor, noise: Tensor) -> Tensor:
        """Start state of sampling, μ + λ ε: the stationary law, off the law at T by δ (mean) and δ² (variance)."""
        return mu + self.lambda_ * noise

    def epsilon_from_data(self, x_t: Tensor, mu: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        """The ε that `perturb` must have drawn to come from x_0 to x_t; t in 1..T."""
        return (x_t - self.marginal_mean(x0, mu, t)) / self.marginal_std(t)

    def data_from_epsilon(self, x_t: Tensor, mu: Tensor, epsilon: Tensor, t: Tensor) -> Tensor:
        """The x_0 from which `perturb` comes to x_t with ε: μ + (x_t − μ − λ s_t ε) / α_t."""
        return mu + (x_t - mu - self.marginal_std(t) * epsilon) / self.alpha(t)

    def score(self, epsilon: Tensor, t: Tensor) -> Tensor:
        """∇ log p_t(x_t | x_0) = −ε / (λ s_t); t in 1..T."""
        return -epsilon / self.marginal_std(t)

    def reverse_sde_mean(self, x_t: Tensor, mu: Tensor, score: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Euler mean of the reverse SDE to s < t (IR-SDE, sec. 3.2): x_t − [(μ − x_t) − 2 λ² score] (θ̄_t − θ̄_s)."""
        delta = self.stride(t, s)
        return x_t - ((mu - x_t) - 2 * self.lambda_**2 * score) * delta

    def reverse_sde_std(self, t: Tensor, s: Tensor) -> Tensor:
        """Euler standard deviation λ √(2 Δ) of the reverse SDE from t to s."""
        return self.lambda_ * (2 * self.stride(t, s)).sqrt()

    def reverse_ode_mean(self, x_t: Tensor, mu: Tensor, score: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Euler step of the probability flow ODE from t to an earlier s: x_t − [(μ − x_t) − λ² score] Δ."""
        delta = self.stride(t, s)
        return x_t - ((mu - x_t) - self.lambda_**2 * score) * delta

    def posterior_mean(self, x_t: Tensor, mu: Tensor, x0: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Mean of x_s given x_t and x_0 for any s < t (IR-SDE, proposition 3.2, for a stride); jumps compose:

        μ + A s_s²/s_t² (x_t − μ) + α_s (1 − A²)/s_t² (x_0 − μ),    A = e^{−(θ̄_t − θ̄_s)};    x_0 for s = 0.
        """
        delta = self.stride(t, s)
        variance_t = _one_minus_square(self._integral(t))
        variance_s = _one_minus_square(self._integral(s))
        from_state = torch.exp(-delta) * variance_s / variance_t
        from_data = self.alpha(s) * _one_minus_square(delta) / variance_t
        return mu + from_state * (x_t - mu) + from_data * (x0 - mu)

    def posterior_std(self, t: Tensor, s: Tensor) -> Tensor:
        """Standard deviation λ √((1 − A²) s_s²/s_t²) of that law; 0 for s = 0."""
        variance_t = _one_minus_square(self._integral(t))
        variance_s = _one_minus_square(self._integral(s))
        return self.lambda_ * (_one_minus_square(self.stride(t, s)) * variance_s / variance_t).sqrt()

    def shift_epsilon(self, epsilon: Tensor, x_t: Tensor, mu: Tensor, t: Tensor) -> Tensor:
        """The output ε_net of a network trained by `PosteriorMatching` where the noise is ε.

        That objective sets the *Euler* mean from ε_net equal to the *exact* posterior mean from y_0 = (y − s_t ε)/α_t.
        In y = (x_t − μ)/λ and with u = θ_t dt those of the step to t − 1, where α_{t−1} = α_t e^u, are

            (1 + u) y − 2 u ε_net / s_t = e^u y − 2 sinh(u) ε / s_t,    hence
            ε_net = (sinh u / u) ε + s_t (1 + u − e^u) / (2u) y,

        which is affine in ε and so holds for conditional expectations too.
        """
        u, gain, offset = self._shift_terms(x_t, mu, t)
        return gain / u * epsilon + offset / (2 * u)

    def unshift_epsilon(self, epsilon_net: Tensor, x_t: Tensor, mu: Tensor, t: Tensor) -> Tensor:
        """Exact inverse of `shift_epsilon`: ε = [2u ε_net − s_t (1 + u − e^u) y] / (2 sinh u); t in 1..T."""
        u, gain, offset = self._shift_terms(x_t, mu, t)
        return (2 * u * epsilon_net - offset) / (2 * gain)

    def _shift_terms(self, x_t: Tensor, mu: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """u, sinh u and s_t (1 + u − e^u) y."""
        u = self.schedule.thetas[t].view(-1, 1, 1, 1) * self.schedule.dt
        y = (x_t - mu) / self.lambda_
        # u − expm1(u) instead of 1 + u − e^u: at small t u is about 1e-4 and the terms nearly cancel.
        return u, torch.sinh(u), self.relative_std(t) * (u - torch.expm1(u)) * y

    def stride(self, t: Tensor, s: Tensor) -> Tensor:
        """Δ = θ̄_t − θ̄_s: positive for s < t."""
        return self._integral(t) - self._integral(s)

    def _integral(self, t: Tensor) -> Tensor:
        return self.schedule.integral[t].view(-1, 1, 1, 1)


def _one_minus_square(exponent: Tensor) -> Tensor:
    """1 − e^{−2·exponent} without cancellation near 0."""
    return -torch.expm1(-2 * exponent)


class DirectRegression(MeanRevertingSDE):
    """A process of one step that is no diffusion: x_1 = μ, T = 1, no noise, and the estimate x̂_0 is the result. With
    it stage 2 trains and runs a plain restoration network (DA-CLIP's "NAFNet + DA-CLIP", section 4.4). The exact
    formulas hold with λ = 0 and α_1 = 0; the Euler steps have no meaning.
    """

    def __init__(self) -> None:
        super().__init__(ThetaSchedule("constant", horizon=1))
        self.lambda_ = 0.0

    def alpha(self, t: Tensor) -> Tensor:
        """1 at t = 0, 0 at t = 1."""
        return (t == 0).to(self.schedule.thetas.dtype).view(-1, 1, 1, 1)

    def relative_std(self, t: Tensor) -> Tensor:
        """0 at t = 0, 1 at t = 1."""
        return 1 - self.alpha(t)

    def epsilon_from_data(self, x_t: Tensor, mu: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        """Zeros: there is no noise."""
        return torch.zeros_like(x0)

    def posterior_mean(self, x_t: Tensor, mu: Tensor, x0: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """x_0, since s can only be 0."""
        return x0

    def posterior_std(self, t: Tensor, s: Tensor) -> Tensor:
        """0."""
        return torch.zeros_like(self.alpha(t))

    def stride(self, t: Tensor, s: Tensor) -> Tensor:
        """Always an error: there is no speed of reversion, so no step of an equation."""
        raise DaclipError("process=direct has no equation to solve; use sampler=posterior sampler.steps=1")
