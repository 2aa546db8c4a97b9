"""Atomic writing: files and folders appear whole or not at all, also when the machine stops in between."""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
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


def _temporary(path: Path) -> Path:
    # Shortened: a name may have 255 bytes, and the user's may have them all.
    return path.with_name(f".{path.name[:48]}-{os.getpid()}{PARTIAL}")


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
def atomic_file(path: str | Path, advice: str = "") -> Iterator[WatchedFile]:
    """A file under a temporary name that takes its place when the block ends without an error. Content reaches the disk
    before the name: readers find the old or the whole new file, even after a power failure. An error leaves nothing
    behind; `advice`, such as ", then go on with resume=last", is added to its message. Makes the folder."""
    path = Path(path)
    temporary = _temporary(path)
    watched: WatchedFile | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            watched = WatchedFile(file)
            yield watched
            watched.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        cause = watched.error if watched and watched.error else error
        if isinstance(cause, OSError):
            raise cannot_be_written(path, cause, advice) from None
        raise


@contextmanager
def atomic_folder(path: str | Path, advice: str = "") -> Iterator[Path]:
    """A folder under a temporary name that replaces `path` when the block ends without an error; see `atomic_file`."""
    path = Path(path)
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            raise cannot_be_written(path, error, advice) from None
        raise


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
