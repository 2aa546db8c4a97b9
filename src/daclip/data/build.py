"""What is in a folder of images: content hash and size of every file, computed once."""

import contextlib
import hashlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
from filelock import FileLock, Timeout
from huggingface_hub import HfApi
from PIL import Image, ImageDraw, ImageFont

from daclip.data.captions import CaptionCache, Captioner, Journal, read_table
from daclip.data.photos import Photo, PhotoSource, validation_names
from daclip.errors import DaclipError
from daclip.files import write_json
from daclip.images import decode_pixels, find_images, load_image, save_image, to_pil

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""

BATCH = 16  # files between two records of progress: an interruption costs no more
FACTS = ("path", "bytes", "mtime_ns", "sha256", "width", "height")


@dataclass(frozen=True)
class IndexedFile:
    """One image file that was read from its first to its last pixel.

    Attributes:
        path: The file.
        sha256: Hash of the file's bytes, in hexadecimal.
        bytes: Length of the file.
        width: Columns in pixels, EXIF orientation applied.
        height: Rows in pixels, EXIF orientation applied.
    """

    path: Path
    sha256: str
    bytes: int
    width: int
    height: int


@dataclass(frozen=True)
class Index:
    """Result of a scan.

    Attributes:
        files: What could be read, by path.
        unreadable: What could not, by path, with the reason in one line.
    """

    files: Mapping[Path, IndexedFile]
    unreadable: Mapping[Path, str]


def _stamp(path: Path) -> tuple[str, int, int]:
    """What must stay the same for a file to count as unchanged: path, length and time of change in ns."""
    try:
        stat = path.stat()
    except OSError:  # reading it will say what is wrong
        return str(path), -1, -1
    return str(path.resolve()), stat.st_size, stat.st_mtime_ns


def read_file(path: Path) -> IndexedFile:
    """Hash and decode one file.

    Raises:
        DaclipError: The file cannot be read or is no image.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DaclipError(f"{path}: cannot be read ({error.strerror or error})") from None
    height, width = decode_pixels(content, str(path)).shape[-2:]
    return IndexedFile(path, hashlib.sha256(content).hexdigest(), len(content), width, height)


def _try_file(path: Path) -> IndexedFile | DaclipError:
    try:
        return read_file(path)
    except DaclipError as error:
        return error


def _remembered(journal: Journal, paths: Container[str]) -> dict[tuple[str, int, int], tuple[str, int, int]]:
    """Stamp to hash, width and height of the files that earlier scans have read."""
    known = {}
    for record in journal:
        if all(name in record for name in FACTS) and record["path"] in paths:
            path, length, time, *facts = (record[name] for name in FACTS)
            known[path, length, time] = (facts[0], facts[1], facts[2])
    return known


def scan(paths: Iterable[Path], memory: str | Path, num_workers: int, progress: Progress | None = None) -> Index:
    """Hash and decode image files, remembering those that have not changed since an earlier scan.

    Files that could not be read are tried anew each time.

    Args:
        paths: Image files.
        memory: A journal of earlier scans, made if missing; several folders may share one.
        num_workers: Threads; hashing and decoding run outside Python's lock.
        progress: Told of each batch as stage `reading`.
    """
    paths = list(paths)
    if num_workers < 1:
        raise DaclipError(f"num_workers must be at least 1, got {num_workers}")
    journal = Journal(memory)
    known = _remembered(journal, {str(path.resolve()) for path in paths})
    files: dict[Path, IndexedFile] = {}
    unreadable: dict[Path, str] = {}
    with ThreadPoolExecutor(num_workers) as pool:
        for start in range(0, len(paths), BATCH):
            batch: Sequence[Path] = paths[start : start + BATCH]
            # Taken before reading: a file that changes meanwhile is read again next time.
            stamps = {path: _stamp(path) for path in batch}
            fresh = [path for path in batch if stamps[path] not in known]
            results = dict(zip(fresh, pool.map(_try_file, fresh), strict=True))
            records = []
            for path in batch:
                result = results.get(path)
                if isinstance(result, DaclipError):
                    unreadable[path] = str(result)
                elif result is None:
                    sha256, width, height = known[stamps[path]]
                    files[path] = IndexedFile(path, sha256, stamps[path][1], width, height)
                else:
                    files[path] = result
                    values = (*stamps[path], result.sha256, result.width, result.height)
                    records.append(dict(zip(FACTS, values, strict=True)))
            journal.append(records)
            if progress:
                progress("reading", min(start + BATCH, len(paths)), len(paths))
    return Index(files, unreadable)


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
        validation: Share of photos in the split `test`, in (0, 1); chosen by the hash of the name, as `PhotoFolder`
            chooses them.
        source_name: Where the photos come from, for the column `source`; None takes the folder's name.
        license: Terms under which they may be used; empty if unknown.
        attribution: A csv or jsonl with name,source,license for photos that differ; None if there are none.
        skip_unreadable: Leave photos out that cannot be read, instead of refusing to build.
        num_workers: Threads that read photos.
        shard_megabytes: Photos of about this many megabytes share a file; also the memory that writing takes.
    """

    root: Path
    captioner: Captioner
    cache: Path
    validation: float
    source_name: str | None
    license: str
    attribution: Path | None
    skip_unreadable: bool
    num_workers: int
    shard_megabytes: float

    def plan(self, progress: Progress | None = None) -> Plan:
        """Read, hash, de-duplicate, split and caption the photos.

        Everything slow is remembered in the cache: an interrupted plan goes on where it stopped.

        Args:
            progress: Told of each step forward, in the stages `reading` and `captioning`.

        Raises:
            DaclipError: A photo cannot be read, fewer than two photos differ, or an option makes no sense.
        """
        if not 0 < self.validation < 1:
            raise DaclipError(f"validation must be a share between 0 and 1, got {self.validation}")
        if self.shard_megabytes <= 0:
            raise DaclipError(f"shard_megabytes must be above 0, got {self.shard_megabytes}")
        paths = find_images(self.root)
        attribution = read_table(self.attribution, ["source", "license"]) if self.attribution else {}
        index = scan(paths, self.cache / "files.jsonl", self.num_workers, progress)
        reasons = list(index.unreadable.values())
        if reasons and not self.skip_unreadable:
            raise UnreadablePhotosError(reasons, len(paths))
        kept, duplicates = self._unique(index)
        if len(kept) < 2:
            raise DaclipError(f"{self.root}: a dataset needs two different photos at least, for train and test")
        test = validation_names(list(kept), self.validation)
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


