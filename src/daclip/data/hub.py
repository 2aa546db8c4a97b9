"""Rows of a Hugging Face dataset as photos, decoded on demand."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import datasets
import fsspec
from huggingface_hub.constants import HF_HUB_CACHE
from torch import Tensor

from daclip.data.photos import PhotoSource, name_fraction, split_by_name
from daclip.degradations.base import join_classes
from daclip.errors import DaclipError
from daclip.files import one_line
from daclip.images import decode_pixels, encoded_size

# Pieces that a local dataset is cut into when it is streamed: ranks and workers share them evenly in most numbers.
PIECES = 240
FILE_KINDS = {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json"}


def open_split(
    root: str, config: str | None, revision: str | None, split: str, streaming: bool
) -> datasets.Dataset | datasets.IterableDataset:
    """Open one split of a dataset: a `save_to_disk` folder, a folder of parquet, arrow, csv, json or image files, one
    such file, or a name on the hub. With `streaming` rows are read in passing, not downloaded and indexed."""
    path = Path(root)
    try:
        if (saved := saved_splits(path)) is not None:
            _require_split(root, split, list(saved))
            rows = saved[split]
            return rows.to_iterable_dataset(num_shards=min(PIECES, len(rows))) if streaming else rows
        if path.is_file():
            if path.suffix not in FILE_KINDS:  # other loaders of the library exist, one of which unpickles
                raise DaclipError(f"{root}: not a file of rows ({', '.join(FILE_KINDS)}); check data.root")
            _require_split(root, split, ["train"])
            kind = FILE_KINDS[path.suffix]
            return datasets.load_dataset(kind, data_files={split: root}, split=split, streaming=streaming)
        return datasets.load_dataset(root, config, revision=revision, split=split, streaming=streaming)
    except DaclipError:
        raise
    # The library and those below it (hub client, HTTP, file formats) share no base class of their errors.
    except Exception as error:
        where = "this folder" if path.exists() else "no such folder here, and on the hub"
        raise DaclipError(
            f"{root}: the split '{split}' cannot be opened ({where}: {one_line(error)[:300]}); check data.root, "
            "data.photos.split, data.photos.validation and the network"
        ) from error


def saved_splits(folder: Path) -> Mapping[str, datasets.Dataset] | None:
    """The splits of a `save_to_disk` folder; None for any other folder."""
    if not any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):  # all splits, or one
        return None
    saved = datasets.load_from_disk(str(folder))
    return saved if isinstance(saved, datasets.DatasetDict) else {str(saved.split or "train"): saved}


def _require_split(root: str, split: str, known: Sequence[str]) -> None:
    """Refuse a split that a dataset does not have."""
    if split in known:
        return
    share = "; hold back a share of it, as in data.photos.validation=0.1" if len(known) == 1 else ""
    raise DaclipError(f"{root}: there is no split '{split}'; the dataset has {', '.join(known)}{share}")


@dataclass(frozen=True)
class Columns:
    """The columns of a dataset by what they hold; None where there is none."""

    image: str  # the clean photo
    caption: str | None  # what it shows
    name: str | None  # its unique name
    degraded: str | None  # its own degraded version
    class_name: str | None  # the degradation of that version; empty in rows that have none
    root: str = ""  # the dataset, which the paths in its rows stay inside

    def names(self) -> list[str]:
        """The columns that are read."""
        return [name for name in (self.image, self.caption, self.name, self.degraded, self.class_name) if name]

    def texts(self, row: Mapping[str, Any]) -> tuple[str, str]:
        """A row's caption, the first of several texts, and its label, of several classes where a list is stored."""
        return next(iter(_texts(row, self.caption)), ""), join_classes(_texts(row, self.class_name))

    def key(self, row: Mapping[str, Any]) -> str:
        """The name of a row: its own, else the hash of its photo, else the photo's file name."""
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


def _inside(path: str, root: str) -> str | None:
    """A row's path as fsspec opens it, if it stays inside its dataset `root`: below a local folder or file's folder, in
    the hub's repository, or in this machine's copy of that; archives on the way are opened. Else None."""
    *archived, place = str(path).split("::")
    if ".." in place.split("/") or not all(part.startswith(("zip://", "tar://", "gzip://")) for part in archived):
        return None
    if place.startswith(f"hf://datasets/{root}") and place.removeprefix(f"hf://datasets/{root}")[:1] in ("/", "@"):
        return path
    if "://" in place or not root:
        return None
    if Path(root).exists():
        homes = [Path(root) if Path(root).is_dir() else Path(root).parent]
    else:
        repository = Path(HF_HUB_CACHE) / f"datasets--{root.replace('/', '--')}"
        homes = [repository, Path(datasets.config.HF_DATASETS_CACHE)]
    # Not `resolve`: photos that a folder of one's own links to are photos of that folder.
    found = (homes[0] / place).absolute()
    if not any(found.is_relative_to(home.absolute()) for home in homes):
        return None
    return "::".join([*archived, str(found)])


