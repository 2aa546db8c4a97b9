"""One photo file through a restorer, whatever happens on the way."""

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from daclip.errors import DaclipError
from daclip.pipeline import Restorer
from daclip.restoring.control import check_strength, parse_words
from daclip.restoring.jobs import Job, Outcome
from daclip.restoring.photo_files import PhotoFile, read_photo, write_photo
from daclip.restoring.pixels import Pixels
from daclip.restoring.results import Stopped
from daclip.restoring.sampling import Progress

__all__ = ["Request", "attempt"]


@dataclass(frozen=True)
class Request:
    """What the user asks for, the same for all photos; see `Restorer.restore`.

    Attributes:
        degradation: In place of what is recognised; None leaves it.
        strength: Share of the change that is made.
        samples: Restorations of each photo.
        dry_run: Only name what is wrong.
        overwrite: Replace results that are there already.

    Raises:
        DaclipError: A value out of its range: the mistake is that of all photos.
    """

    degradation: Any
    strength: float
    samples: int
    dry_run: bool
    overwrite: bool

    def __post_init__(self) -> None:
        check_strength(self.strength)
        if self.samples < 1:
            raise DaclipError(f"samples={self.samples} must be at least 1")
        if self.degradation is not None:
            parse_words(self.degradation)


def attempt(restorer: Restorer, job: Job, request: Request, on_progress: Progress | None = None) -> Outcome:
    """Restore a photo file, or say why it could not be: no error leaves this function but `Stopped`."""
    started = time.perf_counter()
    outcome = Outcome(str(job.photo), "failed")
    try:
        if request.dry_run:
            _classify(restorer, job, outcome)
        elif job.result.exists() and not request.overwrite:
            outcome.status, outcome.results = "kept", [str(job.result)]
            return outcome
        else:
            _restore(restorer, job, request, outcome, on_progress)
    except Stopped:
        raise
    except DaclipError as error:
        text = str(error)
        outcome.error = text if str(job.photo) in text else f"{job.photo}: {text}"
    except Exception as error:
        # One photo, whatever it does to the code, must not cost the user the others.
        reason = (str(error).strip() or "no message").splitlines()[0]
        outcome.error = f"{job.photo}: could not be restored ({type(error).__name__}: {reason}); please report this"
    outcome.seconds = round(time.perf_counter() - started, 3)
    return outcome


def _classify(restorer: Restorer, job: Job, outcome: Outcome) -> None:
    file = read_photo(job.photo)
    outcome.notes = list(file.notes)
    outcome.size = [file.pixels.width, file.pixels.height]
    outcome.probabilities = _rounded(restorer.classify(file.pixels)[0])
    outcome.status = "classified"


def _restore(restorer: Restorer, job: Job, request: Request, outcome: Outcome, on_progress: Progress | None) -> None:
    if not request.overwrite:
        for path in job.results(request.samples):
            if path.exists():
                raise DaclipError(f"{path} is there already; overwrite=true replaces it")
    file = read_photo(job.photo)
    mask = None if job.mask is None else _mask(job, file.pixels)
    # Always number 0: a photo's result then depends on the photo and the settings, not on its neighbours.
    done = restorer.restore(
        file.pixels,
        [0],
        degradation=request.degradation,
        strength=request.strength,
        samples=request.samples,
        mask=mask,
        on_progress=on_progress,
    )
    outcome.notes = [*file.notes, *done.notes]
    outcome.size = [file.pixels.width, file.pixels.height]
    outcome.probabilities = _rounded(done.probabilities)
    outcome.seed = done.seed
    for number, sample in enumerate(done.samples[1:], start=1):
        write_photo(replace(file, pixels=sample), job.sample(number))
    if done.uncertainty is not None:
        outcome.uncertainty = float(done.uncertainty.max())
        write_photo(PhotoFile(_map_pixels(done.uncertainty)), job.uncertainty)
    outcome.notes += write_photo(replace(file, pixels=done.image), job.result)
    outcome.results = [str(path) for path in job.results(request.samples)]
    outcome.status = "restored"


def _rounded(probabilities: dict[str, float]) -> dict[str, float]:
    return {word: round(share, 4) for word, share in probabilities.items()}


def _mask(job: Job, photo: Pixels) -> np.ndarray:
    """The mask picture as bool `[H, W]`: true where it is nearer to white."""
    assert job.mask is not None
    mask = read_photo(job.mask).pixels
    if (mask.height, mask.width) != (photo.height, photo.width):
        raise DaclipError(
            f"{job.mask}: {mask.width} x {mask.height} pixels, but {job.photo} has {photo.width} x {photo.height}; "
            "the mask must have the photo's size"
        )
    holes: np.ndarray = (mask.crop().mean(0) > 0.5).numpy()
    return holes


def _map_pixels(uncertainty: np.ndarray) -> Pixels:
    """The map as gray, its largest value white (the summary has that value)."""
    shares = torch.from_numpy(uncertainty / max(float(uncertainty.max()), 1e-12))
    like = Pixels(np.zeros((*uncertainty.shape, 3), np.uint8), gray=True)
    return like.recoloured(shares.expand(3, -1, -1))
