"""Files: written whole or not at all, also when the machine stops in between; and the one finder of photos."""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from daclip.errors import DaclipError

PARTIAL = ".partial"


def one_line(error: BaseException) -> str:
    """The first line of an error's message, or its type's name where it has none.

    >>> one_line(ValueError("a\\nb")), one_line(KeyError()), one_line(OSError(28, "No space left on device"))
    ('a', 'KeyError', '[Errno 28] No space left on device')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def cannot_be_written(path: Path, error: BaseException, advice: str = "") -> DaclipError:
    """The one line for a file or folder that the operating system refuses to write."""
    reason = getattr(error, "strerror", None) or one_line(error)
    return DaclipError(f"{path}: cannot be written ({reason}); free space or fix the folder{advice}")


class WatchedFile:
    """A binary file being written that keeps the first OS error; torch.save turns a full disk into a RuntimeError."""

    def __init__(self, file: Any):
        self.file = file
        self.error: OSError | None = None

    def write(self, content: Any) -> int:
        """Write all of `content`; returns its length in bytes."""
        try:
            return int(self.file.write(content))
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        """Hand buffered content to the operating system."""
        self.file.flush()


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return process != os.getpid()


def remove_partial(folder: Path) -> None:
    """Delete what killed processes left of their attempts to write into the folder, and nothing of those that run."""
    for left in folder.glob(f".*-*{PARTIAL}"):
        process = left.name.removesuffix(PARTIAL).rpartition("-")[2]
        if process.isdigit() and not _is_running(int(process)):
            left.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename in the folder permanent; file systems that cannot do so are left alone."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def _replaced(path: Path, advice: str) -> Iterator[Path]:
    """A temporary path whose file or folder takes the place of `path` when the block ends without an error."""
    # Shortened: a name may have 255 bytes, and the user's may have them all.
    temporary = path.with_name(f".{path.name[:48]}-{os.getpid()}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise cannot_be_written(path, error, advice) from None
        raise


@contextmanager
def atomic_file(path: str | Path, advice: str = "") -> Iterator[WatchedFile]:
    """A file under a temporary name that takes its place when the block ends without an error. Content reaches the disk
    before the name: readers find the old or the whole new file, even after a power failure. An error leaves nothing
    behind; `advice`, such as ", then go on with resume=last", is added to its message. Makes the folder."""
    with _replaced(Path(path), advice) as temporary, temporary.open("wb") as file:
        watched = WatchedFile(file)
        try:
            yield watched
            watched.flush()
            os.fsync(file.fileno())
        except BaseException:
            if watched.error is not None:
                raise watched.error from None
            raise


@contextmanager
def atomic_folder(path: str | Path, advice: str = "") -> Iterator[Path]:
    """A folder under a temporary name that replaces `path` when the block ends without an error; see `atomic_file`."""
    with _replaced(Path(path), advice) as temporary:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        yield temporary
        if Path(path).exists():
            shutil.rmtree(path)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file atomically; see `atomic_file`."""
    with atomic_file(path) as file:
        file.write(content)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file atomically; see `atomic_file`."""
    write_bytes(path, text.encode())


def _changed(node: Any, change: Callable[[str, Any], Any], name: str = "") -> Any:
    """Nested containers with a function of dotted name and value applied to what they hold."""
    if isinstance(node, Mapping):
        return {key: _changed(value, change, f"{name}.{key}".lstrip(".")) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_changed(value, change, f"{name}.{place}") for place, value in enumerate(node)]
    return change(name, node)


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON atomically; content that is no JSON leaves nothing behind. JSON has no infinity: such numbers become
    null, and the key `null` of the document says which they were."""
    reasons: dict[str, str] = {}

    def finite(name: str, value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            reasons[name] = str(value)
            return None
        return value

    content = _changed(content, finite)
    if reasons and isinstance(content, dict):
        content["null"] = reasons
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Content of a file that `write_json` wrote, infinities in their places."""
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    reasons = content.pop("null", {}) if isinstance(content, dict) else {}
    return _changed(content, lambda name, value: float(reasons[name]) if name in reasons else value)


def config_folder() -> Path:
    """The folder `conf/`: beside the package in a wheel, else at the root of the checkout."""
    package = Path(__file__).resolve().parent
    for root in (package, package.parents[1]):
        if (root / "conf" / "train_daclip.yaml").is_file():
            return root / "conf"
    raise DaclipError(f"{package}: the folder conf/ is missing; install the package again")


def choices(group: str) -> list[str]:
    """Names of the files of a group of `conf/`, such as `sampler`."""
    return sorted(path.stem for path in (config_folder() / group).glob("*.yaml"))


# Suffix → Pillow's format, of every kind that is read. Pillow knows more, some of which start other programs (EPS) or
# are no photos (icons, PDF).
FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".mpo": "MPO",
    ".png": "PNG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".heic": "HEIF",
    ".heif": "HEIF",
    ".hif": "HEIF",
    ".avif": "AVIF",
    ".jp2": "JPEG2000",
    ".gif": "GIF",
    ".ppm": "PPM",
    ".pgm": "PPM",
}
VIDEOS = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"}


def is_video(path: str | Path) -> bool:
    """Whether a file is a video by its name."""
    return Path(path).suffix.lower() in VIDEOS


# Folders that systems and tools make beside photos; those that begin with a dot need no list.
LITTER = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "lost+found", "system volume information"}
# Files that belong beside photos and are not worth a word.
COMPANIONS = {"", ".txt", ".csv", ".tsv", ".json", ".jsonl", ".md", ".yaml", ".yml", ".html", ".xml", ".db", ".ini"}


def name_of(path: PurePath, root: PurePath) -> str:
    """The path below a folder as text that can be printed and stored: bytes that are no UTF-8 are written out.

    >>> name_of(PurePath("photos/a/caf\\udce9.png"), PurePath("photos"))
    'a/caf\\\\xe9.png'
    """
    return os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "backslashreplace")


def sample(names: Sequence[str], most: int = 3) -> str:
    """The first of many names.

    >>> sample(["a", "b", "c", "d"])
    'a, b, c and 1 more'
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def left_out_line(left_out: Mapping[str, Sequence[str]]) -> str:
    """What is left out for which reason, or nothing.

    >>> left_out_line({"hidden": ["a", "b"], "too small": []})
    'left out: 2 hidden (a, b)'
    """
    parts = [f"{len(names)} {reason} ({sample(names)})" for reason, names in left_out.items() if names]
    return f"left out: {', '.join(parts)}" if parts else ""


@dataclass
class Found:
    """The photos below a folder, sorted, and the names of what is left out by the reason."""

    root: Path
    photos: list[Path] = field(default_factory=list)
    linked: int = 0  # photos that were reached through links to folders
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, reason: str, path: Path, mark: str = "") -> None:
        """Note a file or folder that is left out, with a mark behind its name."""
        self.left_out.setdefault(reason, []).append(name_of(path, self.root) + mark)