COLUMNS = {
    "image": "the photo, its file's bytes unchanged",
    "name": "path in the source folder",
    "caption": "what it shows; empty if unknown",
    "sha256": "hash of the file",
    "width": "columns in pixels, EXIF orientation applied",
    "height": "rows in pixels, EXIF orientation applied",
    "source": "where it comes from",
    "license": "terms of use; empty if unknown",
}

CELL = 192  # side of a thumbnail on the sheet
LABEL = 32  # height of the text below it
GAP = 6
ACROSS = 6
MOST = 24  # photos on the sheet


def data_card(plan: Plan, title: str) -> str:
    """Markdown with the counts of a planned dataset, under a header that the hub understands.

    Args:
        plan: What is in the dataset.
        title: Name of the dataset.
    """
    rows = plan.rows
    sides = sorted(min(row.width, row.height) for row in rows)
    lines = [
        "---",
        f"pretty_name: {json.dumps(title)}",
        "license: other",
        "task_categories: [image-to-image]",
        "tags: [image-restoration, daclip]",
        "---",
        "",
        f"# {title}",
        "",
        "Clean photos with captions, for degradations synthesised on the fly. Built by `daclip dataset build`.",
        "",
        "![sample photos](sheet.png)",
        "",
        "| split | photos | with caption | megapixels | MB |",
        "|---|---|---|---|---|",
        *(_counts(name, plan.split(name)) for name in ("train", "test")),
        _counts("all", rows),
        "",
        f"Shorter side: {sides[0]} px at least, {sides[len(sides) // 2]} px in the median, {sides[-1]} px at most. "
        "A photo's split follows from the hash of its name, so more photos move none across it.",
        "",
        "| column | holds |",
        "|---|---|",
        *(f"| `{name}` | {meaning} |" for name, meaning in COLUMNS.items()),
        "",
        "| source | license | photos |",
        "|---|---|---|",
        *(
            f"| {_cell(source)} | {_cell(terms) or 'unknown'} | {count} |"
            for (source, terms), count in sorted(Counter((row.source, row.license) for row in rows).items())
        ),
        "",
    ]
    if plan.duplicates:
        lines += [f"Left out as copies of another photo ({len(plan.duplicates)}):", ""]
        lines += [f"- `{name}` equals `{kept}`" for name, kept in plan.duplicates.items()]
        lines.append("")
    if plan.unreadable:
        lines += [f"Left out because they cannot be read ({len(plan.unreadable)}):", ""]
        lines += [f"- `{name}`" for name in plan.unreadable]
        lines.append("")
    return "\n".join(lines)


