"""The functions behind the page's buttons: what they say, and that the page can always be used again."""

import html
import zipfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data

from daclip import Restorer
from daclip.commands.options import make
from daclip.config import composed

gradio = pytest.importorskip("gradio")

from daclip.app.handlers import Handlers, Parts  # noqa: E402
from daclip.app.page import build_page  # noqa: E402
from daclip.app.server import make_examples  # noqa: E402
from daclip.app.service import AS_TRAINED, IN_TURN, ONCE, Limits, Service, Settings  # noqa: E402

LIMITS = Limits(megapixels=0.01, files=3, samples=4, steps=20, classes=40, samplers=("ddim", "posterior"))
VISITOR = gradio.Request(session_hash="visitor")
PLAIN = {
    "classes": "", "strength": 1.0, "passes": ONCE, "samples": 1, "sampler": AS_TRAINED, "steps": 1, "seed": 0,
    "instruction": "",
}  # fmt: skip


@pytest.fixture(scope="module")
def service(restorer_artifact: Path) -> Service:
    return Service(Restorer.from_pretrained(restorer_artifact, device="cpu"), LIMITS)


@pytest.fixture
def handlers(service: Service) -> Handlers:
    with gradio.Blocks():
        return Handlers(service, Parts(*(gradio.HTML() for _ in fields(Parts))))


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "cup.png"
    Image.fromarray(np.ascontiguousarray(data.coffee()[:48, :64])).save(path)
    return path


def restored(handlers: Handlers, photos: list[Path], editor: Any = None, **settings: Any) -> Iterator[Any]:
    return handlers.restore(VISITOR, [*map(str, photos)], editor, *(PLAIN | settings).values())


def again(handlers: Handlers, photos: list[Path], sources: list[str], **settings: Any) -> Iterator[Any]:
    return handlers.again(VISITOR, [*map(str, photos)], sources, None, *(PLAIN | settings).values())


def last(updates: Iterator[Any]) -> dict[Any, Any]:
    """All that the updates leave on the page."""
    return {part: value for update in updates for part, value in update.items()}


def stroke(size: tuple[int, int], box: tuple[int, int, int, int] | None) -> dict[str, Any]:
    """What the editor gives for a rectangle painted on a picture of a size."""
    layer = Image.new("RGBA", size)
    if box:
        layer.paste((255, 0, 80, 255), box)
    return {"background": None, "layers": [layer], "composite": None}


def test_photos_are_looked_at_before_they_are_restored(handlers: Handlers, photo: Path, tmp_path: Path) -> None:
    parts = handlers.parts
    seen = last(handlers.look([str(photo)]))
    assert seen[parts.bars].value["label"] in handlers.service.restorer.vocabulary
    assert "cup.png: 64 × 48 pixels" in seen[parts.status]
    assert seen[parts.restore].interactive
    (tmp_path / "bad.png").write_bytes(b"no picture")
    assert "bad.png" in last(handlers.look([str(tmp_path / "bad.png")]))[parts.status]
    seen = last(handlers.look([str(photo), str(tmp_path / "bad.png")]))
    assert seen[parts.table].count("<tr>") == 2
    assert "recognised" in seen[parts.table]
    assert "4 photos; here at most 3" in last(handlers.look([str(photo)] * 4))[parts.status]
    assert not last(handlers.look(None))[parts.restore].interactive


def test_the_page_does_what_is_said(handlers: Handlers, photo: Path) -> None:
    parts = handlers.parts
    wish, other = "remove the rain but keep the fog", "remove the tourists"
    done, refused = html.escape("repaired rainy; left hazy"), html.escape("'tourists' is nothing that can be repaired")
    assert done in last(restored(handlers, [photo], instruction=wish))[parts.status]
    half = last(restored(handlers, [photo], instruction="half derain"))[parts.status]
    assert "repaired rainy by 50%" in html.unescape(half)
    assert refused in last(restored(handlers, [photo], instruction=other))[parts.status]
    assert last(restored(handlers, [photo] * 2, instruction=wish))[parts.table].count(done) == 2
    assert refused in last(restored(handlers, [photo] * 2, instruction=other))[parts.status]


