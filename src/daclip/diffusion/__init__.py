"""The diffusion: schedule, process, meaning of the network's output, training objectives."""

from daclip.diffusion.denoiser import Denoiser, EdmPreconditioning, Prediction
from daclip.diffusion.objectives import DataMatching, NoiseMatching, Objective, PosteriorMatching, VelocityMatching
from daclip.diffusion.sde import DirectRegression, MeanRevertingSDE, ThetaSchedule

__all__ = [
    "DataMatching",
    "Denoiser",
    "DirectRegression",
    "EdmPreconditioning",
    "MeanRevertingSDE",
    "NoiseMatching",
    "Objective",
    "PosteriorMatching",
    "Prediction",
    "ThetaSchedule",
    "VelocityMatching",
]
