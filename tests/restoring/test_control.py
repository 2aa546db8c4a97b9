"""How much of a restoration is made, and of what."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from running import TEN
from skimage import data

from daclip import Restorer
from daclip.errors import DaclipError
from daclip.pixels import Pixels
from daclip.restoring.control import (
    LITTLE,
    MUCH,
    SURE,
    UNSURE,
    UNSURE_OF_MUCH,
    Plan,
    certainty,
    change_share,
    class_meant,
    distance,
    remark,
)
from daclip.restoring.instruction import Wish
from daclip.restoring.lexicon import lexicon_of
from daclip.restoring.networks import unmet

PHOTO = np.ascontiguousarray(data.coffee()[:48, :64])


def test_the_change_grows_with_the_certainty_that_something_is_wrong() -> None:
    for change, unsure in ((LITTLE, UNSURE), (MUCH, UNSURE_OF_MUCH)):
        shares = [change_share(certain, change) for certain in np.linspace(0, 1, 21)]
        assert shares == sorted(shares)
        assert change_share(unsure, change) == 0
        assert change_share(unsure + 0.01, change) > 0
        assert change_share(SURE, change) == 1


def test_the_change_shrinks_with_the_distance_that_it_makes() -> None:
    shares = [change_share(0.75, change) for change in (5, MUCH, 25, LITTLE, 60)]
    assert shares == sorted(shares)
    assert shares[0] == shares[1] < shares[2] < shares[3] == shares[4]


def test_certainty_is_of_faults_that_are_likely() -> None:
    assert certainty({"clean": 0.3, "noisy": 0.7}) == pytest.approx(0.7)
    # Many faults of which none is likely are no certainty, two likely ones are some.
    assert certainty({"clean": 0.1, "noisy": 0.3, "hazy": 0.3, "rainy": 0.3}) < UNSURE
    assert UNSURE < certainty({"clean": 0.0, "noisy": 0.5, "hazy": 0.5}) < SURE
    # A recognition that never saw clean photos cannot be asked.
    assert certainty({"noisy": 0.3, "hazy": 0.3}) == 1


def test_a_distance_is_that_of_the_whole_photo() -> None:
    photo = Pixels(np.ascontiguousarray(data.coffee()))  # of more rows than are compared at once
    changed = photo.crop() + 0.1
    assert distance(changed, photo) == pytest.approx(20, abs=1e-3)
    changed[:, 350:] = photo.crop()[:, 350:]
    assert distance(changed, photo) == pytest.approx(20 - 10 * np.log10(350 / 400), abs=1e-3)
    assert distance(photo.crop(), photo) > 100


def test_a_change_that_is_not_made_whole_is_told() -> None:
    assert remark({"noisy": 0.9, "clean": 0.1}, 1.0) == ()
    assert "nothing wrong" in remark({"clean": 0.6, "noisy": 0.4}, 0.0)[0]
    assert "not sure" in remark({"noisy": 0.45, "clean": 0.4}, 0.0)[0]
    assert "40% of the change" in remark({"noisy": 0.62, "clean": 0.38}, 0.4)[0]


@pytest.fixture
def restorer(restorer_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> Restorer:
    """One that finds everything clean."""
    made = Restorer(restorer_artifact, device="cpu")
    recognise = made.recognise

    def clean(photo: Any) -> tuple[Any, Mapping[str, float]]:
        return recognise(photo)[0], {"clean": 0.9, "noisy": 0.1}

    monkeypatch.setattr(made, "recognise", clean)
    return made


def test_a_clean_photo_comes_back_as_it_was(restorer: Restorer) -> None:
    done = restorer.restore(PHOTO)
    assert np.array_equal(done.image, PHOTO)
    assert "nothing wrong" in done.notes[0]


def test_as_much_is_changed_as_certainty_and_size_allow(restorer: Restorer, monkeypatch: pytest.MonkeyPatch) -> None:
    known = restorer.recognise(Pixels(PHOTO))[0]
    whole, part = ({"noisy": p, "clean": 1 - p} for p in (0.95, 0.8))
    monkeypatch.setattr(restorer, "recognise", lambda photo: (known, whole))
    full = restorer.restore(PHOTO)
    monkeypatch.setattr(restorer, "recognise", lambda photo: (known, part))
    done = restorer.restore(PHOTO)
    change = -10 * np.log10(np.square((full.image / 255.0) - PHOTO / 255.0).mean())
    share = change_share(0.8, change)
    assert 0 < share < 1
    assert np.abs(done.image - (PHOTO + share * (full.image - PHOTO.astype(float)))).max() <= 1
    assert f"{share:.0%} of the change" in done.notes[0]
    assert full.notes == ()


def test_what_the_user_names_is_repaired_all_the_same(restorer: Restorer) -> None:
    done = restorer.restore(PHOTO, degradation="noisy")
    assert not np.array_equal(done.image, PHOTO)
    assert not done.notes


FOUND = {"hazy": 0.55, "rainy": 0.3, "noisy": 0.15}


@pytest.mark.parametrize(
    ("wish", "plan"),
    [
        # Named: nothing else, the strongest strength, weights by strength.
        (Wish({"snowy": 1.0}, (), 1.0), Plan({"snowy": 1.0}, 1.0, ("snowy",), ("hazy", "rainy", "noisy"))),
        (
            Wish({"rainy": 0.6, "noisy": 0.3}, ("hazy",), 1.0),
            Plan({"rainy": 0.6 / 0.9, "noisy": 0.3 / 0.9}, 0.6, ("rainy", "noisy"), ("hazy",)),
        ),
        # Not named: what was recognised, without what is kept.
        (Wish({}, (), 0.3), Plan(None, 0.3, ("hazy", "rainy", "noisy"))),
        (
            Wish({}, ("hazy",), 1.0),
            Plan({"rainy": 0.3 / 0.45, "noisy": 0.15 / 0.45}, 1.0, ("rainy", "noisy"), ("hazy",)),
        ),
        (Wish({}, ("snowy",), 1.0), Plan(None, 1.0, ("hazy", "rainy", "noisy"), ("snowy",))),
    ],
)
def test_a_wish_becomes_a_plan_for_what_was_recognised(wish: Wish, plan: Plan) -> None:
    found = Plan.of(FOUND, None, wish)
    assert (found.strength, found.repaired, found.left) == (pytest.approx(plan.strength), plan.repaired, plan.left)
    assert found.classes == (plan.classes and pytest.approx(plan.classes))


def test_a_network_of_others_repairs_its_class_and_leaves_the_rest_of_a_wish() -> None:
    wish = Wish({"rainy": 0.6, "noisy": 0.3}, ("hazy",), 1.0)
    plan = Plan.of(FOUND, None, wish, {"rainy"})
    assert (plan.strength, plan.repaired, plan.left) == (0.6, ("rainy",), ("hazy", "noisy"))
    assert wish.shares(plan.repaired) == {"rainy": 0.6}
    # Where ours restores, it repairs all.
    assert Plan.of(FOUND, None, wish, {"noisy"}) == Plan.of(FOUND, None, wish)
    assert list(unmet(wish, ["hazy", "noisy"], {"rainy"})) == [
        "left for lack of a network: noisy; several passes repair one after the other"
    ]
    assert "as a pass takes one network: noisy" in next(unmet(wish, ["noisy"], {"rainy", "noisy"}))
    assert not [*unmet(Wish({}, ("hazy",), 1.0), ["hazy"], {"rainy"})]


def test_shares_are_told_where_less_than_all_is_asked() -> None:
    assert Wish({"rainy": 1.0, "hazy": 0.5}, (), 1.0).shares(["rainy", "hazy"]) == {"rainy": 1.0, "hazy": 0.5}
    assert Wish({"rainy": 1.0}, ("hazy",), 1.0).shares(["rainy"]) == {}
    assert Wish({}, ("hazy",), 0.4).shares(["rainy"]) == {"rainy": 0.4}
    assert Wish({}, ("hazy",), 0.4).shares([]) == {}


def test_nothing_is_done_where_only_what_is_kept_was_found() -> None:
    plan = Plan.of({"hazy": 0.95, "rainy": 0.05}, None, Wish({}, ("hazy",), 1.0))
    assert (plan.strength, plan.repaired, plan.left) == (0.0, (), ("hazy",))
    assert "only what is to be left was found" in plan.notes[0]


@pytest.fixture(scope="module")
def plain(restorer_artifact: Path) -> Restorer:
    return Restorer(restorer_artifact, device="cpu")


@pytest.mark.parametrize(
    ("instruction", "same"),
    [
        ("denoise it", {"degradation": "noisy"}),
        ("remove the rain and the haze", {"degradation": "rainy,hazy"}),
        ("remove the rain slightly", {"degradation": "rainy", "strength": 0.3}),
        ("remove the rain completely and the fog by half", {"degradation": "rainy:2,hazy:1"}),
        ("restore it", {}),
        ("restore it by 40%", {"strength": 0.4}),
    ],
)
def test_an_instruction_is_what_the_options_say(plain: Restorer, instruction: str, same: dict[str, Any]) -> None:
    assert np.array_equal(plain.restore(PHOTO, instruction=instruction).image, plain.restore(PHOTO, **same).image)


def test_strengths_of_an_instruction_and_an_option_are_multiplied(plain: Restorer) -> None:
    once = plain.restore(PHOTO, instruction="remove half of the noise", strength=0.5).image
    assert np.array_equal(once, plain.restore(PHOTO, degradation="noisy", strength=0.25).image)


def test_what_is_to_be_left_is_taken_out_of_what_was_recognised(plain: Restorer) -> None:
    found = plain.restore(PHOTO).probabilities
    first = next(iter(found))
    done = plain.restore([PHOTO, PHOTO], numbers=[0, 0], instruction=f"restore it but keep the {first} look")
    others = {name: share for name, share in found.items() if name != first and share >= 0.1}
    assert done[0].left == (first,)
    assert done[0].repaired == tuple(others)
    expected = plain.restore(PHOTO, degradation=others).image if others else PHOTO
    assert all(np.array_equal(photo.image, expected) for photo in done)


def test_an_instruction_needs_no_degradation(plain: Restorer) -> None:
    with pytest.raises(DaclipError, match="not both"):
        plain.restore(PHOTO, degradation="rainy", instruction="remove the rain")
    with pytest.raises(DaclipError, match="'tourists' is nothing that can be repaired here"):
        plain.restore(PHOTO, instruction="remove the tourists")


LEXICON = lexicon_of(("hazy", "rainy"))
TOLD = {"ordinary": LEXICON.ordinary, **LEXICON.faults}


class Tower:
    """A text tower whose directions are classes for the words that it knows, and random for the others."""

    def __init__(self, knows: bool):
        self.knows = knows

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        return torch.stack([self.direction(text.removeprefix("a photo with ")) for text in texts])

    def direction(self, phrase: str) -> torch.Tensor:
        names = ["ordinary", "hazy", "rainy"]
        meant = {"pea soup": [1], "soggy weather": [1, 2]}.get(phrase, [])
        meant = meant or [k for k, name in enumerate(names) if phrase in TOLD.get(name, ())]
        if not self.knows or not meant:
            generator = torch.Generator().manual_seed(sum(map(ord, phrase)))
            return torch.nn.functional.normalize(torch.randn(3, generator=generator), dim=0)
        return torch.nn.functional.normalize(sum(torch.eye(3)[k] for k in meant), dim=0)  # type: ignore[arg-type]


def test_a_text_tower_that_knows_language_finds_the_class_of_a_phrase() -> None:
    knows: Any = Tower(knows=True)
    assert class_meant("pea soup", ["hazy", "rainy"], knows) == "hazy"
    assert class_meant("soggy weather", ["hazy", "rainy"], knows) is None  # which?
    assert class_meant("people", ["hazy", "rainy"], knows) is None
    guesses: Any = Tower(knows=False)
    assert class_meant("pea soup", ["hazy", "rainy"], guesses) is None


def test_random_weights_know_no_language(plain: Restorer) -> None:
    assert class_meant("pea soup", sorted(TEN), plain.daclip.clip) is None
