"""A picture of all degradations side by side: `python -m daclip.sheet [overrides]`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from torch import Tensor

from daclip.build import make
from daclip.config import SheetConfig, run_entry, validated
from daclip.data.photos import load_image, save_image, to_pil
from daclip.degradations.base import Degradation
from daclip.errors import DaclipError

__all__ = ["contact_sheet", "draw", "main"]

GAP = 4
LABEL = 18  # height of the line of text above each row


def contact_sheet(
    photos: Sequence[Tensor],
    degradations: Mapping[str, Degradation],
    severities: Sequence[float],
    seed: int,
) -> Image.Image:
    """Draw one row a degradation; for each photo a clean column (labelled with the word) and one a severity.

    Args:
        photos: Clean photos, float32 `[3, H, W]`, RGB in [0, 1]; sizes may differ.
        degradations: Degradations by their words.
        severities: Strengths in [0, 1].
        seed: Of the draws; a photo keeps its draw over the severities, so that only the strength changes.
    """
    height, width = (max(photo.shape[axis] for photo in photos) for axis in (1, 2))
    columns = len(photos) * (1 + len(severities))
    size = (columns * (width + GAP), len(degradations) * (height + LABEL + GAP))
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(LABEL * 0.6)
    for row, (word, degradation) in enumerate(degradations.items()):
        top = row * (height + LABEL + GAP)
        left = 0
        for index, photo in enumerate(photos):
            cells = [(word, photo)]
            for severity in severities:
                generator = torch.Generator().manual_seed(seed + index)
                cells.append((f"{severity:g}", degradation(photo[None], [generator], severity)[0]))
            for label, cell in cells:
                pen.text((left, top + 1), label, fill="black", font=font)
                sheet.paste(to_pil(cell), (left, top + LABEL))
                left += width + GAP
    return sheet


def main() -> None:
    """Entry point."""
    run_entry(lambda cfg: draw(validated(cfg, SheetConfig)), "degradations")


def draw(cfg: DictConfig) -> Path:
    """Write the contact sheet of the configured degradations on crops of held-out photos."""
    degradations = make(cfg.degradation)
    photos = []
    for photo in make(cfg.photos).held_out():
        pixels = load_image(photo.path)
        top, left = ((side - cfg.size) // 2 for side in pixels.shape[-2:])
        if min(top, left) < 0:
            raise DaclipError(f"{photo.path} is smaller than size={cfg.size}; choose a smaller size")
        photos.append(pixels[:, top : top + cfg.size, left : left + cfg.size])
    path = Path(cfg.output)
    save_image(contact_sheet(photos, degradations, list(cfg.severities), cfg.seed), path)
    Console().print(f"written: {path}", soft_wrap=True)
    return path


if __name__ == "__main__":
    main()
