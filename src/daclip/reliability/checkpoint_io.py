"""Checkpoints that are whole or absent, are checked before they are read, and cannot run code."""

import logging
import pickle
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, cast

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from daclip.errors import DaclipError
from daclip.reliability.files import atomic_file, remove_partial

__all__ = ["SafeCheckpointIO", "damage", "newest_complete", "read_checkpoint"]

log = logging.getLogger(__name__)

SUFFIX = ".ckpt"
PARTS = ("state_dict", "loops", "optimizer_states", "pytorch-lightning_version")


def damage(path: str | Path) -> str | None:
    """Why a checkpoint cannot be used; None if it is complete.

    A checkpoint is a zip archive of tensors, whose directory stands at its end and which holds a CRC-32 of every
    part: a file that was cut off has no directory, one with wrong bytes has a wrong sum. Reads the whole file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if not any(name.endswith("/data.pkl") for name in archive.namelist()):
                return "no checkpoint of this framework"
            broken = archive.testzip()
    except OSError as error:
        return error.strerror or str(error)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError):
        return "cut off or damaged"
    return None if broken is None else "its content does not match its checksum"


def newest_complete(paths: Iterable[Path]) -> Path | None:
    """The newest checkpoint that is whole; each newer one that is not is named in the log."""
    for path in sorted(paths, key=lambda found: (found.stat().st_mtime_ns, found.name), reverse=True):
        reason = damage(path)
        if reason is None:
            return path
        log.warning("%s: skipped, %s; trying the one before it", path, reason)
    return None


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a training state without running any code that it may hold.

    Raises:
        DaclipError: The file is missing, damaged, no checkpoint, or holds anything but tensors and plain data.
    """
    path = Path(path)
    if not path.is_file():
        raise DaclipError(f"{path}: no such checkpoint file; check the path")
    reason = damage(path)
    if reason is not None:
        raise DaclipError(f"{path}: {reason}; choose another checkpoint, or let resume=last find the newest whole one")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise DaclipError(
            f"{path}: refused, it holds objects that could run code and not only tensors and plain data; "
            "use a checkpoint that this framework wrote"
        ) from None
    except (RuntimeError, ValueError, EOFError, KeyError, TypeError, AttributeError, IndexError, OSError):
        raise DaclipError(f"{path}: not a checkpoint of this framework; give a file of a run's checkpoints/") from None
    if not isinstance(content, dict) or any(part not in content for part in PARTS):
        raise DaclipError(f"{path}: not a checkpoint of this framework; give a file of a run's checkpoints/")
    return content


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes under a temporary name, flushes to the disk, renames; reads tensors and plain data only.

    A checkpoint is deleted only while another complete one is in its folder.
    """

    def __init__(self) -> None:
        self._written: set[tuple[Path, int, int]] = set()

    @staticmethod
    def _stamp(path: Path) -> tuple[Path, int, int]:
        stat = path.stat()
        return path, stat.st_mtime_ns, stat.st_size

    def _is_complete(self, path: Path) -> bool:
        return self._stamp(path) in self._written or damage(path) is None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a training state; a reader sees the old file or the whole new one.

        Raises:
            DaclipError: The disk is full or the folder cannot be written; checkpoints that exist stay.
        """
        path = Path(path).absolute()
        remove_partial(path)
        with atomic_file(path) as file:
            torch.save(checkpoint, cast(IO[bytes], file))
        self._written.add(self._stamp(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """See `read_checkpoint`; what else is asked for changes nothing, so that no caller can unlock code."""
        return read_checkpoint(path)

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint, unless no other one in its folder is complete."""
        path = Path(path).absolute()
        others = (other for other in path.parent.glob(f"*{SUFFIX}") if other != path)
        newest_first = sorted(others, key=lambda other: other.stat().st_mtime_ns, reverse=True)
        if any(self._is_complete(other) for other in newest_first):
            path.unlink(missing_ok=True)
        elif path.exists():
            log.warning("%s: kept, it is the only complete checkpoint in its folder", path)
