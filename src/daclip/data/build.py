"""The dataset builder: a folder of photos becomes a captioned `datasets.DatasetDict` with a card."""

import hashlib
import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from functools import cached_property
from glob import escape
from pathlib import Path

import datasets
from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from filelock import FileLock
from huggingface_hub import HfApi
from matplotlib.figure import Figure

from daclip.data.captions import Captioner, cached_captions, read_table
from daclip.data.photos import Photo, PhotoFacts, Progress, digest_of, read_photos, validation_names
from daclip.errors import DaclipError, markdown, printable
from daclip.files import PARTIAL, account, atomic_folder, find_photos, name_of, one_line, write_json
from daclip.images import load_image, to_pil

RECORD = "build.json"  # marks a folder that was built here, and says from what
COLUMNS = {
    "image": (datasets.Image(), "the photo, its file's bytes unchanged"),
    "name": (datasets.Value("string"), "path in the source folder"),
    "caption": (datasets.Value("string"), "what it shows; empty if unknown"),
    "sha256": (datasets.Value("string"), "hash of the file"),
    "width": (datasets.Value("int32"), "columns in pixels, EXIF orientation applied"),
    "height": (datasets.Value("int32"), "rows in pixels, EXIF orientation applied"),
    "source": (datasets.Value("string"), "where it comes from"),
    "license": (datasets.Value("string"), "terms of use; empty if unknown"),
}


class UnreadablePhotosError(DaclipError):
    """Photos that cannot be read; the message names the first of them, `reasons` holds a line for each."""

    def __init__(self, reasons: Sequence[str], total: int):
        self.reasons = list(reasons)
        more = f" and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        super().__init__(
            f"{len(reasons)} of {total} photos cannot be read: {'; '.join(reasons[:3])}{more}; "
            "or leave them out with --skip-unreadable (in training: data.photos.skip_unreadable=true)"
        )


@dataclass(frozen=True)
class Row:
    """One photo of the dataset: its columns except `image`, the length of its file, and its split."""

    name: str
    caption: str
    sha256: str
    bytes: int
    width: int
    height: int
    source: str
    license: str
    split: str


@dataclass(frozen=True)
class Plan:
    """The photos, captions and options that decide the dataset's content."""

    root: Path
    rows: Sequence[Row]  # in the order of their names
    duplicates: Mapping[str, str]  # photos left out, each with the name of the equal photo that was kept
    unreadable: Sequence[str]  # names of photos left out because they cannot be read
    reasons: Sequence[str]  # why, one line each
    account: str  # what was found and left out
    shard_bytes: int  # photos of about this many bytes share a file

    def split(self, name: str) -> list[Row]:
        """Rows of `train` or `test`."""
        return [row for row in self.rows if row.split == name]

    @cached_property
    def digest(self) -> str:
        """Hash of the content: equal plans give equal datasets, wherever the photos lie."""
        rows = [astuple(row) for row in self.rows]
        return digest_of([rows, dict(self.duplicates), list(self.unreadable), self.shard_bytes])


@dataclass(frozen=True)
class DatasetRecipe:
    """The photos and options that a captioned dataset is built from."""

    root: Path  # searched recursively
    captioner: Captioner
    cache: Path  # remembers hashes and captions between builds; several datasets may share it
    validation: float  # share of photos in the split `test`, in (0, 1), chosen by the hash of the name
    source_name: str | None  # for the column `source`; None takes the folder's name
    license: str  # terms of use; empty if unknown
    attribution: Path | None  # csv or jsonl with name,source,license for photos that differ
    skip_unreadable: bool  # leave out photos that cannot be read instead of refusing to build
    num_workers: int  # threads
    shard_megabytes: float  # photos of about this many megabytes share a file

    def plan(self, progress: Progress | None = None) -> Plan:
        """Read, hash, de-duplicate, split and caption the photos; what is in the cache is not done again."""
        if self.shard_megabytes <= 0:
            raise DaclipError(f"shard_megabytes must be above 0, got {self.shard_megabytes}")
        found = find_photos(self.root)
        paths = {name_of(path, self.root): path for path in found.photos}
        attribution = read_table(self.attribution, ["source", "license"]) if self.attribution else {}
        facts = read_photos(list(paths.values()), self.cache, self.num_workers, progress)
        for name, path in paths.items():
            if path != self.root / name:  # rows hold the paths of their photos
                facts[path] = PhotoFacts(problem=f"{self.root / name}: the file's name is no UTF-8; rename it")
        unreadable = [name for name, path in paths.items() if facts[path].problem]
        reasons = [facts[paths[name]].problem for name in unreadable]
        if unreadable and not self.skip_unreadable:
            raise UnreadablePhotosError(reasons, len(paths))
        kept: dict[str, str] = {}  # content to the first name that has it
        duplicates: dict[str, str] = {}
        for name, path in paths.items():
            if not facts[path].problem and kept.setdefault(facts[path].sha256, name) != name:
                duplicates[name] = kept[facts[path].sha256]
        if len(kept) < 2:
            raise DaclipError(f"{self.root}: a dataset needs two different photos at least, for train and test")
        test = validation_names(kept.values(), self.validation)
        photos = [Photo(name, paths[name]) for name in kept.values()]
        captions = cached_captions(self.captioner, photos, list(kept), self.cache, progress)
        rows = []
        for photo, caption in zip(photos, captions, strict=True):
            own, known = attribution.get(photo.name, {}), facts[photo.path]
            source = own.get("source") or self.source_name or self.root.resolve().name
            terms = own.get("license") or self.license
            split = "test" if photo.name in test else "train"
            stored = (known.sha256, known.bytes, known.width, known.height)
            rows.append(Row(photo.name, caption, *stored, source, terms, split))
        return Plan(
            self.root, rows, duplicates, unreadable, reasons, account([found]), round(self.shard_megabytes * 1e6)
        )


