"""DDIM: the posterior with a chosen share of its noise."""

from typing import Unpack

from torch import Tensor

from daclip.errors import DaclipError
from daclip.samplers.base import Sampler, SamplerOptions, Step

__all__ = ["DdimSampler"]


class DdimSampler(Sampler):
    """DDIM (Song, Meng and Ermon 2021, eq. 12) on y = (x − μ)/λ, with the ratios of the stride:

        x_s = μ + α_s (x̂_0 − μ) + λ √(s_s² − ς²) ε̂ + λ ς ξ,    ς = η × the posterior's deviation.

    First order. η = 1 is `PosteriorSampler`, η = 0 is first-order DPM-Solver++. The last step gives x̂_0.

    Args:
        eta: η in [0, 1].
        options: See `Sampler`.
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
