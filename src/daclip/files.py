"""Files that appear whole or not at all, also when the machine stops in between."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from daclip.errors import DaclipError

PARTIAL = ".partial"


class WatchedFile:
    """A file being written that remembers the first error of the operating system.

    torch.save reports a full disk as a RuntimeError about its own archive.

    Args:
        file: Open for writing in binary mode.
    """

    def __init__(self, file: Any):
        self.file = file
        self.error: OSError | None = None

    def write(self, content: Any) -> int:
        """Write all of `content`; returns its length in bytes."""
        try:
            return int(self.file.write(content))
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        """Hand what is buffered to the operating system."""
        try:
            self.file.flush()
        except OSError as error:
            self.error = self.error or error
            raise


def _sync_folder(folder: Path) -> None:
    """Make a rename in the folder permanent; file systems that cannot do so are left alone."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def remove_partial(path: Path) -> None:
    """Delete what killed processes left of earlier attempts to write the file."""
    for left in path.parent.glob(f".{path.name}-*{PARTIAL}"):
        left.unlink(missing_ok=True)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[WatchedFile]:
    """A file under a temporary name that takes its place when the block ends without an error.

    Content reaches the disk before the name does, so a reader finds the old file or the whole new one, after a
    power failure too. An error leaves nothing behind.

    Args:
        path: The file; its folder is made if missing.

    Raises:
        DaclipError: The disk is full or the folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}-{os.getpid()}{PARTIAL}")
    watched: WatchedFile | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            watched = WatchedFile(file)
            yield watched
            watched.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        cause = watched.error if watched and watched.error else error
        if isinstance(cause, OSError):
            raise DaclipError(
                f"{path}: cannot be written ({cause.strerror or cause}); free space or fix the folder, then go on "
                "with resume=last"
            ) from None
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write a text file so that a reader sees the whole file or the old one.

    Raises:
        DaclipError: The disk is full or the folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        reason = error.strerror or error
        raise DaclipError(f"{path}: cannot be written ({reason}); free space or fix the folder") from None


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON; content that is no JSON leaves nothing behind."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
