"""The one reader of image files: for training, checking, scoring and restoring alike."""

import ctypes
import io
import logging
import struct
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import kornia_rs.io
import numpy as np
import tifffile
from PIL import Image, ImageCms, JpegImagePlugin, UnidentifiedImageError

from daclip.errors import DaclipError, DamagedPhotoError, UnknownKindError
from daclip.files import FORMATS, one_line
from daclip.pixels import Header, PhotoFile, Pixels, deep, exif_block, metadata_of, orientation_of

# How files of these kinds begin, ISO containers (HEIC, AVIF) apart.
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"BM", b"GIF8", b"P5", b"P6", b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51")

Image.init()
with suppress(ImportError):  # the extra `heic`
    from pillow_heif import register_heif_opener

    register_heif_opener()
with suppress(Exception):  # libtiff writes to the terminal what is raised as well; not every build lies beside Pillow
    for folder in ("../pillow.libs", ".dylibs"):
        for library in (Path(Image.__file__).parent / folder).glob("libtiff*"):
            ctypes.CDLL(str(library)).TIFFSetErrorHandler(None)
READABLE = sorted(set(FORMATS.values()) & set(Image.OPEN))
# tifffile reports what Pillow and we report again, or what nobody has to know.
logging.getLogger("tifffile").disabled = True


