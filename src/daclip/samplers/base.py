"""The loop that all samplers share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from daclip.diffusion.denoiser import Denoiser, Prediction
from daclip.diffusion.process import MeanRevertingSDE
from daclip.errors import DaclipError
from daclip.types import Conditioning

__all__ = ["NoiseSource", "Sampler", "Step", "StepHook", "TimeGrid", "draw_noise", "uniform_grid"]


@dataclass(frozen=True)
class Step:
    """All that a sampler may use to go from grid index t to an earlier s.

    Attributes:
        process: The diffusion that is reversed.
        lq: Degraded image μ, `[B, C, H, W]`.
        x_t: State at t, same shape.
        t: Long `[B]`, in 1..T.
        s: Long `[B]`, in 0..t − 1.
        prediction: The denoiser's estimate at `x_t`, clamped if the sampler clamps.
        noise: Unit normal, shape of the state; None for deterministic samplers.
        history: Earlier steps, the latest last, at most `order − 1` of them (for multistep solvers).
    """

    process: MeanRevertingSDE
    lq: Tensor
    x_t: Tensor
    t: Tensor
    s: Tensor
    prediction: Prediction
    noise: Tensor | None
    history: tuple["Step", ...] = ()


StepHook = Callable[[Step, Tensor], None]
"""Called after each step with the step and the new state x_s."""

TimeGrid = Callable[[int, int], list[int]]
"""Maps (T, number of steps) to strictly falling grid indices from T to 0."""


def uniform_grid(horizon: int, steps: int) -> list[int]:
    """`steps + 1` grid indices from `horizon` to 0, as evenly spaced as integers can be.

    >>> uniform_grid(100, 4)
    [100, 75, 50, 25, 0]
    """
    return [round(horizon * (steps - k) / steps) for k in range(steps + 1)]


class NoiseSource(Protocol):
    """Stands in for an image's generator: its noise may be a window of a larger image's."""

    def normal(self, shape: Sequence[int]) -> Tensor:
        """The next unit normal draw, `[C, H, W]`."""


def draw_noise(generators: Sequence[torch.Generator | NoiseSource], like: Tensor) -> Tensor:
    """Unit normal noise of the shape of `like`, image i from generator i.

    It is drawn where the generators live (the CPU), so that the result does not depend on the device.
    """
    return torch.stack([_normal(source, like.shape[1:]) for source in generators]).to(like.device)


def _normal(source: torch.Generator | NoiseSource, shape: torch.Size) -> Tensor:
    if isinstance(source, torch.Generator):
        return torch.randn(shape, generator=source, device=source.device)
    return source.normal(shape)


class Sampler(ABC):
    """Walks from noise around the LQ image at T to a clean image at 0.

    This class owns grid, loop, randomness and hook. A variant holds its formula (`step`) and says whether it
    needs noise and how many earlier steps it looks back to.

    Args:
        steps: Number of steps, each one network evaluation; at most T.
        clamp: Clamp the clean estimate to [0, 1] at each step, let ε follow from it, and clamp the result.
        grid: Which grid indices are visited.
    """

    stochastic: ClassVar[bool] = True
    order: ClassVar[int] = 1

    def __init__(self, steps: int = 10, clamp: bool = True, grid: TimeGrid = uniform_grid) -> None:
        if steps < 1:
            raise DaclipError(f"a sampler needs steps >= 1, got {steps}")
        self.steps = steps
        self.clamp = clamp
        self.grid = grid

    @property
    def nfe(self) -> int:
        """Number of network evaluations for one image."""
        return self.steps

    @torch.inference_mode()
    def sample(
        self,
        denoiser: Denoiser,
        lq: Tensor,
        conditioning: Conditioning,
        generators: Sequence[torch.Generator | NoiseSource],
        on_step: StepHook | None = None,
    ) -> Tensor:
        """Restore a batch of images.

        Args:
            denoiser: Estimates the clean image from a state.
            lq: Degraded images, float32 `[B, C, H, W]` in [0, 1].
            conditioning: Their embeddings.
            generators: One CPU generator an image, for its start and its steps: an image's result does
                not depend on the batch it is in, nor on the device.
            on_step: Called after each step.

        Returns:
            Restored images, float32 `[B, C, H, W]`; in [0, 1] if the sampler clamps.
        """
        if len(generators) != len(lq):
            raise ValueError(f"expected one generator an image, got {len(generators)} for {len(lq)} images")
        process = denoiser.process
        x = process.terminal(lq, draw_noise(generators, lq))
        history: tuple[Step, ...] = ()
        for t, s in pairwise(self.times(process.horizon)):
            t_batch = torch.full((len(lq),), t, device=lq.device)
            s_batch = torch.full((len(lq),), s, device=lq.device)
            prediction = self._estimate(denoiser, x, lq, t_batch, conditioning)
            noise = draw_noise(generators, lq) if self.stochastic else None
            step = Step(process, lq, x, t_batch, s_batch, prediction, noise, history)
            x = self.step(step)
            if on_step is not None:
                on_step(step, x)
            if self.order > 1:
                # Without its own history, so that old states are let go.
                history = (*history, replace(step, history=()))[-(self.order - 1) :]
        return x.clamp(0, 1) if self.clamp else x

    def times(self, horizon: int) -> list[int]:
        """The grid indices visited, from T to 0; a grid that is no such walk is an error."""
        if self.steps > horizon:
            raise DaclipError(f"sampler.steps = {self.steps} is more than the {horizon} grid steps of the process")
        times = self.grid(horizon, self.steps)
        falls = all(t > s for t, s in pairwise(times))
        if len(times) != self.steps + 1 or times[0] != horizon or times[-1] != 0 or not falls:
            raise DaclipError(f"the time grid must fall from {horizon} to 0 in {self.steps} steps, got {times}")
        return times

    @abstractmethod
    def step(self, step: Step) -> Tensor:
        """The state x_s, `[B, C, H, W]`."""

    def _estimate(
        self, denoiser: Denoiser, x_t: Tensor, lq: Tensor, t: Tensor, conditioning: Conditioning
    ) -> Prediction:
        prediction: Prediction = denoiser(x_t, lq, t, conditioning)
        if not self.clamp:
            return prediction
        x0 = prediction.x0.clamp(0, 1)
        return Prediction(x0, denoiser.process.epsilon_from_data(x_t, lq, x0, t))