def data_card(plan: Plan, title: str) -> str:
    """Markdown with the counts of a planned dataset, under a header that the hub understands."""

    def counts(name: str, rows: Sequence[Row]) -> str:
        captioned = sum(bool(row.caption) for row in rows)
        megapixels, megabytes = sum(row.width * row.height for row in rows) / 1e6, sum(row.bytes for row in rows) / 1e6
        return f"| {name} | {len(rows)} | {captioned} | {megapixels:.1f} | {megabytes:.1f} |"

    def code(text: str) -> str:
        return "`" + printable(text).replace("`", "'") + "`"

    sides = sorted(min(row.width, row.height) for row in plan.rows)
    origins = sorted(Counter((markdown(row.source), markdown(row.license) or "unknown") for row in plan.rows).items())
    lines = [
        f"---\npretty_name: {json.dumps(title)}\nlicense: other\ntask_categories: [image-to-image]",
        f"tags: [image-restoration, daclip]\n---\n\n# {markdown(title)}\n",
        "Clean photos with captions, for degradations synthesised on the fly. Built by `daclip dataset`.\n",
        "![sample photos](sheet.png)\n",
        "| split | photos | with caption | megapixels | MB |\n|---|---|---|---|---|",
        *(counts(name, plan.split(name)) for name in ("train", "test")),
        counts("all", plan.rows),
        f"\nShorter side: {sides[0]} px at least, {sides[len(sides) // 2]} px in the median, {sides[-1]} px at most. "
        "A photo's split follows from the hash of its name, so more photos move none across it.\n",
        "| column | holds |\n|---|---|",
        *(f"| `{name}` | {meaning} |" for name, (_, meaning) in COLUMNS.items()),
        "\n| source | license | photos |\n|---|---|---|",
        *(f"| {source} | {terms} | {count} |" for (source, terms), count in origins),
    ]
    if plan.duplicates:
        lines.append(f"\nLeft out as copies of another photo ({len(plan.duplicates)}):\n")
        lines += [f"- {code(name)} equals {code(kept)}" for name, kept in plan.duplicates.items()]
    if plan.unreadable:
        lines.append(f"\nLeft out because they cannot be read ({len(plan.unreadable)}):\n")
        lines += [f"- {code(name)}" for name in plan.unreadable]
    return "\n".join(lines) + "\n"


