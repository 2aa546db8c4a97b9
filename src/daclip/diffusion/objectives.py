"""Training objectives: the error of an estimate, its norm over a batch, its weight at a time, a perceptual term; and
how often training visits a time.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from daclip.diffusion.denoiser import Denoiser, Prediction
from daclip.diffusion.sde import MeanRevertingSDE
from daclip.errors import DaclipError
from daclip.types import Conditioning

if TYPE_CHECKING:  # restoring takes seconds less without the metrics' imports
    from daclip.metrics.perceptual import Recognizer

RELATIVE_FLOOR = 0.01  # errors far below the visible shall not attract ever larger gradients

TimeDraw = Callable[[MeanRevertingSDE, int, torch.Generator], Tensor]
"""Maps process, count and generator to grid indices in 1..T, long `[count]`, on the generator's device."""

Weighting = Callable[[MeanRevertingSDE, Tensor], Tensor]
"""Weights `[B]` of samples at grid indices `t` `[B]`."""


def uniform(process: MeanRevertingSDE, count: int, generator: torch.Generator) -> Tensor:
    """Every grid index equally often, as in the official training."""
    return torch.randint(1, process.horizon + 1, (count,), generator=generator, device=generator.device)


def terminal(process: MeanRevertingSDE, count: int, generator: torch.Generator, share: float) -> Tensor:
    """T for a `share` of the samples in [0, 1], else uniform: for samplers of one or two steps, which start at T."""
    found = uniform(process, count, generator)
    last = torch.rand(count, generator=generator, device=generator.device) < share
    return torch.where(last, process.horizon, found)


def log_snr(process: MeanRevertingSDE, count: int, generator: torch.Generator) -> Tensor:
    """Evenly in log(α²/s²): a grid index as often as its half of the way to its neighbours is long."""
    t = torch.arange(1, process.horizon + 1, device=process.schedule.integral.device)
    level = (process.alpha(t).log() - process.relative_std(t).log()).flatten().to(generator.device)
    share = torch.rand(count, generator=generator, device=generator.device)
    wanted = torch.lerp(level[:1], level[-1:], share)
    return (level - wanted[:, None]).abs().argmin(dim=1) + 1


def snr(process: MeanRevertingSDE, t: Tensor) -> Tensor:
    """α_t²/s_t² `[B]`, from about 3e-5 at T up to 2,834 at t = 1 by default; t in 1..T."""
    return (process.alpha(t) / process.relative_std(t)).square().flatten()


def min_snr(process: MeanRevertingSDE, t: Tensor, limit: float, power: float) -> Tensor:
    """min(SNR, limit), `[B]` (Hang et al. 2023, eq. 8, limit 5)."""
    return snr(process, t).clamp_max(limit) ** power


def truncated_snr(process: MeanRevertingSDE, t: Tensor, floor: float, power: float) -> Tensor:
    """max(SNR, floor), `[B]` (Salimans and Ho 2022, section 4, floor 1)."""
    return snr(process, t).clamp_min(floor) ** power


def velocity(process: MeanRevertingSDE, t: Tensor, power: float) -> Tensor:
    """SNR + 1, `[B]`: the weight of x̂_0's error in that of v (Salimans and Ho 2022, appendix D)."""
    return (snr(process, t) + 1) ** power


def p2(process: MeanRevertingSDE, t: Tensor, offset: float, gamma: float, power: float) -> Tensor:
    """SNR / (offset + SNR)^gamma, `[B]` (Choi et al. 2022, eq. 8: offset 1, gamma 1)."""
    ratio = snr(process, t)
    return (ratio / (offset + ratio) ** gamma) ** power


def edm(process: MeanRevertingSDE, t: Tensor, data_std: float, power: float) -> Tensor:
    """(σ² + σ_d²)/(σ σ_d)² with σ = s/α, `[B]` (Karras et al. 2022, table 1): SNR + 1/σ_d²."""
    return (snr(process, t) + data_std**-2) ** power


def draw_training_state(
    process: MeanRevertingSDE, shape: Sequence[int], generator: torch.Generator, times: TimeDraw = uniform
) -> tuple[Tensor, Tensor]:
    """Draw times in 1..T, long `[B]`, then unit normal noise, float32 `[B, C, H, W]`, on the generator's device."""
    t = times(process, shape[0], generator)
    return t, torch.randn(tuple(shape), generator=generator, device=generator.device)


@dataclass(frozen=True)
class TrainingState:
    """The state x_t of a training step, its images in [0, 1] and noise, `[B, C, H, W]`; `t` is long `[B]` in 1..T."""

    x_t: Tensor
    lq: Tensor
    hq: Tensor
    conditioning: Conditioning
    t: Tensor
    noise: Tensor


