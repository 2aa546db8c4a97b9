"""Rows of a Hugging Face dataset as photos: opening it, its columns, and pictures decoded on demand."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import datasets
import fsspec
from torch import Tensor

from daclip.data.images import decode_pixels, encoded_size
from daclip.degradations import join_words
from daclip.errors import DaclipError

__all__ = ["Columns", "StoredRow", "StreamedRow", "open_split"]

# Pieces that a local dataset is cut into when it is streamed: ranks and workers share them evenly in most numbers.
PIECES = 240

FILE_KINDS = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
}


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


def _saved_split(root: str, split: str) -> datasets.Dataset:
    """One split of a folder that `save_to_disk` wrote."""
    saved = datasets.load_from_disk(root)
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise DaclipError(f"{root}: there is no split '{split}'; the dataset has {', '.join(saved)}")
        return saved[split]
    return saved


def open_split(
    root: str, config: str | None, revision: str | None, split: str, streaming: bool
) -> datasets.Dataset | datasets.IterableDataset:
    """Open one split of a dataset, whatever form it has.

    Args:
        root: A folder written by `save_to_disk`, a folder of parquet, arrow, csv, json or image files, one such
            file, or the name of a dataset on the hub.
        config: The dataset's configuration, where it has several.
        revision: Branch, tag or commit on the hub.
        split: Such as `train`.
        streaming: Read rows in passing instead of downloading and indexing them.

    Raises:
        DaclipError: There is no such dataset or split, or the hub cannot be reached.
    """
    path = Path(root)
    try:
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            saved = _saved_split(root, split)
            return saved.to_iterable_dataset(num_shards=min(PIECES, len(saved))) if streaming else saved
        if path.is_file():
            # Other loaders of the library exist, one of which unpickles.
            if path.suffix not in FILE_KINDS:
                raise DaclipError(f"{root}: not a file of rows ({', '.join(FILE_KINDS)}); check data.root")
            kind = FILE_KINDS[path.suffix]
            return datasets.load_dataset(kind, data_files={split: root}, split=split, streaming=streaming)
        return datasets.load_dataset(root, config, revision=revision, split=split, streaming=streaming)
    except DaclipError:
        raise
    # The library and those below it (hub client, HTTP, file formats) share no base class of their errors.
    except Exception as error:
        where = "this folder" if path.exists() else "no such folder here, and on the hub"
        raise DaclipError(
            f"{root}: the split '{split}' cannot be opened ({where}: {_first_line(error)}); check data.root, "
            "data.photos.split, data.photos.held_out and the network"
        ) from error


@dataclass(frozen=True)
class Columns:
    """Which column holds what; None where there is none.

    Attributes:
        image: The clean photo.
        caption: What it shows.
        name: Its unique name.
        degraded: Its own degraded version.
        word: The degradation of that version; empty in rows that have none.
    """

    image: str
    caption: str | None
    name: str | None
    degraded: str | None
    word: str | None

    def names(self) -> list[str]:
        """The columns that are read."""
        return [name for name in (self.image, self.caption, self.name, self.degraded, self.word) if name]

    def images(self) -> list[str]:
        """The columns that hold pictures."""
        return [name for name in (self.image, self.degraded) if name]

    def caption_of(self, row: Mapping[str, Any]) -> str:
        """What a row's photo shows, by the first of several texts; empty where there is none."""
        return next(iter(_texts(row, self.caption)), "")

    def word_of(self, row: Mapping[str, Any]) -> str:
        """A row's label, of several words where a list of them is stored; empty where there is none."""
        return join_words(_texts(row, self.word))

    def key(self, row: Mapping[str, Any]) -> str:
        """What a row is called: its name, else the hash of its photo, else the photo's file name."""
        if self.name:
            return str(row[self.name])
        value = row[self.image]
        content = value.get("bytes") if isinstance(value, Mapping) else value
        if content is not None:
            return hashlib.sha256(content).hexdigest()[:16]
        return PurePosixPath(str(value["path"])).name


def _texts(row: Mapping[str, Any], column: str | None) -> list[str]:
    """The texts of a cell that holds one or a list of them; those that are empty are left out."""
    cell = row[column] if column else None
    return [str(text) for text in (cell if isinstance(cell, (list, tuple)) else [cell]) if text]


def _content(value: Any, name: str) -> bytes:
    """The image file of a cell, which holds it or says where it is."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, Mapping) or (value.get("bytes") is None and not value.get("path")):
        raise DaclipError(f"{name}: the row holds no image; remove the row, or choose another column")
    if value.get("bytes") is not None:
        return bytes(value["bytes"])
    try:
        with fsspec.open(value["path"], "rb") as file:
            content: bytes = file.read()
    except (OSError, ValueError) as error:
        raise DaclipError(f"{name}: {value['path']} cannot be read ({_first_line(error)})") from None
    return content


@dataclass(frozen=True, eq=False)
class StreamedRow:
    """A row that passes by, with its encoded images in memory; see `CleanPhoto`."""

    name: str
    caption: str
    word: str
    clean: Any
    degraded: Any

    def size(self) -> tuple[int, int]:
        """Height and width in pixels, from the file's header."""
        return encoded_size(_content(self.clean, self.name), self.name)

    def pixels(self) -> Tensor:
        """The clean photo, uint8 `[3, H, W]`, RGB."""
        return decode_pixels(_content(self.clean, self.name), self.name)

    def degraded_pixels(self) -> Tensor:
        """Its own degraded version, uint8 `[3, H, W]`, RGB."""
        return decode_pixels(_content(self.degraded, f"{self.name} (degraded)"), f"{self.name} (degraded)")


@dataclass(frozen=True, eq=False)
class StoredRow:
    """A row of a dataset on disk, read when it is needed; see `CleanPhoto`."""

    name: str
    caption: str
    word: str
    table: datasets.Dataset
    index: int
    columns: Columns

    def _read(self, column: str | None) -> bytes:
        assert column is not None
        return _content(self.table[self.index][column], self.name)

    def size(self) -> tuple[int, int]:
        """Height and width in pixels, from the file's header."""
        return encoded_size(self._read(self.columns.image), self.name)

    def pixels(self) -> Tensor:
        """The clean photo, uint8 `[3, H, W]`, RGB."""
        return _decoded(self, self.columns.image)

    def degraded_pixels(self) -> Tensor:
        """Its own degraded version, uint8 `[3, H, W]`, RGB."""
        return _decoded(self, self.columns.degraded)


@lru_cache(maxsize=64)
def _decoded(row: StoredRow, column: str | None) -> Tensor:
    """The decoded picture; the last 64 stay in memory because crops revisit photos."""
    return decode_pixels(row._read(column), row.name)
