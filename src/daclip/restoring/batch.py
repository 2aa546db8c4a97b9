"""Restoring files: which result each photo gets, one attempt a photo, and a record of what came of each."""

import glob
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from daclip.decoding import photo_header, read_photo
from daclip.errors import DaclipError
from daclip.files import Found, account, cannot_be_written, find_photos, is_video, one_line
from daclip.images import refuse_unwritable, result_suffix, write_photo
from daclip.pixels import PhotoFile, Pixels
from daclip.restoring.control import Passes, Plan, check_settings, parse_classes
from daclip.restoring.memory import Turns
from daclip.restoring.networks import unmet
from daclip.restoring.restorer import Classifier, Restorer, Stopped
from daclip.restoring.sampling import Progress
from daclip.restoring.video import restore_video, result_of
from daclip.types import Restoration


@dataclass(frozen=True)
class Job:
    """A photo to be restored, the file of its result, and the picture of its missing parts if there is one."""

    photo: Path
    result: Path
    mask: Path | None = None
    problem: str | None = None  # why it cannot be restored, as is known beforehand

    def sample(self, number: int) -> Path:
        """The file of sample `number`; the first is the result itself."""
        return self.result if number == 0 else self.result.with_stem(f"{self.result.stem}.sample{number + 1}")

    @property
    def uncertainty(self) -> Path:
        """The file of the map of differences between samples."""
        return self.result.with_name(f"{self.result.stem}.uncertainty.png")

    def results(self, samples: int) -> list[Path]:
        """All files that are written for the photo, the restoration itself last: once it exists, all do."""
        if samples == 1:
            return [self.result]
        return [*(self.sample(number) for number in range(1, samples)), self.uncertainty, self.result]


@dataclass
class Outcome:
    """The outcome for one photo, a line of the summary."""

    photo: str
    status: str  # `restored`, `classified`, `kept` (its result was there already) or `failed`
    results: list[str] = field(default_factory=list)
    probabilities: dict[str, float] = field(default_factory=dict)  # most likely class first
    repaired: list[str] = field(default_factory=list)  # by an instruction
    left: list[str] = field(default_factory=list)
    shares: dict[str, float] = field(default_factory=dict)  # of the change, if the instruction asks for less than all
    network: str | None = None  # of others, where one restored the photo
    passes: list[tuple[str, float]] = field(default_factory=list)  # class and confidence, where several were made
    size: list[int] | None = None  # width and height in pixels
    seed: int | None = None
    seconds: float | None = None  # wall time with reading and writing
    uncertainty: float | None = None  # largest value of the map, in units of an image in [0, 1]
    notes: list[str] = field(default_factory=list)
    error: str | None = None

    @property
    def files(self) -> list[str]:
        """The results, the restoration itself first."""
        return [*self.results[-1:], *self.results[:-1]]

    @property
    def changes(self) -> list[str]:
        """What an instruction let be repaired and left, and the passes, for people; none without either."""
        turns = ", then ".join(f"{class_name} ({confidence:.0%})" for class_name, confidence in self.passes)
        found = [f"repaired in turn: {turns}"] if turns else []
        if not self.repaired and not self.left:
            return found
        verb = "would repair" if self.status == "classified" else "repaired"
        left = f"; left {', '.join(self.left)}" if self.left else ""
        repaired = [f"{name} by {self.shares[name]:.0%}" if self.shares else name for name in self.repaired]
        return [f"{verb} {', '.join(repaired) or 'nothing'}{left}", *found]

    def line(self) -> str:
        """The outcome as JSON without what is empty."""
        content = {key: value for key, value in asdict(self).items() if value not in (None, [], {})}
        return json.dumps(content, ensure_ascii=False)


@contextmanager
def summary_file(path: Path | None) -> Iterator[Callable[[Outcome], None]]:
    """A function that adds a line to a file of JSON lines at once; later runs go on in it. None records nothing."""
    if path is None:
        yield lambda outcome: None
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise cannot_be_written(path, error) from None
    with file:

        def add(outcome: Outcome) -> None:
            file.write(outcome.line() + "\n")
            file.flush()

        yield add


