"""Training on the velocity."""

from torch import Tensor

from daclip.diffusion.denoiser import Denoiser, Prediction
from daclip.diffusion.objective import Objective, TrainingState
from daclip.errors import DaclipError

__all__ = ["VelocityMatching"]


class VelocityMatching(Objective):
    """|v̂ − v| with v = α_t ε − s_t y_0 in y = (x − μ)/λ (Salimans and Ho 2022, appendix D).

    In terms of the estimate it is (x̂_0 − x_0)/(λ s_t), so every parameterisation can be trained with it;
    `parameterization: v` makes it the error of the network's own output.
    """

    def error(self, denoiser: Denoiser, prediction: Prediction, state: TrainingState) -> Tensor:
        """v̂ − v."""
        process = denoiser.process
        if process.lambda_ == 0:
            raise DaclipError("VelocityMatching needs a diffusion; with process=direct use DataMatching")
        alpha, std = process.alpha(state.t), process.relative_std(state.t)
        return alpha * (prediction.epsilon - state.noise) - std * (prediction.x0 - state.hq) / process.lambda_
