"""Photo files keep what they carry; what cannot be read is named in one line."""

import io
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from skimage import data

from daclip.decoding import read_photo
from daclip.errors import DaclipError
from daclip.images import PixelCache, result_suffix, write_photo
from daclip.pixels import PhotoFile, Pixels, unpack

COFFEE = np.ascontiguousarray(data.coffee()[40:100, 100:190])
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def camera_exif(orientation: int = 1) -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif[0x0112] = orientation
    exif[0x8769] = {0x9003: "2024:05:06 07:08:09", 0xA002: 90, 0xA003: 60}
    exif[0x8825] = {1: "N", 2: (48.0, 8.0, 30.0)}
    return exif


def again(path: Path, name: str | None = None) -> PhotoFile:
    """Read a file, write it under another name, and read that."""
    photo = read_photo(path)
    target = path.parent / "out" / (name or path.name)
    write_photo(photo, target)
    assert [file.name for file in target.parent.iterdir()] == [target.name]
    return read_photo(target)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_exif_and_profile_are_kept_and_the_photo_is_upright(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(COFFEE).save(path, exif=camera_exif(6).tobytes(), icc_profile=SRGB)
    result = again(path)
    assert result.pixels.colour.shape == (90, 60, 3)  # turned by 90°
    difference = result.pixels.colour.astype(int) - np.rot90(COFFEE, -1)
    assert np.abs(difference).mean() < 8
    assert result.icc == SRGB
    with Image.open(tmp_path / "out" / f"a{suffix}") as image:
        exif = image.getexif()
        assert exif.get(0x0112, 1) == 1  # a viewer must not turn it again
        assert exif[0x010F] == "Maker"
        camera = exif.get_ifd(0x8769)
        assert camera[0x9003] == "2024:05:06 07:08:09"
        assert (camera[0xA002], camera[0xA003]) == (60, 90)
        assert exif.get_ifd(0x8825)[1] == "N"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_photos_are_turned_like_others(tmp_path: Path, orientation: int) -> None:
    """Pillow turns 8-bit photos, our own code the deep ones: both must agree."""
    deep = COFFEE.astype(np.uint16) * 257
    write_photo(PhotoFile(Pixels(deep), camera_exif(orientation).tobytes()), tmp_path / "deep.png")
    Image.fromarray(COFFEE).save(tmp_path / "plain.png", exif=camera_exif(orientation))
    plain, turned = read_photo(tmp_path / "plain.png"), read_photo(tmp_path / "deep.png")
    assert turned.pixels.colour.dtype == np.uint16
    assert np.array_equal(turned.pixels.colour, plain.pixels.colour.astype(np.uint16) * 257)


@pytest.mark.parametrize(
    ("mode", "suffix", "result"),
    [
        ("L", ".png", "L"),
        ("L", ".jpg", "L"),
        ("1", ".png", "L"),
        ("LA", ".png", "LA"),
        ("LA", ".webp", "RGBA"),
        ("P", ".png", "RGB"),
        ("RGBA", ".png", "RGBA"),
        ("RGBA", ".webp", "RGBA"),
        ("RGBA", ".tif", "RGBA"),
        ("RGB", ".bmp", "RGB"),
        ("CMYK", ".jpg", "RGB"),
        ("CMYK", ".tif", "RGB"),
        ("I;16", ".png", "I;16"),
        ("I;16", ".tif", "I;16"),
        ("F", ".tif", "F"),
    ],
)
def test_the_kind_of_pixels_is_kept(tmp_path: Path, mode: str, suffix: str, result: str) -> None:
    path = tmp_path / f"a{suffix}"
    if mode == "I;16":
        image = Image.fromarray(COFFEE[..., 0].astype(np.uint16) * 257 + 3)
    elif mode == "F":
        image = Image.fromarray(COFFEE[..., 0].astype(np.float32) / 255)
    else:
        image = Image.fromarray(COFFEE).convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(COFFEE[..., 1]))
    image.save(path)
    before = read_photo(path)
    after = again(path)
    with Image.open(tmp_path / "out" / f"a{suffix}") as written:
        assert written.mode == result
    if suffix not in (".jpg", ".webp"):
        assert np.array_equal(after.pixels.colour, before.pixels.colour)
    if mode in ("LA", "RGBA"):
        assert after.pixels.alpha is not None
        assert np.array_equal(after.pixels.alpha, COFFEE[..., 1])


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_of_colour_survive(tmp_path: Path, suffix: str) -> None:
    deep = COFFEE.astype(np.uint16) * 200 + np.arange(90, dtype=np.uint16)[None, :, None]
    alpha = deep[..., 1] if suffix == ".png" else None
    write_photo(PhotoFile(Pixels(deep, alpha), icc=SRGB), tmp_path / f"a{suffix}")
    back = again(tmp_path / f"a{suffix}")
    assert np.array_equal(back.pixels.colour, deep)
    assert back.icc == SRGB
    if alpha is not None:
        assert back.pixels.alpha is not None
        assert np.array_equal(back.pixels.alpha, alpha)
    # A format of 8 bits says what it loses.
    notes = write_photo(read_photo(tmp_path / f"a{suffix}"), tmp_path / "b.webp")
    assert any("8 bits" in note for note in notes)