def plan(
    sources: Sequence[str],
    output: Path,
    recursive: bool = True,
    wanted: str | None = None,
    masks: Path | None = None,
    samples: int = 1,
    tell: Callable[[str], None] = lambda line: None,
) -> list[Job]:
    """Plan the file of each photo's result; names and subfolders are kept, a photo is never overwritten. `sources` are
    files, folders and patterns (`**` crosses folders), `recursive` searches folders below folders too. `wanted` is the
    format of the results; None keeps each photo's own where it can be written. `masks` is a mask for a single photo, or
    a folder of masks with the names of the photos; `samples` is 0 if nothing will be written. Photos below an
    output inside the folder that is searched are earlier results; `tell` gets lines about what was found."""
    found: dict[Path, Path] = {}
    results: set[Path] = set()
    searched: list[Found] = []
    for source in sources:
        if samples and Path(source).is_dir() and Path(source).resolve() == output.resolve():
            raise DaclipError(f"--output {output} is the input folder; choose another, your photos would be lost")
        root, photos = _photos(source, recursive, searched)
        inside = samples and root.resolve() in output.resolve().parents
        for photo in photos:
            if inside and photo.resolve().is_relative_to(output.resolve()):
                results.add(photo)
            else:
                found.setdefault(photo, photo.relative_to(root))
    if searched:
        tell(account(searched))
    if results:
        tell(f"{len(results)} photos in {output} count as earlier results and are left out")
    if not found:
        where = f"all photos lie in --output {output}" if results else f"no photo lies directly in {', '.join(sources)}"
        raise DaclipError(f"nothing to do: {where}; choose another {'output' if results else 'folder'}")
    # A photo that is given twice, under two spellings, is one.
    found = dict({Path.cwd() / photo: (photo, relative) for photo, relative in found.items()}.values())
    taken = Counter(relative.with_suffix(result_suffix(photo, wanted)) for photo, relative in found.items())
    jobs = []
    for photo, relative in found.items():
        suffix = result_suffix(photo, wanted)
        name = relative.with_suffix(suffix)
        if taken[name] > 1 and relative.suffix != suffix:
            name = relative.with_name(relative.name + suffix)
        jobs.append(Job(photo, output / name, _mask_of(relative, masks, len(found))))
    if not samples:
        return jobs
    originals = {job.photo.resolve() for job in jobs}
    owners: dict[Path, Path] = {}
    for number, job in enumerate(jobs):
        for result in job.results(samples):
            if result.resolve() in originals:
                raise DaclipError(f"{result} is one of the photos and would be overwritten; choose another output")
            if owners.setdefault(result, job.photo) != job.photo:
                text = f"{job.photo}: {owners[result]} becomes {result} already; restore it into another folder"
                jobs[number] = replace(job, problem=text)
    return jobs


def _photos(source: str, recursive: bool, searched: list[Found]) -> tuple[Path, list[Path]]:
    """The photos of one argument, and the folder that their names in the output begin below; what was found in a folder
    goes to the list."""
    path = Path(source)
    if path.is_dir():
        searched.append(find_photos(path))
        return path, [photo for photo in searched[-1].photos if recursive or photo.parent == path]
    if path.exists():
        return path.parent, [path]
    if not glob.has_magic(source):
        raise DaclipError(f"{source}: no such file or folder; check the path")
    matches = sorted(Path(match) for match in glob.iglob(source, recursive=True))  # noqa: PTH207  it may be absolute
    photos = [match for match in matches if match.is_file()]
    if not photos:
        raise DaclipError(f"{source}: the pattern matches no file; check it")
    # The folders before the first part with a wildcard.
    return Path(*takewhile(lambda part: not glob.has_magic(part), path.parts[:-1])), photos


def _mask_of(relative: Path, masks: Path | None, photos: int) -> Path | None:
    if masks is None:
        return None
    if masks.is_dir():
        near = [masks / relative, *sorted((masks / relative.parent).glob(f"{glob.escape(relative.stem)}.*"))]
        if found := next(filter(Path.is_file, near), None):
            return found
        raise DaclipError(f"{masks}: there is no mask for {relative}; it must have the photo's name")
    if not masks.is_file():
        raise DaclipError(f"--mask {masks}: no such file or folder; check the path")
    if photos > 1:
        raise DaclipError(f"--mask {masks} is one picture for {photos} photos; give a folder of masks with their names")
    return masks


@dataclass(frozen=True)
class Request:
    """The user's settings for all photos; see `Restorer.restore`. `dry_run` only names the degradation."""

    degradation: Any
    strength: float
    samples: int
    dry_run: bool
    overwrite: bool
    instruction: str | None = None
    passes: Passes = 1

    def __post_init__(self) -> None:
        check_settings(self.strength, self.samples, self.passes, degradation=self.degradation)
        if self.degradation is not None:
            parse_classes(self.degradation)


def attempt(
    restorer: Classifier, job: Job, request: Request, on_progress: Progress | None = None, turns: Turns | None = None
) -> Outcome:
    """Restore a photo file, or say why it could not be: no error leaves this function but `Stopped`. `turns` are shared
    by attempts in several threads."""
    started = time.perf_counter()
    outcome = Outcome(str(job.photo), "failed")
    try:
        if job.problem:
            raise DaclipError(job.problem)
        if request.dry_run:
            file = read_photo(job.photo)
            outcome.notes, outcome.size = list(file.notes), [file.pixels.width, file.pixels.height]
            outcome.probabilities = _rounded(restorer.classify(file.pixels)[0])
            outcome.status = "classified"
            if request.instruction is not None:
                assert isinstance(restorer, Restorer)
                wish = restorer.understand(request.instruction)
                planned = Plan.of(outcome.probabilities, None, wish, restorer.others)
                outcome.repaired, outcome.left = list(planned.repaired), list(planned.left)
                outcome.shares = planned.shares
                if request.passes == 1:
                    outcome.notes += unmet(wish, outcome.left, restorer.others)
        elif job.result.exists() and not request.overwrite:
            outcome.status, outcome.results = "kept", [str(job.result)]
            return outcome
        else:
            assert isinstance(restorer, Restorer)
            _restore(restorer, job, request, outcome, on_progress, turns)
    except Stopped:
        raise
    except DaclipError as error:
        text = str(error)
        outcome.error = text if str(job.photo) in text else f"{job.photo}: {text}"
    except Exception as error:
        # One photo, whatever it does to the code, must not cost the user the others.
        cause = f"{type(error).__name__}: {one_line(error)}"
        outcome.error = f"{job.photo}: could not be restored ({cause}); please report this"
    outcome.seconds = round(time.perf_counter() - started, 3)
    return outcome


