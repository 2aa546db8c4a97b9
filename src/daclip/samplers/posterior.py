"""Stochastic samplers of first order: the exact posterior, and Euler on the reverse SDE."""

from typing import Unpack

from torch import Tensor

from daclip.samplers.base import Sampler, SamplerOptions, Step


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