@contextmanager
def _named(name: str | Path) -> Iterator[None]:
    """Whatever is wrong with a file becomes one line that names it."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of what it repairs by itself, and between one and two times its limit of pixels.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except DaclipError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        most = (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise DamagedPhotoError(
            f"{name}: more than {most} million pixels are not opened for safety; scale it down"
        ) from None
    except MemoryError:
        raise DamagedPhotoError(f"{name}: there is not enough memory to decode it; scale it down first") from None
    except Exception as error:
        # Decoders of damaged files raise whatever they stumble over: struct.error, EOFError, RuntimeError, …
        raise DamagedPhotoError(f"{name}: the image is damaged ({one_line(error)}); remove or replace it") from None


def _open(file: BinaryIO, name: str | Path) -> Image.Image:
    """An image whose header has been read. Pillow gets an open file, never a path: it would map an uncompressed TIFF
    into memory and turn it without turning its rows."""
    head = file.read(16)
    if head[4:8] in (b"ftyp", b"jP  "):
        _whole_boxes(file)
    file.seek(0)
    try:
        image = Image.open(file, formats=READABLE)
    except UnidentifiedImageError:
        if not head:
            raise DamagedPhotoError(f"{name}: the file is empty; remove or replace it") from None
        if head[4:8] == b"ftyp" and "HEIF" not in READABLE:
            raise UnknownKindError(name, "HEIC needs the extra `heic` (pip install 'daclip[heic]'); a kind") from None
        if head.startswith(SIGNATURES) or head[4:8] == b"ftyp":
            raise DamagedPhotoError(f"{name}: the image is damaged (its header); remove or replace it") from None
        raise UnknownKindError(name) from None
    if image.format == "BMP" and image.info.get("compression") == 2:
        raise UnknownKindError(name, "a BMP of runs of 4 bits, which Pillow misreads,")
    tags = getattr(image, "tag_v2", {})
    if head[8:10] == b"CR" or (tags.get(254, 0) & 1 and 330 in tags):
        raise UnknownKindError(name, "the raw file of a camera, of which there is only a small preview,")
    return image


def _whole_boxes(file: BinaryIO) -> None:
    """Refuse an ISO container of which the end is missing: its decoder fills the rest with green."""
    length, place = file.seek(0, io.SEEK_END), 0
    while place + 8 <= length:
        file.seek(place)
        size, kind, long = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
        if not all(32 <= letter < 127 for letter in kind):  # no box, but what cameras append
            return
        size = {0: length - place, 1: long}.get(size, size)
        if size < 8 or place + size > length:
            raise EOFError(f"cut off in {kind.decode('latin-1')!r}")
        place += size


def photo_header(source: Path | bytes, name: str | Path) -> Header:
    """Size and depth of a photo from the header of its file or content."""
    if isinstance(source, Path) and not source.is_file():
        raise DaclipError(f"{name}: no such file; check the path")
    with _named(name), io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        try:
            image = _open(file, name)
        except UnknownKindError:
            file.seek(0)
            if (page := tiff_page(file)) is None:
                raise
            size = (page.imagewidth, page.imagelength)
            width, height = size[::-1] if page.tags.valueof(274, default=1) >= 5 else size
            return Header(width, height, 4)
        width, height = image.size
        channel_bytes = {"I": 4, "F": 4}.get(image.mode, 2 if image.mode.startswith("I;") else 1)
        if image.format == "PNG":
            file.seek(24)
            channel_bytes = 1 + (file.read(1) == b"\x10")
            image = Image.open(_without_pixels(file), formats=["PNG"])
        elif image.format == "TIFF":  # whose size Pillow gives after turning it
            return Header(width, height, max(channel_bytes, (max(image.tag_v2.get(258, (8,))) + 7) // 8))  # type: ignore[attr-defined]
        if orientation_of(image, header=True) >= 5:
            width, height = height, width
        return Header(width, height, channel_bytes)


def _without_pixels(file: BinaryIO) -> io.BytesIO:
    """A PNG without pixels: what lies behind them, such as an EXIF block, comes before them."""
    file.seek(0)
    out = io.BytesIO()
    out.write(file.read(8))
    while len(head := file.read(8)) == 8:
        size, kind = struct.unpack(">I4s", head)
        if kind in (b"IDAT", b"fdAT"):
            file.seek(size + 4, io.SEEK_CUR)
        else:
            out.write(head + file.read(size + 4))
    out.write(struct.pack(">I4s", 0, b"IDAT"))
    out.seek(0)
    return out


def read_photo(path: str | Path) -> PhotoFile:
    """Read a photo file with all that it says of itself; see `decode_photo`."""
    path = Path(path)
    if not path.is_file():
        raise DaclipError(f"{path}: no such file; check the path")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DamagedPhotoError(f"{path}: cannot be read ({error.strerror or error}); check the file") from None
    return decode_photo(content, path)


def decode_photo(content: bytes, name: str | Path) -> PhotoFile:
    """The photo of a file's content in its own depth, upright, by the one rule of `daclip.pixels.deep`. Palettes become
    RGB; CMYK becomes sRGB through its profile; of several frames the first or the primary one is taken."""
    with _named(name):
        try:
            image = _open(io.BytesIO(content), name)
        except UnknownKindError:
            if (found := strange_tiff(content)) is None:
                raise
            return PhotoFile(found)
        return _photo(image, content, name)


def _photo(image: Image.Image, content: bytes, name: str | Path) -> PhotoFile:
    notes: list[str] = []
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        notes.append(f"the {'primary' if image.format == 'HEIF' else 'first'} of {frames} frames is restored")
    options = _options(image, content)
    # Pillow turns a TIFF while it decodes it, and other formats may hold the block behind their pixels.
    before = orientation_of(image) if image.format == "TIFF" else 1
    image.load()
    if image.format in ("JPEG", "MPO") and _grey_end(image):
        kornia_rs.io.decode_image_jpegturbo(content, "rgb")  # raises where Pillow fills the missing part with gray
    icc = image.info.get("icc_profile") or None
    orientation = before if before > 1 else orientation_of(image)
    said: dict[str, Any] = {}
    try:
        said = {"exif": exif_block(image.getexif(), orientation), **metadata_of(image)}
    except Exception:  # as with pixels; the photo is worth more than its block
        notes.append("its EXIF block is damaged and is left out")
    try:
        pixels = deep_colour(image, content, name, orientation, notes)
        if pixels is None:
            if image.mode in ("CMYK", "LAB"):
                converted = _to_srgb(image, icc)
                notes.append(f"{image.mode} became sRGB" + (" without a colour profile" if converted is None else ""))
                image, icc = converted or image.convert("RGB"), None
            pixels = Pixels.from_pil(image).upright(1 if before > 1 else orientation)
    except DamagedPhotoError:
        raise
    except DaclipError as error:
        raise DaclipError(f"{name}: {error}") from None
    # Bytes 16 to 20 of a profile's header name the colour space of its pixels.
    if icc is not None and icc[16:20] != (b"GRAY" if pixels.gray else b"RGB "):
        notes.append("its colour profile does not belong to such pixels and is left out")
        icc = None
    return PhotoFile(pixels, icc=icc, notes=tuple(notes), options=options, **said)


def read_paths(photos: Any) -> Any:
    """Photos with Pillow images in place of paths."""
    if isinstance(photos, (list, tuple)):
        return [read_paths(photo) for photo in photos]
    if not isinstance(photos, (str, Path)):
        return photos
    file = read_photo(photos)
    image = file.pixels.to_pil()
    image.info.update(file.info)
    return image


def _options(image: Image.Image, content: bytes) -> dict[str, dict[str, Any]]:
    """What the writer of the same format needs to know to make a file of the same kind."""
    if image.format in ("JPEG", "MPO"):
        sampling = JpegImagePlugin.get_sampling(image)
        return {"JPEG": {"subsampling": sampling}} if sampling in (0, 1, 2) else {}
    if image.format == "WEBP" and b"VP8L" in content:
        return {"WEBP": {"lossless": True, "exact": True}}
    if image.format == "HEIF" and image.info.get("chroma"):
        return {"HEIF": {"chroma": image.info["chroma"]}}
    return {}


def _grey_end(image: Image.Image) -> bool:
    """The last block is of the gray that libjpeg puts where pixels are missing; rarely it is the photo's own."""
    block = np.asarray(
        image.crop((image.width - min(8, image.width), image.height - min(8, image.height), *image.size))
    )
    return bool((block == 128).all())


