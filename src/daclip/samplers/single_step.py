"""Samplers without history. Stochastic: the exact posterior, and Euler on the reverse SDE. Deterministic, on the
probability flow ODE: Euler in t, and Heun in s_t/α_t.
"""

from typing import Unpack

from torch import Tensor

from daclip.diffusion.denoiser import Denoiser, Prediction
from daclip.samplers.base import Sampler, SamplerOptions, Step
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
