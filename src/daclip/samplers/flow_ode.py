"""Euler on the probability flow ODE."""

from torch import Tensor

from daclip.samplers.base import Sampler, Step

__all__ = ["FlowOdeSampler"]


class FlowOdeSampler(Sampler):
    """Euler on the probability flow ODE (Song et al. 2021, eq. 13), θ integrated over the stride.

    Deterministic after the start noise. First order in the stride, its linear part too: it needs many steps (the
    reference takes all T). `DdimSampler` with η = 0 and `HeunSampler` solve the same equation in few.
    """

    stochastic = False

    def step(self, step: Step) -> Tensor:
        """Euler step, `[B, C, H, W]`."""
        process = step.process
        score = process.score(step.prediction.epsilon, step.t)
        return process.reverse_ode_mean(step.x_t, step.lq, score, step.t, step.s)
