"""Sources of photos: those inside scikit-image, a folder, real pairs."""

import csv
from collections.abc import Sequence
from pathlib import Path

from daclip.data.captions import CaptionFile, embedded_captions
from daclip.data.photos import Photo, PhotoSource, validation_names
from daclip.errors import DaclipError
from daclip.images import find_images, image_size

SPLITS = ("train", "val")
TABLES = ("daclip_train.csv", "daclip_val.csv")


def official_captions(path: Path) -> dict[str, str]:
    """Captions of a table with the columns `filepath` and `title`, where the title is `caption: type`.

    The table is separated by tabs or commas. A caption may hold colons itself: the type stands behind the last one.

    Args:
        path: The table, UTF-8.

    Returns:
        `TYPE/stem` of a file to its caption; of an LQ and a GT file with the same stem the first one's counts.

    Raises:
        DaclipError: The table is missing or unreadable, lacks a column, or a title has no type.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            delimiter = "\t" if "\t" in file.readline() else ","
            file.seek(0)
            rows = list(csv.DictReader(file, delimiter=delimiter))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DaclipError(f"{path}: the caption table cannot be read ({error})") from None
    captions: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        file_path, title = row.get("filepath"), row.get("title")
        if not file_path or title is None:
            raise DaclipError(f"{path}: row {number} lacks filepath or title; the columns are {list(row)}")
        caption, colon, class_name = title.rpartition(":")
        if not colon:
            raise DaclipError(f"{path}: the title in row {number} is not `caption: type`: {title!r}")
        key = f"{class_name.strip()}/{Path(file_path.replace(chr(92), '/')).stem}"
        captions.setdefault(key, caption.strip())
    return captions


def _common_start(texts: Sequence[str]) -> int:
    """Number of characters that all texts begin with."""
    return next(
        (i for i, letters in enumerate(zip(*texts, strict=False)) if len(set(letters)) > 1), min(map(len, texts))
    )


def _keys(paths: Sequence[Path]) -> dict[str, Path]:
    """Files by what distinguishes their names: the stems without what all of them begin and end with."""
    stems = [path.stem for path in paths]
    start = _common_start(stems)
    end = _common_start([stem[start:][::-1] for stem in stems])
    return {stem[start : len(stem) - end]: path for stem, path in zip(stems, paths, strict=True)}


def match_pairs(degraded: Sequence[Path], clean: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Which LQ file belongs to which GT file.

    Equal stems match (`1.jpg`, `1.png`). Where not all do, names that differ in a common beginning or end match:
    `0_rain.png` with `0_clean.png`, `rain-7.png` with `norain-7.png`.

    Args:
        degraded: Files of one LQ folder.
        clean: Files of the GT folder beside it.

    Returns:
        Pairs (LQ, GT), sorted.

    Raises:
        DaclipError: A file has no counterpart, or two files have the same stem.
    """
    by_stem = [{path.stem: path for path in paths} for paths in (degraded, clean)]
    for paths, stems in zip((degraded, clean), by_stem, strict=True):
        double = [path for path in paths if stems[path.stem] != path]
        if double:
            raise DaclipError(f"{double[0]} and {stems[double[0].stem]} have the same name; remove one of them")
    lq, gt = by_stem
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
    for folder in found:
        for part in ("LQ", "GT"):
            if not (folder / part).is_dir():
                raise DaclipError(f"{folder / part}: no such folder; each type needs LQ and GT")
    return found


class PairedFolder(PhotoSource):
    """Real pairs: `ROOT/TYPE/LQ/*` and `ROOT/TYPE/GT/*`, or the same below `ROOT/train` and `ROOT/val`.

    The name of the folder TYPE is the degradation word. Without `val`, pairs are held out by the hash of the GT
    file's stem, so that a photo which several types show under one name stays on one side of the split.

    Args:
        root: The folder.
        validation: Share of pairs that training never sees, in (0, 1), where there is no `ROOT/val`.
        captions: A table as `official_captions` reads; None takes `daclip_train.csv` and `daclip_val.csv` of ROOT
            where present.

    Raises:
        DaclipError: The folder is missing or holds no pairs, a file has no counterpart, or LQ and GT differ in size.
    """

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
        if not folders["train"]:
            folders["train"] = _types(self.root)
        if not folders["train"]:
            raise DaclipError(f"{root}: no folder TYPE/LQ with TYPE/GT beside it; see docs/data.md for the layout")
        self._train = self._pairs(folders["train"])
        self._validation = self._pairs(folders["val"])
        if not self._validation:
            chosen = validation_names((photo.path.stem for photo in self._train), validation)
            if not chosen:
                raise DaclipError(f"{root}: one pair cannot be split into train and held-out; add more pairs")
            self._validation = [photo for photo in self._train if photo.path.stem in chosen]
            self._train = [photo for photo in self._train if photo.path.stem not in chosen]
        self.classes = sorted({photo.class_name for photo in [*self._train, *self._validation]})

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
                class_name = folder.name
                caption = self._captions.get(
                    f"{class_name}/{gt.stem}", self._captions.get(f"{class_name}/{lq.stem}", "")
                )
                photos.append(Photo(gt.relative_to(self.root).as_posix(), gt, caption, class_name, lq))
        return photos

    def train(self) -> Sequence[Photo]:
        """Pairs to learn from."""
        return self._train

    def validation(self) -> Sequence[Photo]:
        """Pairs that training never sees."""
        return self._validation


class EmbeddedPhotos(PhotoSource):
    """The colour photographs inside scikit-image's wheel: no download needed.

    Two views of one motorcycle are one scene, so they are on the same side of the split.

    Args:
        validation: File names of the photos that training never sees.
    """

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

    def train(self) -> Sequence[Photo]:
        """Photos to learn from."""
        return self._train

    def validation(self) -> Sequence[Photo]:
        """Photos that training never sees."""
        return self._validation


class PhotoFolder(PhotoSource):
    """Every image file below a folder of the user's.

    A photo is held out by the hash of its relative path, so that adding photos later moves none from
    one side to the other.

    Args:
        root: The folder; searched recursively.
        validation: Share of photos that training never sees, in (0, 1); at least one photo.
        captions: A csv or jsonl file of captions; None reads a `.txt` file beside a photo where present.

    Raises:
        DaclipError: The folder is missing, holds no images, or fewer than two.
    """

    def __init__(self, root: str | Path | None, validation: float, captions: str | Path | None = None):
        if root is None:
            raise DaclipError("data.root is not set: give the folder of your photos, as in data.root=photos/")
        root = Path(root)
        paths = find_images(root)
        chosen = validation_names((path.relative_to(root).as_posix() for path in paths), validation)
        if not chosen:
            raise DaclipError(f"{root}: one photo cannot be split into train and held-out; add more photos")
        texts = CaptionFile(captions) if captions else None
        photos = []
        for path in paths:
            name = path.relative_to(root).as_posix()
            photos.append(Photo(name, path, texts.get(name) if texts else CaptionFile.sidecar(path)))
        self._train = [photo for photo in photos if photo.name not in chosen]
        self._validation = [photo for photo in photos if photo.name in chosen]

    def train(self) -> Sequence[Photo]:
        """Photos to learn from."""
        return self._train

    def validation(self) -> Sequence[Photo]:
        """Photos that training never sees."""
        return self._validation
