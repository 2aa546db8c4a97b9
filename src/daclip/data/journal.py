"""A file of JSON lines that only ever grows, and survives being killed at any moment."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from daclip.errors import DaclipError

__all__ = ["Journal"]


class Journal:
    """Records appended one line each, for work that must not be done twice.

    A batch of records goes out in one write, so that processes may append to one journal at the same time. A
    line that was cut short by a crash is no JSON and is passed over when reading: its work is done again.

    Args:
        path: The file, made with its folders at the first append.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """All whole records, oldest first; none if there is no file yet."""
        if not self.path.is_file():
            return
        try:
            with self.path.open(encoding="utf-8", errors="replace", newline="\n") as lines:
                for line in lines:
                    try:
                        record = json.loads(line)
                    except json.JSONDecodeError:
                        continue
                    if isinstance(record, dict):
                        yield record
        except OSError as error:
            raise DaclipError(f"{self.path}: cannot be read ({error.strerror or error})") from None

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Add records behind the others; they are on the disk when this returns.

        Raises:
            DaclipError: The file cannot be written.
        """
        if not records:
            return
        # ASCII: no line separator of Unicode can end a line early.
        text = "".join(json.dumps(record) + "\n" for record in records)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                # A torn last line must not swallow the first new record; an empty line is passed over.
                file.write(b"\n" + text.encode() if self._torn() else text.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise DaclipError(f"{self.path}: cannot be written ({error.strerror or error})") from None

    def _torn(self) -> bool:
        if self.path.stat().st_size == 0:
            return False
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