def _to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image | None:
    """The image in sRGB by its own profile; None if it has none that can be used."""
    with suppress(ImageCms.PyCMSError, OSError, ValueError):
        if icc is not None:
            source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            target, intent = ImageCms.createProfile("sRGB"), ImageCms.Intent.RELATIVE_COLORIMETRIC
            return ImageCms.profileToProfile(image, source, target, intent, outputMode="RGB")
    return None


def deep_colour(
    image: Image.Image, content: bytes, name: str | Path, orientation: int, notes: list[str]
) -> Pixels | None:
    """Pixels of more than 8 bits a channel, upright, for which Pillow has no mode of colour and cuts them; None for
    other files."""
    if image.format == "PNG":
        return _deep_png(image, content, orientation)
    if image.format == "TIFF":
        return _deep_tiff(content, name, image, orientation, notes)
    if image.format == "HEIF":
        import pillow_heif  # it is there, or there would be no such image

        file = pillow_heif.open_heif(io.BytesIO(content), convert_hdr_to_8bit=False)
        primary = file[file.primary_index]
        return deep(np.asarray(primary)).upright(orientation) if ";16" in primary.mode else None
    cut = False
    if image.format == "AVIF":
        place = content.find(b"av1C")
        cut = place >= 0 and bool(content[place + 6] & 0x40)
    elif image.format == "JPEG2000" and not image.mode.startswith("I"):
        place = content.find(b"\xff\x51")  # the marker SIZ; the depth of the first channel lies 40 bytes on
        cut = place >= 0 and content[place + 40] & 0x7F > 7
    elif image.format == "PPM" and image.mode == "RGB":
        cut = int(content.split(maxsplit=4)[3]) > 255 if b"#" not in content[:64] else False
    if cut:
        notes.append("its bits above 8 a channel are lost: Pillow reads colour of this format with 8")
    return None