def test_the_whole_result_can_be_had(handlers: Handlers, photo: Path) -> None:
    """One photo with its name, format, size and metadata; several also as a zip, and each to compare."""
    parts = handlers.parts
    exif = Image.Exif()
    exif[0x010E] = "a cup"
    jpeg = photo.with_suffix(".jpg")
    Image.open(photo).save(jpeg, exif=exif)

    def name_and_text(path: str) -> tuple[str, str, tuple[int, int]]:
        with Image.open(path) as image:
            return Path(path).name, image.getexif()[0x010E], image.size

    updates = restored(handlers, [jpeg])
    for update in updates:
        if parts.download in update:
            given = update[parts.download].value
            assert name_and_text(given["path"]) == ("cup-restored.jpg", "a cup", (64, 48))
            assert [Path(side["path"]).suffix for side in update[parts.slider].value] == [".jpg", ".jpg"]
            break
    else:
        pytest.fail("no download")
    for update in (updates := restored(handlers, [photo, jpeg, photo])):
        if parts.download in update:
            with zipfile.ZipFile(update[parts.download].value["path"]) as archive:
                assert archive.namelist() == [
                    "cup-restored.png", "cup-restored.jpg", "cup-restored-2.png", "summary.jsonl",
                ]  # fmt: skip
            files = [file["path"] for file in update[parts.files].value]
            assert len(files) == len(update[parts.gallery].value) == 3
            chosen = gradio.SelectData(None, {"index": 1, "value": None})
            slider = handlers.compare(update[parts.sources], files, chosen)[parts.slider]
            assert [Path(side["path"]).suffix for side in slider.value] == [".jpg", ".jpg"]
            updates.close()  # type: ignore[attr-defined]


