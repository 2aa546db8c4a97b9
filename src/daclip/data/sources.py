"""Sources of photos: those inside scikit-image, a folder, real pairs, and several sources together."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from os.path import commonprefix
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daclip.data.captions import CaptionFile, SidecarCaptions, embedded_captions, official_captions
from daclip.data.photos import CleanPhoto, Photo, PhotoSource, Progress, split_by_name
from daclip.errors import DaclipError
from daclip.images import find_images, image_size

if TYPE_CHECKING:
    from daclip.data.build import BuiltDataset

SPLITS = ("train", "val")
TABLES = ("daclip_train.csv", "daclip_val.csv")

log = logging.getLogger(__name__)


class ListedPhotos(PhotoSource):
    """Base class of the sources that know all photos from the beginning."""

    _train: Sequence[Photo]
    _validation: Sequence[Photo]

    def train(self) -> Sequence[Photo]:
        """Photos to learn from."""
        return self._train

    def validation(self) -> Sequence[Photo]:
        """Photos that training never sees."""
        return self._validation


class EmbeddedPhotos(ListedPhotos):
    """The colour photographs inside scikit-image's wheel: no download needed. `validation` are the file names of those
    that training never sees; two views of one motorcycle, as one scene, are on the same side."""

    def __init__(self, validation: Sequence[str]):
        import skimage

        folder = Path(skimage.__file__).parent / "data"
        captions = embedded_captions()
        unknown = sorted(set(validation) - set(captions))
        if unknown:
            raise DaclipError(f"no embedded photo is called {unknown}; choose from {sorted(captions)}")
        photos = [Photo(Path(name).stem, folder / name, caption) for name, caption in captions.items()]
        self._train = [photo for photo in photos if photo.path.name not in validation]
        self._validation = [photo for photo in photos if photo.path.name in validation]


class PhotoFolder(ListedPhotos):
    """Image files below a folder, split by the hash of the path; captions from a csv or jsonl, else `.txt` files."""

    def __init__(self, root: str | Path | None, validation: float, captions: str | Path | None = None):
        if root is None:
            raise DaclipError("data.root is not set: give the folder of your photos, as in data.root=photos/")
        root = Path(root)
        photos = [Photo(path.relative_to(root).as_posix(), path) for path in find_images(root)]
        texts = (CaptionFile(captions) if captions else SidecarCaptions()).describe(photos)
        photos = [Photo(photo.name, photo.path, text) for photo, text in zip(photos, texts, strict=True)]
        self._train, self._validation = split_by_name(photos, validation, root)


def _keys(paths: Sequence[Path]) -> dict[str, Path]:
    """Files by what distinguishes their names: the stems without what all of them begin and end with."""
    stems = [path.stem for path in paths]
    start = len(commonprefix(stems))  # noqa: RUF071 - of characters
    end = len(commonprefix([stem[start:][::-1] for stem in stems]))  # noqa: RUF071
    return {stem[start : len(stem) - end]: path for stem, path in zip(stems, paths, strict=True)}


def match_pairs(degraded: Sequence[Path], clean: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Match the files of an LQ folder with those of the GT folder: sorted pairs (LQ, GT) of equal stems; where not all
    match, of names that differ in a common beginning or end (`0_rain.png` and `0_clean.png`)."""
    lq, gt = ({path.stem: path for path in paths} for paths in (degraded, clean))
    for paths, stems in ((degraded, lq), (clean, gt)):
        double = [path for path in paths if stems[path.stem] != path]
        if double:
            raise DaclipError(f"{double[0]} and {stems[double[0].stem]} have the same name; remove one of them")
    if set(lq) != set(gt):
        cut_lq, cut_gt = _keys(degraded), _keys(clean)
        if len(lq) == len(gt) and len(lq) > 1 and set(cut_lq) == set(cut_gt):
            lq, gt = cut_lq, cut_gt
        else:
            alone = sorted({*(lq[stem] for stem in set(lq) - set(gt)), *(gt[stem] for stem in set(gt) - set(lq))})
            other = "GT" if alone[0].parent.name == "LQ" else "LQ"
            raise DaclipError(
                f"{alone[0]}: no file of that name in {other} beside it ({len(alone)} such files); "
                "add or remove files until LQ and GT match"
            )
    return [(lq[key], gt[key]) for key in sorted(lq)]


def _types(root: Path) -> list[Path]:
    """Folders with LQ and GT inside."""
    found = sorted(folder for folder in root.iterdir() if (folder / "LQ").is_dir() or (folder / "GT").is_dir())
    for path in (folder / part for folder in found for part in ("LQ", "GT")):
        if not path.is_dir():
            raise DaclipError(f"{path}: no such folder; each type needs LQ and GT")
    return found


