"""`make dataset` and `make check-dataset` as a user runs them, and builds that are killed."""

import json
import os
import random
import signal
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image
from running import invoke
from skimage import data

from daclip.data.build import DatasetRecipe, build_dataset
from daclip.data.captions import Captioner
from daclip.data.photos import Photo


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the colour photographs of scikit-image, cut into twelve."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "my photos"
    root.mkdir()
    for name in ("astronaut", "coffee", "chelsea"):
        picture = getattr(data, name)()
        for i in range(4):
            top, left = 100 * (i // 2), 150 * (i % 2)
            Image.fromarray(picture[top : top + 100, left : left + 150]).save(root / f"{name}-{i}.jpg")
            (root / f"{name}-{i}.txt").write_text(f"{name}: piece {i}\n", encoding="utf-8")
    return tmp_path


def test_build_then_check_then_build_again(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build = ["daclip.commands.main", "dataset", "my photos", "-o", "set", "--license", "CC0-1.0"]
    assert invoke(*build) is None
    assert "written: set" in capsys.readouterr().out
    loaded = datasets.load_from_disk("set")
    assert sum(loaded.num_rows.values()) == 12
    assert {row["caption"] for rows in loaded.values() for row in rows} >= {"coffee: piece 3"}
    assert set(loaded["train"]["license"]) == {"CC0-1.0"}
    assert invoke("daclip.commands.main", "check-dataset", "set") is None
    assert "no problems" in capsys.readouterr().out
    assert json.loads((place / "outputs" / "dataset_check.json").read_text())["clean"] is True
    assert invoke(*build) is None
    assert "up to date: set" in capsys.readouterr().out


def test_check_reports_and_fails(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "my photos" / "torn.png").write_bytes(b"no picture")
    (place / "my photos" / "coffee-0.txt").unlink()
    error = invoke("daclip.commands.main", "check-dataset", "my photos", "--report", "found.json")
    assert error is not None
    assert error.startswith("error: 2 problems")
    assert "found.json" in error
    shown = capsys.readouterr().out
    for part in ("unreadable", "torn.png", "missing caption", "coffee-0.jpg"):
        assert part in shown
    report = json.loads((place / "found.json").read_text())
    assert report["problem_counts"] == {"unreadable": 1, "missing caption": 1}


def test_check_knows_the_classes_that_degradations_label_photos_with(place: Path) -> None:
    photo = {"bytes": (place / "my photos" / "coffee-0.jpg").read_bytes(), "path": None}
    labels = ["blurry, jpeg-compressed", "hazy, rainy", "low-resolution, gray", "wild"]
    rows = [{"image": photo, "lq": photo, "degradation": label} for label in labels]
    columns = {"image": datasets.Image(), "lq": datasets.Image(), "degradation": datasets.Value("string")}
    pairs = datasets.Dataset.from_list(rows, features=datasets.Features(columns))
    datasets.DatasetDict({"train": pairs}).save_to_disk("pairs")
    assert invoke("daclip.commands.main", "check-dataset", "pairs", "--report", "found.json") is not None
    report = json.loads((place / "found.json").read_text())
    # The name of a file in conf/degradation/, and no label.
    assert [problem["detail"] for problem in report["problems"]] == ["wild"]


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        (["daclip.commands.dataset"], ["required: PHOTOS"]),
        (["daclip.commands.dataset", "nowhere"], ["nowhere", "no such folder"]),
        (["daclip.commands.dataset", "my photos", "--captioner", "file"], ["caption file"]),
        (["daclip.commands.dataset", "my photos", "--captions", "x.csv"], ["x.csv"]),
        (["daclip.commands.dataset", "my photos", "--captioner", "poet"], ["poet", "sidecar"]),
        (["daclip.commands.dataset", "my photos", "--validation", "2"], ["validation"]),
        (["daclip.commands.dataset", "my photos", "--licence", "MIT"], ["'--licence'", "'--license'"]),
        (["daclip.commands.dataset", "my photos", "output=set"], ["'output=set'", "'--output'"]),
        (["daclip.commands.main", "check-dataset"], ["required: SOURCE"]),
        (["daclip.commands.main", "check-dataset", "nowhere"], ["nowhere"]),
        (["daclip.commands.main", "check-dataset", "my photos", "--expect-captions", "maybe"], ["maybe"]),
    ],
    ids=lambda value: "_".join(value)[7:60] if isinstance(value, list) else None,
)
def test_a_mistake_ends_in_one_line(place: Path, command: list[str], parts: list[str]) -> None:
    error = invoke(*command)
    assert error is not None
    assert error.startswith("error: ")
    assert "\n" not in error
    for part in parts:
        assert part in error
    assert not (place / "outputs" / "dataset").exists()


