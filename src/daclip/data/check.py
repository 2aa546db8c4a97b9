"""The data check: reads every photo of a folder, of pairs or of a built dataset and lists what is wrong with it."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import datasets

from daclip.data.captions import Captioner, official_captions
from daclip.data.hub import cell_content
from daclip.data.photos import Photo, PhotoFacts, Progress, read_photos, validation_names
from daclip.data.sources import TABLES, match_pairs
from daclip.errors import DaclipError
from daclip.images import decode_pixels, find_images

KINDS = {
    "unreadable": "no image, or a damaged one",
    "tiny": "a side shorter than smallest_side",
    "duplicate": "the same content twice in one split",
    "leak": "the same content in two splits",
    "missing caption": "no caption, though captions are expected",
    "missing partner": "LQ without GT or GT without LQ",
    "size mismatch": "LQ and GT differ in size",
    "not degraded": "LQ is the very file of GT",
    "unknown class": "a degradation that is not configured",
    "wrong record": "a stored hash or size that is not the photo's",
}
# Folder names that say which split their photos belong to.
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Problem:
    """One finding: its kind (one of `KINDS`), the photo's name, and what exactly."""

    kind: str
    name: str
    detail: str


@dataclass(frozen=True)
class Item:
    """One readable photo with what `judge` needs to know of it."""

    name: str
    split: str
    sha256: str
    width: int
    height: int
    caption: str | None = None  # None where captions do not apply, as for the LQ side of a pair
    group: str = "photos"  # copies are looked for among the photos of a group, such as `LQ`
    repeats: bool = False  # the content may occur several times in a split, as a clean photo of several pairs does


@dataclass
class Report:
    """Result of a check of `source`: its layout (`photos`, `pairs` or `built`), photos in each split, problems."""

    source: str
    layout: str
    counts: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def by_kind(self) -> dict[str, list[Problem]]:
        """Problems of each kind that occurs, in the order of `KINDS`."""
        found = {kind: [problem for problem in self.problems if problem.kind == kind] for kind in KINDS}
        return {kind: problems for kind, problems in found.items() if problems}

    def as_json(self) -> dict[str, Any]:
        """Plain containers for a report file."""
        return {
            "source": self.source,
            "layout": self.layout,
            "clean": not self.problems,
            "photos": self.counts,
            "problem_counts": {kind: len(problems) for kind, problems in self.by_kind().items()},
            "problems": [asdict(problem) for problem in self.problems],
        }


def judge(items: Sequence[Item], smallest_side: int, captions: str) -> list[Problem]:
    """Find what is wrong with readable photos, each by itself and among each other; options as in `CheckOptions`."""
    if captions not in ("required", "ignored", "auto"):
        raise DaclipError(f"captions must be auto, required or ignored, got {captions}")
    tiny = [item for item in items if min(item.width, item.height) < smallest_side]
    problems = [Problem("tiny", item.name, f"{item.width}×{item.height}") for item in tiny]
    if captions == "required" or (captions == "auto" and any(item.caption for item in items)):
        problems += [Problem("missing caption", item.name, "") for item in items if item.caption == ""]
    same: dict[tuple[str, str], list[Item]] = defaultdict(list)
    for item in items:
        same[item.group, item.sha256].append(item)
    for copies in same.values():
        first: dict[str, Item] = {}
        for item in copies:
            if first.setdefault(item.split, item) is not item and not item.repeats:
                problems.append(Problem("duplicate", item.name, f"equals {first[item.split].name}"))
        if len(first) > 1:
            places = [f"{item.name} ({split})" for split, item in first.items()]
            problems.append(Problem("leak", next(iter(first.values())).name, "is " + " and ".join(places)))
    return problems


def _unknown_classes(label: str, name: str, known: Iterable[str]) -> list[Problem]:
    """A problem for each class of a label, such as `hazy, rainy`, that is not known."""
    parts = [part.strip() for part in label.split(",")]
    return [Problem("unknown class", name, part) for part in parts if part and part not in known]


