"""Wishes in plain English: the table of what they mean, and what is no wish."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from running import TEN

from daclip.errors import DaclipError
from daclip.restoring.instruction import Wish, understand

TABLE = yaml.safe_load((Path(__file__).parent / "instructions.yaml").read_text(encoding="utf-8"))
CLASSES = sorted(TEN)


def meaning(row: dict[str, Any]) -> Wish:
    """The wish that a row of the table states."""
    repair, share = row["repair"], float(row.get("share", 1))
    if repair == "all":
        repair = {}
    strengths = repair if isinstance(repair, dict) else dict.fromkeys(repair, 1.0)
    return Wish({name: float(value) for name, value in strengths.items()}, tuple(row.get("keep", ())), share)


def mistake(row: dict[str, Any]) -> str | None:
    """How the understanding of a row differs from what it states; None: not at all."""
    try:
        found = understand(row["say"], CLASSES)
    except DaclipError as error:
        text = str(error)
        return None if "unknown" in row and row["unknown"] in text.split(" is nothing")[0] else text
    if "unknown" in row:
        return str(found)
    wish = meaning(row)
    same = found.repair == wish.repair and set(found.keep) == set(wish.keep) and found.strength == wish.strength
    return None if same else str(found)
