"""The functions behind the page's buttons: what they say, and that the page can always be used again."""

import html
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data

from daclip import Restorer

gradio = pytest.importorskip("gradio")

from daclip.app.handlers import Handlers, Parts  # noqa: E402
from daclip.app.page import build_page  # noqa: E402
from daclip.app.service import AS_TRAINED, Limits, Service  # noqa: E402

LIMITS = Limits(megapixels=0.01, files=3, samples=4, steps=20, classes=40, samplers=("ddim", "posterior"))
VISITOR = gradio.Request(session_hash="visitor")
PLAIN = {
    "classes": "", "strength": 1.0, "samples": 1, "sampler": AS_TRAINED, "steps": 1, "seed": 0, "instruction": "",
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


def one(handlers: Handlers, photo: Path, **settings: Any) -> Iterator[Any]:
    return handlers.restore(str(photo), None, *(PLAIN | settings).values(), VISITOR)


def several(handlers: Handlers, photo: Path, **settings: Any) -> Iterator[Any]:
    return handlers.restore_all([str(photo)] * 2, *(PLAIN | settings).values(), VISITOR)


def test_the_page_does_what_is_said(handlers: Handlers, photo: Path) -> None:
    parts = handlers.parts
    wish, other = "remove the rain but keep the fog", "remove the tourists"
    done, refused = html.escape("repaired rainy; left hazy"), html.escape("'tourists' is nothing that can be repaired")
    assert done in [*one(handlers, photo, instruction=wish)][-1][parts.status]
    assert refused in [*one(handlers, photo, instruction=other)][-1][parts.status]
    assert [*several(handlers, photo, instruction=wish)][-1][parts.table].count(done) == 2
    assert refused in [*several(handlers, photo, instruction=other)][-1][parts.batch_status]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"steps": 500}, "steps must lie between 0 and 20"),
        ({"seed": -5}, "seed must lie between"),
        ({"samples": 9}, "samples must lie between"),
        ({"strength": 2}, "strength must lie between"),
        ({"classes": "tourists"}, "no class that the restorer learned"),
        ({"sampler": "ode"}, "no sampler 'ode'"),
        ({"steps": None, "seed": None, "samples": None, "strength": None}, ""),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("start", [one, several])
def test_what_is_refused_is_said(handlers: Handlers, photo: Path, start: Any, settings: Any, text: str) -> None:
    last = [*start(handlers, photo, **settings)][-1]
    told = last[handlers.parts.status if start is one else handlers.parts.batch_status]
    assert html.escape(text or "done in" if start is one else text or "2 of 2 photos restored", quote=True) in told


def test_every_start_ends_with_buttons_that_work(service: Service) -> None:
    """Also where Gradio itself refuses a value or a request, and no function of ours is called."""
    page = build_page(service, 0)
    for number in (block for block in page.blocks.values() if isinstance(block, gradio.Number)):
        assert [number.preprocess(value) for value in (500, -5, None)] == [500, -5, None]
    events = {event["id"]: event for event in page.config["dependencies"]}

    def following(name: str) -> list[Any]:
        ids = [i for i, event in page.fns.items() if event.name == name]
        return [event for event in events.values() if event["trigger_after"] in ids]

    for work, ready in (("restore", "ready"), ("restore_all", "ready_all")):
        (after,) = following(work)
        assert page.fns[after["id"]].name == ready
        assert not any(after[key] for key in ("queue", "trigger_only_on_success", "trigger_only_on_failure"))


@pytest.mark.parametrize("start", [one, several])
def test_one_who_waits_sees_the_place_and_can_stop(
    service: Service, handlers: Handlers, photo: Path, start: Any
) -> None:
    with service.turns.turn(lambda before: None):
        handlers.begin(VISITOR)
        work, seen = start(handlers, photo), []
        for update in work:
            seen.append(" ".join(str(value) for value in update.values()))
            if "waiting: 1 before you" in seen[-1]:
                handlers.stop(VISITOR)
        assert "stopped" in seen[-1]
