"""Which of a source's photos take part: large enough, no copies across the split, a sample of many, true pairs."""

import filecmp
import hashlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from daclip.data.pairing import small_copy, strangers
from daclip.data.photos import CleanPhoto, P, Photo, name_fraction
from daclip.errors import DaclipError, DamagedPhotoError
from daclip.files import sample

COMPARED = 16  # pairs of a class that are looked at before training
HEAD = 4096  # bytes that tell most files of one length apart


def _is_small(photo: CleanPhoto, side: int) -> bool:
    """Whether a photo has a side shorter than `side`; not one without a readable header, which is reported later."""
    try:
        return min(photo.size()) < side
    except DamagedPhotoError:
        return False


def large_enough(photos: Sequence[CleanPhoto], side: int, setting: str) -> tuple[list[CleanPhoto], list[str]]:
    """The photos that a crop of `side` can be cut from, and the names of the others; `setting` names the option."""
    small = [photo for photo in photos if _is_small(photo, side)]
    names = [photo.name for photo in small]
    if small and len(small) == len(photos):
        raise DaclipError(f"{setting}={side}: every photo is smaller ({sample(names)}); lower {setting}")
    return without(photos, small), names


def without(photos: Sequence[CleanPhoto], gone: Iterable[CleanPhoto]) -> list[CleanPhoto]:
    """The photos but for these very ones; equal photos may belong to several sources."""
    left_out = set(map(id, gone))
    return [photo for photo in photos if id(photo) not in left_out]


def by_class(photos: Iterable[P]) -> dict[str, list[P]]:
    """Photos by the class of their own degraded version, in their order; empty for those that have none."""
    groups: dict[str, list[P]] = {}
    for photo in photos:
        groups.setdefault(photo.class_name, []).append(photo)
    return groups


def in_place_of(validation: Sequence[CleanPhoto], train: Sequence[CleanPhoto], side: int) -> list[CleanPhoto]:
    """Where every validation photo is too small: the training photo next in the order of the split that is large
    enough, under all its classes. Else none."""
    if not validation or not all(_is_small(photo, side) for photo in validation):
        return []
    large = sorted(
        (photo for photo in train if not _is_small(photo, side)), key=lambda photo: name_fraction(photo.name)
    )

    def scene(photo: CleanPhoto) -> str:
        return photo.path.stem if isinstance(photo, Photo) else photo.name

    return [photo for photo in large if scene(photo) == scene(large[0])]


def sampled(photos: Sequence[CleanPhoto], most: int | None) -> list[CleanPhoto]:
    """At most this many photos of each class, chosen by the hash of the name and left in their order."""
    if most is None:
        return list(photos)
    if most < 1:
        raise DaclipError(f"data.validation_photos must be at least 1, or null for all, got {most}")
    ordered = by_class(sorted(photos, key=lambda photo: name_fraction(photo.name)))
    return without(photos, [photo for group in ordered.values() for photo in group[most:]])


def copies(train: Sequence[CleanPhoto], validation: Sequence[CleanPhoto]) -> list[tuple[Photo, Photo]]:
    """Training photos whose file holds the same as that of a validation photo, each with that one."""
    listed = [photo for photo in train if isinstance(photo, Photo)]
    lengths = {_length(photo.path) for photo in listed} - {-1}
    held_back: dict[tuple[int, bytes], list[Photo]] = {}
    for photo in validation:
        if isinstance(photo, Photo) and (length := _length(photo.path)) in lengths:
            held_back.setdefault((length, _head(photo.path)), []).append(photo)
    lengths = {length for length, _ in held_back}
    found = []
    for photo in listed:
        if (length := _length(photo.path)) in lengths:
            alike = held_back.get((length, _head(photo.path)), ())
            found += [(photo, other) for other in alike if filecmp.cmp(photo.path, other.path, shallow=False)][:1]
    return found


def _length(path: Path) -> int:
    """Bytes of a file; a missing one, which is reported where it is read, has a length of its own."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.sha256(file.read(HEAD)).digest()


def refuse_strangers(photos: Sequence[CleanPhoto]) -> None:
    """Refuse classes of real pairs most of whose pairs show different pictures, by a sample of each."""
    for class_name, group in by_class(photo for photo in photos if photo.class_name).items():
        names, compared = [], []
        for photo in sampled(group, COMPARED):
            with suppress(DamagedPhotoError):  # training leaves it out
                compared.append([small_copy(photo.degraded_pixels()), small_copy(photo.pixels())])
                names.append(photo.name)
        found = strangers(compared)
        if 2 * len(found) > len(names):
            raise DaclipError(
                f"{class_name}: LQ and GT show different pictures in {len(found)} of {len(names)} pairs that were "
                f"compared ({sample([names[i] for i in found])}); see `daclip check-dataset`, or train on "
                "them with data.allow_unlike=true"
            )
