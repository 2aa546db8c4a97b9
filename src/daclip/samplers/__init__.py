"""Samplers: from a denoiser to restored images. Symbols: μ is the LQ image, x_t the state at grid index t, s < t the
next index, x̂_0 and ε̂ the denoiser's estimates, α_t = e^{−θ̄_t} and s_t = √(1 − α_t²) signal and noise, λ the
stationary deviation, ξ fresh unit normal noise (see `daclip.diffusion.sde`).
"""

from daclip.samplers.base import Sampler as Sampler
from daclip.samplers.base import SamplerOptions as SamplerOptions
from daclip.samplers.base import Step as Step
from daclip.samplers.base import StepHook as StepHook
from daclip.samplers.base import TimeGrid as TimeGrid
from daclip.samplers.solvers import DdimSampler as DdimSampler
from daclip.samplers.solvers import DpmSolverSampler as DpmSolverSampler
from daclip.samplers.solvers import FlowOdeSampler as FlowOdeSampler
from daclip.samplers.solvers import HeunSampler as HeunSampler
from daclip.samplers.solvers import PosteriorSampler as PosteriorSampler
from daclip.samplers.solvers import ReverseSdeSampler as ReverseSdeSampler
from daclip.samplers.solvers import UniPcSampler as UniPcSampler
