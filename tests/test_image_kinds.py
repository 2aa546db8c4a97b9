"""Every kind of file is read as what it says, at its depth, whole or not at all; results keep what they can hold."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from skimage import data

from daclip.decoding import READABLE, decode_photo, photo_header, read_photo
from daclip.errors import DaclipError, UnknownKindError
from daclip.files import FORMATS
from daclip.images import HOLDS, OPTIONS, WORDS, decode_pixels, encoded_size, image_size, load_image, write_photo
from daclip.pixels import PhotoFile, Pixels

COFFEE = np.ascontiguousarray(data.coffee()[40:88, 100:164])  # 48 rows, 64 columns
DEEP = COFFEE.astype(np.uint16) * 255 + np.arange(64, dtype=np.uint16)[None, :, None]
GRAY = DEEP[..., 1]
SHARE = np.linspace(0, 65535, 64).astype(np.uint16)[None, :].repeat(48, 0)  # opacity
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def png(
    values: np.ndarray, colour: int, *chunks: tuple[bytes, bytes], late: tuple[bytes, bytes] | None = None
) -> bytes:
    """A PNG without filters, written from the specification."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    depth = values.dtype.itemsize * 8
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], depth, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(values.dtype.newbyteorder(">")).tobytes() for row in values)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), *([late] if late else []), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, content) for name, content in parts)


def tiff(values: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, metadata=None, **options)
    return buffer.getvalue()


def twelve_bits(values: np.ndarray, more: dict[int, int] | None = None) -> bytes:
    """An uncompressed TIFF of 12 bits a pixel, two pixels in three bytes, with `more` tags."""
    left, right = values[:, ::2].astype(int), values[:, 1::2].astype(int)
    packed = np.stack([left >> 4, (left & 15) << 4 | right >> 8, right & 255], -1).astype(np.uint8).tobytes()
    tags = {256: 64, 257: 48, 258: 12, 259: 1, 262: 1, 273: 0, 277: 1, 278: 48, 279: len(packed), **(more or {})}
    directory = ImageFileDirectory_v2(prefix=b"II")
    for tag, value in tags.items():
        directory[tag] = value
    return b"II*\0\x08\0\0\0" + directory.tobytes(8) + packed


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def colours(values: np.ndarray, most: float) -> np.ndarray:
    """Values as RGB in [0, 1]."""
    rgb = values[..., None].repeat(3, -1) if values.ndim == 2 else values
    return rgb.astype(np.float64) / most