def _deep_png(image: Image.Image, content: bytes, orientation: int) -> Pixels | None:
    depth, colour = content[24:26]
    if depth != 16:
        return None
    if colour in (2, 6):
        values = kornia_rs.io.decode_image_png_u16(content, (image.height, image.width), {2: "rgb", 6: "rgba"}[colour])
    else:
        # Gray of 16 bits has the bytes, and so the filters, of 8-bit gray with alpha; with alpha those of RGBA.
        header = content[12:24] + bytes([8, {0: 4, 4: 6}[colour]]) + content[26:29]
        plain = content[:8] + content[8:12] + header + struct.pack(">I", zlib.crc32(header))
        with Image.open(io.BytesIO(plain + _pixel_chunks(content)), formats=["PNG"]) as shallow:
            values = np.ascontiguousarray(shallow).view(">u2")
    values = np.asarray(values)
    key = image.info.get("transparency")
    if key is not None and colour in (0, 2):
        alpha = np.where((values == np.asarray(key)).all(-1, keepdims=True), 0, 65535)
        values = np.concatenate([values, alpha.astype(values.dtype)], axis=-1)
    return deep(values).upright(orientation)


def _pixel_chunks(content: bytes) -> bytes:
    """Pixels and end of a PNG."""
    kept, place = [], 8
    while place + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, place)
        if kind in (b"IDAT", b"IEND"):
            kept.append(content[place : place + size + 12])
        place += size + 12
    return b"".join(kept)


def tiff_page(file: BinaryIO) -> Any:
    """The first page as tifffile sees it; None where it is no TIFF, has 8 bits or fewer, or is only a preview."""
    try:
        page: Any = tifffile.TiffFile(file).pages[0]
    except Exception:  # as decoders do
        return None
    return page if page.bitspersample > 8 and page.photometric in (0, 1, 2) and not page.subfiletype & 1 else None


def _stored(page: Any) -> np.ndarray | None:
    """The values of a page; None in a compression for which tifffile needs another package."""
    try:
        values: np.ndarray = page.asarray()
    except (ValueError, NotImplementedError) as error:
        if "imagecodecs" in str(error):
            return None
        raise
    return values


def strange_tiff(content: bytes) -> Pixels | None:
    """A TIFF that Pillow does not know, such as colour in floats; None for what tifffile does not know either."""
    page = tiff_page(io.BytesIO(content))
    values = None if page is None else _stored(page)
    return None if values is None else _pixels(page, values).upright(page.tags.valueof(274, default=1))


def _deep_tiff(content: bytes, name: str | Path, image: Any, orientation: int, notes: list[str]) -> Pixels | None:
    """The first page of a deep TIFF through tifffile, or, in a compression that it does not know, through others."""
    bits = max(image.tag_v2.get(258, (1,)))
    if bits <= 8:
        return None
    page = tiff_page(io.BytesIO(content))
    if page is not None:
        values = _stored(page)
        turned = values is None and image.mode.startswith(("I", "F"))  # Pillow turns what it decodes
        if turned:
            values = np.asarray(image)
        elif values is None and page.planarconfig == 1 and page.samplesperpixel == 3 and bits == 16:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "deep.tif"
                path.write_bytes(content)
                values = np.asarray(kornia_rs.io.read_image_tiff_u16(str(path), "rgb"))
        if values is not None:
            return _pixels(page, values).upright(1 if turned else orientation)
    if image.tag_v2.get(284, 1) == 2:
        raise UnknownKindError(name, "a compressed TIFF of separate deep channels")
    notes.append(f"its {bits} bits a channel are read as 8")
    return None


def _pixels(page: Any, values: np.ndarray) -> Pixels:
    """Pixels from the stored values of a page of gray or RGB, with or without alpha."""
    if values.ndim == 3 and page.axes == "SYX":
        values = np.moveaxis(values, 0, -1)
    whole = 1 if values.dtype.kind == "f" else 2 ** min(page.bitspersample, 16) - 1
    if page.photometric == 0:  # white is zero
        values = whole - values
    if values.ndim == 3:
        colours = 3 if page.photometric == 2 else 1
        if page.extrasamples[:1] == (1,):  # colours are multiplied by the alpha beside them
            share = values[..., colours : colours + 1] / whole
            colour = values[..., :colours] / np.where(share > 0, share, 1)
            values = np.concatenate([colour.clip(0, whole).astype(values.dtype), values[..., colours:]], axis=-1)
        values = values[..., : colours + (page.extrasamples[:1] in ((1,), (2,)))]
    return deep(values, whole)