def cell_content(value: Any, name: str, root: str = "") -> bytes:
    """The image file of a cell of the dataset `root`, which holds it or says where in the dataset it is."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, Mapping) or (value.get("bytes") is None and not value.get("path")):
        raise DaclipError(f"{name}: the row holds no image; remove the row, or choose another column")
    if value.get("bytes") is not None:
        return bytes(value["bytes"])
    if (path := _inside(value["path"], root)) is None:
        raise DaclipError(
            f"{name}: refuses {str(value['path'])[:200]}, which is outside its dataset: rows hold photos, or paths "
            "below the dataset's own folder"
        )
    try:
        with fsspec.open(path, "rb") as file:
            content: bytes = file.read()
    except (OSError, ValueError) as error:
        raise DaclipError(f"{name}: {path} cannot be read ({one_line(error)[:300]})") from None
    return content


@dataclass(frozen=True, eq=False)
class HubRow:
    """A row whose pictures are read and decoded when they are needed; see `CleanPhoto`."""

    name: str
    caption: str
    class_name: str
    table: datasets.Dataset | Sequence[Mapping[str, Any]]  # a dataset on disk, or the encoded row alone in a stream
    index: int  # number of the row there
    columns: Columns
    revisited: bool  # crops come back to the row, so that decoded pictures are worth keeping

    def encoded(self, column: str) -> bytes:
        """The image file in a column."""
        return cell_content(self.table[self.index][column], self.name, self.columns.root)

    def _picture(self, column: str) -> Tensor:
        return _decoded(self, column) if self.revisited else self.decode(column)

    def decode(self, column: str) -> Tensor:
        """The picture in a column, uint8 `[3, H, W]`, RGB."""
        label = self.name if column == self.columns.image else f"{self.name} (degraded)"
        return decode_pixels(self.encoded(column), label)

    def size(self) -> tuple[int, int]:
        """Height and width in pixels, from the file's header."""
        return self._size

    @cached_property
    def _size(self) -> tuple[int, int]:
        return encoded_size(self.encoded(self.columns.image), self.name)

    def pixels(self) -> Tensor:
        """The clean photo, uint8 `[3, H, W]`, RGB."""
        return self._picture(self.columns.image)

    def degraded_pixels(self) -> Tensor:
        """Its own degraded version, uint8 `[3, H, W]`, RGB."""
        assert self.columns.degraded is not None
        return self._picture(self.columns.degraded)


@lru_cache(maxsize=64)
def _decoded(row: HubRow, column: str) -> Tensor:
    return row.decode(column)


