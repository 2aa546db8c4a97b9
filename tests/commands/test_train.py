"""The training commands: how a command line is read, what a run takes and says before it trains."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from running import TINY, assert_one_line, forked, invoke, read
from skimage import data

from daclip.artifacts import Artifact
from daclip.commands.assembly import build_trainer
from daclip.commands.main import main
from daclip.commands.train import TrainConfig
from daclip.config import _arranged, run_config
from daclip.restoring.restorer import Restorer


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["experiment=a", "-m", "seed=0,1"], ["-m", "experiment=a", "seed=0,1"]),
        (["seed=0,1", "--cfg", "job", "experiment=null"], ["--cfg", "job", "seed=0,1", "~experiment"]),
        (["experiment=a", "experiment=b", "+debug=limit"], ["experiment=b", "debug=limit"]),
        (["logger=null", "logger=csv", "resume=null"], ["logger=csv", "resume=null"]),
    ],
)
def test_flags_and_groups_may_stand_anywhere(given: list[str], read: list[str]) -> None:
    assert _arranged("train_daclip", given) == read


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my photos").mkdir()
    for i in range(12):
        Image.fromarray(data.astronaut()[30 * i : 30 * i + 64, 150:250]).save(tmp_path / "my photos" / f"{i}.png")
    return "data.root='my photos'"


def test_stage_2_without_stage_1_names_the_command_for_the_same_data(photos: str) -> None:
    command = ["daclip.commands.train_restorer", "data=folder", photos, "seed=3", "data.batch_size=2"]
    parts = ("no stage-1 artifact", "daclip.commands.train_daclip", "data=folder", "my photos", "seed=3")
    error = invoke(*command)
    assert_one_line(error, *parts)
    assert "batch_size" not in str(error)
    # Nor does a recipe without a partner train one.
    assert_one_line(invoke(*command, "experiment=single_restorer"), *parts)


def test_stage_2_trains_stage_1_on_the_same_photos(
    photos: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def started(command: list[str], check: bool) -> SimpleNamespace:
        assert command[:2] == [sys.executable, "-m"]
        return SimpleNamespace(returncode=forked(*command[2:], cwd=Path())[0])

    monkeypatch.setattr("daclip.commands.train.subprocess", SimpleNamespace(run=started))
    small = ["data=folder", photos, "data.validation_size=32", "degradation=[noisy,rainy]", "debug=default"]
    assert invoke("daclip.commands.train_restorer", "experiment=smoke_restorer", *small) is None
    first = capsys.readouterr().out.splitlines()[0]
    for part in (
        "recipe smoke_restorer",
        "data folder my photos",
        "stage 1 to be trained",
        "crop 32",
        "1 steps",
        "seed 0",
    ):
        assert part in first
    assert Path("outputs/debug/restorer/latest/metrics.json").is_file()
    config = Path("outputs/debug/daclip/latest/config.yaml").read_text(encoding="utf-8")
    assert "root: my photos" in config
    assert not Path("outputs/daclip").exists()


def test_words_of_ones_own_are_the_artifact_s_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, tint in {"underwater": (0.3, 0.9, 1.0), "sepia": (1.0, 0.7, 0.4)}.items():
        for part, factors in {"LQ": tint, "GT": (1.0, 1.0, 1.0)}.items():
            Path("pairs", name, part).mkdir(parents=True)
            for i in range(6):
                pixels = data.astronaut()[60 * i : 60 * i + 64, 150:230] * np.array(factors)
                Image.fromarray(pixels.astype(np.uint8)).save(f"pairs/{name}/{part}/{name}{i}.png")
    small = ["data=paired", "data.root=pairs", "data.photos.validation=0.3", *TINY[:2], TINY[-1]]
    assert invoke("daclip.commands.train_daclip", "experiment=smoke_daclip", *small) is None
    assert invoke("daclip.commands.train_restorer", "experiment=smoke_restorer", *small) is None
    folder = "outputs/restorer/latest"
    learned = Artifact(folder).classes
    assert sorted(learned) == ["sepia", "underwater"] == sorted(Artifact(f"{folder}/daclip").classes)
    capsys.readouterr()
    photo = "pairs/sepia/LQ/sepia0.png"
    monkeypatch.setattr("sys.argv", ["daclip", "classify", photo, "--json", "--artifact", folder])
    main()
    assert sorted(json.loads(capsys.readouterr().out)["probabilities"]) == sorted(learned)
    assert Restorer(folder).restore(photo, degradation="underwater").notes == ()
    assert invoke("daclip.commands.evaluate", f"artifact={folder}", "output=scores") is None
    confusion = read(Path("scores/metrics.json"))["confusion"]
    assert sorted(confusion) == sorted(learned)
    assert {named for row in confusion.values() for named in row} <= set(learned)


def test_options_of_a_callback_that_is_not_chosen_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = ["experiment=embedded_restorer", "callbacks=[progress,checkpoint]", "logger=null"]
    trainer = build_trainer(run_config("train_restorer", TrainConfig, tmp_path, chosen))
    assert "callbacks.ema is not chosen" in caplog.text
    assert not trainer.loggers
    names = {type(callback).__name__ for callback in trainer.callbacks}  # type: ignore[attr-defined]
    assert "RollingCheckpoint" in names
    assert "EMAWeightAveraging" not in names


@pytest.mark.parametrize("name", ["limit", "overfit", "profiler"])
def test_debug_presets_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["experiment=smoke_daclip", "degradation=[noisy,rainy]", "data.validation_size=32", "trainer.max_steps=3"]
    assert invoke("daclip.commands.train_daclip", *small, f"debug={name}") is None
    assert Path("outputs/debug/daclip/latest").is_symlink()


@pytest.mark.parametrize(
    ("stage", "chosen", "steps"),
    [
        ("daclip", ["experiment=universal_daclip", "trainer=smoke"], 2),
        ("restorer", ["experiment=embedded_restorer", "trainer=smoke"], 2),
        ("restorer", ["experiment=embedded_restorer", "trainer=smoke", "trainer.max_steps=1"], 1),
        ("restorer", ["experiment=smoke_restorer", "trainer=ddp"], 2),
        ("daclip", ["experiment=smoke_daclip", "trainer=ddp"], 2),
    ],
)
def test_no_recipe_overrules_the_smoke_preset_and_no_preset_a_smoke_recipe(
    stage: str, chosen: list[str], steps: int, tmp_path: Path
) -> None:
    trainer = run_config(f"train_{stage}", TrainConfig, tmp_path, chosen).trainer
    assert (trainer.max_steps, trainer.max_epochs, trainer.limit_val_batches) == (steps, -1, 1)
    assert trainer.get("strategy") == ("ddp" if "trainer=ddp" in chosen else None)