def test_palette_with_transparency_keeps_it(tmp_path: Path) -> None:
    image = Image.fromarray(COFFEE).convert("P")
    image.save(tmp_path / "a.png", transparency=0)
    alpha = read_photo(tmp_path / "a.png").pixels.alpha
    assert alpha is not None
    assert np.array_equal(alpha == 0, np.asarray(image) == 0)


def test_only_the_first_frame_is_taken_and_that_is_said(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.roll(COFFEE, shift, 1)) for shift in (0, 20, 40)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    photo = read_photo(tmp_path / "a.gif")
    assert photo.notes == ("the first of 3 frames is restored",)
    assert np.abs(photo.pixels.colour.astype(int) - COFFEE).mean() < 20


def test_heic_where_the_plugin_is(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif")
    Image.fromarray(COFFEE).save(tmp_path / "a.heic", quality=95, exif=camera_exif().tobytes())
    result = again(tmp_path / "a.heic")
    assert np.abs(result.pixels.colour.astype(int) - COFFEE).mean() < 8
    assert result.exif is not None


def test_the_cache_of_photos_is_bounded_by_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        Image.new("RGB", (10, 10), (number, 0, 0)).save(path)
    cache = PixelCache(limit=2 * 300)
    first = cache(paths[0])
    second = cache(paths[1])
    assert cache(paths[0]) is first
    cache(paths[2])  # the least recently used one makes room
    assert cache(paths[0]) is first
    assert cache.size == 600
    assert cache(paths[1]) is not second
    assert PixelCache(limit=10)(paths[2])[0].eq(2).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_threads_of_pixels(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, (10, 20, 30)).save(tmp_path / "a.png")
    assert again(tmp_path / "a.png").pixels.colour.shape == (size[1], size[0], 3)


def png_of(width: int, height: int) -> bytes:
    """A PNG header that claims a size, with next to no pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "the file is empty"),
        (b"no picture at all", "a kind of file that cannot be read"),
        (png_of(30_000, 30_000), "million pixels"),
        (png_of(10_000, 10_000), "million pixels"),
        (png_of(40, 40), "damaged"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, content: bytes, part: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(DaclipError, match=part) as caught:
        read_photo(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folders_and_missing_files_are_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "gone.png"):
        with pytest.raises(DaclipError, match="no such file"):
            read_photo(path)


def small_files() -> dict[str, bytes]:
    """Small files of many formats, by name."""
    small = Image.fromarray(COFFEE[:24, :30])
    variants: list[tuple[str, Image.Image, dict[str, Any]]] = [
        ("a.jpg", small, {"exif": camera_exif(6).tobytes(), "icc_profile": SRGB}),
        ("a.png", small.convert("RGBA"), {"exif": camera_exif(3)}),
        ("palette.png", small.convert("P"), {}),
        ("a.webp", small, {"exif": camera_exif().tobytes()}),
        ("a.tif", small, {"compression": "tiff_lzw"}),
        ("a.bmp", small, {}),
        ("a.gif", small, {"save_all": True, "append_images": [small]}),
    ]
    files = {}
    for name, image, options in variants:
        buffer = io.BytesIO()
        image.save(buffer, format=Image.registered_extensions()[Path(name).suffix], **options)
        files[name] = buffer.getvalue()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "deep.png"
        write_photo(PhotoFile(Pixels(COFFEE[:24, :30].astype(np.uint16) * 257), icc=SRGB), path)
        return {**files, path.name: path.read_bytes()}


FILES = small_files()


@settings(max_examples=100, deadline=None)
@given(
    name=st.sampled_from(sorted(FILES)),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=12),
    cut=st.floats(0.02, 1),
)
def test_mutated_files_are_read_or_named(
    tmp_path_factory: pytest.TempPathFactory, name: str, changes: list[tuple[float, int]], cut: float
) -> None:
    content = bytearray(FILES[name])
    for place, value in changes:
        content[int(place * (len(content) - 1))] = value
    path = tmp_path_factory.getbasetemp() / f"mutated-{name}"
    path.write_bytes(content[: max(1, int(cut * len(content)))])
    with pytest.MonkeyPatch.context() as patch:
        # A header may be mutated into millions of pixels, which are readable and slow.
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)
        photo, error = attempt(path)
    if photo is not None:
        assert min(photo.pixels.height, photo.pixels.width) >= 1
        write_photo(photo, path.with_name("result.png"))
        read_photo(path.with_name("result.png"))
    else:
        assert str(path) in error
        assert "\n" not in error


def attempt(path: Path) -> tuple[PhotoFile | None, str]:
    try:
        return read_photo(path), ""
    except DaclipError as error:
        return None, str(error)


def test_results_keep_their_format_where_it_can_be_written(tmp_path: Path) -> None:
    assert result_suffix(Path("a.jpeg"), None) == ".jpeg"
    assert result_suffix(Path("a"), None) == ".png"
    with pytest.raises(DaclipError, match="--format xyz"):
        result_suffix(Path("a.png"), "xyz")
    with pytest.raises(DaclipError, match="no image format"):
        write_photo(PhotoFile(Pixels(COFFEE)), tmp_path / "a.txt")


def test_what_a_format_cannot_hold_is_refused_without_a_trace(tmp_path: Path) -> None:
    with pytest.raises(DaclipError, match="transparency"):
        write_photo(PhotoFile(Pixels(COFFEE, COFFEE[..., 0])), tmp_path / "a.jpg")
    wide = Pixels(np.zeros((1, 20_000, 3), np.uint8))
    with pytest.raises(DaclipError, match="WEBP cannot hold"):
        write_photo(PhotoFile(wide), tmp_path / "a.webp")
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(DaclipError, match="cannot be written"):
        write_photo(PhotoFile(Pixels(COFFEE)), tmp_path / "file" / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    write_photo(PhotoFile(Pixels(COFFEE)), path)
    before = path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DaclipError, match="No space left"):
        write_photo(PhotoFile(Pixels(COFFEE[::-1])), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


# What Python users hand over


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
def test_pillow_images_come_back_as_they_were(mode: str) -> None:
    image = Image.fromarray(COFFEE).convert(mode)
    back = Pixels.from_pil(image).to_pil()
    assert back.mode == mode
    assert np.array_equal(np.asarray(back), np.asarray(image))


def test_pillow_images_are_turned_upright_and_keep_their_profile(tmp_path: Path) -> None:
    Image.fromarray(COFFEE).save(tmp_path / "a.png", exif=camera_exif(6), icc_profile=SRGB)
    (pixels,), (pack,), _ = unpack(Image.open(tmp_path / "a.png"))
    assert np.array_equal(pixels.colour, np.rot90(COFFEE, -1))
    result = pack(pixels)
    assert result.size == (60, 90)
    assert result.info["icc_profile"] == SRGB
    assert result.getexif().get(0x0112, 1) == 1
    Image.fromarray(COFFEE).save(tmp_path / "a.tif", exif=camera_exif(6).tobytes(), dpi=(300, 300))  # its tags
    (pixels,), (pack,), _ = unpack(Image.open(tmp_path / "a.tif"))
    result = pack(pixels)
    assert result.size == (60, 90)
    assert result.getexif()[0x010F] == "Maker"
    assert result.getexif().get(0x0112, 1) == 1
    assert result.info["dpi"] == (300, 300)
    printed = Image.fromarray(COFFEE).convert("CMYK")
    printed.info["icc_profile"] = SRGB
    (pixels,), (pack,), _ = unpack(printed)
    assert "icc_profile" not in pack(pixels).info


@pytest.mark.parametrize(
    "photo",
    [
        COFFEE,
        COFFEE[..., 0],
        COFFEE[..., :1],
        COFFEE.astype(np.uint16) * 257,
        COFFEE.astype(np.float64) / 255,
        np.dstack([COFFEE, COFFEE[..., 0]]),
        torch.from_numpy(COFFEE).permute(2, 0, 1),
        torch.from_numpy(COFFEE).permute(2, 0, 1) / 255,
        torch.from_numpy(COFFEE[..., :1]).permute(2, 0, 1) / 255,
    ],
    ids=lambda photo: f"{photo.dtype}-{tuple(photo.shape)}",
)
def test_arrays_and_tensors_come_back_as_they_were(photo: Any) -> None:
    (pixels,), (pack,), single = unpack(photo)
    assert single
    # Through the float32 image that the network works on, and back.
    back = pack(pixels.recoloured(pixels.crop()))
    assert type(back) is type(photo)
    assert back.shape == photo.shape
    assert np.allclose(np.asarray(back, dtype=np.float64), np.asarray(photo, dtype=np.float64), atol=1e-6)


@pytest.mark.parametrize(
    ("photo", "part"),
    [
        (COFFEE.astype(np.float32), r"\[0, 1\]"),
        (np.full((4, 4, 3), np.nan), r"\[0, 1\]"),
        (COFFEE.astype(np.int64), "uint8"),
        (np.zeros((4, 4, 2), np.uint8), "channels"),
        (np.zeros((0, 4, 3), np.uint8), "one pixel"),
        (torch.zeros(4, 4), "shape"),
        ([], "no photo"),
        ("photo.png", "got str"),
    ],
)
def test_what_is_no_photo_is_refused(photo: Any, part: str) -> None:
    with pytest.raises(DaclipError, match=part):
        unpack(photo)


def test_rounding_is_to_the_nearest() -> None:
    like = Pixels(np.zeros((1, 3, 3), np.uint8))
    image = torch.tensor([0.4, 0.6, 254.5]).div(255).expand(3, 1, 3)
    assert like.recoloured(image).colour[0, :, 0].tolist() == [0, 1, 254]
