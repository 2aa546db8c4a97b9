"""Which of a source's photos take part: large enough, no copies across the split, a sample of many, true pairs."""

import filecmp
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from daclip.data.pairing import small_copy, strangers
from daclip.data.photos import CleanPhoto, Photo, name_fraction
from daclip.errors import DaclipError, DamagedPhotoError
from daclip.files import sample

FEW = 0.1  # share of photos with captions below which a loss on captions learns nothing
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
    gone = set(map(id, small))
    return [photo for photo in photos if id(photo) not in gone], names


def in_place_of(validation: Sequence[CleanPhoto], train: Sequence[CleanPhoto], side: int) -> list[CleanPhoto]:
    """Where every validation photo is too small: the training photo next in the order of the split that is large
    enough, under all its classes. Else none."""
    if not validation or not all(_is_small(photo, side) for photo in validation):
        return []
    large = sorted(
        (photo for photo in train if not _is_small(photo, side)), key=lambda photo: name_fraction(photo.name)
    )
    return [photo for photo in large if _place(photo) == _place(large[0])]


def _place(photo: CleanPhoto) -> str:
    """What photos of one scene under several classes have in common."""
    return photo.path.stem if isinstance(photo, Photo) else photo.name


def sampled(photos: Sequence[CleanPhoto], most: int | None) -> list[CleanPhoto]:
    """At most this many photos of each class, chosen by the hash of the name and left in their order."""
    if most is None:
        return list(photos)
    if most < 1:
        raise DaclipError(f"data.validation_photos must be at least 1, or null for all, got {most}")
    by_class: dict[str, list[CleanPhoto]] = {}
    for photo in photos:
        by_class.setdefault(photo.class_name, []).append(photo)
    chosen = {
        id(photo)
        for group in by_class.values()
        for photo in sorted(group, key=lambda photo: name_fraction(photo.name))[:most]
    }
    return [photo for photo in photos if id(photo) in chosen]


def copies(train: Sequence[CleanPhoto], validation: Sequence[CleanPhoto]) -> list[tuple[Photo, Photo]]:
    """Training photos whose file holds the same as that of a validation photo, each with that one."""
    held_back: dict[int, list[Photo]] = {}
    for photo in validation:
        if isinstance(photo, Photo):
            held_back.setdefault(_length(photo.path), []).append(photo)
    heads: dict[int, dict[bytes, list[Photo]]] = {}
    found: list[tuple[Photo, Photo]] = []
    for photo in train:
        if not isinstance(photo, Photo) or (length := _length(photo.path)) not in held_back or length < 0:
            continue
        if length not in heads:
            heads[length] = {}
            for other in held_back[length]:
                heads[length].setdefault(_head(other.path), []).append(other)
        for other in heads[length].get(_head(photo.path), ()):
            if filecmp.cmp(photo.path, other.path, shallow=False):
                found.append((photo, other))
                break
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
    by_class: dict[str, list[CleanPhoto]] = {}
    for photo in photos:
        if photo.class_name:
            by_class.setdefault(photo.class_name, []).append(photo)
    for class_name, group in by_class.items():
        looked_at: list[CleanPhoto] = []
        sides: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        for photo in sampled(group, COMPARED):
            try:
                small = small_copy(photo.degraded_pixels()), small_copy(photo.pixels())
            except DamagedPhotoError:  # training leaves it out
                continue
            looked_at.append(photo)
            for side, copy in zip(sides, small, strict=True):
                side.append(copy)
        found = strangers(np.stack(sides[0]), np.stack(sides[1])) if looked_at else {}
        if 2 * len(found) > len(looked_at):
            raise DaclipError(
                f"{class_name}: LQ and GT show different pictures in {len(found)} of {len(looked_at)} pairs that were "
                f"compared ({sample([looked_at[i].name for i in found])}); see `daclip check-dataset`, or train on "
                "them with data.allow_unlike=true"
            )


def require_captions(photos: Sequence[CleanPhoto]) -> None:
    """Refuse photos hardly any of which have captions."""
    count = sum(bool(photo.caption) for photo in photos)
    if count < FEW * len(photos):
        raise DaclipError(
            f"stage.loss.caption_weight needs captions, and {count} of {len(photos)} photos have one; give "
            "data.photos.captions=FILE or photo.txt beside photo.jpg, or set stage.loss.caption_weight=0"
        )
