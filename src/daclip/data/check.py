"""The data check: reads every photo of a folder, of pairs or of a built dataset and lists what is wrong with it."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from daclip.data.captions import Captioner, OfficialCaptions, caption_account
from daclip.data.hub import cell_content, saved_splits
from daclip.data.pairing import SIDE, match_names, pair_account, strangers
from daclip.data.photos import Photo, PhotoFacts, Progress, read_photos, validation_names
from daclip.errors import DaclipError
from daclip.files import Found, account, find_photos, name_of
from daclip.images import decode_pixels

KINDS = {
    "unreadable": "no image, or a damaged one",
    "tiny": "a side shorter than smallest_side",
    "duplicate": "the same content twice in one split",
    "leak": "the same content in two splits",
    "missing caption": "no caption, though captions are expected",
    "missing partner": "LQ without GT or GT without LQ",
    "size mismatch": "LQ and GT differ in size",
    "not degraded": "LQ is the very file of GT",
    "another picture": "LQ does not look like GT, by small blurred copies",
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
    account: str = ""  # what was found, left out, paired and captioned
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
            "account": self.account,
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
    text = ""
    if (rows := _rows(root)) is not None:
        layout, (items, problems) = "built", _built(root, rows, options, progress)
    elif any(_pair_folders(root)):
        layout, (items, problems, text) = "pairs", _pairs(root, options, progress)
    else:
        layout, (items, problems, text) = "photos", _photos(root, options, progress)
    problems += judge(items, options.smallest_side, options.captions)
    return Report(str(root), layout, text, dict(sorted(Counter(item.split for item in items).items())), problems)


def _read(
    root: Path, paths: Sequence[Path], options: CheckOptions, progress: Progress | None
) -> tuple[dict[Path, PhotoFacts], list[Problem]]:
    """The readable photos of a folder, and problems of the others."""
    facts = read_photos(paths, options.cache, options.num_workers, progress)
    problems = [
        Problem("unreadable", name_of(path, root), known.problem.removeprefix(f"{path}: "))
        for path, known in facts.items()
        if known.problem
    ]
    return {path: known for path, known in facts.items() if not known.problem}, problems


def _photos(root: Path, options: CheckOptions, progress: Progress | None) -> tuple[list[Item], list[Problem], str]:
    found = find_photos(root)
    facts, problems = _read(root, found.photos, options, progress)
    photos = [Photo(name_of(path, root), path) for path in facts]
    splits = {photo.name: SPLITS.get(photo.name.split("/")[0].lower()) for photo in photos}
    if not any(splits.values()):
        splits |= dict.fromkeys(validation_names(splits, options.validation), "test")
    captions = options.captioner.describe(photos) if photos else []
    items = [
        Item(photo.name, splits[photo.name] or "train", known.sha256, known.width, known.height, caption)
        for photo, known, caption in zip(photos, facts.values(), captions, strict=True)
    ]
    return items, problems, "; ".join([account([found]), caption_account(captions, options.captioner.rules)])


def _pair_folders(root: Path) -> Iterator[tuple[str, Path]]:
    """Folders with LQ or GT inside, with their splits; `-` where no folder names the split."""
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        if (folder / "LQ").is_dir() or (folder / "GT").is_dir():
            yield "-", folder
        elif folder.name.lower() in SPLITS:
            yield from ((SPLITS[folder.name.lower()], path) for _, path in _pair_folders(folder))


def _pairs(root: Path, options: CheckOptions, progress: Progress | None) -> tuple[list[Item], list[Problem], str]:
    folders = list(_pair_folders(root))
    found = {folder / part: _side(folder / part) for _, folder in folders for part in ("LQ", "GT")}
    facts, problems = _read(root, [path for side in found.values() for path in side.photos], options, progress)
    rules: Counter[str] = Counter()
    matched: list[tuple[str, str, str, Path, Path]] = []  # split, class, name of GT below GT, LQ, GT
    for split, folder in folders:
        problems += _unknown_classes(folder.name, name_of(folder, root), options.classes)
        sides = [  # unreadable ones too: they have partners
            {name_of(path, side): path for path in found[side].photos} for side in (folder / "LQ", folder / "GT")
        ]
        matching = match_names(*sides)
        rules += matching.rules
        for side, names, other in ((sides[0], matching.lonely_lq, "GT"), (sides[1], matching.lonely_gt, "LQ")):
            problems += [Problem("missing partner", name_of(side[name], root), f"none in {other}") for name in names]
        for name, others in matching.doubtful.items():
            problems.append(Problem("missing partner", name_of(sides[0][name], root), f"fits {' and '.join(others)}"))
        for lq_name, gt_name in matching.pairs:
            lq, gt = sides[0][lq_name], sides[1][gt_name]
            if lq in facts and gt in facts:
                matched.append((split, folder.name, str(Path(gt_name).with_suffix("")), lq, gt))
    captions = OfficialCaptions(root, None)
    for path, by_class in captions.rows.items():
        for class_name in sorted(by_class):
            problems += _unknown_classes(class_name, path.name, options.classes)
    asked = [(name, name_of(lq, root), name_of(gt, root)) for _, name, _, lq, gt in matched]
    texts = captions.describe(asked) if asked else []
    validation = validation_names((key for _, _, key, _, _ in matched), options.validation)
    unsplit = all(split == "-" for split, *_ in matched)
    items = []
    for (split, _, key, lq, gt), caption in zip(matched, texts, strict=True):
        low, high = facts[lq], facts[gt]
        name = name_of(lq, root)
        if (low.width, low.height) != (high.width, high.height):
            sizes = f"{low.width}×{low.height}, but {name_of(gt, root)} is {high.width}×{high.height}"
            problems.append(Problem("size mismatch", name, sizes))
        if low.sha256 == high.sha256:
            problems.append(Problem("not degraded", name, f"equals {name_of(gt, root)}"))
        if split == "-":
            split = "val" if unsplit and key in validation else "train"
        items += [
            Item(name, split, low.sha256, low.width, low.height, group="LQ"),
            Item(name_of(gt, root), split, high.sha256, high.width, high.height, caption, group="GT", repeats=True),
        ]
    problems += _unlike([(name, name_of(lq, root), facts[lq].copy, facts[gt].copy) for _, name, _, lq, gt in matched])
    text = [account(list(found.values())), pair_account(rules), caption_account(texts)]
    return items, problems, "; ".join(text)


def _side(folder: Path) -> Found:
    """The photos of an LQ or GT folder, none where it is missing."""
    try:
        return find_photos(folder)
    except DaclipError:
        return Found(folder)


def _unlike(pairs: Sequence[tuple[str, str, str, str]]) -> list[Problem]:
    """Problems of pairs (class, name, small copies of LQ and GT in hexadecimal) that show different pictures."""
    problems = []
    for class_name in sorted({pair[0] for pair in pairs}):
        own = [pair for pair in pairs if pair[0] == class_name]
        copies = [
            [np.frombuffer(bytes.fromhex(copy), np.uint8).reshape(SIDE, SIDE) for copy in pair[2:]] for pair in own
        ]
        problems += [Problem("another picture", own[i][1], why) for i, why in strangers(copies).items()]
    return problems


def _rows(root: Path) -> Mapping[str, datasets.Dataset] | None:
    """The splits of a folder that holds rows, as `data=hub` reads them; None for a folder of image files."""
    if (saved := saved_splits(root)) is None and any(root.rglob("*.parquet")):
        return dict(datasets.load_dataset(str(root)))
    return saved


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
        pixels = decode_pixels(content, name)
        lq = decode_pixels(cell_content(row["lq"], name), name) if row.get("lq") else None
    except DaclipError as error:
        return None, [Problem("unreadable", name, str(error))]
    (height, width), sha256 = pixels.shape[-2:], hashlib.sha256(content).hexdigest()
    problems = []
    if row.get("sha256") not in (None, sha256):
        problems.append(Problem("wrong record", name, "the stored sha256 is not the photo's"))
    stored = (row.get("width", width), row.get("height", height))
    if stored != (width, height):
        problems.append(Problem("wrong record", name, f"{width}×{height}, recorded as {stored[0]}×{stored[1]}"))
    if lq is not None and lq.shape[-2:] != (height, width):
        problems.append(Problem("size mismatch", name, f"{width}×{height}, lq is {lq.shape[2]}×{lq.shape[1]}"))
    return Item(name, split, sha256, width, height, row.get("caption"), repeats="lq" in row), problems