class HubPhotos(PhotoSource[HubRow]):
    """Photos of a Hugging Face dataset. Rows that name a degradation are real pairs (with `lq_column`); from the others
    it is synthesised. Validation rows are those of a split, or chosen by the hash of the name."""

    def __init__(
        self,
        root: str | None,  # name on the hub, or a local path; see `open_split`
        config: str | None,  # the dataset's configuration, where it has several
        revision: str | None,  # branch, tag or commit on the hub
        split: str,
        validation: str | float,  # a split's name, or the share of rows of `split` in (0, 1)
        validation_rows: int | None,  # as many are used at most; None uses all
        image_column: str,
        caption_column: str | None,  # None takes `caption` where there is such a column
        name_column: str | None,  # None takes `name` where there is such a column, else the photo's hash
        lq_column: str | None,  # degraded versions of the photos; None: all rows are clean photos
        degradation_column: str,  # classes of the degraded versions
        classes: Sequence[str] | None,  # all that occur in `degradation_column`; only needed when streaming
        streaming: bool,  # read training rows in passing
        window: int,  # rows in memory that streaming shuffles
    ):
        if root is None:
            raise DaclipError("data.root is not set: give a dataset's folder or its name on the hub")
        if not isinstance(validation, str) and not 0 < validation < 1:
            raise DaclipError(f"data.photos.validation must be a split's name or a share in (0, 1), got {validation}")
        if validation == split:
            raise DaclipError(
                f"data.photos.validation={validation} is the split that training reads; name another, or a share of it"
            )
        if (validation_rows is not None and validation_rows < 1) or window < 1:
            raise DaclipError("data.photos.validation_rows and data.photos.window must be at least 1")
        self.root = str(root)
        self.config, self.revision, self.split = config, revision, split
        self.validation_split = validation if isinstance(validation, str) else None
        self.share = 0.0 if isinstance(validation, str) else validation
        self.validation_rows = validation_rows
        class_column = degradation_column if lq_column else None
        self.columns = Columns(image_column, caption_column, name_column, lq_column, class_column, self.root)
        self._classes, self.streaming, self.window = classes, streaming, window

    @property
    def classes(self) -> Sequence[str]:  # type: ignore[override]
        """Degradations of the real pairs."""
        if self.columns.degraded is None:
            return ()
        if self._classes is not None:
            return list(self._classes)
        if self.streaming:
            raise DaclipError(
                "data.photos.classes is not set: name the classes of a stream's real pairs, as in [rainy,hazy]"
            )
        return sorted({photo.class_name for photo in self.train()} - {""})

    @property
    def has_plain(self) -> bool:  # type: ignore[override]
        """Whether some rows have no degraded version; of a stream nobody knows beforehand."""
        return self.columns.degraded is None or self.streaming or any(not photo.class_name for photo in self.train())

    def _columns(self, found: Sequence[str]) -> Columns:
        """The columns of one split, checked."""
        usual = {name: name for name in ("caption", "name") if name in found and not getattr(self.columns, name)}
        columns = replace(self.columns, **usual)
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
        for name in filter(None, (columns.image, columns.degraded)):
            rows = rows.cast_column(name, datasets.Image(decode=False))
        return rows, columns

    def _listed(self, split: str) -> list[HubRow]:
        rows, columns = self._open(split, streaming=False)
        texts = {name: rows[name][:] for name in (columns.caption, columns.name, columns.class_name) if name}
        photos = []
        for index in range(len(rows)):
            row = {name: values[index] for name, values in texts.items()}
            key = columns.key(row if columns.name else rows[index])
            photos.append(HubRow(key, *columns.texts(row), rows, index, columns, True))
        return photos

    @cached_property
    def _splits(self) -> tuple[list[HubRow], list[HubRow]]:
        """Training and validation rows of a dataset that is not streamed."""
        train = self._listed(self.split)
        if self.validation_split:
            return train, self._listed(self.validation_split)
        return split_by_name(train, self.share, self.root)

    @cached_property
    def _train(self) -> Sequence[HubRow]:
        if self.streaming:
            raise DaclipError(f"{self.root} is streamed, so its photos are not listed; set data.photos.streaming=false")
        for photo in self._splits[0]:
            self.refuse_shared(photo)
        return self._splits[0]

    def refuse_shared(self, photo: HubRow) -> None:
        """Refuse a training row that is a validation row as well, by its name and its content."""
        other = self.held_back.get(photo.name)
        if other is not None and other.encoded(other.columns.image) == photo.encoded(photo.columns.image):
            raise DaclipError(
                f"{self.root}: {photo.name} belongs to the split '{self.split}' and to '{self.validation_split}'; "
                "remove it from one, or hold back a share, as in data.photos.validation=0.1"
            )

    @cached_property
    def held_back(self) -> dict[str, HubRow]:
        """Rows of a validation split of its own by name."""
        return {photo.name: photo for photo in self._validation} if self.validation_split else {}

    @cached_property
    def _validation(self) -> Sequence[HubRow]:
        """At most `validation_rows`: spread over all, or the first of a stream, kept in memory."""
        if self.streaming:
            rows, columns = self._open(self.validation_split or self.split, streaming=True)
            wanted = (row for row in rows if self.validation_split or self.is_validation(columns.key(row)))
            return [self.photo(row, columns) for row in islice(wanted, self.validation_rows)]
        found = self._splits[1]
        count = min(self.validation_rows or len(found), len(found))
        return [found[i * len(found) // count] for i in range(count)]

    def is_validation(self, key: str) -> bool:
        """Whether a row of the training split belongs to the validation share."""
        return name_fraction(key) < self.share

    def stream(self) -> tuple[datasets.IterableDataset, Columns]:
        """The rows of the training split in passing, validation rows included; see `daclip.data.stream`."""
        return self._open(self.split, streaming=True)

    @staticmethod
    def photo(row: Mapping[str, Any], columns: Columns) -> HubRow:
        """A row of the stream as a photo."""
        return HubRow(columns.key(row), *columns.texts(row), [row], 0, columns, False)
