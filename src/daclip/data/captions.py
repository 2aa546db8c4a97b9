"""Captions of photos: the embedded photos' own, and the user's files."""

import csv
import json
from pathlib import Path

from daclip.errors import DaclipError

__all__ = ["CaptionFile", "embedded_captions"]


def embedded_captions() -> dict[str, str]:
    """Captions written for the embedded photos: file name to text."""
    path = Path(__file__).with_name("embedded_captions.json")
    captions: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return captions


class CaptionFile:
    """Captions by file name, from a csv with a header (`name,caption`) or a jsonl of the same keys.

    Args:
        path: The file; UTF-8. Names are paths relative to the photo folder.

    Raises:
        DaclipError: The file is missing or lacks a column.
    """

    def __init__(self, path: str | Path):
        path = Path(path)
        if not path.is_file():
            raise DaclipError(f"{path}: no such caption file; check data.photos.captions")
        text = path.read_text(encoding="utf-8-sig")
        try:
            if path.suffix == ".jsonl":
                rows = [json.loads(line) for line in text.splitlines() if line.strip()]
            else:
                rows = list(csv.DictReader(text.splitlines()))
            self._captions = {row["name"]: row["caption"] or "" for row in rows}
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise DaclipError(f"{path}: needs the columns name and caption in every row ({error})") from None

    def get(self, name: str) -> str:
        """The caption of a photo; empty if the file has none for it."""
        return self._captions.get(name, "")

    @staticmethod
    def sidecar(path: Path) -> str:
        """The text of `photo.txt` beside `photo.png`; empty if there is none."""
        beside = path.with_suffix(".txt")
        return beside.read_text(encoding="utf-8").strip() if beside.is_file() else ""
