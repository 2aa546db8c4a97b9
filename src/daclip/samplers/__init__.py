"""Samplers: from a denoiser to restored images."""

from daclip.samplers.base import Sampler, SamplerOptions, Step, StepHook
from daclip.samplers.ddim import DdimSampler
from daclip.samplers.dpm_solver import DpmSolverSampler
from daclip.samplers.flow_ode import FlowOdeSampler
from daclip.samplers.grids import TimeGrid
from daclip.samplers.heun import HeunSampler
from daclip.samplers.posterior import PosteriorSampler
from daclip.samplers.reverse_sde import ReverseSdeSampler
from daclip.samplers.unipc import UniPcSampler

__all__ = [
    "DdimSampler",
    "DpmSolverSampler",
    "FlowOdeSampler",
    "HeunSampler",
    "PosteriorSampler",
    "ReverseSdeSampler",
    "Sampler",
    "SamplerOptions",
    "Step",
    "StepHook",
    "TimeGrid",
    "UniPcSampler",
]
