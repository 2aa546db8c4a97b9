"""The page's work on photos, without a page: look at one, restore one, refuse what is too much, wait for its turn."""

import re
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from PIL import Image, ImageChops

from daclip.decoding import photo_header, read_photo
from daclip.degradations.base import CLEAN
from daclip.errors import DaclipError
from daclip.images import result_suffix
from daclip.pixels import PhotoFile
from daclip.restoring.batch import Job, Outcome, Request, attempt
from daclip.restoring.control import Passes, Phrases, parse_classes, unknown_classes
from daclip.restoring.restorer import Restorer, Stopped
from daclip.restoring.sampling import Progress

T = TypeVar("T")

# The choice of no sampler, and those of passes.
AS_TRAINED = "as trained"
ONCE, IN_TURN = "1", "auto"

# Formats that browsers show, and the longest side of the preview of others.
BROWSERS = {"JPEG", "MPO", "PNG", "WEBP"}
SHOWN = 1600

# From this alpha a pixel counts as painted on.
HALF = 128

# Seconds of waiting for one's turn before looking whether the work is still wanted.
PATIENCE = 0.2


@dataclass(frozen=True)
class Limits:
    """Limits of one request."""

    megapixels: float  # largest photo
    files: int  # photos in one batch
    samples: int  # restorations of one photo
    steps: int  # most steps of a sampler
    classes: int  # longest text that names degradations or says what is wanted, in characters
    samplers: tuple[str, ...]  # the samplers that may be chosen, by their names in `conf/sampler/`


@dataclass(frozen=True)
class Settings:
    """The user's choices, in the order of the page; see `Restorer.restore` and `Restorer.using`."""

    classes: str = ""  # degradations in place of what is recognised; empty leaves it
    strength: float = 1.0  # share of the change that is made
    passes: str = ONCE  # or `IN_TURN`
    samples: int = 1  # restorations of each photo
    sampler: str = AS_TRAINED  # or one of the limits' samplers
    steps: int = 0  # of the sampler; 0 takes its own number
    seed: int = 0  # seed of the noise
    instruction: str = ""  # what to repair and what to leave, in plain English

    @classmethod
    def of(cls, *choices: Any) -> "Settings":
        """The values of the page's fields; an empty one is as it is at the beginning."""
        pairs = zip(vars(cls()).items(), choices, strict=True)
        return cls(**{name: type(begins)(value) for (name, begins), value in pairs if value is not None})


def preview(file: PhotoFile, side: int = SHOWN) -> Image.Image:
    """A photo as browsers show it: 8 bits, at most so many pixels a side, transparency on light gray."""
    image = file.pixels.shallow().to_pil()
    image.thumbnail((side, side))
    image = image.convert("RGBA")
    ground = Image.new("RGBA", image.size, (230, 230, 230, 255))
    ground.alpha_composite(image)
    return ground.convert("RGB")


def shown(path: Path) -> str | Image.Image:
    """What the page shows of a photo file: the file itself, whole, if browsers can, else a preview."""
    try:
        with Image.open(path) as image:
            if image.format in BROWSERS:
                return str(path)
    except OSError:  # a kind that Pillow alone does not read
        pass
    return preview(read_photo(path))


def painted(editor: Mapping[str, Any] | None, photo: Path, folder: Path) -> Path | None:
    """A mask of the photo's size, white where the editor's layers are painted on; None where nothing is."""
    marked: Image.Image | None = None
    for layer in (editor or {}).get("layers", ()):
        alpha = layer.getchannel("A")
        marked = ImageChops.lighter(marked, alpha) if marked else alpha
    if marked is None or not marked.point(lambda value: value >= HALF).getbbox():
        return None
    header = photo_header(photo, photo)
    mask = marked.resize((header.width, header.height)).point(lambda value: 255 * (value >= HALF))
    mask.save(folder / "mask.png")
    return folder / "mask.png"


