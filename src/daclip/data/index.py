"""What is in a folder of images: content hash and size of every file, computed once."""

import hashlib
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from daclip.data.images import decode_pixels
from daclip.data.journal import Journal
from daclip.errors import DaclipError

__all__ = ["Index", "IndexedFile", "Progress", "scan"]

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""

BATCH = 16  # files between two records of progress: an interruption costs no more
FACTS = ("path", "bytes", "mtime_ns", "sha256", "width", "height")


@dataclass(frozen=True)
class IndexedFile:
    """One image file that was read from its first to its last pixel.

    Attributes:
        path: The file.
        sha256: Hash of the file's bytes, in hexadecimal.
        bytes: Length of the file.
        width: Columns in pixels, EXIF orientation applied.
        height: Rows in pixels, EXIF orientation applied.
    """

    path: Path
    sha256: str
    bytes: int
    width: int
    height: int


@dataclass(frozen=True)
class Index:
    """Result of a scan.

    Attributes:
        files: What could be read, by path.
        unreadable: What could not, by path, with the reason in one line.
    """

    files: Mapping[Path, IndexedFile]
    unreadable: Mapping[Path, str]


def _stamp(path: Path) -> tuple[str, int, int]:
    """What must stay the same for a file to count as unchanged: path, length and time of change in ns."""
    try:
        stat = path.stat()
    except OSError:  # reading it will say what is wrong
        return str(path), -1, -1
    return str(path.resolve()), stat.st_size, stat.st_mtime_ns


def read_file(path: Path) -> IndexedFile:
    """Hash and decode one file.

    Raises:
        DaclipError: The file cannot be read or is no image.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DaclipError(f"{path}: cannot be read ({error.strerror or error})") from None
    height, width = decode_pixels(content, str(path)).shape[-2:]
    return IndexedFile(path, hashlib.sha256(content).hexdigest(), len(content), width, height)


def _try_file(path: Path) -> IndexedFile | DaclipError:
    try:
        return read_file(path)
    except DaclipError as error:
        return error


def _remembered(journal: Journal, paths: Container[str]) -> dict[tuple[str, int, int], tuple[str, int, int]]:
    """Stamp to hash, width and height of the files that earlier scans have read."""
    known = {}
    for record in journal:
        if all(name in record for name in FACTS) and record["path"] in paths:
            path, length, time, *facts = (record[name] for name in FACTS)
            known[path, length, time] = (facts[0], facts[1], facts[2])
    return known


def scan(paths: Iterable[Path], memory: str | Path, workers: int, progress: Progress | None = None) -> Index:
    """Hash and decode image files, remembering those that have not changed since an earlier scan.

    Files that could not be read are tried anew each time.

    Args:
        paths: Image files.
        memory: A journal of earlier scans, made if missing; several folders may share one.
        workers: Threads; hashing and decoding run outside Python's lock.
        progress: Told of each batch as stage `reading`.
    """
    paths = list(paths)
    if workers < 1:
        raise DaclipError(f"workers must be at least 1, got {workers}")
    journal = Journal(memory)
    known = _remembered(journal, {str(path.resolve()) for path in paths})
    files: dict[Path, IndexedFile] = {}
    unreadable: dict[Path, str] = {}
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(paths), BATCH):
            batch: Sequence[Path] = paths[start : start + BATCH]
            # Taken before reading: a file that changes meanwhile is read again next time.
            stamps = {path: _stamp(path) for path in batch}
            fresh = [path for path in batch if stamps[path] not in known]
            results = dict(zip(fresh, pool.map(_try_file, fresh), strict=True))
            records = []
            for path in batch:
                result = results.get(path)
                if isinstance(result, DaclipError):
                    unreadable[path] = str(result)
                elif result is None:
                    sha256, width, height = known[stamps[path]]
                    files[path] = IndexedFile(path, sha256, stamps[path][1], width, height)
                else:
                    files[path] = result
                    values = (*stamps[path], result.sha256, result.width, result.height)
                    records.append(dict(zip(FACTS, values, strict=True)))
            journal.append(records)
            if progress:
                progress("reading", min(start + BATCH, len(paths)), len(paths))
    return Index(files, unreadable)
