import io

import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageDraw, ImageFilter

from daclip.holes import covered, from_around, grown

PHOTOS = ("coffee", "chelsea", "rocket")


def strokes(height: int, width: int) -> np.ndarray:
    canvas = Image.new("1", (width, height))
    pen = ImageDraw.Draw(canvas)
    pen.line([(30, 40), (140, 90), (120, 200)], fill=1, width=14)
    pen.ellipse((200, 60, 260, 130), fill=1)
    return np.array(canvas)


@pytest.fixture(params=PHOTOS)
def photo(request: pytest.FixtureRequest) -> np.ndarray:
    return getattr(skimage.data, request.param)()[:285, :381]


def painted(photo: np.ndarray, opacity: np.ndarray, colour: tuple[int, ...]) -> np.ndarray:
    opacity = opacity[..., None].astype(np.float64)
    return np.rint(photo * (1 - opacity) + np.array(colour) * opacity).astype(np.uint8)


def overlap(found: np.ndarray, mask: np.ndarray) -> float:
    return float((found & mask).sum() / (found | mask).sum())


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (128, 128, 128), (220, 30, 200)])
def test_a_sharp_cover_is_found_whole_and_nothing_else(photo: np.ndarray, colour: tuple[int, ...]) -> None:
    mask = strokes(*photo.shape[:2])
    assert overlap(covered(painted(photo, mask, colour)), mask) > 0.99


def test_a_cover_of_two_colours_is_found(photo: np.ndarray) -> None:
    mask = strokes(*photo.shape[:2])
    second = np.zeros_like(mask)
    second[220:250, 40:90] = True
    found = covered(painted(painted(photo, mask, (255, 255, 255)), second, (0, 128, 255)))
    assert overlap(found, mask | second) > 0.99


def test_soft_edges_belong_to_the_cover(photo: np.ndarray) -> None:
    mask = strokes(*photo.shape[:2])
    soft = np.asarray(Image.fromarray(mask).convert("L").filter(ImageFilter.BoxBlur(1))) / 255
    found = covered(painted(photo, soft, (255, 255, 255)))
    assert found[mask].all()
    assert overlap(found, soft > 0) > 0.95


def test_a_cover_is_found_in_a_jpeg(photo: np.ndarray) -> None:
    mask = strokes(*photo.shape[:2])
    file = io.BytesIO()
    Image.fromarray(painted(photo, mask, (255, 255, 255))).save(file, "JPEG", quality=90)
    found = covered(np.array(Image.open(file)))
    assert found[mask].mean() > 0.99
    assert overlap(found, mask) > 0.6  # with what JPEG has spoilt around it


def test_good_photos_have_none(photo: np.ndarray) -> None:
    assert not covered(photo).any()


def test_a_sky_that_is_too_bright_is_none() -> None:
    rows, columns = np.mgrid[:200, :300]
    sky = np.clip(330 - 1.2 * rows + 10 * np.sin(columns / 20), 0, 255).astype(np.uint8)
    assert (sky == 255).mean() > 0.2
    assert not covered(np.stack([sky] * 3, -1)).any()


def test_a_background_and_a_frame_are_none(photo: np.ndarray) -> None:
    framed = np.full_like(photo, 255)
    framed[40:-40, 50:-50] = photo[40:-40, 50:-50]
    assert not covered(framed).any()
    inside = np.zeros(photo.shape[:2], bool)
    inside[100:120, 120:200] = True
    assert overlap(covered(painted(framed, inside, (220, 30, 200))), inside) > 0.99


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 2), (3, 3), (64, 64)])
def test_any_size_of_one_colour_is_none(shape: tuple[int, int]) -> None:
    assert not covered(np.full((*shape, 3), 255, np.uint8)).any()


def test_growth_is_a_square() -> None:
    mask = np.zeros((9, 11), bool)
    mask[4, 5] = mask[0, 0] = True
    expected = np.zeros((9, 11), bool)
    expected[2:7, 3:8] = expected[:3, :3] = True
    assert np.array_equal(grown(mask, 2), expected)
    assert mask.sum() == 2


def test_a_ramp_goes_on_through_a_hole() -> None:
    """A plane solves Laplace's equation."""
    rows, columns = np.mgrid[:96, :96].astype(np.float32)
    plane = 0.3 * rows + 0.7 * columns
    missing = np.zeros((96, 96), bool)
    missing[40:56, 36:60] = True
    away = np.abs(from_around(plane, missing) - plane)
    assert away.max() < 0.15 * 0.7 * 24  # of the step across the hole
    assert (away[~missing] == 0).all()