def test_torn_photos_stop_the_build_unless_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "my photos" / "torn.png").write_bytes(b"no picture")
    error = invoke("daclip.commands.dataset", "my photos", "-o", "set")
    assert error is not None
    assert "torn.png" in error
    assert "skip_unreadable" in error
    assert not (place / "set").exists()
    assert invoke("daclip.commands.dataset", "my photos", "-o", "set", "--skip-unreadable") is None
    assert "left out" in capsys.readouterr().out
    assert sum(datasets.load_from_disk("set").num_rows.values()) == 12


def test_stage_1_trains_from_a_captioned_folder(place: Path) -> None:
    command = ["daclip.commands.train_daclip", "experiment=smoke_daclip", "data=captioned", "data.root='my photos'"]
    assert invoke(*command) is None
    (built,) = (place / "outputs" / "dataset_cache").glob("dataset-*")
    assert sum(datasets.load_from_disk(built).num_rows.values()) == 12


class Slow(Captioner):
    """Takes its time, and at a batch it may get stuck."""

    identity, batch_size = "slow", 2

    def __init__(self, stuck_at: int):
        self.left = stuck_at

    def describe(self, photos: Sequence[Photo]) -> list[str]:
        time.sleep(600 if self.left == 0 else 0.02)
        self.left -= 1
        return [f"photo: {photo.name}" for photo in photos]


def life(root: Path, folder: Path, stuck_at: int = -1, seconds: float | None = None) -> int:
    """The wait status of a process that builds a dataset and, unless it is done before, is killed for good."""
    child = os.fork()
    if child == 0:
        try:
            # PyTorch renews its pool in the first thread after a fork; of two that start at once, one would find none.
            with ThreadPoolExecutor(1) as pool:
                pool.submit(lambda: torch.ones(256, 256, 3).permute(2, 0, 1).contiguous()).result()
            recipe = DatasetRecipe(root, Slow(stuck_at), folder / "cache", 0.3, None, "", None, False, 2, 0.008)
            build_dataset(recipe, folder / "set", False)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def test_a_build_killed_at_random_moments_gives_the_same_dataset(place: Path) -> None:
    root, draw = place / "my photos", random.Random(0)
    started = time.monotonic()
    assert life(root, place / "undisturbed") == 0
    whole = time.monotonic() - started
    killed = 0
    for number in range(30):
        # The first two get stuck, so that they surely die at work; later ones live longer and longer.
        stuck_at = draw.randint(0, 2) if number < 2 else -1
        status = life(root, place / "killed", stuck_at, draw.uniform(0.05, 0.3 + 0.3 * number) * whole)
        killed += os.WIFSIGNALED(status)
        if not os.WIFSIGNALED(status):
            assert status == 0
            break
    assert life(root, place / "killed") == 0
    assert killed >= 2

    def rows(folder: Path) -> dict[str, object]:
        loaded = datasets.load_from_disk(folder)
        return {name: loaded[name].cast_column("image", datasets.Image(decode=False))[:] for name in loaded}

    undisturbed, resumed = rows(place / "undisturbed" / "set"), rows(place / "killed" / "set")
    assert resumed == undisturbed
    assert sorted(path.name for path in (place / "killed").iterdir()) == ["cache", "set"]
    # No caption was made twice.
    parts = [json.loads(path.read_text()) for path in (place / "killed" / "cache" / "captions").rglob("*.json")]
    assert sum(map(len, parts)) == len({key for part in parts for key in part}) == 12
