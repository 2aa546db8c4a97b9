"""What a dataset is to be built from, and the plan of its rows before any of them is written."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from daclip.data.captions import CaptionCache, Captioner, read_table
from daclip.data.images import find_images
from daclip.data.index import Index, IndexedFile, Progress, scan
from daclip.data.photos import Photo, held_out_names
from daclip.errors import DaclipError

__all__ = ["DatasetRecipe", "Plan", "Row", "UnreadablePhotosError"]

LAYOUT = 1  # counts up when the same plan would be written differently


class UnreadablePhotosError(DaclipError):
    """Photos that cannot be read; the message names the first of them.

    Args:
        reasons: One line a photo.
        total: Photos looked at.
    """

    def __init__(self, reasons: Sequence[str], total: int):
        self.reasons = list(reasons)
        more = f" and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        super().__init__(
            f"{len(reasons)} of {total} photos cannot be read: {'; '.join(reasons[:3])}{more}; "
            "or leave them out with skip_unreadable=true"
        )


@dataclass(frozen=True)
class Row:
    """One photo of the dataset.

    Attributes:
        name: Path relative to the source folder, with forward slashes.
        sha256: Hash of the file's bytes.
        bytes: Length of the file.
        width: Columns in pixels.
        height: Rows in pixels.
        caption: What the photo shows; empty if unknown.
        source: Where the photo comes from.
        license: Terms under which it may be used; empty if unknown.
        split: `train` or `test`.
    """

    name: str
    sha256: str
    bytes: int
    width: int
    height: int
    caption: str
    source: str
    license: str
    split: str


@dataclass(frozen=True)
class Plan:
    """Everything that decides the dataset's content.

    Attributes:
        root: Folder of the photos.
        rows: One a photo, in the order of their names.
        duplicates: Left out, with the name of the equal photo that was kept.
        unreadable: Names of the photos that were left out because they cannot be read.
        reasons: Why they cannot be read, one line each.
        shard_bytes: Photos of about this many bytes share a file.
    """

    root: Path
    rows: Sequence[Row]
    duplicates: Mapping[str, str]
    unreadable: Sequence[str]
    reasons: Sequence[str]
    shard_bytes: int

    def split(self, name: str) -> list[Row]:
        """Rows of one split."""
        return [row for row in self.rows if row.split == name]

    def shards(self, split: str) -> list[list[Row]]:
        """Rows of one split, grouped so that a group's files hold about `shard_bytes`, at least one each."""
        groups: list[list[Row]] = []
        room = 0
        for row in self.split(split):
            if row.bytes > room:
                groups.append([])
                room = self.shard_bytes
            groups[-1].append(row)
            room -= row.bytes
        return groups

    @cached_property
    def digest(self) -> str:
        """Hash of the content: equal plans give equal datasets, wherever the photos lie."""
        return digest_of(
            {
                "layout": LAYOUT,
                "rows": [asdict(row) for row in self.rows],
                "duplicates": dict(self.duplicates),
                "unreadable": list(self.unreadable),
                "shard_bytes": self.shard_bytes,
            }
        )


def digest_of(content: Any) -> str:
    """SHA-256 of JSON content, in hexadecimal."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class DatasetRecipe:
    """What to build a captioned dataset from.

    Attributes:
        root: Folder of photos, searched recursively.
        captioner: Says what the photos show.
        cache: Folder that remembers hashes and captions between builds; several datasets may share it.
        held_out: Share of photos in the split `test`, in (0, 1); chosen by the hash of the name, as `PhotoFolder`
            chooses them.
        source_name: Where the photos come from, for the column `source`; None takes the folder's name.
        license: Terms under which they may be used; empty if unknown.
        attribution: A csv or jsonl with name,source,license for photos that differ; None if there are none.
        skip_unreadable: Leave photos out that cannot be read, instead of refusing to build.
        workers: Threads that read photos.
        shard_megabytes: Photos of about this many megabytes share a file; also the memory that writing takes.
    """

    root: Path
    captioner: Captioner
    cache: Path
    held_out: float
    source_name: str | None
    license: str
    attribution: Path | None
    skip_unreadable: bool
    workers: int
    shard_megabytes: float

    def plan(self, progress: Progress | None = None) -> Plan:
        """Read, hash, de-duplicate, split and caption the photos.

        Everything slow is remembered in the cache: an interrupted plan goes on where it stopped.

        Args:
            progress: Told of each step forward, in the stages `reading` and `captioning`.

        Raises:
            DaclipError: A photo cannot be read, fewer than two photos differ, or an option makes no sense.
        """
        if not 0 < self.held_out < 1:
            raise DaclipError(f"held_out must be a share between 0 and 1, got {self.held_out}")
        if self.shard_megabytes <= 0:
            raise DaclipError(f"shard_megabytes must be above 0, got {self.shard_megabytes}")
        paths = find_images(self.root)
        attribution = read_table(self.attribution, ["source", "license"]) if self.attribution else {}
        index = scan(paths, self.cache / "files.jsonl", self.workers, progress)
        reasons = list(index.unreadable.values())
        if reasons and not self.skip_unreadable:
            raise UnreadablePhotosError(reasons, len(paths))
        kept, duplicates = self._unique(index)
        if len(kept) < 2:
            raise DaclipError(f"{self.root}: a dataset needs two different photos at least, for train and test")
        test = held_out_names(list(kept), self.held_out)
        captions = CaptionCache(self.cache / "captions.jsonl").captions(
            self.captioner,
            [Photo(name, file.path) for name, file in kept.items()],
            [file.sha256 for file in kept.values()],
            (lambda done: progress("captioning", done, len(kept))) if progress else None,
        )
        rows = []
        for (name, file), caption in zip(kept.items(), captions, strict=True):
            own = attribution.get(name, {})
            rows.append(
                Row(
                    name=name,
                    sha256=file.sha256,
                    bytes=file.bytes,
                    width=file.width,
                    height=file.height,
                    caption=caption,
                    source=own.get("source") or self.source_name or self.root.resolve().name,
                    license=own.get("license") or self.license,
                    split="test" if name in test else "train",
                )
            )
        unreadable = [self._name(path) for path in index.unreadable]
        return Plan(self.root, rows, duplicates, unreadable, reasons, round(self.shard_megabytes * 1e6))

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _unique(self, index: Index) -> tuple[dict[str, IndexedFile], dict[str, str]]:
        """Photos by name, the first of equal content only; the others with the name that was kept."""
        kept: dict[str, IndexedFile] = {}
        first: dict[str, str] = {}
        duplicates: dict[str, str] = {}
        for path, file in index.files.items():
            name = self._name(path)
            if file.sha256 in first:
                duplicates[name] = first[file.sha256]
            else:
                first[file.sha256] = name
                kept[name] = file
        return kept, duplicates
