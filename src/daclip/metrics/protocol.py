"""What happens to photos before they are compared: the part of a table that papers rarely state."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from daclip.errors import DaclipError
from daclip.metrics.image import luma, quantise


@dataclass(frozen=True)
class Protocol:
    """Rounding, border and colour space, the same for restored photo and reference.

    Attributes:
        name: What tables call it.
        eight_bit: Round to the 256 values that a saved picture holds.
        border: Pixels cut from each side.
        colour: `rgb`, or `y` for the luma of ITU-R BT.601 with its offset (MATLAB's `rgb2ycbcr`), not rounded.

    Raises:
        DaclipError: A negative border or another colour space.

    >>> import torch
    >>> Protocol("y", eight_bit=True, border=4, colour="y").prepare(torch.ones(1, 3, 16, 20)).shape
    torch.Size([1, 1, 8, 12])
    """

    name: str
    eight_bit: bool
    border: int
    colour: Literal["rgb", "y"]

    def __post_init__(self) -> None:
        """Refuse contradictory values."""
        if self.border < 0 or self.colour not in ("rgb", "y"):
            raise DaclipError(
                f"protocol.border must be at least 0 and protocol.colour rgb or y, got {self.border}, {self.colour}"
            )

    def prepare(self, images: Tensor, rgb: bool = False) -> Tensor:
        """Photos as they are compared.

        Args:
            images: `[B, 3, H, W]`, RGB; values outside [0, 1] are clipped.
            rgb: Stay in RGB whatever the protocol's colour space.

        Returns:
            float32 `[B, 3 or 1, H − 2·border, W − 2·border]` in [0, 1].

        Raises:
            DaclipError: Nothing is left inside the border.
        """
        height, width = images.shape[-2:]
        if min(height, width) <= 2 * self.border:
            raise DaclipError(f"a photo of {width}×{height} pixels has nothing inside a border of {self.border}")
        inside = images[..., self.border : height - self.border, self.border : width - self.border]
        values = quantise(inside) if self.eight_bit else inside.float().clamp(0, 1)
        return values if rgb or self.colour == "rgb" else luma(values)

    def describe(self) -> str:
        """One line for tables.

        >>> Protocol("daclip", eight_bit=True, border=4, colour="rgb").describe()
        'daclip: RGB, rounded to 8 bits, 4 pixels cut from each side'
        """
        parts = ["RGB" if self.colour == "rgb" else "Y of YCbCr (BT.601)"]
        parts.append("rounded to 8 bits" if self.eight_bit else "not rounded")
        parts.append(f"{self.border} pixels cut from each side" if self.border else "no border cut")
        return f"{self.name}: {', '.join(parts)}"
