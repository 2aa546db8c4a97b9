"""Denoiser: a backbone together with the meaning of its output (data, image, ε, v, or EDM's preconditioning)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from daclip.diffusion.sde import MeanRevertingSDE
from daclip.errors import DaclipError
from daclip.types import Conditioning


@dataclass(frozen=True)
class Prediction:
    """An estimate of the clean image `x0`, float32 `[B, C, H, W]`, not clamped, and the noise from it to the state."""

    x0: Tensor
    epsilon: Tensor


@dataclass(frozen=True)
class EdmPreconditioning:
    """The parameterisation of Karras et al. (2022, table 1): unit variance into and out of the network.

    With z = y/α = y_0 + σ ε, y = (x − μ)/λ and σ = s/α, their D(z) = c_skip z + c_out F(c_in z), where

        c_skip = σ_d²/(σ² + σ_d²),    c_out = σ σ_d/√(σ² + σ_d²),    c_in = 1/√(σ² + σ_d²),

    becomes ŷ_0 = (α σ_d²/r²) y + (s σ_d/r) F(y/r) for r = √(s² + α² σ_d²). `data_std` is σ_d, the standard deviation of
    y_0; 1 is `v` with the sign of F turned.
    """

    data_std: float

    def network_input(self, process: MeanRevertingSDE, x_t: Tensor, lq: Tensor, t: Tensor) -> Tensor:
        """The network's input in place of x_t: μ + (x_t − μ)/r, `[B, C, H, W]`."""
        return lq + (x_t - lq) / self._scale(process, t)

    def clean(self, process: MeanRevertingSDE, output: Tensor, x_t: Tensor, lq: Tensor, t: Tensor) -> Tensor:
        """x̂_0 from the network's output F, `[B, C, H, W]`."""
        scale, alpha, std = self._scale(process, t), process.alpha(t), process.relative_std(t)
        skip = alpha * self.data_std**2 / scale.square()
        return lq + skip * (x_t - lq) + process.lambda_ * (std * self.data_std / scale) * output

    def _scale(self, process: MeanRevertingSDE, t: Tensor) -> Tensor:
        """r, `[B, 1, 1, 1]`."""
        return torch.hypot(process.relative_std(t), process.alpha(t) * self.data_std)


Parameterization = Literal["data", "image", "epsilon", "v"] | EdmPreconditioning


class Denoiser(nn.Module):
    """A backbone with output F as an estimate of the clean image, for losses and samplers; μ is the LQ image.

    * `data`: x̂_0 = μ + F. An error of F is an error of x̂_0, at every t.
    * `image`: x̂_0 = F.
    * `epsilon`: ε̂ = F, as in the official weights. x̂_0 errs by λ s_t/α_t (up to 200 λ at T) times the error of F.
    * `v`: F = α_t ε − s_t y_0 in y = (x − μ)/λ (Salimans and Ho 2022, app. D): ŷ_0 = α_t y − s_t F, ε̂ = s_t y + α_t F.
    * an `EdmPreconditioning`: the output and the state that the backbone sees are scaled to unit variance.

    The backbone `(x_t, lq, t, conditioning) → [B, C, H, W]` gets `t` as float32 `[B]`. `correct_epsilon_shift` undoes
    the shift of `epsilon` networks trained by `PosteriorMatching`, the official ones included (`shift_epsilon`).
    """

    def __init__(
        self,
        backbone: nn.Module,
        process: MeanRevertingSDE,
        parameterization: Parameterization = "data",
        correct_epsilon_shift: bool = False,
    ) -> None:
        super().__init__()
        named = ("data", "image", "epsilon", "v")
        if not isinstance(parameterization, EdmPreconditioning) and parameterization not in named:
            raise DaclipError(f"unknown parameterization {parameterization!r}; choose {', '.join(named)}")
        if process.lambda_ == 0 and parameterization not in ("data", "image"):
            raise DaclipError(f"process=direct needs parameterization data or image, got {parameterization!r}")
        if correct_epsilon_shift and parameterization != "epsilon":
            raise DaclipError(f"correct_epsilon_shift needs parameterization epsilon, got {parameterization!r}")
        self.backbone = backbone
        self.process = process
        self.parameterization = parameterization
        self.correct_epsilon_shift = correct_epsilon_shift

    def forward(self, x_t: Tensor, lq: Tensor, t: Tensor, conditioning: Conditioning) -> Prediction:
        """Estimate the clean image from a state and its LQ image, float32 `[B, C, H, W]`; `t` in 1..T, long `[B]`."""
        seen = x_t
        if isinstance(self.parameterization, EdmPreconditioning):
            seen = self.parameterization.network_input(self.process, x_t, lq, t)
        output = self.backbone(seen, lq, t.to(torch.float32), conditioning)
        # The one cast: with α_t down to 0.005 there is no room for bfloat16 from here on.
        with torch.autocast(x_t.device.type, enabled=False):
            return self._interpret(output.to(torch.float32), x_t, lq, t)

    def _interpret(self, output: Tensor, x_t: Tensor, lq: Tensor, t: Tensor) -> Prediction:
        process = self.process
        if self.parameterization == "epsilon":
            epsilon = output
            if self.correct_epsilon_shift:
                epsilon = process.unshift_epsilon(epsilon, x_t, lq, t)
            return Prediction(process.data_from_epsilon(x_t, lq, epsilon, t), epsilon)
        if self.parameterization == "v":
            alpha, std = process.alpha(t), process.relative_std(t)
            y = (x_t - lq) / process.lambda_
            return Prediction(lq + process.lambda_ * (alpha * y - std * output), std * y + alpha * output)
        if isinstance(self.parameterization, EdmPreconditioning):
            x0 = self.parameterization.clean(process, output, x_t, lq, t)
        else:
            x0 = output if self.parameterization == "image" else lq + output
        return Prediction(x0, process.epsilon_from_data(x_t, lq, x0, t))
