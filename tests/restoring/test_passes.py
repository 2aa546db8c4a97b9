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
from daclip.restoring.passes import MOST, check_passes, in_turn
from daclip.restoring.results import Restoration


class Scripted:
    """A photo is the set of faults that it still has; repairing one takes it away."""

    def __init__(self, **confidences: float) -> None:
        self.confidences = confidences

    def classify(self, photo: frozenset[str]) -> dict[str, float]:
        found = {name: p if name in photo else 0.01 for name, p in self.confidences.items()}
        found["clean"] = 1 - max(found.values())
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def repair(self, photo: frozenset[str], class_name: str | None) -> Restoration:
        probabilities = self.classify(photo)
        worst = class_name or next(iter(probabilities))
        return Restoration(photo - {worst}, probabilities, seed=0, seconds=1.0)


def run(script: Scripted, most: int = MOST, **options: Any) -> Restoration:
    return in_turn(script.repair, script.classify, frozenset(script.confidences), most, **options)


def test_the_surest_goes_first_until_none_is_sure() -> None:
    done = run(Scripted(rainy=0.9, hazy=0.8, noisy=0.3))
    assert [(one.degradation, one.confidence) for one in done.passes] == [("rainy", 0.9), ("hazy", 0.8)]
    assert done.image == {"noisy"}
    assert done.seconds == 2
    assert done.degradation == "rainy"


def test_passes_are_counted_and_limited_by_the_wish() -> None:
    script = Scripted(rainy=0.9, hazy=0.8, noisy=0.7)
    assert run(script, most=2).image == {"noisy"}
    assert run(script, allowed=lambda name: name != "hazy").image == {"hazy", "noisy"}


def test_what_comes_back_is_not_repaired_again() -> None:
    script = Scripted(rainy=0.9)
    done = in_turn(
        lambda photo, name: Restoration(photo, script.classify(photo), 0, 1.0), script.classify, frozenset({"rainy"}), 9
    )
    assert len(done.passes) == 1


@pytest.mark.parametrize("passes", [0, -1, "all", 1.5, True])
def test_a_number_or_auto(passes: Any) -> None:
    if passes is True:
        assert check_passes(passes) == 1
        return
    with pytest.raises(DaclipError, match="passes must be"):
        check_passes(passes)


def test_a_photo_gets_its_kind_back_and_the_first_pass_is_a_single_one(restorer_artifact: Path) -> None:
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


def test_the_command_tells_the_passes(
    restorer_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("daclip.restoring.passes.SURE", 0.0)
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
