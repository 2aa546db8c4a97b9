"""Captions of photos: the captioners, what a captioner has said before, and the embedded photos' own texts."""

import csv
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from daclip.data.journal import Journal
from daclip.errors import DaclipError

if TYPE_CHECKING:
    from daclip.data.photos import Photo

__all__ = [
    "CaptionCache",
    "CaptionFile",
    "Captioner",
    "NoCaptions",
    "SidecarCaptions",
    "embedded_captions",
    "read_table",
]


def embedded_captions() -> dict[str, str]:
    """Captions written for the embedded photos: file name to text."""
    path = Path(__file__).with_name("embedded_captions.json")
    captions: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return captions


def read_table(path: str | Path, columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """Texts by photo name from a csv with a header or a jsonl of the same keys, both UTF-8.

    Args:
        path: The file; each row has `name`, a photo's path relative to its folder.
        columns: Further columns that must be there; a missing value is an empty text.

    Returns:
        Name to the row's values of `columns`.

    Raises:
        DaclipError: The file is missing, unreadable, lacks a column, or names a photo twice with different texts.
    """
    path = Path(path)
    if not path.is_file():
        raise DaclipError(f"{path}: no such file; check the path")
    needed = " and ".join(["name", *columns])
    table: dict[str, dict[str, str]] = {}
    try:
        text = path.read_text(encoding="utf-8-sig")
        # Not splitlines(): quoted csv fields and JSON strings may hold any line separator of Unicode.
        rows: Sequence[Mapping[str, str | None]] = (
            [json.loads(line) for line in text.split("\n") if line.strip()]
            if path.suffix == ".jsonl"
            else list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
        )
        for row in rows:
            values = {column: str(row[column] or "").strip() for column in columns}
            name = str(row["name"])
            if table.setdefault(name, values) != values:
                raise DaclipError(f"{path}: names {name} twice with different texts; keep one of the rows")
    except (json.JSONDecodeError, KeyError, TypeError, csv.Error) as error:
        raise DaclipError(f"{path}: needs the columns {needed} in every row ({error})") from None
    except (UnicodeDecodeError, OSError) as error:
        raise DaclipError(f"{path}: cannot be read as UTF-8 text ({error})") from None
    return table


class Captioner(ABC):
    """Says what photos show.

    Attributes:
        identity: Names everything that decides the texts, for the cache of captions. None for a captioner
            that only looks texts up: they cost nothing, and the user may edit them.
        batch_size: Photos that are best handed over together.
    """

    identity: str | None = None
    batch_size: int = 64

    @abstractmethod
    def describe(self, photos: Sequence["Photo"]) -> list[str]:
        """One text a photo, in their order; empty where none is known."""


class NoCaptions(Captioner):
    """Leaves every caption empty; clean-photo distillation learns without captions."""

    def describe(self, photos: Sequence["Photo"]) -> list[str]:
        """An empty text a photo."""
        return [""] * len(photos)


class SidecarCaptions(Captioner):
    """The text of `photo.txt` beside `photo.png`."""

    def describe(self, photos: Sequence["Photo"]) -> list[str]:
        """The texts beside the photos."""
        return [CaptionFile.sidecar(photo.path) for photo in photos]


class CaptionFile(Captioner):
    """Captions by file name, from a csv with a header (`name,caption`) or a jsonl of the same keys.

    Args:
        path: The file; UTF-8. Names are paths relative to the photo folder. Colons, commas and line breaks
            are fine in quoted csv fields.

    Raises:
        DaclipError: The file is missing or lacks a column.
    """

    def __init__(self, path: str | Path | None):
        if path is None:
            raise DaclipError("no caption file is given; name a csv or jsonl with the columns name and caption")
        self._captions = {name: row["caption"] for name, row in read_table(path, ["caption"]).items()}

    def get(self, name: str) -> str:
        """The caption of a photo; empty if the file has none for it."""
        return self._captions.get(name, "")

    def describe(self, photos: Sequence["Photo"]) -> list[str]:
        """The file's texts."""
        return [self.get(photo.name) for photo in photos]

    @staticmethod
    def sidecar(path: Path) -> str:
        """The text of `photo.txt` beside `photo.png`; empty if there is none.

        Raises:
            DaclipError: The text is not UTF-8.
        """
        beside = path.with_suffix(".txt")
        try:
            return beside.read_text(encoding="utf-8-sig").strip() if beside.is_file() else ""
        except (UnicodeDecodeError, OSError) as error:
            raise DaclipError(f"{beside}: cannot be read as UTF-8 text ({error})") from None


class CaptionCache:
    """What captioners have said before, by content: a photo that moves or is copied keeps its caption.

    Args:
        path: A jsonl of `sha256, captioner, caption`; made at the first caption.
    """

    def __init__(self, path: str | Path):
        self._journal = Journal(path)

    def captions(
        self,
        captioner: Captioner,
        photos: Sequence["Photo"],
        hashes: Sequence[str],
        progress: Callable[[int], None] | None = None,
    ) -> list[str]:
        """Describe photos, asking the captioner only for those that it has not described before.

        Captions are kept batch by batch, so that an interruption costs at most one batch.

        Args:
            captioner: Who describes.
            photos: What to describe.
            hashes: Each photo's content hash.
            progress: Told the number of photos done after each batch.
        """
        known = self._known(captioner.identity)
        found: list[str] = []
        for start in range(0, len(photos), captioner.batch_size):
            batch = slice(start, start + captioner.batch_size)
            if captioner.identity is None:
                found += captioner.describe(photos[batch])
            else:
                keys = hashes[batch]
                fresh = {key: photo for key, photo in zip(keys, photos[batch], strict=True) if key not in known}
                texts = dict(zip(fresh, captioner.describe(list(fresh.values())), strict=True)) if fresh else {}
                self._journal.append(
                    [{"sha256": key, "captioner": captioner.identity, "caption": text} for key, text in texts.items()]
                )
                known |= texts
                found += [known[key] for key in keys]
            if progress:
                progress(len(found))
        return found

    def _known(self, identity: str | None) -> dict[str, str]:
        if identity is None:
            return {}
        return {
            str(record["sha256"]): str(record["caption"])
            for record in self._journal
            if record.get("captioner") == identity and {"sha256", "caption"} <= record.keys()
        }
