"""A photo source that captions a folder itself, once."""

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from daclip.data.build import ensure_dataset
from daclip.data.captions import Captioner
from daclip.data.index import Progress
from daclip.data.photos import Photo, PhotoSource
from daclip.data.recipe import DatasetRecipe, Plan
from daclip.errors import DaclipError

__all__ = ["CaptionedFolder"]

log = logging.getLogger(__name__)


class CaptionedFolder(PhotoSource):
    """The photos of a folder, de-duplicated and captioned through a dataset that is built at the first use.

    Nothing happens before `prepare`, `train` or `held_out` is called. The dataset lies in the cache under the
    hash of its content: later runs find it there, and captions are never computed twice. Pixels are read from
    the folder, so that a photo costs one decode; the dataset is there to be shared and streamed.

    Args:
        root: Folder of photos, searched recursively.
        captioner: Says what the photos show.
        cache: Folder for hashes, captions and datasets.
        held_out: Share of photos that training never sees, in (0, 1).
        source_name: Where the photos come from; None takes the folder's name.
        license: Terms under which they may be used; empty if unknown.
        attribution: A csv or jsonl with name,source,license for photos that differ.
        skip_unreadable: Leave out photos that cannot be read.
        workers: Threads that read photos.
        shard_megabytes: Photos of about this many megabytes share a file of the dataset.
    """

    def __init__(
        self,
        root: str | Path | None,
        captioner: Captioner,
        cache: str | Path,
        held_out: float,
        source_name: str | None,
        license: str,  # noqa: A002 - the column's name
        attribution: str | Path | None,
        skip_unreadable: bool,
        workers: int,
        shard_megabytes: float,
    ):
        if root is None:
            raise DaclipError("data.root is not set: give the folder of your photos, as in data.root=photos/")
        self.recipe = DatasetRecipe(
            root=Path(root),
            captioner=captioner,
            cache=Path(cache),
            held_out=held_out,
            source_name=source_name,
            license=license,
            attribution=Path(attribution) if attribution else None,
            skip_unreadable=skip_unreadable,
            workers=workers,
            shard_megabytes=shard_megabytes,
        )

    def prepare(self) -> None:
        """Build the dataset if the cache lacks it; one process of several does so while the others wait."""
        _ = self._built

    @property
    def dataset(self) -> Path:
        """Folder of the built dataset, see `daclip.data.build.load_built`."""
        return self._built[0]

    @cached_property
    def _built(self) -> tuple[Path, Plan]:
        built = ensure_dataset(self.recipe, _tenths())
        plan = built.plan
        for reason in plan.reasons:
            log.warning("left out: %s", reason)
        captioned = sum(bool(row.caption) for row in plan.rows)
        log.info(
            "%s %s: %d photos, %d captioned, %d copies left out",
            "built" if built.fresh else "found",
            built.path,
            len(plan.rows),
            captioned,
            len(plan.duplicates),
        )
        return built.path, plan

    def _photos(self, split: str) -> list[Photo]:
        plan = self._built[1]
        return [Photo(row.name, plan.root / row.name, row.caption) for row in plan.split(split)]

    def train(self) -> Sequence[Photo]:
        """Photos to learn from."""
        return self._photos("train")

    def held_out(self) -> Sequence[Photo]:
        """Photos that training never sees."""
        return self._photos("test")


def _tenths() -> Progress:
    """Progress as about ten lines a stage."""
    told: dict[str, int] = {}

    def progress(stage: str, done: int, total: int) -> None:
        tenth = 10 * done // max(total, 1)
        if tenth > told.get(stage, 0):
            told[stage] = tenth
            log.info("%s: %d of %d photos", stage, done, total)

    return progress