PHOTO = Image.fromarray(COFFEE)
KEY = GRAY[5, 5] == GRAY
FLOATS = (DEEP / 65535).astype(np.float32)
PREMULTIPLIED = np.dstack([(DEEP * (SHARE[..., None] / 65535)).round().astype(np.uint16), SHARE])
# Name → content, colours in [0, 1], their type, opacity in [0, 1] (None: none), and the largest difference in levels.
KINDS: dict[str, tuple[bytes, np.ndarray, Any, np.ndarray | None, float]] = {
    "rgb.png": (png(COFFEE, 2), colours(COFFEE, 255), np.uint8, None, 0),
    "rgb16.png": (png(DEEP, 2), colours(DEEP, 65535), np.uint16, None, 0),
    "gray16.png": (png(GRAY, 0), colours(GRAY, 65535), np.uint16, None, 0),
    "rgba16.png": (png(np.dstack([DEEP, SHARE]), 6), colours(DEEP, 65535), np.uint16, SHARE / 65535, 0),
    "graya16.png": (png(np.dstack([GRAY, SHARE]), 4), colours(GRAY, 65535), np.uint16, SHARE / 65535, 0),
    "key16.png": (
        png(GRAY, 0, (b"tRNS", struct.pack(">H", GRAY[5, 5]))),
        colours(GRAY, 65535),
        np.uint16,
        1.0 - KEY,
        0,
    ),
    "colourkey16.png": (
        png(DEEP, 2, (b"tRNS", struct.pack(">HHH", *DEEP[5, 5]))),
        colours(DEEP, 65535),
        np.uint16,
        1.0 - (DEEP[5, 5] == DEEP).all(-1),
        0,
    ),
    "rgb.tif": (tiff(COFFEE, photometric="rgb"), colours(COFFEE, 255), np.uint8, None, 0),
    "gray.tif": (tiff(COFFEE[..., 1], photometric="minisblack"), colours(COFFEE[..., 1], 255), np.uint8, None, 0),
    "gray16.tif": (tiff(GRAY, photometric="minisblack"), colours(GRAY, 65535), np.uint16, None, 0),
    "big_endian.tif": (tiff(GRAY, photometric="minisblack", byteorder=">"), colours(GRAY, 65535), np.uint16, None, 0),
    "white_is_zero.tif": (tiff(65535 - GRAY, photometric="miniswhite"), colours(GRAY, 65535), np.uint16, None, 0),
    "twelve.tif": (twelve_bits(GRAY >> 4), colours(GRAY >> 4, 4095), np.uint16, None, 0.5),
    "lzw16.tif": (
        saved(Image.fromarray(GRAY), "TIFF", compression="tiff_lzw"),
        colours(GRAY, 65535),
        np.uint16,
        None,
        0,
    ),
    "rgb16.tif": (tiff(DEEP, photometric="rgb"), colours(DEEP, 65535), np.uint16, None, 0),
    "deflate16.tif": (
        tiff(DEEP, photometric="rgb", compression="zlib", predictor=True),
        colours(DEEP, 65535),
        np.uint16,
        None,
        0,
    ),
    "planar16.tif": (
        tiff(np.moveaxis(DEEP, -1, 0), photometric="rgb", planarconfig="separate"),
        colours(DEEP, 65535),
        np.uint16,
        None,
        0,
    ),
    "rgba16.tif": (
        tiff(np.dstack([DEEP, SHARE]), photometric="rgb", extrasamples=["unassalpha"]),
        colours(DEEP, 65535),
        np.uint16,
        SHARE / 65535,
        0,
    ),
    "float.tif": (tiff(FLOATS[..., 1], photometric="minisblack"), colours(FLOATS[..., 1], 1), np.float32, None, 0),
    "rgbfloat.tif": (tiff(FLOATS, photometric="rgb"), colours(FLOATS, 1), np.float32, None, 0),
    "int32.tif": (tiff(GRAY.astype(np.int32), photometric="minisblack"), colours(GRAY, 65535), np.uint16, None, 0),
    "rgb.ppm": (b"P6 64 48 255\n" + COFFEE.tobytes(), colours(COFFEE, 255), np.uint8, None, 0),
    "gray16.pgm": (b"P5 64 48 65535\n" + GRAY.astype(">u2").tobytes(), colours(GRAY, 65535), np.uint16, None, 0),
    "rgb.bmp": (saved(PHOTO, "BMP"), colours(COFFEE, 255), np.uint8, None, 0),
    "rgb.webp": (saved(PHOTO, "WEBP", lossless=True), colours(COFFEE, 255), np.uint8, None, 0),
    "rgb.jp2": (saved(PHOTO, "JPEG2000"), colours(COFFEE, 255), np.uint8, None, 0),
    "gray.gif": (saved(PHOTO.convert("L"), "GIF"), colours(np.asarray(PHOTO.convert("L")), 255), np.uint8, None, 0),
    "rgb.jpg": (saved(PHOTO, "JPEG", quality=100, subsampling=0), colours(COFFEE, 255), np.uint8, None, 4),
    "rgb.avif": (
        saved(PHOTO, "AVIF", quality=100, subsampling="4:4:4"),
        colours(COFFEE, 255),
        np.uint8,
        None,
        8,
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_is_read_as_it_was_written(tmp_path: Path, name: str) -> None:
    content, expected, kind, opacity, levels = KINDS[name]
    path = tmp_path / name
    path.write_bytes(content)
    pixels = read_photo(path).pixels
    most = {np.uint8: 255, np.uint16: 65535, np.float32: 1}[kind]
    assert pixels.colour.dtype == kind
    assert np.abs(pixels.colour.astype(np.float64) - expected * most).max() <= levels + 1e-6
    assert (pixels.alpha is None) is (opacity is None)
    seen = expected
    if opacity is not None:
        assert pixels.alpha is not None
        assert np.allclose(pixels.alpha / most, opacity, atol=1e-6)
        seen = expected * opacity[..., None] + 1 - opacity[..., None]  # on white
    # The same picture for scoring, at its depth, and for training, with 8 bits.
    assert np.abs(load_image(path).permute(1, 2, 0).numpy() - seen).max() <= (levels + 0.51) / most
    trained = decode_pixels(content, name)
    assert trained.dtype == torch.uint8
    assert np.abs(trained.permute(1, 2, 0).numpy() - seen * 255).max() <= levels + 0.51
    assert image_size(path) == encoded_size(content, name) == (48, 64)
    assert photo_header(path, name).channel_bytes >= np.dtype(kind).itemsize


def test_ten_bits_of_a_heic_are_kept(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    file = heif.HeifFile()
    file.add_frombytes("RGB;16", (64, 48), DEEP.tobytes())
    file.save(tmp_path / "a.heic", quality=-1, chroma=444)
    photo = read_photo(tmp_path / "a.heic")
    assert photo.pixels.colour.dtype == np.uint16
    assert np.abs(photo.pixels.colour.astype(int) - DEEP).mean() < 150  # half a level of 8 bits


def test_premultiplied_colours_are_divided_by_their_alpha() -> None:
    photo = decode_photo(tiff(PREMULTIPLIED, photometric="rgb", extrasamples=["assocalpha"]), "a.tif")
    shown = SHARE > 6000
    assert np.abs(photo.pixels.colour[shown].astype(int) - DEEP[shown]).max() <= 8


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("values", [COFFEE[..., 1], GRAY, COFFEE, DEEP, FLOATS], ids=["l", "l16", "rgb", "rgb16", "f"])
def test_every_tiff_is_turned_alike(values: np.ndarray, orientation: int) -> None:
    photometric = "rgb" if values.ndim == 3 else "minisblack"
    content = tiff(values, photometric=photometric, extratags=[(274, 3, 1, orientation, True)])
    flat = values if orientation < 5 else values.swapaxes(0, 1)
    down, right = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}.get(orientation, (1, 1))
    expected = flat[::down, ::right]
    pixels = decode_photo(content, "a.tif").pixels
    shown = pixels.colour[..., 0] if values.ndim == 2 else pixels.colour
    assert np.array_equal(shown, expected)
    assert encoded_size(content, "a.tif") == expected.shape[:2]


def test_an_exif_block_behind_the_pixels_of_a_png_turns_size_and_pixels() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = png(COFFEE, 2, late=(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    assert encoded_size(content, "a.png") == decode_pixels(content, "a.png").shape[1:] == (64, 48)


def test_values_that_a_reading_would_clip_are_refused() -> None:
    for values in (FLOATS[..., 0] * 2, FLOATS[..., 0] - 1, np.full((4, 4), np.nan, np.float32)):
        with pytest.raises(DaclipError, match=r"a\.tif: its floating-point pixels .* scale them"):
            decode_photo(tiff(values, photometric="minisblack"), "a.tif")
    with pytest.raises(DaclipError, match="its integer pixels"):
        decode_photo(tiff(GRAY.astype(np.int32) * 2, photometric="minisblack"), "a.tif")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.psd", b"8BPS\0\x01" + bytes(40)),
        ("a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        ("a.jpg", b"%PDF-1.4\n"),
        ("a.tif", twelve_bits(GRAY >> 4, {254: 1, 330: 8})),
        (
            "a.bmp",
            b"BM" + struct.pack("<IIIIiiHHIIIIII", 60, 0, 58, 40, 2, 1, 1, 4, 2, 2, 0, 0, 1, 1) + bytes(4) + b"\2\0",
        ),
    ],
)
def test_other_kinds_are_not_called_damaged(name: str, content: bytes) -> None:
    with pytest.raises(UnknownKindError, match=f"{name}: .* that cannot be read; convert it"):
        decode_photo(content, name)


def test_what_a_camera_appends_is_no_damage() -> None:
    content = saved(PHOTO, "AVIF")
    assert np.array_equal(
        decode_pixels(content + b"\xff\xee\0\1\x90tail of a camera", "a.avif"), decode_pixels(content, "a.avif")
    )


# Damage


def one_of_each() -> dict[str, bytes]:
    """One photo in every format."""
    files = {
        "a.jpg": saved(PHOTO, "JPEG", quality=95),
        "a.png": saved(PHOTO, "PNG"),
        "deep.png": png(DEEP, 2),
        "a.webp": saved(PHOTO, "WEBP"),
        "lossless.webp": saved(PHOTO, "WEBP", lossless=True),
        "raw.tif": saved(PHOTO, "TIFF"),
        "lzw.tif": saved(PHOTO, "TIFF", compression="tiff_lzw"),
        "deep.tif": tiff(DEEP, photometric="rgb", compression="zlib"),
        "a.bmp": saved(PHOTO, "BMP"),
        "a.gif": saved(PHOTO, "GIF"),
        "a.avif": saved(PHOTO, "AVIF"),
        "a.jp2": saved(PHOTO, "JPEG2000"),
        "a.ppm": saved(PHOTO, "PPM"),
    }
    if "HEIF" in READABLE:
        files["a.heic"] = saved(PHOTO, "HEIF", enc_params={"preset": "ultrafast"})
    assert {FORMATS[Path(name).suffix] for name in files} == set(READABLE) - {"MPO"}
    return files


EACH = one_of_each()


def outcome(content: bytes, name: str) -> np.ndarray | None:
    """The picture with 8 bits; None where it is refused by name."""
    try:
        return decode_pixels(content, name).permute(1, 2, 0).numpy()
    except DaclipError as error:
        line = str(error)
    assert line.startswith(f"{name}: ")
    assert "\n" not in line
    return None


@pytest.mark.parametrize("name", EACH)
def test_a_cut_file_is_refused_or_whole(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    content = EACH[name]
    whole = outcome(content, name)
    assert whole is not None
    refused = 0
    for share in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97):
        picture = outcome(content[: int(len(content) * share)], name)
        refused += picture is None
        assert picture is None or np.array_equal(picture, whole), share
    assert refused >= 5
    assert capfd.readouterr() == ("", "")  # no chatter of decoders


@pytest.mark.parametrize("name", EACH)
def test_flipped_bits_are_noticed_or_leave_a_picture_of_the_size(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    content, whole = EACH[name], outcome(EACH[name], name)
    assert whole is not None
    places = np.random.default_rng(0).integers(0, len(content) * 8, 40)
    for place in places.tolist():
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Image, "MAX_IMAGE_PIXELS", 200_000)  # a size may be flipped, too
            picture = outcome(bytes(flipped), name)
        if picture is not None and name.endswith(".png"):  # which has checksums
            assert np.array_equal(picture, whole)
    assert capfd.readouterr() == ("", "")


def test_a_jpeg_that_ends_early_is_no_half_gray_picture() -> None:
    content = bytearray(EACH["a.jpg"])
    content[-400:-398] = b"\xff\xd9"
    assert outcome(bytes(content), "a.jpg") is None
    gray = Image.new("RGB", (64, 48), (128, 128, 128))  # which ends in gray by itself
    assert outcome(saved(gray, "JPEG"), "a.jpg") is not None


# What is kept


MORE: dict[str, Any] = {
    "xmp": b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="1"/></x:xmpmeta>',
    "iptc": b"\x1c\x02\x78\x00\x07caption",
    "dpi": (300.0, 300.0),
    "comment": "a cup of coffee",
    "text": {"Author": "Jürgen", "Title": "Kaffee"},
    "gamma": 0.45455,
}


def camera() -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif[0x8769] = {0x9003: "2024:05:06 07:08:09"}
    exif[0x8825] = {1: "N", 2: (48.0, 8.0, 30.0)}
    return exif.tobytes()


@pytest.mark.parametrize("pixels", [Pixels(COFFEE), Pixels(DEEP)], ids=["8", "16"])
@pytest.mark.parametrize("name", sorted(set(OPTIONS) & set(READABLE)))
def test_a_result_keeps_what_its_format_holds_and_names_the_rest(tmp_path: Path, name: str, pixels: Pixels) -> None:
    path = tmp_path / next(f"a{suffix}" for suffix, found in FORMATS.items() if found == name)
    notes = write_photo(PhotoFile(pixels, camera(), SRGB, **MORE), path)
    back = read_photo(path)
    found = {part for part in WORDS if getattr(back, part)}
    assert found == HOLDS[name]
    lost = [WORDS[part] for part in WORDS if part not in HOLDS[name]]
    assert not lost or any(note.endswith(", ".join(lost)) for note in notes)
    for part in HOLDS[name] - {"exif", "icc", "dpi", "text"}:
        assert getattr(back, part) == MORE[part], part
    if "dpi" in HOLDS[name]:
        assert back.dpi == pytest.approx(MORE["dpi"], abs=0.02)
    if "text" in HOLDS[name]:
        assert back.text == MORE["text"]
    if "icc" in HOLDS[name]:
        assert back.icc == SRGB
    if "exif" in HOLDS[name]:
        assert back.exif is not None
        exif = Image.Exif()
        exif.load(back.exif)
        assert exif[0x010F] == "Maker"
        assert exif.get_ifd(0x8769)[0x9003] == "2024:05:06 07:08:09"
        assert exif.get_ifd(0x8825)[1] == "N"


def test_a_tiff_result_is_read_by_others(tmp_path: Path) -> None:
    for values in (COFFEE, GRAY, DEEP, FLOATS, np.dstack([DEEP, SHARE])):
        alpha = values[..., 3] if values.ndim == 3 and values.shape[2] == 4 else None
        gray = values.ndim == 2
        colour = values[..., None].repeat(3, -1) if gray else values[..., :3]
        write_photo(PhotoFile(Pixels(colour, alpha, gray), camera()), tmp_path / "a.tif")
        assert np.array_equal(tifffile.imread(tmp_path / "a.tif"), values)


@pytest.mark.parametrize("sampling", [0, 1, 2])
def test_a_jpeg_keeps_its_subsampling(tmp_path: Path, sampling: int) -> None:
    (tmp_path / "a.jpg").write_bytes(saved(PHOTO, "JPEG", subsampling=sampling))
    write_photo(read_photo(tmp_path / "a.jpg"), tmp_path / "b.jpg")
    assert read_photo(tmp_path / "b.jpg").options == {"JPEG": {"subsampling": sampling}}


def test_a_lossless_webp_stays_so_and_a_fax_stays_small(tmp_path: Path) -> None:
    (tmp_path / "a.webp").write_bytes(EACH["lossless.webp"])
    write_photo(read_photo(tmp_path / "a.webp"), tmp_path / "b.webp")
    assert np.array_equal(read_photo(tmp_path / "b.webp").pixels.colour, COFFEE)
    page = Image.new("1", (600, 400), 1)
    page.paste(0, (50, 50, 300, 60))
    page.save(tmp_path / "a.tif", compression="group4")
    write_photo(read_photo(tmp_path / "a.tif"), tmp_path / "b.tif")
    assert (tmp_path / "b.tif").stat().st_size < 3_000  # 240,000 pixels


def test_an_opaque_alpha_does_not_stop_a_jpeg(tmp_path: Path) -> None:
    write_photo(PhotoFile(Pixels(COFFEE, np.full((48, 64), 255, np.uint8))), tmp_path / "a.jpg")
    assert read_photo(tmp_path / "a.jpg").pixels.alpha is None


def ink_profile(**tables: int) -> bytes:
    """A profile of CMYK inks whose tables, such as `A2B0` (perceptual) and `A2B1` (relative), give one lightness."""

    def table(lightness: int) -> bytes:
        steps, grid = bytes(range(256)), bytes([lightness, 128, 128]) * 16
        matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
        return b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + steps * 4 + grid + steps * 3

    d50 = struct.pack(">3i", 63190, 65536, 54061)
    parts = {b"wtpt": b"XYZ " + bytes(4) + d50, b"cprt": b"text" + bytes(4) + b"inks\0"}
    parts |= {tag.encode(): table(value) for tag, value in tables.items()}
    place, entries, body = 132 + 12 * len(parts), b"", b""
    for tag, content in parts.items():
        entries += tag + struct.pack(">II", place + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = bytes(4) + b"lcms\x02\x10\0\0prtrCMYKLab " + bytes(12) + b"acsp" + bytes(28) + d50
    profile = header.ljust(128, b"\0") + struct.pack(">I", len(parts)) + entries + body
    return struct.pack(">I", len(profile)) + profile[4:]


def test_inks_become_srgb_by_the_relative_table_of_their_profile() -> None:
    profile = ink_profile(A2B0=0, A2B1=255)  # black, and white
    content = saved(PHOTO.convert("CMYK"), "TIFF", icc_profile=profile)
    photo = decode_photo(content, "a.tif")
    assert photo.notes == ("CMYK became sRGB",)
    assert photo.pixels.colour.min() >= 254
    assert int(decode_pixels(content, "a.tif").min()) >= 254  # in training, too
