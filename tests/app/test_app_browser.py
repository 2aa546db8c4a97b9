"""The web page as people see it: headless Chromium from upload to download. Skips without playwright or Chromium.

`DACLIP_SCREENSHOTS=FOLDER` keeps pictures of the page at desktop and phone width.
"""

import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ranks import free_port
from skimage import data

from daclip.commands.options import make
from daclip.config import composed

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")

# Loaded here and not by the server's thread, in which pytest's rewriting may strike a fault of Python 3.11's parser.
from anyio import open_file  # noqa: E402, F401

from daclip.app.server import launch, make_examples, page_of  # noqa: E402
from daclip.app.service import Limits  # noqa: E402

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
ON_BOTH = pytest.mark.parametrize("page", [DESKTOP, PHONE], ids=["desktop", "phone"], indirect=True)
ON_DESKTOP = pytest.mark.parametrize("page", [DESKTOP], ids=["desktop"], indirect=True)
ON_PHONE = pytest.mark.parametrize("page", [PHONE], ids=["phone"], indirect=True)
LIMITS = Limits(megapixels=30, files=50, samples=8, steps=100, classes=200, samplers=("ddim", "posterior", "unipc"))
ARTIFACT = os.environ.get("DACLIP_ARTIFACT")
SCREENSHOTS = os.environ.get("DACLIP_SCREENSHOTS")
SIDE = 400 if ARTIFACT else 64


