"""A picture of all degradations side by side: `python -m daclip.commands.degradations [overrides]`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING, DictConfig
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from daclip.commands.options import make, say
from daclip.config import run_entry, validated
from daclip.degradations.base import Degradation
from daclip.errors import DaclipError
from daclip.images import load_image, save_image, to_pil

GAP = 4
LINE = 18  # height of a line of text


@dataclass
class SheetConfig:
    """Top level of `degradations.yaml`."""

    output: str = MISSING
    size: int = MISSING
    severities: list[float] = MISSING
    photos: dict[str, Any] = field(default_factory=dict)
    degradation: dict[str, Any] = field(default_factory=dict)
    seed: int = MISSING


def contact_sheet(
    photos: Sequence[Tensor], degradations: Mapping[str, Degradation], severities: Sequence[float], seed: int
) -> Image.Image:
    """Draw a row per degradation; per photo, a clean column (labelled with the class) and one per severity in [0, 1].

    Photos are `[3, H, W]` in [0, 1], of any sizes; each keeps its random draw over the severities. A degradation that
    labels its samples itself gets a second line of text with each photo's label.
    """
    height, width = (max(photo.shape[axis] for photo in photos) for axis in (1, 2))
    columns = len(photos) * (1 + len(severities))
    text = [LINE * (2 if degradation.classes else 1) for degradation in degradations.values()]
    sheet = Image.new("RGB", (columns * (width + GAP), sum(text) + len(text) * (height + GAP)), "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(LINE * 0.6)
    top = 0
    for (class_name, degradation), margin in zip(degradations.items(), text, strict=True):
        left = 0
        for index, photo in enumerate(photos):
            cells, label = [(class_name, photo)], None
            for severity in severities:
                done = degradation.degrade(photo[None], [torch.Generator().manual_seed(seed + index)], severity)
                cells.append((f"{severity:g}", done.images[0]))
                label = done.classes[0]
            pen.text((left, top + 1 + LINE), label or "", fill="black", font=font)
            for heading, cell in cells:
                pen.text((left, top + 1), heading, fill="black", font=font)
                sheet.paste(to_pil(cell), (left, top + margin))
                left += width + GAP
        top += margin + height + GAP
    return sheet


def main() -> None:
    """Entry point."""
    run_entry(lambda cfg: draw(validated(cfg, SheetConfig)), "degradations")


def draw(cfg: DictConfig) -> Path:
    """Write the contact sheet of the configured degradations on crops of validation photos."""
    degradations = make(cfg.degradation)
    photos = []
    for photo in make(cfg.photos).validation():
        pixels = load_image(photo.path)
        top, left = ((side - cfg.size) // 2 for side in pixels.shape[-2:])
        if min(top, left) < 0:
            raise DaclipError(f"{photo.path} is smaller than size={cfg.size}; choose a smaller size")
        photos.append(pixels[:, top : top + cfg.size, left : left + cfg.size])
    path = Path(cfg.output)
    save_image(contact_sheet(photos, degradations, list(cfg.severities), cfg.seed), path)
    say(f"written: {path}")
    return path


if __name__ == "__main__":
    main()
