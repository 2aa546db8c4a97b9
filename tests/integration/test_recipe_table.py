"""The table of experiments/README.md comes from records."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
from running import TINY, assert_one_line, invoke, read

FOLDER = Path(__file__).parents[2] / "experiments"


def copy(folder: Path) -> Path:
    shutil.copytree(FOLDER, folder / "experiments", dirs_exist_ok=True)
    return folder / "experiments"


def test_the_committed_table_is_what_the_records_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    copied = copy(tmp_path)
    assert invoke("daclip.recipes") is None
    assert (copied / "README.md").read_text(encoding="utf-8") == (FOLDER / "README.md").read_text(encoding="utf-8")


def test_a_command_of_the_table_can_be_pasted_into_a_shell() -> None:
    rows = [line.split(" | ") for line in (FOLDER / "README.md").read_text(encoding="utf-8").splitlines()]
    commands = {row[0].strip("| `"): row[2].strip("`") for row in rows if len(row) == 8 and row[0].startswith("| `")}
    assert set(commands) == {path.stem for path in FOLDER.glob("*.yaml")}
    for recipe, command in commands.items():
        program, *words = shlex.split(command)
        assert program in ("make", "python"), recipe
        options = ("EXPERIMENT=", "ARGS=", "--captions")
        assert all(word.startswith(options) for word in words[1:] if word not in ("PHOTOS", "FILE")), command


def test_a_finished_run_enters_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    copied = copy(tmp_path)
    run = ["experiments=smoke_daclip", "seed=3", "output=out", "hydra.run.dir=out/run"]
    assert invoke("daclip.train", *run) is None
    assert invoke("daclip.recipes", "runs=[out/latest]") is None
    record = read(copied / "records" / "smoke_daclip.json")
    (row,) = [
        line for line in (copied / "README.md").read_text(encoding="utf-8").splitlines() if "`smoke_daclip`" in line
    ]
    assert f"accuracy {record['degradation_accuracy']:.3f}" in row
    assert record["commit"][:9] in row
    assert row.split("|")[-3].strip() == "3"
    # A run that is not the recipe must not stand for it.
    path = tmp_path / "out" / "run" / "artifact" / "record.json"
    changed = read(path)
    changed["command"].append(TINY[0])
    path.write_text(json.dumps(changed), encoding="utf-8")
    assert_one_line(invoke("daclip.recipes", "runs=[out/latest]"), "not a run of a recipe", "data.samples_per_epoch")


@pytest.mark.parametrize("path", sorted((FOLDER / "records").glob("*.json")), ids=lambda path: path.stem)
def test_a_record_belongs_to_a_recipe_and_names_no_folder(path: Path) -> None:
    assert (FOLDER / f"{path.stem}.yaml").is_file()
    text = path.read_text(encoding="utf-8")
    assert "/tmp" not in text
    assert "/home" not in text
    assert {"kind", "seed", "seconds", "commit", "versions", "hardware"} <= set(json.loads(text))
