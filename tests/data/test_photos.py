"""Image files in and out, photo sources and their splits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from daclip.data.captions import embedded_captions
from daclip.data.sources import EmbeddedPhotos, PhotoFolder
from daclip.errors import DaclipError
from daclip.files import find_photos
from daclip.images import decode_pixels, encoded_size, image_size, load_image, save_image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty small photos in two levels, one with a caption beside it."""
    root = tmp_path / "photos"
    (root / "deep").mkdir(parents=True)
    picture = data.astronaut()
    for i in range(20):
        crop = Image.fromarray(picture[8 * i : 8 * i + 64, 100:180])
        crop.save(root / ("deep" if i % 2 else "") / f"{i:02}.png")
    (root / "00.txt").write_text("an astronaut: close up\n", encoding="utf-8")
    return root


def test_load_and_save_keep_every_pixel(tmp_path: Path) -> None:
    original = data.coffee()
    Image.fromarray(original).save(tmp_path / "a.png")
    image = load_image(tmp_path / "a.png")
    assert image.dtype == torch.float32
    assert image.shape == (3, *original.shape[:2])
    save_image(image, tmp_path / "new" / "b.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "b.png")), original)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["b.png"]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_other_colour_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.fromarray(data.coffee()[:40, :50]).convert(mode).save(path)
    assert load_image(path).shape == (3, 40, 50)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    picture = Image.fromarray(data.coffee()[:40, :60])
    exif = picture.getexif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90°
    picture.save(tmp_path / "a.jpg", exif=exif)
    assert load_image(tmp_path / "a.jpg").shape == (3, 60, 40)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_header_gives_the_size_of_the_decoded_image(tmp_path: Path, suffix: str, orientation: int) -> None:
    picture = Image.fromarray(data.coffee()[:40, :60])
    exif = picture.getexif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    picture.save(path, exif=exif)
    size = tuple(load_image(path).shape[-2:])
    assert image_size(path) == size == ((60, 40) if orientation >= 5 else (40, 60))
    content = path.read_bytes()
    assert encoded_size(content, "row") == size
    assert torch.equal(decode_pixels(content, "row").float() / 255, load_image(path))


def test_measuring_a_photo_does_not_decode_it(tmp_path: Path) -> None:
    path = damaged(tmp_path / "a.png", "truncated")
    assert image_size(path) == data.coffee().shape[:2]
    with pytest.raises(DaclipError, match="damaged"):
        load_image(path)
    with pytest.raises(DaclipError, match="a kind of file that cannot be read"):
        image_size(damaged(tmp_path / "b.png", "text"))


def damaged(path: Path, kind: str) -> Path:
    Image.fromarray(data.coffee()).save(path)
    content = path.read_bytes()
    path.write_bytes({"truncated": content[: len(content) // 2], "text": b"no picture", "empty": b""}[kind])
    return path


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("kind", ["truncated", "text", "empty"])
def test_a_damaged_file_is_named_in_one_line(tmp_path: Path, suffix: str, kind: str) -> None:
    path = damaged(tmp_path / f"a{suffix}", kind)
    with pytest.raises(DaclipError) as caught:
        load_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_saving_to_no_image_format_or_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DaclipError, match="no image format"):
        save_image(torch.zeros(3, 8, 8), tmp_path / "a.txt")
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(DaclipError, match="cannot be written"):
        save_image(torch.zeros(3, 8, 8), tmp_path / "file" / "a.png")


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    save_image(torch.zeros(3, 8, 8), path)
    before = path.read_bytes()

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(DaclipError, match="No space left"):
        save_image(torch.ones(3, 8, 8), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_embedded_photos_exist_and_are_captioned() -> None:
    source = EmbeddedPhotos(["chelsea.png", "coffee.png"])
    photos = [*source.train(), *source.validation()]
    assert len(photos) == len(embedded_captions()) == 9
    assert {photo.name for photo in source.validation()} == {"chelsea", "coffee"}
    assert not {p.path for p in source.train()} & {p.path for p in source.validation()}
    for photo in photos:
        assert photo.caption
        image = load_image(photo.path)
        assert min(image.shape[-2:]) >= 300
        assert not torch.equal(image[0], image[1])  # in colour
    with pytest.raises(DaclipError, match="no embedded photo"):
        EmbeddedPhotos(["nobody.png"])


def test_folder_split_is_by_photo_and_stable(folder: Path) -> None:
    source = PhotoFolder(folder, 0.3)
    train, validation = ({photo.name for photo in part} for part in (source.train(), source.validation()))
    assert train | validation == {path.relative_to(folder).as_posix() for path in find_photos(folder).photos}
    assert not train & validation
    assert validation
    # More photos move none from one side to the other.
    for name in ("new1.png", "new2.png"):
        Image.new("RGB", (64, 64)).save(folder / name)
    grown = PhotoFolder(folder, 0.3)
    assert validation <= {photo.name for photo in grown.validation()}
    assert train <= {photo.name for photo in grown.train()}


def test_folder_captions(folder: Path, tmp_path: Path) -> None:
    def captions(source: PhotoFolder) -> dict[str, str]:
        return {photo.name: photo.caption for photo in [*source.train(), *source.validation()]}

    assert captions(PhotoFolder(folder, 0.1))["00.png"] == "an astronaut: close up"
    table = tmp_path / "captions.csv"
    table.write_text('name,caption\n00.png,"a: b, c"\ndeep/01.png,two\n', encoding="utf-8")
    found = captions(PhotoFolder(folder, 0.1, table))
    assert (found["00.png"], found["deep/01.png"], found["02.png"]) == ("a: b, c", "two", "")
    lines = tmp_path / "captions.jsonl"
    lines.write_text('{"name": "00.png", "caption": "x: y"}\n', encoding="utf-8")
    assert captions(PhotoFolder(folder, 0.1, lines))["00.png"] == "x: y"
    table.write_text("file,text\n00.png,x\n", encoding="utf-8")
    with pytest.raises(DaclipError, match="name and caption"):
        PhotoFolder(folder, 0.1, table)


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DaclipError, match="no such folder"):
        PhotoFolder(tmp_path / "nowhere", 0.1)
    with pytest.raises(DaclipError, match="holds no images"):
        PhotoFolder(tmp_path, 0.1)
    with pytest.raises(DaclipError, match=r"data\.root"):
        PhotoFolder(None, 0.1)
    Image.new("RGB", (64, 64)).save(tmp_path / "one.png")
    with pytest.raises(DaclipError, match="one photo"):
        PhotoFolder(tmp_path, 0.1)
    with pytest.raises(DaclipError, match="validation"):
        PhotoFolder(tmp_path, 1.5)
