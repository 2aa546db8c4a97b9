"""The diffusion: schedule, process, meaning of the network's output, training objectives."""

from daclip.diffusion.denoiser import Denoiser, Prediction
from daclip.diffusion.objective import DataMatching, NoiseMatching, Objective, PosteriorMatching
from daclip.diffusion.process import MeanRevertingSDE
from daclip.diffusion.schedules import ThetaSchedule

__all__ = [
    "DataMatching",
    "Denoiser",
    "MeanRevertingSDE",
    "NoiseMatching",
    "Objective",
    "PosteriorMatching",
    "Prediction",
    "ThetaSchedule",
]
