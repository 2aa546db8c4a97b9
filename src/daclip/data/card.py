"""The face of a built dataset: its card and a sheet of sample photos."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from daclip.data.images import load_image, to_pil
from daclip.data.recipe import Plan, Row

__all__ = ["data_card", "sample_sheet"]

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
