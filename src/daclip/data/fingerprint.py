"""Which photos a run saw, in a few characters."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from daclip.data.module import MixedDegradationData
from daclip.data.photos import CleanPhoto

__all__ = ["fingerprint"]


def _digest(photos: Iterable[CleanPhoto]) -> dict[str, Any]:
    hashed, count = hashlib.sha256(), 0
    for photo in photos:
        paths = (getattr(photo, "path", None), getattr(photo, "degraded", None))
        sizes = [path.stat().st_size for path in paths if isinstance(path, Path)]
        hashed.update(repr((photo.name, photo.word, photo.caption, sizes)).encode())
        count += 1
    return {"photos": count, "sha256": hashed.hexdigest()[:16]}


def fingerprint(data: MixedDegradationData) -> dict[str, Any]:
    """Number and hash of the training and of the held-out photos.

    Hashed are names, captions, degradation words and the sizes of files in bytes, in their order; not the pixels,
    which would mean reading everything twice.

    Returns:
        `train` (None where photos are streamed and never listed) and `held_out`, each with `photos` and `sha256`.
    """
    source = data.photos
    return {
        "train": None if source.streaming else _digest(source.train()),
        "held_out": _digest(source.held_out()),
    }
