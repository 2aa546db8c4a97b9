"""UniPC: a multistep predictor with a corrector that costs nothing."""

from typing import Unpack

from torch import Tensor

from daclip.errors import DaclipError
from daclip.samplers.base import Sampler, SamplerOptions, Step
from daclip.samplers.exponential import SlopeRule, check_slope_rule, exponential_step

__all__ = ["UniPcSampler"]


class UniPcSampler(Sampler):
    """UniPC (Zhao et al. 2023, algorithms 5 and 8, data prediction) on y = (x − μ)/λ.

    The predictor is multistep DPM-Solver++ of order p. Once the estimate at the predicted state is there, the step
    that led to it is done again with that estimate as one more node, which lifts the order to p + 1; the estimate
    itself is not renewed. The order rises over the first steps and falls over the last, the last step gives x̂_0.

    Args:
        order: p, 1 to 3.
        slope: Weight of the slope where two estimates meet, the paper's B(h): `bh1`, `bh2`, or `exact`.
        options: See `Sampler`.
    """

    stochastic = False

    def __init__(self, order: int, slope: SlopeRule, **options: Unpack[SamplerOptions]) -> None:
        super().__init__(**options)
        if order not in (1, 2, 3):
            raise DaclipError(f"sampler.order of UniPC must be 1, 2 or 3, got {order}")
        check_slope_rule(slope)
        self.order = order
        self.slope = slope
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

    def step(self, step: Step) -> Tensor:
        """UniP: extrapolate the estimate over the step, `[B, C, H, W]`."""
        order = min(self.order, len(step.history) + 1, step.remaining)
        used = [step, *reversed(step.history)][:order]
        nodes = [(one.t, one.prediction.x0) for one in used]
        return exponential_step(step.process, step.x_t, step.lq, step.t, step.s, nodes, self.slope)