def _restore(
    restorer: Restorer,
    job: Job,
    request: Request,
    outcome: Outcome,
    on_progress: Progress | None,
    turns: Turns | None,
) -> None:
    if not request.overwrite:
        for path in job.results(request.samples):
            if path.exists():
                raise DaclipError(f"{path} is there already; --overwrite replaces it")
    if is_video(job.photo):
        _restore_video(restorer, job, request, outcome, on_progress)
        return
    header = photo_header(job.photo, job.photo)
    restorer.budget.refuse_too_large(header)
    with nullcontext() if turns is None else turns.turn(restorer.needed_bytes(header)):
        file = read_photo(job.photo)
        refuse_unwritable(file.pixels, job.result)
        mask = None if job.mask is None else _mask(job, file.pixels)
        # Always number 0: a photo's result then depends on the photo and the settings, not on its neighbours.
        done = restorer.restore(
            file.pixels,
            [0],
            degradation=request.degradation,
            instruction=request.instruction,
            strength=request.strength,
            samples=request.samples,
            mask=mask,
            passes=request.passes,
            on_progress=on_progress,
        )
        outcome.notes, outcome.size = [*file.notes, *done.notes], [file.pixels.width, file.pixels.height]
        _tell(outcome, done)
        if len(done.passes) > 1:
            outcome.passes = [(one.degradation, round(one.confidence, 4)) for one in done.passes]
        for number, sample in enumerate(done.samples[1:], start=1):
            write_photo(replace(file, pixels=sample), job.sample(number))
        if done.uncertainty is not None:
            outcome.uncertainty = float(done.uncertainty.max())
            # The map as gray, its largest value white.
            shares = torch.from_numpy(done.uncertainty / max(outcome.uncertainty, 1e-12))
            like = Pixels(np.zeros((*shares.shape, 3), np.uint8), gray=True)
            write_photo(PhotoFile(like.recoloured(shares.expand(3, -1, -1))), job.uncertainty)
        outcome.notes += write_photo(replace(file, pixels=done.image), job.result)
        outcome.results = [str(path) for path in job.results(request.samples)]
        outcome.status = "restored"


def _restore_video(
    restorer: Restorer, job: Job, request: Request, outcome: Outcome, on_progress: Progress | None
) -> None:
    wanted = {"degradation": request.degradation, "instruction": request.instruction, "strength": request.strength}
    clip = restore_video(restorer, job.photo, job.result, on_progress, **wanted)
    done = clip.last
    assert done is not None
    outcome.notes, outcome.size = list(clip.notes), list(clip.size)
    _tell(outcome, done)
    outcome.results, outcome.status = [str(job.result)], "restored"


def video_jobs(sources: Sequence[str], output: Path, request: Request, mask: str | None) -> list[Job]:
    """The videos that are restored, each with the file of its result."""
    if not all(map(is_video, sources)):
        raise DaclipError("give videos and photos to a command each")
    if request.dry_run or request.samples > 1 or request.passes != 1 or mask is not None:
        raise DaclipError("a video takes no --dry-run, --samples, --passes or --mask; leave them out")
    if is_video(output) and len(sources) > 1:
        raise DaclipError(f"--output {output} is one file for {len(sources)} videos; give a folder")
    jobs = [Job(Path(source), result_of(Path(source), output)) for source in dict.fromkeys(sources)]
    if shared := [result for result, count in Counter(job.result for job in jobs).items() if count > 1]:
        raise DaclipError(f"{shared[0]} would be the result of several videos; restore them into folders of their own")
    for job in jobs:
        if not job.photo.is_file():
            raise DaclipError(f"{job.photo}: no such file; check the path")
        if job.result.resolve() == job.photo.resolve():
            raise DaclipError(f"{job.result} is the video itself and would be overwritten; choose another output")
    return jobs


def _tell(outcome: Outcome, done: Restoration) -> None:
    outcome.probabilities, outcome.seed, outcome.network = _rounded(done.probabilities), done.seed, done.network
    outcome.repaired, outcome.left, outcome.shares = list(done.repaired), list(done.left), done.shares


def _rounded(probabilities: dict[str, float]) -> dict[str, float]:
    return {class_name: round(share, 4) for class_name, share in probabilities.items()}


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