@dataclass(frozen=True)
class CheckOptions:
    """Strictness of a check and what it may take for granted."""

    smallest_side: int  # in pixels; photos with a shorter side are tiny
    validation: float  # share kept by the hash of the name, where no folder is called train or val
    captions: str  # `required`, `ignored`, or `auto`: required as soon as one photo has a caption
    captioner: Captioner  # of a plain folder of photos
    classes: Sequence[str]  # single degradations that are known
    cache: Path  # remembers the hashes of files between checks and builds
    num_workers: int  # threads


def check_dataset(source: str | Path, options: CheckOptions, progress: Progress | None = None) -> Report:
    """Read every photo of a data set and judge it: a folder of photos; a folder of pairs (`TYPE/LQ` and `TYPE/GT`, or
    those below `train` and `val`); or a dataset from `daclip dataset build`, from `datasets`, or in parquet files."""
    root = Path(source)
    if not root.is_dir():
        raise DaclipError(f"{root}: no such folder; check the path")
    if (rows := _rows(root)) is not None:
        layout, (items, problems) = "built", _built(root, rows, options, progress)
    elif any(_pair_folders(root)):
        layout, (items, problems) = "pairs", _pairs(root, options, progress)
    else:
        layout, (items, problems) = "photos", _photos(root, options, progress)
    problems += judge(items, options.smallest_side, options.captions)
    return Report(str(root), layout, dict(sorted(Counter(item.split for item in items).items())), problems)


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _read(root: Path, options: CheckOptions, progress: Progress | None) -> tuple[dict[Path, PhotoFacts], list[Problem]]:
    """The readable photos below a folder, and problems of the others."""
    found = read_photos(find_images(root), options.cache, options.num_workers, progress)
    problems = [
        Problem("unreadable", _name(path, root), facts.problem.removeprefix(f"{path}: "))
        for path, facts in found.items()
        if facts.problem
    ]
    return {path: facts for path, facts in found.items() if not facts.problem}, problems


def _photos(root: Path, options: CheckOptions, progress: Progress | None) -> tuple[list[Item], list[Problem]]:
    facts, problems = _read(root, options, progress)
    photos = [Photo(_name(path, root), path) for path in facts]
    splits = {photo.name: SPLITS.get(photo.name.split("/")[0].lower()) for photo in photos}
    if not any(splits.values()):
        splits |= dict.fromkeys(validation_names(splits, options.validation), "test")
    captions = options.captioner.describe(photos)
    items = [
        Item(photo.name, splits[photo.name] or "train", known.sha256, known.width, known.height, caption)
        for photo, known, caption in zip(photos, facts.values(), captions, strict=True)
    ]
    return items, problems


def _pair_folders(root: Path) -> Iterator[tuple[str, Path]]:
    """Folders with LQ or GT inside, with their splits; `-` where no folder names the split."""
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        if (folder / "LQ").is_dir() or (folder / "GT").is_dir():
            yield "-", folder
        elif folder.name.lower() in SPLITS:
            yield from ((SPLITS[folder.name.lower()], path) for _, path in _pair_folders(folder))


def _pairs(root: Path, options: CheckOptions, progress: Progress | None) -> tuple[list[Item], list[Problem]]:
    facts, problems = _read(root, options, progress)
    paths = find_images(root)  # unreadable ones too: they have partners
    captions: dict[str, str] = {}
    for table in (root / name for name in TABLES if (root / name).is_file()):
        found = official_captions(table)
        captions = {**found, **captions}
        for class_name in sorted({key.partition("/")[0] for key in found}):
            problems += _unknown_classes(class_name, table.name, options.classes)
    matched: list[tuple[str, str, Path, Path]] = []
    for split, folder in _pair_folders(root):
        problems += _unknown_classes(folder.name, _name(folder, root), options.classes)
        sides = [[path for path in paths if folder / part in path.parents] for part in ("LQ", "GT")]
        couples, lonely = _match(sides[0], sides[1], root)
        problems += lonely
        matched += [(split, folder.name, lq, gt) for lq, gt in couples if lq in facts and gt in facts]
    validation = validation_names((gt.stem for *_, gt in matched), options.validation)
    unsplit = all(split == "-" for split, *_ in matched)
    items = []
    for split, class_name, lq, gt in matched:
        low, high = facts[lq], facts[gt]
        name = _name(lq, root)
        if (low.width, low.height) != (high.width, high.height):
            sizes = f"{low.width}×{low.height}, but {_name(gt, root)} is {high.width}×{high.height}"
            problems.append(Problem("size mismatch", name, sizes))
        if low.sha256 == high.sha256:
            problems.append(Problem("not degraded", name, f"equals {_name(gt, root)}"))
        if split == "-":
            split = "val" if unsplit and gt.stem in validation else "train"
        caption = captions.get(f"{class_name}/{gt.stem}", captions.get(f"{class_name}/{lq.stem}", ""))
        items += [
            Item(name, split, low.sha256, low.width, low.height, group="LQ"),
            Item(_name(gt, root), split, high.sha256, high.width, high.height, caption, group="GT", repeats=True),
        ]
    return items, problems


