"""Build the captioned dataset as a `datasets.DatasetDict`: resumable, byte for byte the same each time."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
from filelock import FileLock, Timeout

from daclip.data.card import data_card, sample_sheet
from daclip.data.images import save_image
from daclip.data.index import Progress
from daclip.data.recipe import DatasetRecipe, Plan, Row, digest_of
from daclip.errors import DaclipError
from daclip.records import write_json

__all__ = ["BuiltDataset", "build_dataset", "ensure_dataset", "load_built"]

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
