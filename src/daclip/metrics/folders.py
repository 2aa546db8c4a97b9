"""Restored photos of any system against their references, matched by name."""

from dataclasses import dataclass
from pathlib import Path

from daclip.data.images import find_images
from daclip.errors import DaclipError

__all__ = ["FilePair", "match_folders"]

UNSORTED = "all"  # the group of photos that lie in no subfolder


@dataclass(frozen=True)
class FilePair:
    """One photo on disk.

    Attributes:
        name: Path below its folder, without suffix.
        group: First subfolder of the path, such as a degradation word; `all` without one.
        pred: The restored photo.
        gt: Its reference.
        lq: The degraded photo, where a third folder is given.
    """

    name: str
    group: str
    pred: Path
    gt: Path
    lq: Path | None


def _by_name(root: Path, option: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in find_images(root):
        name = path.relative_to(root).with_suffix("").as_posix()
        if name in found:
            raise DaclipError(f"{option}={root}: {found[name].name} and {path.name} have the same name; remove one")
        found[name] = path
    return found


def _list(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def match_folders(pred: str | Path, gt: str | Path, lq: str | Path | None = None) -> list[FilePair]:
    """Pair the photos of two or three folders by their path below the folder; suffixes may differ.

    Args:
        pred: Restored photos.
        gt: References.
        lq: Degraded photos; optional.

    Raises:
        DaclipError: A folder is missing or empty, or a photo has no partner of its name.
    """
    folders = {"pred": Path(pred), "gt": Path(gt), **({} if lq is None else {"lq": Path(lq)})}
    found = {option: _by_name(root, option) for option, root in folders.items()}
    for option, names in found.items():
        lonely = sorted(set(names) - set(found["gt"]))
        absent = sorted(set(found["gt"]) - set(names))
        if lonely:
            raise DaclipError(f"{option}={folders[option]}: gt={gt} has no photo named {_list(lonely)}")
        if absent:
            raise DaclipError(
                f"{option}={folders[option]}: {len(absent)} of {len(found['gt'])} photos of gt={gt} are missing: "
                f"{_list(absent)}"
            )
    return [
        FilePair(
            name,
            name.split("/")[0] if "/" in name else UNSORTED,
            found["pred"][name],
            found["gt"][name],
            found["lq"][name] if lq is not None else None,
        )
        for name in sorted(found["gt"])
    ]
