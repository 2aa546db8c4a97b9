"""Sampling from the exact posterior of the process."""

from torch import Tensor

from daclip.samplers.base import Sampler, Step

__all__ = ["PosteriorSampler"]


class PosteriorSampler(Sampler):
    """x_s ~ p(x_s | x_t, x̂_0): ancestral sampling, with the ratios of the stride.

    For steps of one grid index this is the posterior sampling of the reference (IR-SDE, proposition 3.2);
    longer strides take their own coefficients, so few steps leave no noise behind. The last step gives x̂_0.
    """

    def step(self, step: Step) -> Tensor:
        """Posterior mean plus posterior noise, `[B, C, H, W]`."""
        assert step.noise is not None
        process = step.process
        mean = process.posterior_mean(step.x_t, step.lq, step.prediction.x0, step.t, step.s)
        return mean + process.posterior_std(step.t, step.s) * step.noise
