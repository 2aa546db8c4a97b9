"""What a photo file says besides its pixels: EXIF block, colour profile, XMP, IPTC, resolution, texts, gamma."""

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from PIL import Image

ORIENTATION, WIDTH_TAG, HEIGHT_TAG, EXIF_FOLDER, GPS_FOLDER = 0x0112, 0xA002, 0xA003, 0x8769, 0x8825
IPTC_TAG = 33723  # of TIFF
IPTC_RESOURCE = 0x0404  # of Photoshop's block in a JPEG

# Description, make, model, resolution, software, date, artist, copyright.
CAMERA_TAGS = (0x010E, 0x010F, 0x0110, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x8298)


@dataclass(frozen=True)
class Metadata:
    """Beside EXIF block and profile; each is kept where the format of the result can hold it."""

    xmp: bytes | None = None
    iptc: bytes | None = None
    dpi: tuple[float, float] | None = None  # pixels an inch, across and down
    comment: str | None = None
    text: Mapping[str, str] = field(default_factory=dict)  # named texts of a PNG
    gamma: float | None = None

    def present(self) -> set[str]:
        """Names of what there is."""
        return {item.name for item in fields(self) if getattr(self, item.name)}


def orientation_of(image: Image.Image, header: bool = False) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none that can be read. `header` never decodes pixels, as Pillow
    does with a PNG to look for a block behind them."""
    try:
        exif = Image.Image.getexif(image) if header else image.getexif()
        value = exif.get(ORIENTATION, 1)
    except Exception:  # damaged blocks raise anything
        return 1
    return value if value in range(1, 9) else 1


def exif_block(exif: Image.Exif, orientation: int) -> bytes | None:
    """The block as it is written, for a photo that was turned by `orientation`; None if nothing is in it. A damaged
    one raises anything."""
    folders = {tag: dict(exif.get_ifd(tag)) for tag in (EXIF_FOLDER, GPS_FOLDER)}
    camera = folders[EXIF_FOLDER]
    if orientation >= 5 and WIDTH_TAG in camera and HEIGHT_TAG in camera:
        camera[WIDTH_TAG], camera[HEIGHT_TAG] = camera[HEIGHT_TAG], camera[WIDTH_TAG]
    kept = Image.Exif()
    # Not everything: the other tags of a TIFF say where its strips lie, and the result has strips of its own.
    kept.update({tag: exif[tag] for tag in CAMERA_TAGS if tag in exif})
    kept.update({tag: folder for tag, folder in folders.items() if folder})
    return kept.tobytes() if len(kept) else None


def metadata_of(image: Image.Image) -> Metadata:
    """What Pillow has found in a decoded image; damaged parts raise anything."""
    info: dict[Any, Any] = image.info
    photoshop = info.get("photoshop")
    tags = getattr(image, "tag_v2", {})
    iptc = photoshop.get(IPTC_RESOURCE) if isinstance(photoshop, dict) else tags.get(IPTC_TAG)
    if isinstance(iptc, tuple):  # Photoshop calls the bytes of a TIFF's tag 32-bit numbers
        iptc = struct.pack(f"<{len(iptc)}I", *iptc) if isinstance(iptc[0], int) else iptc[0]
    dpi = info.get("dpi")
    found = getattr(image, "text", None) if image.format == "PNG" else None
    text = {
        str(key): str(value) for key, value in (found or {}).items() if not key.startswith(("XML:com.adobe", "Raw"))
    }
    comment = info.get("comment")
    return Metadata(
        xmp=_upright_xmp(info.get("xmp")),
        iptc=iptc if isinstance(iptc, bytes) else None,
        dpi=(float(dpi[0]), float(dpi[1])) if dpi and min(dpi) > 0 else None,
        comment=text.pop("Comment", None) or (_text(comment) if comment else None),
        text=text,
        gamma=info.get("gamma"),
    )


def _text(content: bytes | str) -> str:
    if isinstance(content, str):
        return content
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _upright_xmp(xmp: bytes | str | None) -> bytes | None:
    """The packet with the orientation of an upright photo: viewers would turn it again."""
    content = xmp.encode() if isinstance(xmp, str) else xmp
    return re.sub(rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)\d", rb"\g<1>1", content) if content else None