@pytest.fixture(scope="module")
def address(restorer_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        degradations = make(composed(None, ["+degradation=world"])["degradation"])
        examples = make_examples(degradations, tmp_path_factory.mktemp("examples"))
        page = page_of(ARTIFACT or str(restorer_artifact), LIMITS, examples=examples)
        yield launch(page, "127.0.0.1", free_port(), max_upload_mb=40)
        page.close()


@pytest.fixture
def page(request: pytest.FixtureRequest, browser: Any, address: str) -> Iterator[Any]:
    """A page that has loaded, and that asked no other server for anything."""
    context = browser.new_context(viewport=request.param, accept_downloads=True)
    opened = context.new_page()
    asked: list[str] = []
    opened.on("request", lambda sent: asked.append(sent.url))
    opened.goto(address)
    opened.get_by_role("button", name="Restore", exact=True).wait_for(timeout=60_000)
    opened.width = request.param["width"]
    yield opened
    elsewhere = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    context.close()
    assert not elsewhere


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    clean = data.coffee()[: SIDE * 3 // 4, :SIDE].astype(int)
    noise = np.random.default_rng(0).normal(0, 25, clean.shape)
    Image.fromarray((clean + noise).clip(0, 255).astype(np.uint8)).save(folder / "cup.png")
    (folder / "bad.png").write_bytes((folder / "cup.png").read_bytes()[:500])
    return folder / "cup.png"


def shot(page: Any, name: str) -> None:
    if SCREENSHOTS:
        Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
        page.wait_for_timeout(500)
        page.screenshot(path=str(Path(SCREENSHOTS) / f"{name}-{page.width}.png"), full_page=True)


def upload(page: Any, where: str, *paths: Path) -> None:
    page.locator(f"{where} input[type=file]").set_input_files([str(path) for path in paths])


@ON_BOTH
def test_from_upload_to_download(page: Any, photo: Path) -> None:
    shot(page, "empty")
    upload(page, "#photos", photo)
    page.get_by_text("cup.png:").wait_for(timeout=60_000)
    shot(page, "uploaded")
    page.get_by_role("button", name="Restore", exact=True).click()
    page.get_by_text("done in").wait_for(timeout=120_000)
    shot(page, "restored")
    # The slider holds both pictures, which differ.
    pictures = page.locator("#slider img")
    assert pictures.count() == 2
    # Keys move what divides them.
    handle = page.locator("#slider .outer")
    before = handle.bounding_box()["x"]
    page.locator("#divider input[type=range]").focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    page.wait_for_timeout(300)
    assert handle.bounding_box()["x"] > before
    with page.expect_download() as waited:
        page.locator("#download").click()
    image = Image.open(io.BytesIO(Path(waited.value.path()).read_bytes()))
    assert waited.value.suggested_filename == "cup-restored.png"
    assert image.size == (SIDE, SIDE * 3 // 4)
    assert not np.array_equal(np.asarray(image), np.asarray(Image.open(photo)))
    # A changed choice needs no new upload: another word, and strength 0, which gives the photo back.
    old = pictures.last.get_attribute("src")
    word = page.get_by_label("Repair", exact=True)
    assert word.evaluate("element => element.scrollWidth <= element.clientWidth")  # it is not cut
    word.click()
    page.get_by_role("option", name="rainy", exact=True).click()
    playwright.expect(pictures.last).not_to_have_attribute("src", old, timeout=60_000)
    old = pictures.last.get_attribute("src")
    strength = page.get_by_label("number input for Strength")
    strength.fill("0")
    strength.blur()
    playwright.expect(pictures.last).not_to_have_attribute("src", old, timeout=60_000)
    with page.expect_download() as waited:
        page.locator("#download").click()
    assert np.array_equal(np.asarray(Image.open(waited.value.path())), np.asarray(Image.open(photo)))
    shot(page, "again")
    # Nothing sticks out of a phone's screen.
    assert page.evaluate("document.documentElement.scrollWidth") <= page.width


@ON_PHONE
def test_what_is_painted_is_filled(page: Any, photo: Path) -> None:
    before = np.asarray(Image.open(photo))
    upload(page, "#photos", photo)
    page.get_by_text("cup.png:").wait_for(timeout=60_000)
    page.get_by_role("button", name="Paint over what is missing").click()
    canvas = page.locator("#editor canvas").first
    canvas.wait_for(timeout=60_000)
    page.wait_for_timeout(3000)
    canvas.evaluate("element => element.scrollIntoView({block: 'center'})")  # not by Playwright: it never stands still
    page.wait_for_timeout(1000)
    box = canvas.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(middle[0] - 20, middle[1])
    page.mouse.down()
    page.mouse.move(middle[0] + 20, middle[1], steps=8)
    page.mouse.up()
    page.wait_for_timeout(1000)
    shot(page, "painted")
    page.get_by_role("button", name="Restore", exact=True).click()
    page.get_by_text("done in").wait_for(timeout=120_000)
    shot(page, "filled")
    with page.expect_download() as waited:
        page.locator("#download").click()
    changed = (np.asarray(Image.open(waited.value.path())) != before).any(-1)
    assert changed[SIDE * 3 // 8, SIDE // 2]
    assert not changed[[0, 0, -1, -1], [0, -1, 0, -1]].any()


@ON_DESKTOP
def test_a_bad_file_is_named(page: Any, photo: Path) -> None:
    upload(page, "#photos", photo.with_name("bad.png"))
    page.locator("#status").get_by_text("bad.png: the image is damaged").wait_for(timeout=60_000)
    assert page.get_by_role("button", name="Restore", exact=True).is_disabled()
    shot(page, "bad")


@ON_PHONE
def test_a_refused_setting_leaves_the_page_usable(page: Any, photo: Path) -> None:
    upload(page, "#photos", photo)
    page.get_by_text("cup.png:").wait_for(timeout=60_000)
    page.get_by_role("button", name="More settings").click()
    restore = page.get_by_role("button", name="Restore", exact=True)
    for label, value, text in (("Steps", "500", "steps must lie"), ("Seed", "-5", "seed must lie"), ("Steps", "", "")):
        page.get_by_label(label, exact=True).fill(value)
        restore.click()
        page.locator("#status").get_by_text(text or "done in").wait_for(timeout=60_000)
        playwright.expect(restore).to_be_enabled()
        page.get_by_label(label, exact=True).fill("1")


@ON_DESKTOP
def test_several_photos_become_a_zip(page: Any, photo: Path) -> None:
    others = [photo.with_name(f"cup {number}.jpg") for number in range(3)]
    for other in others:
        Image.open(photo).save(other)
    upload(page, "#photos", photo, *others, photo.with_name("bad.png"))
    page.get_by_text("5 photos, 5 looked at").wait_for(timeout=60_000)
    shot(page, "several")
    page.get_by_role("button", name="Restore", exact=True).click()
    page.get_by_text("4 of 5 photos restored").wait_for(timeout=120_000)
    page.locator("#gallery button").nth(1).click()
    page.wait_for_timeout(1000)
    assert "cup%200" in page.locator("#slider img").first.get_attribute("src").replace(" ", "%20")
    shot(page, "batch")
    page.set_viewport_size(PHONE)
    whole = "labels => labels.every(label => label.scrollWidth <= label.clientWidth)"
    assert page.locator("#gallery .caption-label").evaluate_all(whole)
    shot(page, "batch-phone")
    with page.expect_download() as waited:
        page.locator("#download").click()
    with zipfile.ZipFile(waited.value.path()) as archive:
        assert len(archive.namelist()) == 5
        assert b"damaged" in archive.read("summary.jsonl")


@ON_PHONE
def test_an_example_is_one_click(page: Any) -> None:
    page.locator("#examples button").filter(has_text="rainy").click()
    page.get_by_text("rainy.png: 480").wait_for(timeout=60_000)
    playwright.expect(page.locator("#examples")).to_be_hidden()
    shot(page, "example")


@ON_DESKTOP
def test_the_keyboard_is_enough(page: Any, photo: Path) -> None:
    upload(page, "#photos", photo)
    page.get_by_text("cup.png:").wait_for(timeout=60_000)
    button = page.get_by_role("button", name="Restore", exact=True)
    for _ in range(40):
        page.keyboard.press("Tab")
        if button.evaluate("element => element === document.activeElement"):
            break
    else:
        pytest.fail("Tab never reaches the button")
    page.keyboard.press("Enter")
    page.get_by_text("done in").wait_for(timeout=120_000)
