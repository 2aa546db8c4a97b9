"""DPM-Solver++: multistep solvers of first to third order, for the ODE and the SDE."""

from typing import Unpack

from torch import Tensor

from daclip.errors import DaclipError
from daclip.samplers.base import Sampler, SamplerOptions, Step
from daclip.samplers.exponential import SlopeRule, check_slope_rule, exponential_step

__all__ = ["DpmSolverSampler"]


class DpmSolverSampler(Sampler):
    """Multistep DPM-Solver++ (Lu et al. 2022b, algorithm 2) and its SDE form, on y = (x − μ)/λ.

    The estimate of the clean image is extrapolated in log-SNR from this step and up to `order − 1` earlier ones, at
    no further network evaluation. Order 1 is DDIM (τ = 0) or `PosteriorSampler` (τ = 1). The order rises over the
    first steps and falls over the last, since log-SNR is infinite at t = 0: the last step gives x̂_0.

    The third order integrates its parabola exactly; the published 3M gives the second difference half that weight.

    Args:
        order: 1, 2 or 3.
        tau: Noise strength τ in [0, 1]: 0 for the ODE, 1 for the SDE (`sde-dpmsolver++`).
        slope: Weight of the slope at order 2: `bh2` as published (midpoint rule), `bh1` or `exact`.
        options: See `Sampler`.
    """

    def __init__(self, order: int, tau: float, slope: SlopeRule, **options: Unpack[SamplerOptions]) -> None:
        super().__init__(**options)
        if order not in (1, 2, 3):
            raise DaclipError(f"sampler.order of DPM-Solver++ must be 1, 2 or 3, got {order}")
        if not 0 <= tau <= 1:
            raise DaclipError(f"sampler.tau must lie in [0, 1], got {tau}")
        check_slope_rule(slope)
        self.order = order
        self.tau = tau
        self.slope = slope
        self.stochastic = tau > 0
        self.lookback = order - 1

    def step(self, step: Step) -> Tensor:
        """Extrapolate the estimate over the step, `[B, C, H, W]`."""
        order = min(self.order, len(step.history) + 1, step.remaining)
        used = [step, *reversed(step.history)][:order]
        nodes = [(one.t, one.prediction.x0) for one in used]
        return exponential_step(
            step.process, step.x_t, step.lq, step.t, step.s, nodes, self.slope, self.tau, step.noise
        )
