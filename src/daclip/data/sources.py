"""Sources of photos: those inside scikit-image, a folder, real pairs, and several sources together."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daclip.data.captions import CaptionFile, OfficialCaptions, SidecarCaptions, caption_account, embedded_captions
from daclip.data.pairing import match_names, pair_account, require_partners
from daclip.data.photos import CleanPhoto, Photo, PhotoSource, Progress, split_by_name
from daclip.errors import DaclipError
from daclip.files import Found, account, find_photos, name_of
from daclip.images import image_size

if TYPE_CHECKING:
    from daclip.data.build import BuiltDataset

SPLITS = ("train", "val")

log = logging.getLogger(__name__)


class EmbeddedPhotos(PhotoSource[Photo]):
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


class PhotoFolder(PhotoSource[Photo]):
    """Image files below a folder, split by the hash of the path; captions from a csv or jsonl, else `.txt` files."""

    def __init__(self, root: str | Path | None, validation: float, captions: str | Path | None = None):
        if root is None:
            raise DaclipError("data.root is not set: give the folder of your photos, as in data.root=photos/")
        root = Path(root)
        found = find_photos(root)
        photos = [Photo(name_of(path, root), path) for path in found.photos]
        captioner = CaptionFile(captions) if captions else SidecarCaptions()
        texts = captioner.describe(photos)
        self.account = "; ".join([account([found]), caption_account(texts, captioner.rules)])
        photos = [Photo(photo.name, photo.path, text) for photo, text in zip(photos, texts, strict=True)]
        self._train, self._validation = split_by_name(photos, validation, root)


def _types(root: Path) -> list[Path]:
    """Folders with LQ and GT inside."""
    found = sorted(folder for folder in root.iterdir() if (folder / "LQ").is_dir() or (folder / "GT").is_dir())
    for path in (folder / part for folder in found for part in ("LQ", "GT")):
        if not path.is_dir():
            raise DaclipError(f"{path}: no such folder; each type needs LQ and GT")
    return found


class PairedFolder(PhotoSource[Photo]):
    """Real pairs: `ROOT/TYPE/LQ/*` and `ROOT/TYPE/GT/*`, or the same below `ROOT/train` and `ROOT/val`; TYPE is the
    class. Without `val` the hash of the GT file's path below GT splits, so that a photo under several types stays on
    one side. `captions` is for `OfficialCaptions`."""

    has_plain = False

    def __init__(self, root: str | Path | None, validation: float, captions: str | Path | None):
        if root is None:
            raise DaclipError("data.root is not set: give the folder of your pairs, as in data.root=pairs/")
        self.root = Path(root)
        if not self.root.is_dir():
            raise DaclipError(f"{root}: no such folder; check the path")
        self._found: list[Found] = []
        self._rules: Counter[str] = Counter()
        folders = {split: _types(self.root / split) if (self.root / split).is_dir() else [] for split in SPLITS}
        train = self._pairs(folders["train"] or _types(self.root))
        if not train and not folders["val"]:
            raise DaclipError(f"{root}: no folder TYPE/LQ with TYPE/GT beside it; see docs/data.md for the layout")
        held_back = self._pairs(folders["val"])
        texts = OfficialCaptions(self.root, captions).describe([self._names(photo) for photo in [*train, *held_back]])
        train, held_back = (
            [replace(photo, caption=text) for photo, text in zip(photos, part, strict=True)]
            for photos, part in ((train, texts[: len(train)]), (held_back, texts[len(train) :]))
        )
        self.account = "; ".join([account(self._found), pair_account(self._rules), caption_account(texts)])
        self.own_split = bool(held_back)
        if not held_back:
            train, held_back = split_by_name(train, validation, root, key=_clean_key)
        self._train, self._validation = train, held_back
        self.classes = sorted({photo.class_name for photo in [*train, *held_back]})

    def _pairs(self, folders: Sequence[Path]) -> list[Photo]:
        photos = []
        for folder in folders:
            sides = []
            for part in ("LQ", "GT"):
                self._found.append(find_photos(folder / part))
                sides.append({name_of(path, folder / part): path for path in self._found[-1].photos})
            matching = match_names(*sides)
            require_partners(matching, str(folder / "LQ"), str(folder / "GT"))
            self._rules += matching.rules
            uses = Counter(gt for _, gt in matching.pairs)
            for lq_name, gt_name in matching.pairs:
                lq, gt = sides[0][lq_name], sides[1][gt_name]
                (height, width), (height_gt, width_gt) = image_size(lq), image_size(gt)
                if (height, width) != (height_gt, width_gt):
                    raise DaclipError(
                        f"{lq} is {width}×{height} and {gt} is {width_gt}×{height_gt} pixels; "
                        "LQ and GT must show the same picture"
                    )
                name = name_of(gt if uses[gt_name] == 1 else lq, self.root)
                photos.append(Photo(name, gt, "", folder.name, lq))
        return photos

    def _names(self, photo: Photo) -> tuple[str, str, str]:
        """Class and both names of a pair."""
        assert photo.degraded is not None
        return photo.class_name, name_of(photo.degraded, self.root), name_of(photo.path, self.root)


def _clean_key(photo: Photo) -> str:
    """What splits pairs: the clean photo's path below its folder GT, the same under every class."""
    parts = photo.path.with_suffix("").parts
    return "/".join(parts[len(parts) - parts[::-1].index("GT") :])


class MixedPhotos(PhotoSource[CleanPhoto]):
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
        self.account = "; ".join(f"{name}: {source.account}" for name, source in sources.items() if source.account)

    def prepare(self) -> None:
        """Let every source prepare itself."""
        for source in self.sources.values():
            source.prepare()

    @cached_property
    def _train(self) -> Sequence[CleanPhoto]:
        return [photo for source in self.sources.values() for photo in source.train()]

    @cached_property
    def _validation(self) -> Sequence[CleanPhoto]:
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


class CaptionedFolder(PhotoSource[Photo]):
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

    @cached_property
    def _train(self) -> Sequence[Photo]:
        return self._photos("train")

    @cached_property
    def _validation(self) -> Sequence[Photo]:
        return self._photos("test")