def sample_sheet(plan: Plan) -> Figure:
    """Up to 24 photos, evenly spaced over the dataset, each with its split and the start of its caption."""
    count = min(24, len(plan.rows))
    across, down = min(count, 6), math.ceil(count / 6)
    figure = Figure(figsize=(2 * across, 2.4 * down), layout="constrained")
    cells = figure.subplots(down, across, squeeze=False).ravel()
    for i, cell in enumerate(cells):
        cell.axis("off")
        if i >= count:
            continue
        row = plan.rows[i * len(plan.rows) // count]
        thumbnail = to_pil(load_image(plan.root / row.name))
        thumbnail.thumbnail((384, 384))
        cell.imshow(thumbnail)
        text = " ".join((row.caption or Path(row.name).name).split())
        text = text if len(text) <= 32 else f"{text[:31]}…"
        cell.set_title(f"{row.split}  {row.width} × {row.height}\n{text}", fontsize=7, parse_math=False)
    return figure


@dataclass(frozen=True)
class BuiltDataset:
    """A dataset on disk, for `datasets.load_from_disk(path)`; `fresh` if it was written now and not there already."""

    path: Path
    plan: Plan
    fresh: bool


def build_dataset(
    recipe: DatasetRecipe, output: str | Path | None, overwrite: bool = False, progress: Progress | None = None
) -> BuiltDataset:
    """Build a dataset with splits `train` and `test`, complete or not at all. Without `output` it lies in the recipe's
    cache under the hash of its content; `overwrite` replaces a dataset of other content in `output`."""
    if output is not None and Path(output).resolve().is_relative_to(recipe.root.resolve()):
        raise DaclipError(f"--output {output} lies in the folder of photos; choose one outside of {recipe.root}")
    plan = recipe.plan(progress)
    output = recipe.cache / f"dataset-{plan.digest[:16]}" if output is None else Path(output)
    with FileLock(recipe.cache / f"{digest_of(str(output.resolve()))[:16]}.lock"):
        built_from = _digest(output)
        if built_from == plan.digest:
            return BuiltDataset(output, plan, fresh=False)
        if built_from is None and output.exists() and not (output.is_dir() and not any(output.iterdir())):
            raise DaclipError(f"--output {output} exists and is no dataset built here; choose another folder")
        if built_from is not None and not overwrite:
            raise DaclipError(
                f"--output {output} holds a dataset of other photos, captions or options; "
                "choose another folder, or replace it with --overwrite"
            )
        for left in output.parent.glob(f".{escape(output.name[:48])}-*{PARTIAL}"):
            shutil.rmtree(left, ignore_errors=True)  # what killed builds have left
        with atomic_folder(output) as folder:
            _write(plan, folder, output.name, progress)
    return BuiltDataset(output, plan, fresh=True)


def _digest(folder: Path) -> str | None:
    """Digest of the plan that a folder was built from; None if it is no finished dataset of ours."""
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content.get("digest") if isinstance(content, dict) else None


@contextmanager
def _without_bars() -> Iterator[None]:
    """Silence the progress bars of `datasets`; photos have one of their own."""
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


@_without_bars()
def _write(plan: Plan, folder: Path, title: str, progress: Progress | None) -> None:
    features = datasets.Features({name: kind for name, (kind, _) in COLUMNS.items()})
    done = 0
    parts: dict[str, datasets.Dataset] = {}
    shards: dict[str, int] = {}
    for split in ("train", "test"):
        rows = plan.split(split)
        cells = [
            {"image": str(plan.root / row.name), **{name: getattr(row, name) for name in COLUMNS if name != "image"}}
            for row in rows
        ]
        parts[split] = datasets.Dataset.from_list(cells, features=features)
        shards[split] = min(len(rows), math.ceil(sum(row.bytes for row in rows) / plan.shard_bytes))
    if progress:
        progress("writing", 0, len(plan.rows))
    datasets.DatasetDict(parts).save_to_disk(folder, num_shards=shards)  # puts the files' bytes into the rows
    for rows in datasets.load_from_disk(folder).values():
        for row in rows.cast_column("image", datasets.Image(decode=False)).select_columns(["image", "name", "sha256"]):
            if hashlib.sha256(row["image"]["bytes"]).hexdigest() != row["sha256"]:
                raise DaclipError(f"{plan.root / row['name']}: changed while the dataset was being built; start again")
            done += 1
            if progress:
                progress("writing", done, len(plan.rows))
    (folder / "README.md").write_text(data_card(plan, title), encoding="utf-8")
    sample_sheet(plan).savefig(folder / "sheet.png")
    record = {
        "digest": plan.digest,
        "photos": {split: len(plan.split(split)) for split in parts},
        "with_caption": sum(bool(row.caption) for row in plan.rows),
        "duplicates": dict(plan.duplicates),
        "unreadable": list(plan.unreadable),
    }
    write_json(folder / RECORD, record)


def push_dataset(folder: str | Path, name: str, private: bool) -> str:
    """Upload a built dataset and return its address; `private` has no effect on a dataset that exists already."""
    try:
        hub = HfApi()
        url = hub.create_repo(name, repo_type="dataset", private=private, exist_ok=True)
        # The card goes first: the upload of the rows adds its own header lines to the card that it finds.
        for file in ("README.md", "sheet.png"):
            hub.upload_file(path_or_fileobj=Path(folder) / file, path_in_repo=file, repo_id=name, repo_type="dataset")
        datasets.load_from_disk(folder).push_to_hub(name, private=private)
    except Exception as error:  # the hub client raises what its HTTP library raises
        raise DaclipError(
            f"{folder} is built, but could not be pushed to {name} ({one_line(error)}); "
            "check the network and `hf auth login`, then run the command again"
        ) from error
    return str(url)
