"""Clean photos: the base class of their sources, the split by the hash of the name, the facts of files."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor

from daclip.data.pairing import small_copy
from daclip.errors import DaclipError, printable
from daclip.files import name_of, read_json, write_json
from daclip.images import cached_pixels, decode_pixels, image_size

# Receives a stage (`reading`, `captioning` or `writing`), the number of photos done, and their total.
Progress = Callable[[str, int, int], None]


class CleanPhoto(Protocol):
    """One clean photo, perhaps with its degraded version, whose degradation is `class_name` (else empty). `name` is
    unique within the source and stable across runs; `caption` is empty if unknown."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def caption(self) -> str: ...  # noqa: D102

    @property
    def class_name(self) -> str: ...  # noqa: D102

    def size(self) -> tuple[int, int]:
        """Height and width in pixels, from the file's header."""

    def pixels(self) -> Tensor:
        """The clean photo, uint8 `[3, H, W]`, RGB; do not change it, it may be shared."""

    def degraded_pixels(self) -> Tensor:
        """Its own degraded version, as `pixels`; only where `class_name` is not empty."""


P = TypeVar("P", bound=CleanPhoto)


@dataclass(frozen=True)
class Photo:
    """A clean photo on disk, see `CleanPhoto`; `degraded` is the file of its own degraded version."""

    name: str
    path: Path
    caption: str = ""
    class_name: str = ""
    degraded: Path | None = None

    def size(self) -> tuple[int, int]:
        """Height and width in pixels, from the file's header."""
        return image_size(self.path)

    def pixels(self) -> Tensor:
        """The clean photo, uint8 `[3, H, W]`, RGB."""
        return cached_pixels(self.path)

    def degraded_pixels(self) -> Tensor:
        """Its own degraded version, uint8 `[3, H, W]`, RGB."""
        assert self.degraded is not None
        return cached_pixels(self.degraded)


class PhotoSource(Generic[P]):
    """Base class of sources: clean photos with a fixed split by photo, never by crop."""

    has_plain: bool = True  # there are photos without a degraded version of their own, to synthesise from
    classes: Sequence[str] = ()  # degradations of the photos that come with a degraded version
    streaming: bool = False  # training photos are read in passing (`daclip.data.stream`) instead of listed by `train`
    own_split: bool = False  # who made the data decided what is for validation, not the hash of the names
    account: str = ""  # what was found, left out, paired and captioned, as one line

    @cached_property
    def _train(self) -> Sequence[P]:
        raise NotImplementedError

    @cached_property
    def _validation(self) -> Sequence[P]:
        raise NotImplementedError

    def prepare(self) -> object:
        """Slow work that is needed once, such as captions; one process of several calls it first."""
        return None

    def train(self) -> Sequence[P]:
        """Photos to learn from."""
        return self._train

    def validation(self) -> Sequence[P]:
        """Photos that training never sees."""
        return self._validation


def name_fraction(name: str) -> float:
    """A number in [0, 1) that depends on nothing but the name."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big") / 2**64


def validation_names(names: Iterable[str], share: float) -> set[str]:
    """The names whose hash falls below the share in (0, 1): the photos that training never sees. Each side gets one at
    least; beyond that, new photos move none across. Of fewer than two different names none is chosen.
    >>> sorted(validation_names(["a", "b", "c", "d", "e"], 0.2))
    ['c', 'd']
    """
    if not 0 < share < 1:
        raise DaclipError(f"data.photos.validation must be a share between 0 and 1, or 1 for a test set, got {share}")
    ordered = sorted(set(names), key=name_fraction)
    count = sum(name_fraction(name) < share for name in ordered)
    return set(ordered[: min(max(count, 1), max(len(ordered) - 1, 0))])


def split_by_name(
    photos: Sequence[P], share: float, root: str | Path, key: Callable[[P], str] = lambda photo: photo.name
) -> tuple[list[P], list[P]]:
    """Photos to train on and to validate on, chosen by the hash of a key as in `validation_names`. The share 1, of
    a test set, leaves nothing to train on."""
    if share == 1:
        return [], list(photos)
    chosen = validation_names(map(key, photos), share)
    if not chosen:
        raise DaclipError(f"{root}: one photo cannot be split into train and validation; add more photos")
    return [photo for photo in photos if key(photo) not in chosen], [photo for photo in photos if key(photo) in chosen]


@dataclass(frozen=True)
class PhotoFacts:
    """Content hash, length in bytes and size in pixels (EXIF orientation applied) of an image file."""

    sha256: str = ""
    bytes: int = 0
    width: int = 0
    height: int = 0
    copy: str = ""  # `small_copy` in hexadecimal
    problem: str = ""  # the line that says why a file cannot be read; empty for one that can


def digest_of(content: Any) -> str:
    """SHA-256 of JSON content, in hexadecimal."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _facts(path: Path) -> PhotoFacts:
    try:
        content = path.read_bytes()
        pixels = decode_pixels(content, str(path))
    except OSError as error:
        return PhotoFacts(problem=printable(f"{path}: cannot be read ({error.strerror or error})"))
    except DaclipError as error:
        return PhotoFacts(problem=str(error))
    (height, width), copy = pixels.shape[-2:], small_copy(pixels).tobytes().hex()
    return PhotoFacts(hashlib.sha256(content).hexdigest(), len(content), width, height, copy)


def _stamp(path: Path) -> dict[str, Any]:
    """Path, length and time of change: while they stay the same a file counts as unchanged."""
    try:
        length, mtime = path.stat().st_size, path.stat().st_mtime_ns
    except OSError:  # reading the file will say what is wrong
        length, mtime = -1, -1
    resolved = path.resolve()
    return {"path": name_of(resolved, Path(resolved.anchor)), "length": length, "mtime_ns": mtime}


def _pieces(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """About 64 paths at a time, cut behind certain names: a new photo changes one piece and no other."""
    piece: list[Path] = []
    for path in paths:
        piece.append(path)
        if name_fraction(path.name) < 1 / 64:
            yield piece
            piece = []
    if piece:
        yield piece


def read_photos(
    paths: Sequence[Path], cache: str | Path, num_workers: int, progress: Progress | None = None
) -> dict[Path, PhotoFacts]:
    """Hash and decode image files in threads, those that have not changed only once: `cache`, which several folders of
    photos may share, remembers. `progress` is told of each piece as stage `reading`."""
    if num_workers < 1:
        raise DaclipError(f"num_workers must be at least 1, got {num_workers}")
    found: dict[Path, PhotoFacts] = {}
    with ThreadPoolExecutor(num_workers) as pool:
        for piece in _pieces(paths):
            stamps = [_stamp(path) for path in piece]  # before reading: a file that changes meanwhile is read again
            key = digest_of([stamps, [one.name for one in fields(PhotoFacts)]])
            known = Path(cache) / "files" / f"{key[:32]}.json"
            if not known.is_file():
                write_json(known, [asdict(facts) for facts in pool.map(_facts, piece)])
            for path, row in zip(piece, read_json(known), strict=True):
                # A problem is looked into anew each time: the disk may be back, a permission given.
                found[path] = _facts(path) if row["problem"] else PhotoFacts(**row)
            if progress:
                progress("reading", len(found), len(paths))
    return found
