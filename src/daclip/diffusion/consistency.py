"""Distillation of a trained restorer to one or two steps."""

import copy
from typing import Any

import torch
from torch import Tensor

from daclip.diffusion.denoiser import Denoiser, Prediction
from daclip.diffusion.objective import Objective, TrainingState
from daclip.errors import DaclipError
from daclip.types import Conditioning

__all__ = ["ConsistencyDistillation", "FrozenTeacher"]


class FrozenTeacher:
    """A denoiser as it was: never trained, never averaged, in no checkpoint."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = copy.deepcopy(denoiser).eval().requires_grad_(False)

    def __deepcopy__(self, memo: dict[int, Any]) -> "FrozenTeacher":
        """The same object: a weight average copies the module that holds this."""
        return self

    @torch.no_grad()
    def walk(self, x_t: Tensor, lq: Tensor, t: Tensor, s: Tensor, conditioning: Conditioning) -> Tensor:
        """One deterministic step from t to an earlier s, exact for a constant estimate (DDIM), `[B, C, H, W]`.

        x_s = μ + α_s (x̂_0 − μ) + λ s_s ε̂ with x̂_0 clamped to [0, 1], as samplers do; x_0 itself at s = 0.
        """
        process = self.denoiser.process
        x0 = self.denoiser.to(x_t.device)(x_t, lq, t, conditioning).x0.clamp(0, 1)
        return process.perturb(x0, lq, s, process.epsilon_from_data(x_t, lq, x0, t))


class ConsistencyDistillation(Objective):
    """|x̂_0(x_t, t) − x̂_0(x_s, s)|: the student's answer shall not change along the teacher's path.

    Consistency distillation (Song et al. 2023, section 4) on the mean-reverting path. From the state x_t the
    trained restorer walks one deterministic step to x_s. The student, which starts with the restorer's weights,
    is asked at both ends; its answer at the cleaner end is the target, without gradient. At s = 0 the teacher's
    own result is the target. By and by the whole path leads to its end in one step.

    Without a teacher, with both states made of one clean photo and one noise, long strides would only teach the
    conditional mean once more.

    Args:
        segments: Pieces of equal length into which 0..T is divided; s is the beginning of the piece that t lies
            in. About the number of steps that the restorer needs.
        **options: As for `Objective`.
    """

    def __init__(self, segments: int, **options: Any) -> None:
        super().__init__(**options)
        if segments < 1:
            raise DaclipError(f"stage.objective.segments must be at least 1, got {segments}")
        self.segments = segments
        self.teacher: FrozenTeacher | None = None

    def begin(self, denoiser: Denoiser, trained: bool) -> None:
        """Keep the starting weights as the teacher.

        Raises:
            DaclipError: They are not those of a trained restorer.
        """
        if not trained:
            raise DaclipError("distillation needs a trained restorer to start from: init=ARTIFACT")
        if denoiser.process.horizon < self.segments:
            raise DaclipError(
                f"stage.objective.segments={self.segments} is more than the {denoiser.process.horizon} grid steps"
            )
        self.teacher = FrozenTeacher(denoiser)

    def error(self, denoiser: Denoiser, prediction: Prediction, state: TrainingState) -> Tensor:
        """x̂_0(x_t, t) − x̂_0(x_s, s)."""
        if self.teacher is None:
            raise DaclipError("distillation needs a trained restorer to start from: init=ARTIFACT")
        lq, conditioning = state.lq, state.conditioning
        s = self.earlier(state.t, denoiser.process.horizon)
        with torch.no_grad():
            x_s = self.teacher.walk(state.x_t, lq, state.t, s, conditioning)
            # At s = 0 the student is not asked; index 1 only keeps its arithmetic finite.
            answer = denoiser(x_s, lq, s.clamp_min(1), conditioning).x0.clamp(0, 1)
            target = torch.where((s > 0).view(-1, 1, 1, 1), answer, x_s)
        return prediction.x0 - target

    def earlier(self, t: Tensor, horizon: int) -> Tensor:
        """The beginning s < t of the piece that t lies in, long `[B]`.

        >>> ConsistencyDistillation(segments=4).earlier(torch.tensor([1, 25, 26, 100]), 100).tolist()
        [0, 0, 25, 75]
        """
        piece = torch.div((t - 1) * self.segments, horizon, rounding_mode="floor")
        return torch.div(piece * horizon, self.segments, rounding_mode="floor")