class Objective(ABC):
    """Mean over the batch of one loss a sample, ℓ = mean |e| + w mean |F(e)| of an error e, or of log(ℓ + 0.01).

    F is the orthonormal Fourier transform (Cho et al., "Rethinking coarse-to-fine approach in single image deblurring",
    2021, with w = 26 for crops of 256 px). It puts an unknown exposure into one coefficient, where it does not drown
    errors that can be removed, such as noise. w is `frequency_weight`; `weighting` weighs a sample by its t (None: all
    alike). `relative` takes the logarithm, as decibels do, lest dark and hazy photos with large errors outweigh the
    others. `perceptual` adds a term `[B]` of x̂_0 and the clean images, such as `PerceptualDistance`.
    """

    def __init__(
        self,
        weighting: Weighting | None = None,
        frequency_weight: float = 0.0,
        relative: bool = False,
        perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        self.weighting = weighting
        self.frequency_weight = frequency_weight
        self.relative = relative
        self.perceptual = perceptual

    def __call__(
        self, denoiser: Denoiser, lq: Tensor, hq: Tensor, conditioning: Conditioning, t: Tensor, noise: Tensor
    ) -> Tensor:
        """Scalar loss; the arguments are those of `per_sample`."""
        return self.per_sample(denoiser, lq, hq, conditioning, t, noise).mean()

    def per_sample(
        self, denoiser: Denoiser, lq: Tensor, hq: Tensor, conditioning: Conditioning, t: Tensor, noise: Tensor
    ) -> Tensor:
        """Weighted loss of each sample, float32 `[B]`; see `TrainingState` for the arguments."""
        x_t = denoiser.process.perturb(hq, lq, t, noise)
        prediction = denoiser(x_t, lq, t, conditioning)
        error = self.error(denoiser, prediction, TrainingState(x_t, lq, hq, conditioning, t, noise))
        loss = error.abs().flatten(1).mean(1)
        if self.frequency_weight:
            # All coefficients: those that the real transform leaves out mirror the others and count as well.
            spectrum = torch.fft.fft2(error.contiguous(), norm="ortho").abs()
            loss = loss + self.frequency_weight * spectrum.flatten(1).mean(1)
        if self.relative:
            loss = (loss + RELATIVE_FLOOR).log()
        if self.weighting is not None:
            loss = loss * self.weighting(denoiser.process, t)
        return loss if self.perceptual is None else loss + self.perceptual(prediction.x0, hq)

    @abstractmethod
    def error(self, denoiser: Denoiser, prediction: Prediction, state: TrainingState) -> Tensor:
        """Difference `[B, C, H, W]` between the prediction and its target at the state."""


class DataMatching(Objective):
    """|x̂_0 − x_0|: the loss is the visible error."""

    def error(self, denoiser: Denoiser, prediction: Prediction, state: TrainingState) -> Tensor:
        """x̂_0 − x_0."""
        return prediction.x0 - state.hq


class NoiseMatching(Objective):
    """|ε̂ − ε|: the simple loss of DDPM (Ho et al. 2020, eq. 14) in L1."""

    def error(self, denoiser: Denoiser, prediction: Prediction, state: TrainingState) -> Tensor:
        """ε̂ − ε."""
        return prediction.epsilon - state.noise


class PosteriorMatching(Objective):
    """|Euler mean of the reverse SDE from ε̂ − posterior mean from x_0| over the grid step t → t − 1. The maximum
    likelihood objective of IR-SDE (section 3.3) and the official weights, only for `epsilon`: its optimum is a
    *shifted* ε (`MeanRevertingSDE.shift_epsilon`). A denoiser that undoes the shift is compared before that.
    """

    def error(self, denoiser: Denoiser, prediction: Prediction, state: TrainingState) -> Tensor:
        """Euler mean − posterior mean, both at t − 1."""
        if denoiser.parameterization != "epsilon":
            raise DaclipError(f"PosteriorMatching trains epsilon, not {denoiser.parameterization!r}; use DataMatching")
        process, x_t, lq, t = denoiser.process, state.x_t, state.lq, state.t
        epsilon = prediction.epsilon
        if denoiser.correct_epsilon_shift:
            epsilon = process.shift_epsilon(epsilon, x_t, lq, t)
        reverse_mean = process.reverse_sde_mean(x_t, lq, process.score(epsilon, t), t, t - 1)
        return reverse_mean - process.posterior_mean(x_t, lq, state.hq, t, t - 1)


class VelocityMatching(Objective):
    """|v̂ − v| = |x̂_0 − x_0|/(λ s_t) with v = α_t ε − s_t y_0 in y = (x − μ)/λ (Salimans and Ho 2022, appendix D)."""

    def error(self, denoiser: Denoiser, prediction: Prediction, state: TrainingState) -> Tensor:
        """v̂ − v."""
        process = denoiser.process
        if process.lambda_ == 0:
            raise DaclipError("VelocityMatching needs a diffusion; with process=direct use DataMatching")
        alpha, std = process.alpha(state.t), process.relative_std(state.t)
        return alpha * (prediction.epsilon - state.noise) - std * (prediction.x0 - state.hq) / process.lambda_


class PerceptualDistance:
    """`factor` times the distance in features of a frozen recognition network (Johnson et al. 2016), never saved."""

    def __init__(self, network: "Recognizer", factor: float) -> None:
        self.network = network
        self.factor = factor

    def __deepcopy__(self, memo: dict[int, Any]) -> "PerceptualDistance":
        """The same object: frozen things are shared."""
        return self

    def __call__(self, images: Tensor, reference: Tensor) -> Tensor:
        """Distance of images `[B, 3, H, W]` in about [0, 1] to others of that shape, `[B]`; H, W at least 32."""
        return self.factor * self.network.to(images.device).distance(images, reference)
