"""Samplers: from a denoiser to restored images."""

from daclip.samplers.base import Sampler, SamplerOptions, Step, StepHook
from daclip.samplers.exponential import DdimSampler, DpmSolverSampler, UniPcSampler
from daclip.samplers.grids import TimeGrid
from daclip.samplers.ode import FlowOdeSampler, HeunSampler
from daclip.samplers.posterior import PosteriorSampler, ReverseSdeSampler

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
