"""The diffusion: schedule, process, meaning of the network's output, training objectives."""

from daclip.diffusion.denoiser import Denoiser as Denoiser
from daclip.diffusion.denoiser import EdmPreconditioning as EdmPreconditioning
from daclip.diffusion.denoiser import Prediction as Prediction
from daclip.diffusion.objectives import DataMatching as DataMatching
from daclip.diffusion.objectives import NoiseMatching as NoiseMatching
from daclip.diffusion.objectives import Objective as Objective
from daclip.diffusion.objectives import PosteriorMatching as PosteriorMatching
from daclip.diffusion.objectives import VelocityMatching as VelocityMatching
from daclip.diffusion.sde import DirectRegression as DirectRegression
from daclip.diffusion.sde import MeanRevertingSDE as MeanRevertingSDE
from daclip.diffusion.sde import ThetaSchedule as ThetaSchedule