def _counts(name: str, rows: Sequence[Row]) -> str:
    captioned = sum(bool(row.caption) for row in rows)
    megapixels = sum(row.width * row.height for row in rows) / 1e6
    megabytes = sum(row.bytes for row in rows) / 1e6
    return f"| {name} | {len(rows)} | {captioned} | {megapixels:.1f} | {megabytes:.1f} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def sample_sheet(plan: Plan) -> Image.Image:
    """Up to 24 photos, evenly spaced over the dataset, each with its split and the start of its caption."""
    count = min(MOST, len(plan.rows))
    chosen = [plan.rows[i * len(plan.rows) // count] for i in range(count)]
    down = -(-count // ACROSS)
    step = (CELL + GAP, CELL + LABEL + GAP)
    sheet = Image.new("RGB", (min(count, ACROSS) * step[0] + GAP, down * step[1] + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for i, row in enumerate(chosen):
        left, top = GAP + (i % ACROSS) * step[0], GAP + (i // ACROSS) * step[1]
        thumbnail = to_pil(load_image(Path(plan.root) / row.name))
        thumbnail.thumbnail((CELL, CELL))
        sheet.paste(thumbnail, (left + (CELL - thumbnail.width) // 2, top + CELL - thumbnail.height))
        for line, text in enumerate((f"{row.split}  {row.width} x {row.height}", row.caption or Path(row.name).name)):
            pen.text((left, top + CELL + 1 + 14 * line), _fitted(text, font), fill="black", font=font)
    return sheet


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text, cut to the width of a cell."""
    text = " ".join(text.split())
    if font.getlength(text) <= CELL:
        return text
    while text and font.getlength(text + "…") > CELL:
        text = text[:-1]
    return text + "…"


RECORD = "build.json"  # marks a folder that was built here, and says from what

FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "name": datasets.Value("string"),
        "caption": datasets.Value("string"),
        "sha256": datasets.Value("string"),
        "width": datasets.Value("int32"),
        "height": datasets.Value("int32"),
        "source": datasets.Value("string"),
        "license": datasets.Value("string"),
    }
)


@dataclass(frozen=True)
class BuiltDataset:
    """A dataset on disk.

    Attributes:
        path: Its folder.
        plan: What is in it.
        fresh: Whether it was written now; otherwise it was there already.
    """

    path: Path
    plan: Plan
    fresh: bool


def build_dataset(
    recipe: DatasetRecipe, output: str | Path, overwrite: bool, progress: Progress | None = None
) -> BuiltDataset:
    """Build a dataset with the splits `train` and `test`.

    The folder appears complete or not at all. A build that was stopped at any moment goes on where it stopped,
    and gives the same bytes as an undisturbed one.

    Args:
        recipe: What to build from.
        output: Folder of the dataset, outside of the folder of photos.
        overwrite: Replace a dataset in `output` that was built from something else.
        progress: Told of each step forward, in the stages `reading`, `captioning` and `writing`.

    Returns:
        The dataset, loaded by `datasets.load_from_disk(path)` or `load_built(path)`.

    Raises:
        DaclipError: The photos are unusable, `output` is in the way, or it cannot be written.
    """
    output = Path(output)
    if output.resolve().is_relative_to(recipe.root.resolve()):
        raise DaclipError(f"output={output} lies in the folder of photos; choose one outside of {recipe.root}")
    plan = recipe.plan(progress)
    with _alone(recipe.cache, output, timeout=0):
        if _digest(output) == plan.digest:
            _remove(_staging(output))
            return BuiltDataset(output, plan, fresh=False)
        if output.exists() and not (output.is_dir() and not any(output.iterdir())):
            if _digest(output) is None:
                raise DaclipError(f"output={output} exists and is no dataset built here; choose another folder")
            if not overwrite:
                raise DaclipError(
                    f"output={output} holds a dataset of other photos, captions or options; "
                    "choose another folder, or replace it with overwrite=true"
                )
        _write(plan, output, progress)
    return BuiltDataset(output, plan, fresh=True)


def ensure_dataset(recipe: DatasetRecipe, progress: Progress | None = None) -> BuiltDataset:
    """The dataset of a recipe, built once into the recipe's cache and found there by its content later on.

    Several processes may ask at the same time: one builds, the others wait.

    Args:
        recipe: What to build from; changed photos, captions or options give another dataset.
        progress: As in `build_dataset`.
    """
    plan = recipe.plan(progress)
    output = recipe.cache / f"dataset-{plan.digest[:16]}"
    with _alone(recipe.cache, output, timeout=-1):
        fresh = _digest(output) != plan.digest
        if fresh:
            _write(plan, output, progress)
    return BuiltDataset(output, plan, fresh)


def load_built(where: str | Path) -> datasets.DatasetDict:
    """A built dataset from a local folder, or from the hub by its name.

    Raises:
        DaclipError: There is no such dataset, or the hub cannot be reached.
    """
    try:
        loaded = datasets.load_from_disk(where) if Path(where).is_dir() else datasets.load_dataset(str(where))
    except Exception as error:  # the hub client raises what its HTTP library raises
        raise DaclipError(
            f"{where}: the dataset cannot be loaded ({_reason(error)}); check name and network"
        ) from error
    if not isinstance(loaded, datasets.DatasetDict):
        raise DaclipError(f"{where}: holds one split; give the folder that holds all of them")
    return loaded


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextlib.contextmanager
def _alone(cache: Path, output: Path, timeout: float) -> Iterator[None]:
    """Keep other processes from writing the same folder; the lock falls with the process."""
    try:
        (cache / "locks").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DaclipError(f"cache={cache}: cannot be written ({error.strerror or error})") from None
    lock = FileLock(cache / "locks" / f"{digest_of(str(output.resolve()))[:16]}.lock")
    try:
        with lock.acquire(timeout):
            yield
    except Timeout:
        raise DaclipError(f"output={output} is being written by another process; wait for it, or stop it") from None


def _digest(folder: Path) -> str | None:
    """Digest of the plan that a folder was built from; None if it is no finished dataset of ours."""
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content.get("digest") if isinstance(content, dict) else None


def _staging(output: Path) -> Path:
    return output.with_name(f".{output.name}.partial")


def _remove(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)


def _write(plan: Plan, output: Path, progress: Progress | None) -> None:
    staging = _staging(output)
    try:
        with _without_bars():
            _write_parts(plan, output, staging, progress)
    except OSError as error:
        reason = error.strerror or _reason(error)
        raise DaclipError(f"{staging}: cannot be written ({reason}); start again to go on from there") from error


def _write_parts(plan: Plan, output: Path, staging: Path, progress: Progress | None) -> None:
    parts: dict[str, list[Path]] = {}
    done = 0
    for split in ("train", "test"):
        parts[split] = []
        for rows in plan.shards(split):
            parts[split].append(_shard(plan.root, rows, staging))
            done += len(rows)
            if progress:
                progress("writing", done, len(plan.rows))
    # From here on only files are copied. What an interruption leaves of it is made anew.
    complete = staging / "complete"
    _remove(complete)
    whole = datasets.DatasetDict(
        {split: datasets.concatenate_datasets([_loaded(part) for part in folders]) for split, folders in parts.items()}
    )
    whole.save_to_disk(complete, num_shards={split: len(folders) for split, folders in parts.items()})
    del whole
    for split in parts:
        # The library's own fingerprint depends on how the rows came together; ours on nothing but the content.
        state = complete / split / "state.json"
        content = json.loads(state.read_text(encoding="utf-8"))
        write_json(state, {**content, "_fingerprint": digest_of([plan.digest, split])[:16]})
    (complete / "README.md").write_text(data_card(plan, output.name), encoding="utf-8")
    save_image(sample_sheet(plan), complete / "sheet.png")
    write_json(complete / RECORD, _record(plan))
    if output.exists():
        _remove(staging / "replaced")
        output.rename(staging / "replaced")
    output.parent.mkdir(parents=True, exist_ok=True)
    complete.rename(output)
    _remove(staging)


def _record(plan: Plan) -> dict[str, object]:
    return {
        "digest": plan.digest,
        "photos": {split: len(plan.split(split)) for split in ("train", "test")},
        "with_caption": sum(bool(row.caption) for row in plan.rows),
        "duplicates": dict(plan.duplicates),
        "unreadable": list(plan.unreadable),
    }


def _shard(root: Path, rows: Sequence[Row], staging: Path) -> Path:
    """The folder with these rows, written if an earlier build has not left it; known by its content."""
    spec = [[row.name, row.sha256, row.caption, row.width, row.height, row.source, row.license] for row in rows]
    folder = staging / f"shard-{digest_of(spec)[:32]}"
    if not folder.is_dir():
        half = staging / "shard-in-progress"
        _remove(half)
        shard = datasets.Dataset.from_list([_cells(root, row) for row in rows], features=FEATURES)
        shard.save_to_disk(half, num_shards=1)
        half.rename(folder)
    return folder


def _cells(root: Path, row: Row) -> dict[str, object]:
    path = root / row.name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DaclipError(f"{path}: cannot be read any more ({error.strerror or error}); start again") from None
    if hashlib.sha256(content).hexdigest() != row.sha256:
        raise DaclipError(f"{path}: changed while the dataset was being built; start again")
    cells: dict[str, object] = {name: getattr(row, name) for name in FEATURES if name != "image"}
    return {"image": {"bytes": content, "path": path.name}, **cells}


def _loaded(folder: Path) -> datasets.Dataset:
    loaded = datasets.load_from_disk(folder)
    assert isinstance(loaded, datasets.Dataset)
    return loaded


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Silence the library's progress bars: ours shows the build as a whole."""
    before = datasets.utils.are_progress_bars_disabled()
    datasets.utils.disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            datasets.utils.enable_progress_bars()


log = logging.getLogger(__name__)


class CaptionedFolder(PhotoSource):
    """The photos of a folder, de-duplicated and captioned through a dataset that is built at the first use.

    Nothing happens before `prepare`, `train` or `validation` is called. The dataset lies in the cache under the
    hash of its content: later runs find it there, and captions are never computed twice. Pixels are read from
    the folder, so that a photo costs one decode; the dataset is there to be shared and streamed.

    Args:
        root: Folder of photos, searched recursively.
        captioner: Says what the photos show.
        cache: Folder for hashes, captions and datasets.
        validation: Share of photos that training never sees, in (0, 1).
        source_name: Where the photos come from; None takes the folder's name.
        license: Terms under which they may be used; empty if unknown.
        attribution: A csv or jsonl with name,source,license for photos that differ.
        skip_unreadable: Leave out photos that cannot be read.
        num_workers: Threads that read photos.
        shard_megabytes: Photos of about this many megabytes share a file of the dataset.
    """

    def __init__(
        self,
        root: str | Path | None,
        captioner: Captioner,
        cache: str | Path,
        validation: float,
        source_name: str | None,
        license: str,  # noqa: A002 - the column's name
        attribution: str | Path | None,
        skip_unreadable: bool,
        num_workers: int,
        shard_megabytes: float,
    ):
        if root is None:
            raise DaclipError("data.root is not set: give the folder of your photos, as in data.root=photos/")
        self.recipe = DatasetRecipe(
            root=Path(root),
            captioner=captioner,
            cache=Path(cache),
            validation=validation,
            source_name=source_name,
            license=license,
            attribution=Path(attribution) if attribution else None,
            skip_unreadable=skip_unreadable,
            num_workers=num_workers,
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

    def validation(self) -> Sequence[Photo]:
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


def push_dataset(folder: str | Path, name: str, private: bool) -> str:
    """Upload a built dataset with its card and sample sheet; `data=hub` and `load_built` read it back.

    Args:
        folder: A folder made by `build_dataset`.
        name: `user/name` or `organisation/name` on the hub.
        private: Whether only its owners see it; of no effect on a dataset that exists already.

    Returns:
        Address of the dataset.

    Raises:
        DaclipError: No account, no permission, no network.
    """
    folder = Path(folder)
    built = load_built(folder)
    try:
        hub = HfApi()
        url = hub.create_repo(name, repo_type="dataset", private=private, exist_ok=True)
        # The card goes first: the upload of the rows adds its own header lines to the card that it finds.
        for file in ("README.md", "sheet.png"):
            hub.upload_file(path_or_fileobj=folder / file, path_in_repo=file, repo_id=name, repo_type="dataset")
        built.push_to_hub(name, private=private)
    except Exception as error:  # the hub client raises what its HTTP library raises
        lines = str(error).strip().splitlines()
        raise DaclipError(
            f"{folder} is built, but could not be pushed to {name} ({lines[0] if lines else type(error).__name__}); "
            "check the network and `hf auth login`, then run the command again"
        ) from error
    return str(url)