def account(found: Sequence[Found]) -> str:
    """How many photos were found below folders, how many of them through links, and what was left out."""
    count, linked = sum(len(one.photos) for one in found), sum(one.linked for one in found)
    reasons = dict.fromkeys(reason for one in found for reason in one.left_out)
    left_out = {reason: [name for one in found for name in one.left_out.get(reason, [])] for reason in reasons}
    parts = [f"{count} photos found", f"{linked} of them through linked folders" if linked else ""]
    return "; ".join(filter(None, [", ".join(filter(None, parts)), left_out_line(left_out)]))


def find_photos(root: str | Path) -> Found:
    """All photos below a folder. Links to folders are followed, each folder once, so that a circle ends; hidden ones
    and what systems leave beside photos are left out. A folder without any photo is refused."""
    root = Path(root)
    if not root.is_dir():
        raise DaclipError(f"{root}: no such folder; check the path")
    found = Found(root)
    seen = {_identity(folder) for folder in root.resolve().parents}
    folders, links = [root], list[Path]()
    linked = False
    while folders or links:
        at_link = not folders  # links come last: a folder that also lies here itself is named by its own path
        linked = linked or at_link
        links.sort(reverse=True)
        folder = (links if at_link else folders).pop()
        try:
            identity, entries = _identity(folder), sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            found.leave_out("folders that cannot be read", folder)
            continue
        if identity in seen:
            if at_link:
                found.leave_out("links to folders that are read already", folder)
            continue
        seen.add(identity)
        for entry in entries:
            path, hidden = folder / entry.name, entry.name.startswith(".") or entry.name.lower() in LITTER
            if path.is_dir():
                if hidden:
                    found.leave_out("hidden", path, "/")
                else:
                    (links if path.is_symlink() else folders).append(path)
            elif path.suffix.lower() in FORMATS:
                if hidden:
                    found.leave_out("hidden", path)
                elif not path.is_file():
                    found.leave_out("links to nothing", path)
                else:
                    found.photos.append(path)
                    found.linked += linked
            elif not hidden and path.suffix.lower() not in COMPANIONS:
                found.leave_out("of another kind", path)
    if not found.photos:
        why = "; ".join(filter(None, [f"looked for {', '.join(sorted(FORMATS))}", left_out_line(found.left_out)]))
        raise DaclipError(f"{root}: the folder holds no images ({why})")
    found.photos.sort()
    return found


def _identity(folder: Path) -> tuple[int, int]:
    """What two paths to one folder have in common."""
    status = folder.stat()
    return status.st_dev, status.st_ino
