"""EDM's preconditioning in terms of the mean-reverting SDE."""

from dataclasses import dataclass

import torch
from torch import Tensor

from daclip.diffusion.process import MeanRevertingSDE

__all__ = ["EdmPreconditioning"]


@dataclass(frozen=True)
class EdmPreconditioning:
    """The parameterisation of Karras et al. (2022, table 1): unit variance into and out of the network.

    In y = (x − μ)/λ, and with z = y/α = y_0 + σ ε for σ = s/α, their D(z) = c_skip z + c_out F(c_in z) with

        c_skip = σ_d²/(σ² + σ_d²),    c_out = σ σ_d/√(σ² + σ_d²),    c_in = 1/√(σ² + σ_d²)

    becomes, with r = √(s² + α² σ_d²),

        ŷ_0 = (α σ_d²/r²) y + (s σ_d/r) F(y/r).

    For σ_d = 1 this is the `v` parameterisation with the sign of F turned.

    Attributes:
        data_std: σ_d, the standard deviation of y_0 = (x_0 − μ)/λ; 1 where LQ and HQ differ by λ.
    """

    data_std: float

    def network_input(self, process: MeanRevertingSDE, x_t: Tensor, lq: Tensor, t: Tensor) -> Tensor:
        """What the network sees in place of x_t: μ + (x_t − μ)/r, `[B, C, H, W]`."""
        return lq + (x_t - lq) / self._scale(process, t)

    def clean(self, process: MeanRevertingSDE, output: Tensor, x_t: Tensor, lq: Tensor, t: Tensor) -> Tensor:
        """x̂_0 from the network's output F, `[B, C, H, W]`."""
        scale, alpha, std = self._scale(process, t), process.alpha(t), process.relative_std(t)
        skip = alpha * self.data_std**2 / scale.square()
        return lq + skip * (x_t - lq) + process.lambda_ * (std * self.data_std / scale) * output

    def _scale(self, process: MeanRevertingSDE, t: Tensor) -> Tensor:
        """r, `[B, 1, 1, 1]`."""
        return torch.hypot(process.relative_std(t), process.alpha(t) * self.data_std)
