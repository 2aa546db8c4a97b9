"""Restoration in one step without diffusion, in the place of a process."""

import torch
from torch import Tensor

from daclip.diffusion.process import MeanRevertingSDE
from daclip.diffusion.schedules import ThetaSchedule
from daclip.errors import DaclipError

__all__ = ["DirectRegression"]


class DirectRegression(MeanRevertingSDE):
    """The process of one step that is no diffusion: the state is the LQ image itself, and the step ends clean.

    With it the modules of stage 2 train and run a plain restoration network, such as DA-CLIP's "NAFNet +
    DA-CLIP" (section 4.4), the fast baseline of a diffusion: x_1 = μ, T = 1, no noise anywhere. The estimate
    x̂_0 of the network is the result (`parameterization: data` for a residual on μ, `image` for the image).

    The exact formulas keep their meaning (λ = 0, α_1 = 0); those of the equations' Euler steps have none.
    """

    def __init__(self) -> None:
        super().__init__(ThetaSchedule("constant", horizon=1))
        self.lambda_ = 0.0

    def alpha(self, t: Tensor) -> Tensor:
        """1 at t = 0, 0 at t = 1, `[B, 1, 1, 1]`."""
        return (t == 0).to(self.schedule.thetas.dtype).view(-1, 1, 1, 1)

    def relative_std(self, t: Tensor) -> Tensor:
        """0 at t = 0, 1 at t = 1, `[B, 1, 1, 1]`."""
        return 1 - self.alpha(t)

    def epsilon_from_data(self, x_t: Tensor, mu: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        """Zeros: there is no noise."""
        return torch.zeros_like(x0)

    def posterior_mean(self, x_t: Tensor, mu: Tensor, x0: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """x_0, since s can only be 0."""
        return x0

    def posterior_std(self, t: Tensor, s: Tensor) -> Tensor:
        """0, `[B, 1, 1, 1]`."""
        return torch.zeros_like(self.alpha(t))

    def stride(self, t: Tensor, s: Tensor) -> Tensor:
        """There is no speed of reversion, so no step of an equation.

        Raises:
            DaclipError: Always.
        """
        raise DaclipError("process=direct has no equation to solve; use sampler=posterior sampler.steps=1")