def _match(lq: Sequence[Path], gt: Sequence[Path], root: Path) -> tuple[list[tuple[Path, Path]], list[Problem]]:
    """Pairs of one type, and the files without a partner."""
    try:
        return (match_pairs(lq, gt) if lq or gt else []), []
    except DaclipError as error:
        stems = [{path.stem: path for path in side} for side in (lq, gt)]
        couples = [(stems[0][stem], stems[1][stem]) for stem in sorted(stems[0].keys() & stems[1].keys())]
        problems = [
            Problem("missing partner", _name(path, root), f"no {path.stem} in {other}")
            for side, other, partners in ((lq, "GT", stems[1]), (gt, "LQ", stems[0]))
            for path in side
            if path.stem not in partners
        ]
        return couples, problems or [Problem("missing partner", _name(lq[0].parent, root), str(error))]


def _rows(root: Path) -> Mapping[str, datasets.Dataset] | None:
    """The splits of a folder that holds rows, as `data=hub` reads them; None for a folder of image files."""
    if any((root / name).is_file() for name in ("dataset_dict.json", "state.json")):  # all splits, or one
        saved = datasets.load_from_disk(root)
    elif any(root.rglob("*.parquet")):
        saved = datasets.load_dataset(str(root))
    else:
        return None
    return saved if isinstance(saved, datasets.DatasetDict) else {str(saved.split or "train"): saved}


def _built(
    root: Path, loaded: Mapping[str, datasets.Dataset], options: CheckOptions, progress: Progress | None
) -> tuple[list[Item], list[Problem]]:
    items: list[Item] = []
    problems: list[Problem] = []
    done, total = 0, sum(map(len, loaded.values()))
    for split, rows in loaded.items():
        if "image" not in rows.column_names:
            raise DaclipError(f"{root}: split {split} has no column image; its columns are {rows.column_names}")
        for column in {"image", "lq"} & set(rows.column_names):
            rows = rows.cast_column(column, datasets.Image(decode=False))
        for number, row in enumerate(rows):
            name = f"{row.get('name') or number} ({split})"
            item, found = _row(name, str(split), row)
            problems += found + _unknown_classes(row.get("degradation") or "", name, options.classes)
            items += [item] if item else []
            done += 1
            if progress:
                progress("reading", done, total)
    return items, problems


def _row(name: str, split: str, row: dict[str, Any]) -> tuple[Item | None, list[Problem]]:
    """One row of a dataset: its item, and what contradicts what the row says of itself."""
    try:
        content = cell_content(row["image"], name)
        height, width = decode_pixels(content, name).shape[-2:]
        lq = decode_pixels(cell_content(row["lq"], name), name) if row.get("lq") else None
    except DaclipError as error:
        return None, [Problem("unreadable", name, str(error))]
    sha256 = hashlib.sha256(content).hexdigest()
    problems = []
    if row.get("sha256") not in (None, sha256):
        problems.append(Problem("wrong record", name, "the stored sha256 is not the photo's"))
    stored = (row.get("width", width), row.get("height", height))
    if stored != (width, height):
        problems.append(Problem("wrong record", name, f"{width}×{height}, recorded as {stored[0]}×{stored[1]}"))
    if lq is not None and lq.shape[-2:] != (height, width):
        problems.append(Problem("size mismatch", name, f"{width}×{height}, lq is {lq.shape[2]}×{lq.shape[1]}"))
    return Item(name, split, sha256, width, height, row.get("caption"), repeats="lq" in row), problems
