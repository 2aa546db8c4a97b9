"""The page's work on photos, without a page: look at one, restore one, refuse what is too much."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops

from daclip.app.work import Turns
from daclip.decoding import photo_header, read_photo
from daclip.degradations.base import CLEAN
from daclip.errors import DaclipError
from daclip.images import result_suffix
from daclip.pixels import PhotoFile
from daclip.restoring.batch import Job, Outcome, Request, attempt
from daclip.restoring.control import Passes, Phrases, check_settings, parse_classes, unknown_classes
from daclip.restoring.restorer import Restorer
from daclip.restoring.sampling import Progress

# The choice of no sampler, and those of passes.
AS_TRAINED = "as trained"
ONCE, IN_TURN = "1", "auto"

# Formats that browsers show, and the longest side of the preview of others.
BROWSERS = {"JPEG", "MPO", "PNG", "WEBP"}
SHOWN = 1600

# From this alpha a pixel counts as painted on.
HALF = 128


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
    """The user's choices; see `Restorer.restore` and `Restorer.using`."""

    classes: str  # degradations in place of what is recognised; empty leaves it
    strength: float  # share of the change that is made
    samples: int  # restorations of each photo
    sampler: str  # one of the limits' samplers, or `AS_TRAINED`
    steps: int  # of the sampler; 0 takes its own number
    seed: int  # seed of the noise
    instruction: str = ""  # what to repair and what to leave, in plain English
    passes: str = ONCE  # or `IN_TURN`


@dataclass(frozen=True)
class Look:
    """A photo before it is restored."""

    shown: str | Image.Image  # the photo as the page shows it
    probabilities: dict[str, float]  # classes, most likely first
    size: tuple[int, int]  # width and height
    notes: tuple[str, ...]  # remarks of the reader of files


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


def without_folders(text: str, *files: Path) -> str:
    """A message without the server's folders, which are nobody's business; `files` may have spaces in their paths.

    >>> without_folders("/srv/tmp/a b/cup.png: no room in /var/tmp, 3 MB/s and/or", Path("/srv/tmp/a b/cup.png"))
    'cup.png: no room in tmp, 3 MB/s and/or'
    """
    for file in files:
        text = text.replace(f"{file}/", "").replace(str(file), file.name)
    return re.sub(r"(?<![\w.])/(?:[^/\s'\"]+/)*(?=[^/\s'\"])", "", text)


class Service:
    """Looks at and restores uploaded photos within the limits, one request after the other."""

    def __init__(self, restorer: Restorer, limits: Limits, queue: int = 32):
        self.restorer = restorer
        self.limits = limits
        self.turns = Turns(queue)

    def look(self, photo: Path) -> Look:
        """Read a photo and name what is wrong with it."""
        try:
            self._check_size(photo)
            file = read_photo(photo)
            probabilities = self.restorer.classify(file.pixels)[0]
        except DaclipError as error:
            raise DaclipError(without_folders(str(error), photo)) from None
        return Look(shown(photo), probabilities, (file.pixels.width, file.pixels.height), file.notes)

    def check(self, settings: Settings) -> None:
        """Refuse settings beyond the limits: requests also come from programs."""
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
        check_settings(settings.strength, settings.samples, _passes(settings), degradation=settings.classes.strip())
        names = self.limits.samplers
        if settings.sampler not in (AS_TRAINED, *names):
            raise DaclipError(f"there is no sampler '{settings.sampler}'; choose from {', '.join(names)}")
        if settings.classes.strip():
            self._check_words(settings.classes)
        if settings.instruction.strip():
            if settings.classes.strip():
                raise DaclipError("say what you want or choose what to repair, not both")
            self.restorer.understand(settings.instruction)

    def restore(
        self, photo: Path, settings: Settings, folder: Path, on_progress: Progress | None, mask: Path | None = None
    ) -> Outcome:
        """Restore an uploaded photo into a folder with no file of its name; fills what is white in the same-sized mask.

        A photo that cannot be restored is an outcome with an error; unusable settings raise.
        """
        self.check(settings)
        sampler = None if settings.sampler == AS_TRAINED else settings.sampler
        try:
            restorer = self.restorer.using(sampler=sampler, steps=settings.steps or None, seed=settings.seed)
        except DaclipError as error:
            raise DaclipError(without_folders(str(error))) from None
        classes = settings.classes.strip() or None
        wish = settings.instruction.strip() or None
        request = Request(classes, settings.strength, settings.samples, False, False, wish, _passes(settings))
        given = [photo] if mask is None else [photo, mask]
        try:
            for file in given:
                self._check_size(file)
        except DaclipError as error:
            outcome = Outcome(str(photo), "failed", error=str(error))
        else:
            result = folder / f"{photo.stem}-restored{result_suffix(photo, None)}"
            outcome = attempt(restorer, Job(photo, result, mask), request, on_progress)
        outcome.photo = photo.name
        outcome.error = outcome.error and without_folders(outcome.error, *given, folder)
        outcome.notes = [without_folders(note, *given, folder) for note in outcome.notes]
        return outcome

    def _check_words(self, text: str) -> None:
        """Refuse words that nothing was trained on where the text tower knows no language either."""
        known = self.restorer.classes
        remarks = unknown_classes(parse_classes(text, known), known, "its text tower knows no other words")
        if remarks and not self._language:
            raise DaclipError(remarks[0])

    @cached_property
    def _language(self) -> bool:
        classes = [name for name in self.restorer.classes if name != CLEAN]
        return Phrases(classes, self.restorer.daclip.clip).understood

    def _check_size(self, photo: Path) -> None:
        try:
            header = photo_header(photo, photo)
        except DaclipError:  # reading it says what is wrong
            return
        if header.width * header.height > self.limits.megapixels * 1e6:
            raise DaclipError(
                f"{photo}: {header.width} x {header.height} pixels are more than the {self.limits.megapixels:g} "
                "million that are restored here; scale it down, or use `daclip restore` on your own machine"
            )


def _passes(settings: Settings) -> Passes:
    return 1 if settings.passes == ONCE else "auto"
