"""Several degradations in turn."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from running import invoke
from skimage import data

from daclip import Restorer
from daclip.errors import DaclipError
from daclip.restoring.control import MOST, Recognised, check_settings, in_turn
from daclip.restoring.instruction import Wish
from daclip.types import Restoration


class Scripted:
    """A photo is the set of faults that it still has; repairing one takes it away."""

    def __init__(self, **confidences: float) -> None:
        self.confidences = confidences
        self.looks = 0

    def recognise(self, photo: frozenset[str]) -> Recognised:
        self.looks += 1
        found = {name: p if name in photo else 0.01 for name, p in self.confidences.items()}
        found["clean"] = 1 - max(found.values())
        return photo, dict(sorted(found.items(), key=lambda item: -item[1]))

    def repair(self, photo: frozenset[str], class_name: str | None, recognised: Recognised) -> Restoration:
        assert recognised[0] == photo  # of this photo and no earlier one
        worst = class_name or next(iter(recognised[1]))
        return Restoration(photo - {worst}, recognised[1], seed=0, seconds=1.0)


def run(script: Scripted, most: int = MOST, **options: Any) -> Restoration:
    return in_turn(script.repair, script.recognise, frozenset(script.confidences), most, **options)


def test_the_surest_goes_first_until_none_is_sure() -> None:
    script = Scripted(rainy=0.9, hazy=0.8, noisy=0.3)
    done = run(script)
    assert [(one.degradation, one.confidence) for one in done.passes] == [("rainy", 0.9), ("hazy", 0.8)]
    assert done.image == {"noisy"}
    assert done.degradation == "rainy"
    assert script.looks == 3  # one a pass, and the one that ends it


def test_passes_are_counted_and_limited_by_the_wish() -> None:
    script = Scripted(rainy=0.95, hazy=0.9, noisy=0.85)
    assert run(script, most=2).image == {"noisy"}
    for wish in (Wish({}, ("hazy",), 1.0), Wish({"rainy": 1.0, "noisy": 1.0}, (), 1.0)):
        assert run(script, wish=wish).image == {"hazy", "noisy"}


def test_a_wish_is_met_in_turn_and_what_it_asks_in_part_once() -> None:
    script, wish = Scripted(hazy=0.95, rainy=0.9, noisy=0.8), Wish({"rainy": 1.0, "hazy": 0.5}, ("noisy",), 1.0)

    def first_by(*repaired: str) -> Restoration:
        """The first pass repairs these alone, and the haze comes back."""

        def repair(photo: frozenset[str], class_name: str | None, recognised: Recognised) -> Restoration:
            left = tuple({"rainy", "hazy", "noisy"} - {*repaired}) if class_name is None else ()
            told = () if class_name else repaired
            changed = photo - {class_name or repaired[0]} | {"hazy"}
            return Restoration(changed, recognised[1], 0, 1.0, repaired=told, left=left)

        return in_turn(repair, script.recognise, frozenset(script.confidences), MOST, wish)

    done = first_by("rainy")
    assert [one.degradation for one in done.passes] == ["rainy", "hazy"]
    assert (done.repaired, done.left, done.shares) == (("rainy", "hazy"), ("noisy",), {"rainy": 1.0, "hazy": 0.5})
    assert [one.degradation for one in first_by("rainy", "hazy").passes] == ["hazy"]


def test_what_comes_back_is_not_repaired_again() -> None:
    script = Scripted(rainy=0.9)

    def nothing(photo: frozenset[str], name: str | None, recognised: Recognised) -> Restoration:
        return Restoration(photo, recognised[1], 0, 1.0)

    done = in_turn(nothing, script.recognise, frozenset({"rainy"}), 9)
    assert len(done.passes) == 1


@pytest.mark.parametrize("passes", [0, -1, "all", 1.5, True])
def test_a_number_or_auto(passes: Any) -> None:
    if passes is True:
        assert check_settings(1.0, 1, passes) == 1
        return
    with pytest.raises(DaclipError, match="passes must be"):
        check_settings(1.0, 1, passes)


def test_a_photo_gets_its_kind_back_and_passes_are_single_ones_in_turn(
    restorer_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restorer = Restorer(restorer_artifact, device="cpu", precision="fp32")
    photo = np.ascontiguousarray(data.chelsea()[:64, :72])
    single, several = restorer.restore(photo), restorer.restore(photo, passes="auto")
    assert several.probabilities == single.probabilities
    assert np.array_equal(several.passes[0].image, single.image)
    assert several.image.dtype == np.uint8
    assert several.image.shape == photo.shape
    batch = torch.from_numpy(photo).permute(2, 0, 1)[None].repeat(2, 1, 1, 1)
    assert len(restorer.restore(batch, passes=2)) == 2
    with pytest.raises(DaclipError, match="samples"):
        restorer.restore(photo, passes=2, samples=2)
    monkeypatch.setattr("daclip.restoring.control.AGAIN", 0.0)
    monkeypatch.setattr("daclip.restoring.control.certainty", lambda probabilities: 0.85)
    monkeypatch.setattr("daclip.restoring.control.change_share", lambda certain, distance: 0.5)
    single = restorer.restore(photo)
    two = restorer.restore(photo, passes=2)
    second = restorer.restore(single.image, degradation=two.passes[1].degradation, strength=0.5)
    assert np.array_equal(two.image, second.image)
    assert two.passes[1].confidence == second.probabilities[two.passes[1].degradation]


def test_the_command_tells_the_passes(
    restorer_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("daclip.restoring.control.AGAIN", 0.0)
    Image.fromarray(data.chelsea()[:40, :48]).save(tmp_path / "cat.png")
    options = ["--artifact", str(restorer_artifact), "-o", str(tmp_path / "out"), "--device", "cpu"]
    assert invoke("daclip.commands.restore", str(tmp_path / "cat.png"), *options, "--passes", "2") is None
    line = json.loads((tmp_path / "out" / "summary.jsonl").read_text())
    assert len(line["passes"]) == 2
    assert len({class_name for class_name, _ in line["passes"]}) == 2
    assert "repaired in turn: " in capsys.readouterr().out
    assert "passes must be" in str(
        invoke("daclip.commands.restore", str(tmp_path / "cat.png"), *options, "--passes", "0")
    )
