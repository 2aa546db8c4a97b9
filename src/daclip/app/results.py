"""What came of several photos: a table and a zip."""

import html
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from daclip.restoring.batch import Outcome


def count(outcomes: Sequence[Outcome]) -> str:
    """How many were restored."""
    done = sum(outcome.status == "restored" for outcome in outcomes)
    return f"{done} of {len(outcomes)} photos restored"


def table(outcomes: Sequence[Outcome]) -> str:
    """A row for each photo, as an HTML table whose texts wrap on a phone."""
    rows = []
    for outcome in outcomes:
        found = ", ".join(f"{class_name} {share:.0%}" for class_name, share in list(outcome.probabilities.items())[:2])
        text = outcome.error or " · ".join((outcome.status, found, *outcome.changes, *outcome.notes))
        cells = (outcome.photo, text.removeprefix(f"{outcome.photo}: "))
        style = "text-align: left; vertical-align: top; padding: 0.3em; min-width: 7em; overflow-wrap: anywhere"
        rows.append("".join(f'<td style="{style}">{html.escape(cell)}</td>' for cell in cells))
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>" if rows else ""


def pack(outcomes: Sequence[Outcome], path: Path) -> Path:
    """A zip of all results, and a line for each photo; names that occur twice are numbered."""
    taken: set[str] = set()
    lines = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for outcome in outcomes:
            names = []
            for result in map(Path, outcome.results):
                name, number = result.name, 2
                while name.lower() in taken:
                    name, number = f"{result.stem}-{number}{result.suffix}", number + 1
                taken.add(name.lower())
                archive.write(result, name)
                names.append(name)
            lines.append(replace(outcome, results=names).line() + "\n")
        archive.writestr("summary.jsonl", "".join(lines))
    return path
