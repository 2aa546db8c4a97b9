"""The diffusion: schedule, process, meaning of the network's output, training objectives."""

from daclip.diffusion.denoiser import Denoiser, Prediction
from daclip.diffusion.direct import DirectRegression
from daclip.diffusion.objective import DataMatching, NoiseMatching, Objective, PosteriorMatching
from daclip.diffusion.preconditioning import EdmPreconditioning
from daclip.diffusion.process import MeanRevertingSDE
from daclip.diffusion.schedules import ThetaSchedule
from daclip.diffusion.velocity import VelocityMatching

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
