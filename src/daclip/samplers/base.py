"""Base class of samplers: owns the time grid, the loop, the randomness and the guidance.

A time grid is `steps + 1` strictly falling grid indices from `start` to 0; the network sees all but the last. Levels go
to the nearest index; where there are too few indices, the surplus moves to free ones beside them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import TypedDict

import torch
from torch import Tensor

from daclip.diffusion.denoiser import Denoiser, Prediction
from daclip.diffusion.sde import MeanRevertingSDE
from daclip.errors import DaclipError
from daclip.rng import NoiseWindow
from daclip.types import Conditioning

TimeGrid = Callable[[MeanRevertingSDE, int, int], list[int]]


def half_log_snr(process: MeanRevertingSDE, t: Tensor) -> Tensor:
    """ℓ_t = log(α_t / s_t), half the log signal-to-noise ratio, float64 `[B, 1, 1, 1]`; +∞ at t = 0."""
    return process.alpha(t).double().log() - process.relative_std(t).double().log()


def trailing(process: MeanRevertingSDE, start: int, steps: int) -> list[int]:
    """Equal strides in t down to 0 (Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps are Flawed").

    >>> from daclip.diffusion import ThetaSchedule
    >>> trailing(MeanRevertingSDE(ThetaSchedule("cosine"), max_sigma=50), 100, 4)
    [100, 75, 50, 25, 0]
    """
    return [round(start * (steps - k) / steps) for k in range(steps + 1)]


def uniform(process: MeanRevertingSDE, start: int, steps: int) -> list[int]:
    """Network calls evenly from `start` to the last index 1, both included (`linspace` in diffusers).

    >>> from daclip.diffusion import ThetaSchedule
    >>> uniform(MeanRevertingSDE(ThetaSchedule("cosine"), max_sigma=50), 100, 4)
    [100, 67, 34, 1, 0]
    """
    return _evenly(torch.arange(1, start + 1, dtype=torch.float64), steps)


def log_snr(process: MeanRevertingSDE, start: int, steps: int) -> list[int]:
    """Network calls evenly in log-SNR from `start` to 1 (DPM-Solver, Lu et al. 2022, section 3.3).

    >>> from daclip.diffusion import ThetaSchedule
    >>> log_snr(MeanRevertingSDE(ThetaSchedule("constant"), max_sigma=50), 100, 4)
    [100, 60, 21, 1, 0]
    """
    return _evenly(-_levels(process, start), steps)


def karras(process: MeanRevertingSDE, start: int, steps: int, rho: float) -> list[int]:
    """Network calls evenly in (s_t/α_t)^{1/ρ} from `start` to 1 (EDM, Karras et al. 2022, eq. 5)."""
    return _evenly(torch.exp(-_levels(process, start) / rho), steps)


def _levels(process: MeanRevertingSDE, start: int) -> Tensor:
    """ℓ_t of t = 1..start, `[start]`."""
    device = process.schedule.integral.device
    return half_log_snr(process, torch.arange(1, start + 1, device=device)).flatten().cpu()


def _evenly(coordinate: Tensor, steps: int) -> list[int]:
    """Indices 1..start whose `coordinate` (`[start]`, rising with t) is nearest to even spacing, then 0."""
    start = len(coordinate)
    wanted = torch.linspace(float(coordinate[-1]), float(coordinate[0]), steps, dtype=torch.float64)
    nearest = (coordinate - wanted[:, None]).abs().argmin(dim=1) + 1
    times = [start]
    for k in range(1, steps):
        # Below the one before, and high enough for all that follow to be different.
        times.append(max(min(int(nearest[k]), times[-1] - 1), steps - k))
    return [*times, 0]


@dataclass(frozen=True)
class Step:
    """Input of one step from grid index t in 1..T to s in 0..t − 1, both long `[B]`.

    `x_t` is the state at t, after a correction if any, like `lq` `[B, C, H, W]`; `prediction` the estimate there,
    clamped if the sampler clamps; `noise` unit normal or, for deterministic samplers, None. `remaining` counts the
    steps to 0 with this one. `estimate` maps another state and its times to a prediction, at the cost of one more
    estimate. `history` holds up to `lookback` earlier steps, the latest last.
    """

    process: MeanRevertingSDE
    lq: Tensor
    x_t: Tensor
    t: Tensor
    s: Tensor
    remaining: int
    prediction: Prediction
    noise: Tensor | None
    estimate: Callable[[Tensor, Tensor], Prediction]
    history: tuple["Step", ...] = ()


StepHook = Callable[[Step, Tensor], None]
"""Called after each step with the step and the new state x_s."""


def draw_noise(generators: Sequence[torch.Generator | NoiseWindow], like: Tensor) -> Tensor:
    """Unit normal noise of the shape of `like`, image i from generator i, drawn on the generators' device (the CPU)."""

    def normal(source: torch.Generator | NoiseWindow) -> Tensor:
        if isinstance(source, torch.Generator):
            return torch.randn(like.shape[1:], generator=source, device=source.device)
        return source.normal(like.shape[1:])

    return torch.stack([normal(source) for source in generators]).to(like.device)


class SamplerOptions(TypedDict, total=False):
    """Keyword arguments of every sampler; see `Sampler`."""

    steps: int
    clamp: bool
    grid: TimeGrid
    start: float
    guidance: float


class Sampler(ABC):
    """Walk in at most T `steps` from noise around the LQ image at T, x_T = μ + λ ε, to a clean image at 0.

    A variant holds its formula (`step`) and states whether it needs noise (`stochastic`) and how many earlier steps it
    uses (`lookback`). `clamp` limits x̂_0 at each step, and so the result, to [0, 1]; ε follows. `start` in (0, 1] is
    the share of T at which sampling starts: below 1 from the LQ image with the noise of that time (SDEdit, Meng et al.
    2022), more faithful, less repaired. `guidance` is w in x̂_0 = x̂_0(∅) + w [x̂_0(c) − x̂_0(∅)], before clamping
    (classifier-free guidance, Ho and Salimans 2022): 1 is the plain network, 0 leaves the conditioning out, other
    values take two network calls an estimate and a network trained with conditioning drop-out.
    """

    stochastic: bool = True
    lookback: int = 0

    def __init__(
        self, steps: int = 10, clamp: bool = True, grid: TimeGrid = trailing, start: float = 1.0, guidance: float = 1.0
    ) -> None:
        if steps < 1:
            raise DaclipError(f"a sampler needs steps >= 1, got {steps}")
        if not 0 < start <= 1:
            raise DaclipError(f"sampler.start is a share of the process in (0, 1], got {start}")
        if guidance < 0:
            raise DaclipError(f"sampler.guidance must be at least 0 (1 is no guidance), got {guidance}")
        self.steps = steps
        self.clamp = clamp
        self.grid = grid
        self.start = start
        self.guidance = guidance

    @property
    def estimates(self) -> int:
        """Number of estimates of the clean image for one image."""
        return self.steps

    @property
    def nfe(self) -> int:
        """Number of network evaluations for one image."""
        return self.estimates * (1 if self.guidance in (0, 1) else 2)

    @torch.inference_mode()
    def sample(
        self,
        denoiser: Denoiser,
        lq: Tensor,
        conditioning: Conditioning,
        generators: Sequence[torch.Generator | NoiseWindow],
        on_step: StepHook | None = None,
    ) -> Tensor:
        """Restore degraded images, float32 `[B, C, H, W]` in [0, 1]; so is the result if the sampler clamps. Each image
        has its own CPU generator, so that neither batch nor device changes its result; `on_step` follows each step.
        """
        if len(generators) != len(lq):
            raise ValueError(f"expected one generator an image, got {len(generators)} for {len(lq)} images")
        process = denoiser.process
        times = self.times(process)
        estimate = partial(self._estimate, denoiser, lq, conditioning)
        start = draw_noise(generators, lq)
        if times[0] == process.horizon:
            x = process.terminal(lq, start)
        else:
            x = process.perturb(lq, lq, torch.full((len(lq),), times[0], device=lq.device), start)
        history: tuple[Step, ...] = ()
        for number, (t, s) in enumerate(pairwise(times)):
            t_batch = torch.full((len(lq),), t, device=lq.device)
            s_batch = torch.full((len(lq),), s, device=lq.device)
            noise = draw_noise(generators, lq) if self.stochastic else None
            prediction = estimate(x, t_batch)
            remaining = self.steps - number
            step = Step(process, lq, x, t_batch, s_batch, remaining, prediction, noise, estimate, history)
            step = replace(step, x_t=self.correct(step))
            x = self.step(step)
            if on_step is not None:
                on_step(step, x)
            if self.lookback:
                # Without its own history, so that old states are let go.
                history = (*history, replace(step, history=()))[-self.lookback :]
        return x.clamp(0, 1) if self.clamp else x

    def times(self, process: MeanRevertingSDE) -> list[int]:
        """The grid indices visited, from the start to 0; a grid that is no such walk is an error."""
        start = max(1, round(self.start * process.horizon))
        if self.steps > start:
            raise DaclipError(f"sampler.steps = {self.steps} is more than the {start} grid steps of the process")
        times = self.grid(process, start, self.steps)
        falls = all(t > s for t, s in pairwise(times))
        if len(times) != self.steps + 1 or times[0] != start or times[-1] != 0 or not falls:
            raise DaclipError(f"the time grid must fall from {start} to 0 in {self.steps} steps, got {times}")
        return times

    def correct(self, step: Step) -> Tensor:
        """The state x_t once its estimate is known, `[B, C, H, W]`; as it is unless a variant corrects it."""
        return step.x_t

    @abstractmethod
    def step(self, step: Step) -> Tensor:
        """The state x_s, `[B, C, H, W]`."""

    def predict(self, denoiser: Denoiser, x_t: Tensor, lq: Tensor, t: Tensor, conditioning: Conditioning) -> Prediction:
        """One call of the network."""
        prediction: Prediction = denoiser(x_t, lq, t, conditioning)
        return prediction

    def _estimate(
        self, denoiser: Denoiser, lq: Tensor, conditioning: Conditioning, x_t: Tensor, t: Tensor
    ) -> Prediction:
        first = conditioning if self.guidance == 1 else conditioning.kept(0.0)
        prediction = self.predict(denoiser, x_t, lq, t, first)
        if self.guidance not in (0, 1):
            conditional = self.predict(denoiser, x_t, lq, t, conditioning)
            x0 = torch.lerp(prediction.x0, conditional.x0, self.guidance)
            prediction = Prediction(x0, torch.lerp(prediction.epsilon, conditional.epsilon, self.guidance))
        if not self.clamp:
            return prediction
        x0 = prediction.x0.clamp(0, 1)
        return Prediction(x0, denoiser.process.epsilon_from_data(x_t, lq, x0, t))
