"""What can be wrong with photos and pairs, and how it is found once their facts are known."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from daclip.errors import DaclipError

__all__ = ["KINDS", "Item", "Problem", "Report", "count_splits", "judge", "unknown_words"]

KINDS = {
    "unreadable": "no image, or a damaged one",
    "tiny": "a side shorter than smallest_side",
    "duplicate": "the same content twice in one split",
    "leak": "the same content in two splits",
    "missing caption": "no caption, though captions are expected",
    "missing partner": "LQ without GT or GT without LQ",
    "size mismatch": "LQ and GT differ in size",
    "not degraded": "LQ is the very file of GT",
    "unknown word": "a degradation that is not configured",
    "wrong record": "a stored hash or size that is not the photo's",
}
"""Kinds of problems and what they mean."""


@dataclass(frozen=True)
class Problem:
    """One finding.

    Attributes:
        kind: One of `KINDS`.
        name: The photo.
        detail: What exactly.
    """

    kind: str
    name: str
    detail: str


@dataclass(frozen=True)
class Item:
    """What judging needs to know of one readable photo.

    Attributes:
        name: The photo.
        split: Which part of the data it belongs to, such as `train`.
        sha256: Hash of the content.
        width: Columns in pixels.
        height: Rows in pixels.
        caption: None where captions do not apply, as for the LQ side of a pair.
        group: Copies are looked for among the photos of a group, such as `LQ`.
        repeats: Whether the content may occur several times in a split, as a clean photo of several pairs does.
    """

    name: str
    split: str
    sha256: str
    width: int
    height: int
    caption: str | None = None
    group: str = "photos"
    repeats: bool = False


@dataclass
class Report:
    """Result of a check.

    Attributes:
        source: What was checked.
        layout: `photos`, `pairs` or `built`.
        counts: Photos in each split.
        problems: Everything found; none for clean data.
    """

    source: str
    layout: str
    counts: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def by_kind(self) -> dict[str, list[Problem]]:
        """Problems of each kind that occurs, in the order of `KINDS`."""
        found: dict[str, list[Problem]] = {kind: [] for kind in KINDS}
        for problem in self.problems:
            found[problem.kind].append(problem)
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
    """What is wrong with readable photos, each by itself and among each other.

    Args:
        items: The photos of all splits.
        smallest_side: Photos with a shorter side are tiny, in pixels.
        captions: `required`, `ignored`, or `auto`: required as soon as one photo has a caption.

    Raises:
        DaclipError: `captions` is none of the three.
    """
    if captions not in ("required", "ignored", "auto"):
        raise DaclipError(f"captions must be auto, required or ignored, got {captions}")
    problems = [
        Problem("tiny", item.name, f"{item.width}×{item.height}")
        for item in items
        if min(item.width, item.height) < smallest_side
    ]
    wanted = captions == "required" or (captions == "auto" and any(item.caption for item in items))
    if wanted:
        problems += [Problem("missing caption", item.name, "") for item in items if item.caption == ""]
    return problems + _copies(items)


def _copies(items: Iterable[Item]) -> list[Problem]:
    same: dict[tuple[str, str], list[Item]] = defaultdict(list)
    for item in items:
        same[item.group, item.sha256].append(item)
    problems = []
    for copies in same.values():
        first: dict[str, Item] = {}
        for item in copies:
            if item.split not in first:
                first[item.split] = item
            elif not item.repeats:
                problems.append(Problem("duplicate", item.name, f"equals {first[item.split].name}"))
        if len(first) > 1:
            places = [f"{item.name} ({split})" for split, item in first.items()]
            problems.append(Problem("leak", next(iter(first.values())).name, "is " + " and ".join(places)))
    return problems


def unknown_words(label: str, name: str, known: Iterable[str]) -> list[Problem]:
    """A problem for each word of a label, such as `hazy, rainy`, that is not known."""
    known = set(known)
    return [
        Problem("unknown word", name, word)
        for word in (part.strip() for part in label.split(","))
        if word and word not in known
    ]


def count_splits(items: Iterable[Item]) -> dict[str, int]:
    """Photos in each split."""
    return dict(sorted(Counter(item.split for item in items).items()))
