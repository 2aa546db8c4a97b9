"""The one finder of photos: which files below a folder are photos, and what is left out."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from daclip.decoding import FORMATS
from daclip.errors import DaclipError

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

    def leave_out(self, reason: str, name: str) -> None:
        """Note a file or folder that is left out."""
        self.left_out.setdefault(reason, []).append(name)


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
    home = root.resolve()
    seen = {_identity(folder) for folder in (home, *home.parents)}
    folders, links = [root], list[Path]()
    linked = False
    while folders or links:
        if not folders:  # links come last: a folder that also lies here itself is named by its own path
            linked = True
            links.sort(reverse=True)
            folder = links.pop()
            if _identity(folder) in seen:
                found.leave_out("links to folders that are read already", name_of(folder, root))
                continue
            seen.add(_identity(folder))
        else:
            folder = folders.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            found.leave_out("folders that cannot be read", name_of(folder, root))
            continue
        for entry in entries:
            path, hidden = folder / entry.name, entry.name.startswith(".") or entry.name.lower() in LITTER
            if path.is_dir():
                if hidden:
                    found.leave_out("hidden", f"{name_of(path, root)}/")
                elif path.is_symlink():
                    links.append(path)
                elif _identity(path) not in seen:
                    seen.add(_identity(path))
                    folders.append(path)
            elif path.suffix.lower() in FORMATS:
                if hidden:
                    found.leave_out("hidden", name_of(path, root))
                elif not path.is_file():
                    found.leave_out("links to nothing", name_of(path, root))
                else:
                    found.photos.append(path)
                    found.linked += linked
            elif not hidden and path.suffix.lower() not in COMPANIONS:
                found.leave_out("of another kind", name_of(path, root))
    if not found.photos:
        why = "; ".join(filter(None, [f"looked for {', '.join(sorted(FORMATS))}", left_out_line(found.left_out)]))
        raise DaclipError(f"{root}: the folder holds no images ({why})")
    found.photos.sort()
    return found


def _identity(folder: Path) -> tuple[int, int]:
    """What two paths to one folder have in common."""
    status = folder.stat()
    return status.st_dev, status.st_ino