def test_what_is_painted_is_filled_and_the_rest_stays(handlers: Handlers, photo: Path) -> None:
    """The editor's picture may be smaller than the photo."""
    parts, before = handlers.parts, np.asarray(Image.open(photo))
    for size, factor in (((64, 48), 1), ((32, 24), 2)):
        editor = stroke(size, (10 // factor, 10 // factor, 30 // factor, 20 // factor))
        (after,) = (
            np.asarray(Image.open(update[parts.download].value["path"]))
            for update in restored(handlers, [photo], editor)
            if parts.download in update
        )
        changed = (before != after).any(-1)
        assert changed[12:18, 12:28].mean() > 0.9
        assert not changed[:8].any()
        assert not changed[23:].any()
    # An editor that nothing was painted in is none.
    plain, empty = (
        last(restored(handlers, [photo], editor))[parts.status] for editor in (None, stroke((64, 48), None))
    )
    assert plain.split(" in ")[0] == empty.split(" in ")[0]
    assert (
        "do not go together with mask"
        in last(restored(handlers, [photo], stroke((64, 48), (1, 1, 9, 9)), passes=IN_TURN))[parts.status]
    )


def test_several_faults_are_repaired_in_turn(
    handlers: Handlers, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    surest = iter(["noisy", "rainy", "noisy"])  # before each pass, and what ends it
    recognise = Restorer.recognise

    def scripted(restorer: Restorer, image: Any) -> Any:
        conditioning, found = recognise(restorer, image)
        first = next(surest)
        return conditioning, {first: 0.9, **{name: 0.1 / len(found) for name in found if name != first}}

    monkeypatch.setattr(Restorer, "recognise", scripted)
    shares: list[float] = []
    settings = Settings(steps=1, passes=IN_TURN)
    outcome = handlers.service.restore(photo, settings, tmp_path, shares.append)
    assert [class_name for class_name, _ in outcome.passes] == ["noisy", "rainy"]
    assert shares == sorted(shares)
    assert 0.25 < shares[-1] <= 0.5


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"steps": 500}, "steps must lie between 0 and 20"),
        ({"seed": -5}, "seed must lie between"),
        ({"samples": 9}, "samples must lie between"),
        ({"strength": 2}, "strength must lie between"),
        ({"classes": "tourists"}, "no class that the restorer learned"),
        ({"sampler": "ode"}, "no sampler 'ode'"),
        ({"passes": "twice"}, "passes must be 1 or auto"),
        ({"passes": IN_TURN, "classes": "rainy"}, "several passes do not go together with degradation"),
        ({"steps": None, "seed": None, "samples": None, "strength": None}, ""),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("photos", [1, 2])
def test_what_is_refused_is_said(handlers: Handlers, photo: Path, photos: int, settings: Any, text: str) -> None:
    told = last(restored(handlers, [photo] * photos, **settings))[handlers.parts.status]
    assert html.escape(text or ("done in" if photos == 1 else "2 of 2 photos restored")) in told


def test_every_start_ends_with_buttons_that_work(service: Service) -> None:
    """Also where Gradio itself refuses a value or a request, and no function of ours is called."""
    page = build_page(service, 0)
    for number in (block for block in page.blocks.values() if isinstance(block, gradio.Number)):
        assert [number.preprocess(value) for value in (500, -5, None)] == [500, -5, None]
    events = {event["id"]: event for event in page.config["dependencies"]}

    def following(name: str) -> list[Any]:
        ids = [i for i, event in page.fns.items() if event.name == name]
        return [event for event in events.values() if event["trigger_after"] in ids]

    (after,) = following("restore")
    assert page.fns[after["id"]].name == "ready"
    assert not any(after[key] for key in ("queue", "trigger_only_on_success", "trigger_only_on_failure"))


def test_buttons_are_ready_when_all_that_a_visitor_began_has_ended(handlers: Handlers, photo: Path) -> None:
    parts = handlers.parts
    handlers.begin(VISITOR)
    handlers.begin(VISITOR)
    assert parts.restore not in handlers.ready([str(photo)], VISITOR)
    ready = handlers.ready([str(photo)], VISITOR)
    assert (ready[parts.restore].interactive, ready[parts.stop].interactive) == (True, False)


def test_a_changed_choice_restores_the_photo_again(handlers: Handlers, photo: Path) -> None:
    parts = handlers.parts

    def starts(updates: Iterator[Any]) -> bool:
        return parts.download in last(updates)

    assert not starts(again(handlers, [photo], [], strength=0.5))  # nothing was restored yet
    handlers.begin(VISITOR)
    shown = last(restored(handlers, [photo]))[parts.sources]
    assert shown == [str(photo)]
    handlers.ready([str(photo)], VISITOR)
    assert not starts(again(handlers, [photo], shown))  # nothing was changed
    assert not starts(again(handlers, [photo] * 2, shown * 2, strength=0.5))
    for changed in ({"strength": 0.5}, {"classes": "rainy"}, {"instruction": "remove the rain"}):
        seen = last(again(handlers, [photo], shown, **changed))
        assert "done in" in seen[parts.status]
        assert (seen[parts.restore].interactive, seen[parts.stop].interactive) == (True, False)
    refused = last(again(handlers, [photo], shown, classes="tourists"))
    assert "no class that the restorer learned" in html.unescape(refused[parts.status])
    assert refused[parts.restore].interactive


def test_the_latest_choice_ends_what_still_runs(handlers: Handlers, photo: Path) -> None:
    parts = handlers.parts
    handlers.begin(VISITOR)
    with handlers.service.turns.turn(lambda before: None):
        first = restored(handlers, [photo])
        assert "waiting: 1 before you" in last([next(first), next(first)])[parts.status]  # type: ignore[arg-type]
        second = again(handlers, [photo], [str(photo)], strength=0.5)
        assert next(second)[parts.stop].interactive
        assert not last(first)  # it is silent, and has left the queue
        assert parts.restore not in handlers.ready([str(photo)], VISITOR)
        assert "waiting: 1 before you" in last([next(second), next(second)])[parts.status]  # type: ignore[arg-type]
    assert last(second)[parts.restore].interactive


@pytest.mark.parametrize("photos", [1, 2])
def test_one_who_waits_sees_the_place_and_can_stop(
    service: Service, handlers: Handlers, photo: Path, photos: int
) -> None:
    with service.turns.turn(lambda before: None):
        handlers.begin(VISITOR)
        seen = []
        for update in restored(handlers, [photo] * photos):
            seen.append(" ".join(str(value) for value in update.values()))
            if "waiting: 1 before you" in seen[-1]:
                handlers.stop(VISITOR)
        assert "stopped" in seen[-1]


def test_every_word_has_an_example(tmp_path: Path) -> None:
    words = ("hazy", "uncompleted")
    degradations = {word: make(composed(None, [f"+degradation={word}"])["degradation"][word]) for word in words}
    examples = make_examples({"clean": degradations["hazy"], **degradations}, tmp_path)
    assert list(examples) == [*words]
    first, second = (np.asarray(Image.open(path)) for path in examples.values())
    assert first.shape == second.shape == (320, 480, 3)
    assert not np.array_equal(first, second)
    with gradio.Blocks():
        handlers = Handlers(Any, Parts(*(gradio.HTML() for _ in fields(Parts))), [*examples.values()])  # type: ignore[arg-type]
    chosen = gradio.SelectData(None, {"index": 1, "value": None})
    assert handlers.example(chosen) == [examples["uncompleted"]]