class PairedFolder(ListedPhotos):
    """Real pairs: `ROOT/TYPE/LQ/*` and `ROOT/TYPE/GT/*`, or the same below `ROOT/train` and `ROOT/val`; TYPE is the
    class. Without `val` the hash of the GT file's stem splits, so that a photo under several types stays on one side.
    `captions` is for `official_captions`; None takes `daclip_train.csv` and `daclip_val.csv` of ROOT where present."""

    has_plain = False

    def __init__(self, root: str | Path | None, validation: float, captions: str | Path | None):
        if root is None:
            raise DaclipError("data.root is not set: give the folder of your pairs, as in data.root=pairs/")
        self.root = Path(root)
        if not self.root.is_dir():
            raise DaclipError(f"{root}: no such folder; check the path")
        self._captions: dict[str, str] = {}
        tables = [Path(captions)] if captions else [self.root / name for name in TABLES if (self.root / name).is_file()]
        for table in tables:
            self._captions = {**official_captions(table), **self._captions}
        folders = {split: _types(self.root / split) if (self.root / split).is_dir() else [] for split in SPLITS}
        train = self._pairs(folders["train"] or _types(self.root))
        if not train:
            raise DaclipError(f"{root}: no folder TYPE/LQ with TYPE/GT beside it; see docs/data.md for the layout")
        held_back = self._pairs(folders["val"])
        if not held_back:
            train, held_back = split_by_name(train, validation, root, key=lambda photo: photo.path.stem)
        self._train, self._validation = train, held_back
        self.classes = sorted({photo.class_name for photo in [*train, *held_back]})

    def _pairs(self, folders: Sequence[Path]) -> list[Photo]:
        photos = []
        for folder in folders:
            for lq, gt in match_pairs(find_images(folder / "LQ"), find_images(folder / "GT")):
                (height, width), (height_gt, width_gt) = image_size(lq), image_size(gt)
                if (height, width) != (height_gt, width_gt):
                    raise DaclipError(
                        f"{lq} is {width}×{height} and {gt} is {width_gt}×{height_gt} pixels; "
                        "LQ and GT must show the same picture"
                    )
                name = folder.name
                caption = self._captions.get(f"{name}/{gt.stem}", self._captions.get(f"{name}/{lq.stem}", ""))
                photos.append(Photo(gt.relative_to(self.root).as_posix(), gt, caption, name, lq))
        return photos


class MixedPhotos(PhotoSource):
    """The photos of several sources, real pairs among them; each source keeps its own split."""

    def __init__(self, sources: Mapping[str, PhotoSource]):
        if not sources:
            raise DaclipError("data.photos.sources is empty: give at least one source of photos")
        for name, source in sources.items():
            if source.streaming:
                raise DaclipError(f"data.photos.sources.{name} streams; only sources with streaming=false can be mixed")
        self.sources = dict(sources)
        self.has_plain = any(source.has_plain for source in sources.values())
        self.classes = list(dict.fromkeys(class_name for source in sources.values() for class_name in source.classes))

    def prepare(self) -> None:
        """Let every source prepare itself."""
        for source in self.sources.values():
            source.prepare()

    def train(self) -> Sequence[CleanPhoto]:
        """Photos to learn from, source by source."""
        return [photo for source in self.sources.values() for photo in source.train()]

    def validation(self) -> Sequence[CleanPhoto]:
        """Photos that training never sees, source by source."""
        return [photo for source in self.sources.values() for photo in source.validation()]


def _log_tenths() -> Progress:
    """Progress as about ten lines a stage."""
    told: Counter[str] = Counter()

    def progress(stage: str, done: int, total: int) -> None:
        tenth = 10 * done // max(total, 1)
        if tenth > told[stage]:
            told[stage] = tenth
            log.info("%s: %d of %d photos", stage, done, total)

    return progress


class CaptionedFolder(PhotoSource):
    """The photos of a folder, de-duplicated and captioned through a dataset that is built in the cache at the first
    use. Pixels are read from the folder, decoded once. `options` are other attributes of `DatasetRecipe`."""

    def __init__(self, root: str | Path | None, cache: str | Path, attribution: str | Path | None, **options: Any):
        if root is None:
            raise DaclipError("data.root is not set: give the folder of your photos, as in data.root=photos/")
        from daclip.data.build import DatasetRecipe  # its libraries take a second to import

        table = Path(attribution) if attribution else None
        self.recipe = DatasetRecipe(root=Path(root), cache=Path(cache), attribution=table, **options)

    def prepare(self) -> None:
        """Caption the photos and build the dataset if the cache lacks it."""
        _ = self.built

    @cached_property
    def built(self) -> "BuiltDataset":
        """The dataset in the cache."""
        from daclip.data.build import build_dataset

        built = build_dataset(self.recipe, None, progress=_log_tenths())
        for reason in built.plan.reasons:
            log.warning("left out: %s", reason)
        rows, verb = built.plan.rows, "built" if built.fresh else "found"
        captioned, copies = sum(bool(row.caption) for row in rows), len(built.plan.duplicates)
        log.info("%s %s: %d photos, %d captioned, %d copies left out", verb, built.path, len(rows), captioned, copies)
        return built

    def _photos(self, split: str) -> list[Photo]:
        plan = self.built.plan
        return [Photo(row.name, plan.root / row.name, row.caption) for row in plan.split(split)]

    def train(self) -> Sequence[Photo]:
        """Photos to learn from."""
        return self._photos("train")

    def validation(self) -> Sequence[Photo]:
        """Photos that training never sees."""
        return self._photos("test")
