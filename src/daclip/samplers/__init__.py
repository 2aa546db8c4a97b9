"""Samplers: from a denoiser to restored images."""

from daclip.samplers.base import Sampler, Step, StepHook
from daclip.samplers.flow_ode import FlowOdeSampler
from daclip.samplers.posterior import PosteriorSampler
from daclip.samplers.reverse_sde import ReverseSdeSampler

__all__ = ["FlowOdeSampler", "PosteriorSampler", "ReverseSdeSampler", "Sampler", "Step", "StepHook"]
