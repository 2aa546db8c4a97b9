"""Euler on the probability flow ODE."""

from typing import ClassVar

from torch import Tensor

from daclip.samplers.base import Sampler, Step

__all__ = ["FlowOdeSampler"]


class FlowOdeSampler(Sampler):
    """Euler on the probability flow ODE (Song et al. 2021, eq. 13), θ integrated over the stride.

    Deterministic after the start noise. First order in the stride.
    """

    stochastic: ClassVar[bool] = False

    def step(self, step: Step) -> Tensor:
        """Euler step, `[B, C, H, W]`."""
        process = step.process
        score = process.score(step.prediction.epsilon, step.t)
        return process.reverse_ode_mean(step.x_t, step.lq, score, step.t, step.s)
