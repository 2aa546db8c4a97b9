"""What the web page does with photos, without a page and without Gradio."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data

from daclip import Restorer
from daclip.app.server import NoOtherServers
from daclip.app.service import Limits, Service, Settings, Turns, Watched, preview, shown
from daclip.decoding import read_photo
from daclip.errors import DaclipError
from daclip.restoring.batch import Outcome
from daclip.restoring.control import Phrases
from daclip.restoring.restorer import Stopped

LIMITS = Limits(megapixels=0.01, files=3, samples=4, steps=20, classes=40, samplers=("ddim", "posterior"))
PLAIN = Settings()
COFFEE = np.ascontiguousarray(data.coffee()[:60, :80])


@pytest.fixture(scope="module")
def service(restorer_artifact: Path) -> Service:
    return Service(Restorer.from_pretrained(restorer_artifact, device="cpu"), LIMITS)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.fromarray(COFFEE).save(tmp_path / "cup.jpg", quality=95)
    return tmp_path / "cup.jpg"


def changed(**values: Any) -> Settings:
    return replace(PLAIN, **values)


def test_a_photo_is_looked_at(service: Service, photo: Path) -> None:
    seen = service.look(photo)
    assert (seen.status, seen.photo, seen.size) == ("recognised", "cup.jpg", [80, 60])
    assert set(seen.probabilities) == set(service.restorer.vocabulary)


def test_results_follow_the_settings(service: Service, photo: Path, tmp_path: Path) -> None:
    def pixels(name: str, settings: Settings) -> np.ndarray:
        outcome = service.restore(photo, settings, tmp_path / name, None)
        assert outcome.error is None
        return np.asarray(Image.open(outcome.results[-1])).astype(int)

    plain = pixels("plain", PLAIN)
    assert np.array_equal(plain, pixels("again", PLAIN))
    for number, other in enumerate(
        (changed(seed=1), changed(classes="rainy:1,hazy:2"), changed(sampler="ddim"), changed(steps=1))
    ):
        assert not np.array_equal(plain, pixels(f"{number}", other))
    kept = pixels("kept", changed(strength=0.0))
    assert np.abs(kept - np.asarray(Image.open(photo)).astype(int)).mean() < 3  # a JPEG once more
    several = service.restore(photo, changed(samples=3), tmp_path / "several", None)
    assert [Path(path).name for path in several.results] == [
        "cup-restored.sample2.jpg",
        "cup-restored.sample3.jpg",
        "cup-restored.uncertainty.png",
        "cup-restored.jpg",
    ]


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        (changed(samples=5), "samples"),
        (changed(samples=0), "samples"),
        (changed(steps=21), "steps"),
        (changed(steps=-1), "steps"),
        (changed(seed=-1), "seed"),
        (changed(strength=1.5), "strength"),
        (changed(strength=float("nan")), "strength"),
        (changed(classes="x" * 41), "text"),
        (changed(classes="rainy:none"), "rainy"),
        (changed(classes="rany"), "'rany' is no class that the restorer learned .* did you mean 'rainy'"),
        (changed(instruction="remove the tourists"), "'tourists' is nothing that can be repaired here"),
        (changed(instruction="x" * 41), "length of what you want"),
        (changed(classes="rainy", instruction="remove the rain"), "not both"),
        (changed(sampler="../../etc/passwd"), "no sampler"),
        (changed(sampler="ddim seed=3"), "no sampler"),
    ],
)
def test_settings_beyond_the_limits_are_refused(
    service: Service, photo: Path, tmp_path: Path, settings: Settings, part: str
) -> None:
    with pytest.raises(DaclipError, match=part):
        service.restore(photo, settings, tmp_path / "out", None)
    assert not (tmp_path / "out").exists()


def test_one_can_say_what_one_wants(service: Service, photo: Path, tmp_path: Path) -> None:
    told = service.restore(photo, changed(instruction="half derain, keep the fog"), tmp_path / "told", None)
    named = service.restore(photo, changed(classes="rainy", strength=0.5), tmp_path / "named", None)
    assert Path(told.results[0]).read_bytes() == Path(named.results[0]).read_bytes()
    assert (told.repaired, told.left[0], named.repaired) == (["rainy"], "hazy", [])


def test_errors_name_the_photo_and_no_folder(service: Service, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    Image.fromarray(np.zeros((200, 200, 3), np.uint8)).save(tmp_path / "large.png")
    for name, part in (("bad.jpg", "a kind of file"), ("large.png", "0.01 million")):
        for outcome in (service.look(tmp_path / name), service.restore(tmp_path / name, PLAIN, tmp_path / "out", None)):
            assert outcome.status == "failed"
            assert part in (outcome.error or "")
            for text in (outcome.error or "", outcome.photo):
                assert name in text
                assert str(tmp_path) not in text


def test_no_error_names_a_folder_of_the_server(
    service: Service, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise DaclipError(f"/srv/models/m.safetensors: damaged; no room in {tmp_path}/new folder")

    monkeypatch.setattr(service.restorer, "classify", fail)
    monkeypatch.setattr(service.restorer, "using", fail)
    assert service.look(photo).error == "cup.jpg: m.safetensors: damaged; no room in new folder"
    with pytest.raises(DaclipError, match=r"^m\.safetensors: damaged; no room in new folder$"):
        service.restore(photo, PLAIN, tmp_path / "out", None)


def test_a_mask_says_what_is_filled_and_names_no_folder(service: Service, tmp_path: Path) -> None:
    photo = tmp_path / "cup.png"
    Image.fromarray(COFFEE).save(photo)
    marked = np.zeros(COFFEE.shape[:2], bool)
    marked[5:25, 30:60] = True
    (tmp_path / "masks").mkdir()
    masks = {"good": marked, "small": marked[:20], "empty": marked & False, "large": np.ones((200, 200), bool)}
    for name, values in masks.items():
        Image.fromarray(values).save(tmp_path / "masks" / f"{name}.png")
    (tmp_path / "masks" / "bad.png").write_bytes(b"no picture")

    def outcome(name: str) -> Outcome:
        return service.restore(photo, PLAIN, tmp_path / name, None, tmp_path / "masks" / f"{name}.png")

    result = np.asarray(Image.open(outcome("good").results[-1]))
    assert np.array_equal(result[~marked], COFFEE[~marked])
    assert not np.array_equal(result[marked], COFFEE[marked])
    for name, part in (
        ("small", "photo's size"),
        ("empty", "marks no pixel"),
        ("large", "million"),
        ("bad", "a kind of file"),
    ):
        error = outcome(name).error or ""
        assert part in error
        assert str(tmp_path) not in error


def test_a_word_that_was_not_learned_needs_a_tower_that_knows_it(
    service: Service, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Phrases, "understood", True)
    other = Service(service.restorer, LIMITS)
    outcome = other.restore(photo, changed(classes="dust"), tmp_path / "out", None)
    assert "taken as free text" in outcome.notes[0]


def test_browsers_get_the_files_that_they_can_show(photo: Path) -> None:
    assert shown(photo) == str(photo)
    Image.fromarray(COFFEE).save(photo.with_suffix(".tif"))
    picture = shown(photo.with_suffix(".tif"))
    assert np.array_equal(np.asarray(picture), COFFEE)


def test_turns_come_in_order() -> None:
    turns, order, places = Turns(), list[int](), list[int]()
    with ThreadPoolExecutor() as pool, turns.turn(lambda before: None):
        for number in range(3):
            pool.submit(_have_turn, turns, order, places, number)
            while (number + 1) not in places:
                time.sleep(0.005)
    assert order == [0, 1, 2]


def _have_turn(turns: Turns, order: list[int], places: list[int], number: int) -> None:
    with turns.turn(places.append):
        order.append(number)


def test_the_preview_shows_transparency_and_is_small(tmp_path: Path) -> None:
    pixels = np.zeros((10, 3000, 4), np.uint8)
    pixels[:, 1500:] = (200, 0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    shown = np.asarray(preview(read_photo(tmp_path / "a.png")))
    assert shown.shape == (5, 1600, 3)
    assert shown[2, 100].tolist() == [230, 230, 230]
    assert shown[2, 1500].tolist() == [200, 0, 0]


def test_watched_work_ends_when_it_is_no_longer_wanted() -> None:
    seen: list[float] = []

    def run(on_progress: object) -> int:
        for i in range(1000):
            time.sleep(0.01)
            on_progress(i / 1000)  # type: ignore[operator]
            seen.append(i / 1000)
        return 1

    turns = Turns(1)
    with Watched(run, turns) as work:
        assert next(iter(work.shares(0.02))) < 0.5
    with pytest.raises(Stopped):
        work.result()
    assert len(seen) < 900
    # The next one gets the network.
    with Watched(lambda told: 5, turns) as work:
        assert work.result() == 5
    # One that waits can be stopped too, and there are not too many of them.
    with turns.turn(lambda before: None), Watched(lambda told: 5, turns) as work:
        for _ in work.shares(0.02):
            if work.before == 1:
                break
        with Watched(lambda told: 5, turns) as other, pytest.raises(DaclipError, match="1 requests are waiting"):
            other.result()
        work.stop()
        with pytest.raises(Stopped):
            work.result()

    def fails(on_progress: object) -> int:
        raise DaclipError("it")

    with Watched(fails, turns) as work, pytest.raises(DaclipError, match="it"):
        work.result()


@pytest.mark.parametrize(
    ("path", "passes"),
    [
        ("/gradio_api/file=http://example.org/a.png", False),
        ("/gradio_api/file=HTTPS://example.org/a.png", False),
        ("/gradio_api/proxy=http://example.org/a.png", False),
        ("/gradio_api/file=a.png", True),
        ("/", True),
    ],
)
def test_nothing_is_fetched_from_other_servers(path: str, passes: bool) -> None:
    answers: list[object] = []

    async def inner(scope: object, receive: object, send: object) -> None:
        answers.append("passed")

    async def send(message: dict[str, object]) -> None:
        answers.append(message.get("status", "body"))

    coroutine = NoOtherServers(inner)({"type": "http", "path": path}, None, send)
    with pytest.raises(StopIteration):  # it never waits
        coroutine.send(None)
    assert answers == (["passed"] if passes else [403, "body"])
