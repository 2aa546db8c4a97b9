"""Photos of a Hugging Face dataset, from the hub or a local folder, listed or streamed."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import datasets

from daclip.data.photos import CleanPhoto, PhotoSource, held_out_names, name_fraction
from daclip.data.rows import Columns, StoredRow, StreamedRow, open_split
from daclip.errors import DaclipError

__all__ = ["HubPhotos"]


class HubPhotos(PhotoSource):
    """Photos of a dataset of the Hugging Face `datasets` library.

    Rows whose degradation column is not empty are real pairs (with `lq_column`); from the others degradations are
    synthesised. A row is held out by its split, or by the hash of its name, whichever way it is read.

    Args:
        root: Name on the hub, or a local path; see `open_split`.
        config: The dataset's configuration, where it has several.
        revision: Branch, tag or commit on the hub.
        split: The split to learn from.
        held_out: The split that training never sees, or the share of rows of `split` in (0, 1).
        held_out_rows: Held-out rows that are used at most.
        image_column: Clean photos.
        caption_column: What they show; None takes `caption` where there is such a column.
        name_column: Unique names; None takes `name` where there is such a column, else the photo's hash.
        lq_column: Degraded versions of the photos; None: all rows are clean photos.
        degradation_column: Their degradation words; only with `lq_column`.
        words: All words of `degradation_column`; only needed when streaming.
        streaming: Read training rows in passing instead of downloading and listing them.
        window: Rows in memory that streaming shuffles.

    Raises:
        DaclipError: The dataset cannot be opened, or a column is missing.
    """

    def __init__(
        self,
        root: str | None,
        config: str | None,
        revision: str | None,
        split: str,
        held_out: str | float,
        held_out_rows: int,
        image_column: str,
        caption_column: str | None,
        name_column: str | None,
        lq_column: str | None,
        degradation_column: str,
        words: Sequence[str] | None,
        streaming: bool,
        window: int,
    ):
        if root is None:
            raise DaclipError("data.root is not set: give a dataset's folder or its name on the hub")
        if not isinstance(held_out, str) and not 0 < held_out < 1:
            raise DaclipError(f"data.photos.held_out must be a split's name or a share in (0, 1), got {held_out}")
        if held_out_rows < 1 or window < 1:
            raise DaclipError("data.photos.held_out_rows and data.photos.window must be at least 1")
        self.root = str(root)
        self.config, self.revision, self.split = config, revision, split
        self.held_out_split = held_out if isinstance(held_out, str) else None
        self.share = 0.0 if isinstance(held_out, str) else held_out
        self.held_out_rows = held_out_rows
        self.image_column, self.caption_column, self.name_column = image_column, caption_column, name_column
        self.lq_column, self.degradation_column = lq_column, degradation_column
        self._words = words
        self.streaming = streaming
        self.window = window

    @property
    def words(self) -> Sequence[str]:  # type: ignore[override]
        """Degradations of the real pairs."""
        if self.lq_column is None:
            return ()
        if self._words is not None:
            return list(self._words)
        if self.streaming:
            raise DaclipError(
                "data.photos.words is not set: name the words of a stream's real pairs, as in [rainy,hazy]"
            )
        return sorted({photo.word for photo in self.train()} - {""})

    @property
    def has_plain(self) -> bool:  # type: ignore[override]
        """Whether some rows have no degraded version; of a stream nobody knows beforehand."""
        return self.lq_column is None or self.streaming or any(not photo.word for photo in self.train())

    def _columns(self, found: Sequence[str]) -> Columns:
        """The columns of one split, checked."""

        def optional(chosen: str | None, usual: str) -> str | None:
            return chosen or (usual if usual in found else None)

        columns = Columns(
            self.image_column,
            optional(self.caption_column, "caption"),
            optional(self.name_column, "name"),
            self.lq_column,
            self.degradation_column if self.lq_column else None,
        )
        for name in columns.names():
            if name not in found:
                raise DaclipError(f"{self.root}: there is no column '{name}'; the dataset has {', '.join(found)}")
        return columns

    def _open(self, split: str, streaming: bool) -> tuple[Any, Columns]:
        """A split with the columns that are read, images left encoded."""
        rows = open_split(self.root, self.config, self.revision, split, streaming)
        if rows.features is None:  # a stream of a format without a schema
            return rows, self._columns(list(next(iter(rows.take(1)), {})))
        columns = self._columns(list(rows.features))
        rows = rows.select_columns(columns.names())
        for name in columns.images():
            rows = rows.cast_column(name, datasets.Image(decode=False))
        return rows, columns

    def _listed(self, split: str) -> list[StoredRow]:
        rows, columns = self._open(split, streaming=False)
        texts = {name: rows[name][:] for name in (columns.caption, columns.name, columns.word) if name}
        photos = []
        for index in range(len(rows)):
            row = {name: values[index] for name, values in texts.items()}
            key = columns.key(row if columns.name else rows[index])
            photos.append(StoredRow(key, columns.caption_of(row), columns.word_of(row), rows, index, columns))
        return photos

    @cached_property
    def _splits(self) -> tuple[list[StoredRow], list[StoredRow]]:
        """Training and held-out rows of a dataset that is not streamed."""
        train = self._listed(self.split)
        if self.held_out_split:
            return train, self._listed(self.held_out_split)
        chosen = held_out_names((photo.name for photo in train), self.share)
        if not chosen:
            raise DaclipError(f"{self.root}: one photo cannot be split into train and held-out; add more photos")
        return (
            [photo for photo in train if photo.name not in chosen],
            [photo for photo in train if photo.name in chosen],
        )

    def train(self) -> Sequence[CleanPhoto]:
        """Photos to learn from; not for a stream."""
        if self.streaming:
            raise DaclipError(f"{self.root} is streamed, so its photos are not listed; set data.photos.streaming=false")
        return self._splits[0]

    def held_out(self) -> Sequence[CleanPhoto]:
        """Photos that training never sees, at most `held_out_rows` of them, spread over all."""
        if self.streaming:
            return self._held_out_stream
        found = self._splits[1]
        count = min(self.held_out_rows, len(found))
        return [found[i * len(found) // count] for i in range(count)]

    @cached_property
    def _held_out_stream(self) -> list[StreamedRow]:
        """The first held-out rows of the stream, kept in memory."""
        split = self.held_out_split or self.split
        rows, columns = self._open(split, streaming=True)
        found = []
        for row in rows:
            if self.held_out_split or self.is_held_out(columns.key(row)):
                found.append(self.photo(row, columns))
                if len(found) == self.held_out_rows:
                    break
        return found

    def is_held_out(self, key: str) -> bool:
        """Whether a row of the training split belongs to the held-out share."""
        return name_fraction(key) < self.share

    def stream(self) -> tuple[datasets.IterableDataset, Columns]:
        """The rows of the training split in passing, held-out ones included; see `daclip.data.stream`."""
        rows, columns = self._open(self.split, streaming=True)
        return rows, columns

    @staticmethod
    def photo(row: Mapping[str, Any], columns: Columns) -> StreamedRow:
        """A row of the stream as a photo."""
        degraded = row[columns.degraded] if columns.degraded else None
        key, caption, word = columns.key(row), columns.caption_of(row), columns.word_of(row)
        return StreamedRow(key, caption, word, row[columns.image], degraded)