def pack(outcomes: Sequence[Outcome], path: Path) -> Path:
    """A zip of all results, and a line for each photo; names that occur twice are numbered."""
    taken: set[str] = set()
    lines = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for outcome in outcomes:
            names = []
            for result in map(Path, outcome.results):
                name, number = result.name, 2
                while name.lower() in taken:
                    name, number = f"{result.stem}-{number}{result.suffix}", number + 1
                taken.add(name.lower())
                archive.write(result, name)
                names.append(name)
            lines.append(replace(outcome, results=names).line() + "\n")
        archive.writestr("summary.jsonl", "".join(lines))
    return path


def without_folders(text: str, *files: Path) -> str:
    """A message without the server's folders, which are nobody's business; `files` may have spaces in their paths.

    >>> without_folders("/srv/tmp/a b/cup.png: no room in /var/tmp, 3 MB/s and/or", Path("/srv/tmp/a b/cup.png"))
    'cup.png: no room in tmp, 3 MB/s and/or'
    """
    for file in files:
        text = text.replace(f"{file}/", "").replace(str(file), file.name)
    return re.sub(r"(?<![\w.])/(?:[^/\s'\"]+/)*(?=[^/\s'\"])", "", text)


class Turns:
    """One at a time, first come first served; at most so many wait."""

    def __init__(self, most: int = 32):
        self.most = most
        self._line: list[object] = []
        self._moved = threading.Condition()

    @contextmanager
    def turn(self, waiting: Callable[[int], None]) -> Iterator[None]:
        """Wait until it is one's turn, and have it; `waiting` gets the number of those before, and may raise."""
        ticket = object()
        with self._moved:
            if len(self._line) > self.most:
                raise DaclipError(f"{self.most} requests are waiting already; try again in a few minutes")
            self._line.append(ticket)
        try:
            while True:
                with self._moved:
                    if not (before := self._line.index(ticket)):
                        break
                waiting(before)
                with self._moved:
                    self._moved.wait_for(lambda: self._line.index(ticket) < before, PATIENCE)
            yield
        finally:
            with self._moved:
                self._line.remove(ticket)
                self._moved.notify_all()


