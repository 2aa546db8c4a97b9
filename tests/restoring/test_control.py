"""How much of a restoration is made."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skimage import data

from daclip import Restorer
from daclip.restoring.control import CLEAN_FOR_SURE, HARDLY_CLEAN, change_share

PHOTO = np.ascontiguousarray(data.coffee()[:48, :64])


def test_the_change_fades_as_a_photo_is_surely_clean() -> None:
    shares = [change_share({"clean": p, "noisy": 1 - p}) for p in np.linspace(0, 1, 21)]
    assert shares == sorted(shares, reverse=True)
    assert change_share({"clean": HARDLY_CLEAN}) == 1
    assert change_share({"clean": CLEAN_FOR_SURE}) == 0
    assert change_share({"noisy": 1.0}) == 1


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


def test_what_the_user_names_is_repaired_all_the_same(restorer: Restorer) -> None:
    done = restorer.restore(PHOTO, degradation="noisy")
    assert not np.array_equal(done.image, PHOTO)
    assert not done.notes