class Watched(Generic[T]):
    """Runs a function in a thread when its turn has come; leaving the context makes its `on_progress` raise `Stopped`.

    >>> with Watched(lambda on_progress: 6 * 7, Turns()) as work:
    ...     shares = list(work.shares())
    >>> work.result()
    42
    """

    def __init__(self, run: Callable[[Progress], T], turns: Turns):
        self.before = 0  # requests before this one
        self._run = run
        self._turns = turns
        self._share = 0.0
        self._began: float | None = None
        self._stop = threading.Event()
        self._future: Future[T] = Future()

    def __enter__(self) -> "Watched[T]":
        threading.Thread(target=self._work, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def stop(self) -> None:
        """End the work at its next step; `result` then raises `Stopped`."""
        self._stop.set()

    @property
    def seconds(self) -> float:
        """Time since its turn came."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    def shares(self, every: float = 0.25) -> Iterator[float]:
        """Yield the finished share every so many seconds until the work is done or has failed."""
        while not wait([self._future], timeout=every).done:
            yield self._share

    def result(self) -> T:
        """The function's result; its exception is raised here."""
        return self._future.result()

    def _told(self, share: float) -> None:
        self._share = share
        if self._stop.is_set():
            raise Stopped

    def _waiting(self, before: int) -> None:
        self.before = before
        self._told(0.0)

    def _work(self) -> None:
        try:
            with self._turns.turn(self._waiting):
                self._began = time.monotonic()
                self._waiting(0)
                self._future.set_result(self._run(self._told))
        except BaseException as error:  # the watching thread raises it
            self._future.set_exception(error)


class Service:
    """Looks at and restores uploaded photos within the limits, one request after the other."""

    def __init__(self, restorer: Restorer, limits: Limits, queue: int = 32):
        self.restorer = restorer
        self.limits = limits
        self.turns = Turns(queue)

    def look(self, photo: Path) -> Outcome:
        """Name what is wrong with a photo."""
        request = Request(None, strength=1.0, samples=1, dry_run=True, overwrite=False)
        outcome = self._attempt(self.restorer, Job(photo, photo), request)
        outcome.status = "recognised" if outcome.error is None else outcome.status
        return outcome

    def check(self, settings: Settings) -> Request:
        """What is asked for; settings beyond the limits are refused, since requests also come from programs."""
        for name, value, least, most in (
            ("samples", settings.samples, 1, self.limits.samples),
            ("steps", settings.steps, 0, self.limits.steps),
            ("seed", settings.seed, 0, 2**31 - 1),
            ("the text of degradations", len(settings.classes), 0, self.limits.classes),
            ("the length of what you want", len(settings.instruction), 0, self.limits.classes),
        ):
            if not least <= value <= most:
                raise DaclipError(f"{name} must lie between {least} and {most} here, got {value}")
        if settings.passes not in (ONCE, IN_TURN):
            raise DaclipError(f"passes must be {ONCE} or {IN_TURN}, got {settings.passes}")
        names = self.limits.samplers
        if settings.sampler not in (AS_TRAINED, *names):
            raise DaclipError(f"there is no sampler '{settings.sampler}'; choose from {', '.join(names)}")
        classes, wish = settings.classes.strip() or None, settings.instruction.strip() or None
        passes: Passes = 1 if settings.passes == ONCE else "auto"
        request = Request(classes, settings.strength, settings.samples, False, False, wish, passes)
        if classes:
            if wish:
                raise DaclipError("say what you want or choose what to repair, not both")
            known = self.restorer.classes
            remarks = unknown_classes(parse_classes(classes, known), known, "its text tower knows no other words")
            if remarks and not self._language:
                raise DaclipError(remarks[0])
        if wish:
            self.restorer.understand(wish)
        return request

    def restore(
        self, photo: Path, settings: Settings, folder: Path, on_progress: Progress | None, mask: Path | None = None
    ) -> Outcome:
        """Restore an uploaded photo into a folder with no file of its name; fills what is white in the same-sized mask.

        A photo that cannot be restored is an outcome with an error; unusable settings raise.
        """
        request = self.check(settings)
        sampler = None if settings.sampler == AS_TRAINED else settings.sampler
        try:
            restorer = self.restorer.using(sampler=sampler, steps=settings.steps or None, seed=settings.seed)
        except DaclipError as error:
            raise DaclipError(without_folders(str(error))) from None
        result = folder / f"{photo.stem}-restored{result_suffix(photo, None)}"
        return self._attempt(restorer, Job(photo, result, mask), request, on_progress)

    def _attempt(self, restorer: Restorer, job: Job, request: Request, on_progress: Progress | None = None) -> Outcome:
        """The outcome for a photo, which is refused where it, or its mask, is too large; it names no folder."""
        given = [job.photo] if job.mask is None else [job.photo, job.mask]
        problem = next(filter(None, map(self._too_large, given)), None)
        outcome = attempt(restorer, replace(job, problem=problem), request, on_progress)
        outcome.photo = job.photo.name
        outcome.error = outcome.error and without_folders(outcome.error, *given, job.result.parent)
        outcome.notes = [without_folders(note, *given, job.result.parent) for note in outcome.notes]
        return outcome

    @cached_property
    def _language(self) -> bool:
        """Whether the text tower knows words that nothing was trained on."""
        classes = [name for name in self.restorer.classes if name != CLEAN]
        return Phrases(classes, self.restorer.daclip.clip).understood

    def _too_large(self, photo: Path) -> str | None:
        try:
            header = photo_header(photo, photo)
        except DaclipError:  # reading it says what is wrong
            return None
        if header.width * header.height <= self.limits.megapixels * 1e6:
            return None
        return (
            f"{photo}: {header.width} x {header.height} pixels are more than the {self.limits.megapixels:g} "
            "million that are restored here; scale it down, or use `daclip restore` on your own machine"
        )
