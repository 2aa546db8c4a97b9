"""An offline wandb run, read back: keys, media, configuration, artifacts with their lineage; and the workspace."""

import json
import re
import struct
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import wandb
from PIL import Image
from running import TINY, assert_one_line, invoke

from daclip.commands.dashboard import LINES, build_workspace
from daclip.training.loggers import _artifact

messages: Any = import_module("wandb.proto.wandb_internal_pb2")
BLOCK, HEADER = 2**15, 7


def records(folder: Path) -> list[Any]:
    """Every record of the one offline run below a folder.

    The file is a LevelDB log after seven bytes of its own: blocks of 32 KiB of chunks, each with checksum (4 bytes),
    length (2) and kind (1 whole, 2 first, 3 middle, 4 last part of a record).
    """
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    content = path.read_bytes()
    assert content.startswith(b":W&B")
    found, place, parts = [], HEADER, b""
    # wandb's own process may still be writing the end of the file.
    while place + HEADER <= len(content):
        left = BLOCK - place % BLOCK
        if left < HEADER:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        if place + HEADER + length > len(content):
            break
        parts += content[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (1, 4):
            record = messages.Record()
            record.ParseFromString(parts)
            found.append(record)
            parts = b""
    return found


def history(found: list[Any]) -> dict[str, Any]:
    """Logged key to its last value."""
    values: dict[str, Any] = {}
    for record in found:
        for item in record.history.item:
            values["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
    return values


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wandb")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("WANDB_MODE", "offline")
        # The data folder of artifacts, which else is the user's.
        patch.setenv("WANDB_DATA_DIR", str(folder / "staging"))
        common = [*TINY, "logger=wandb"]
        assert (
            invoke(
                "daclip.commands.train_daclip", "experiment=smoke_daclip", *common, "hydra.run.dir=one", "output=one"
            )
            is None
        )
        restorer = ["experiment=smoke_restorer", "daclip=one/artifact"]
        assert invoke("daclip.commands.train_restorer", *restorer, *common, "hydra.run.dir=two", "output=two") is None
    for stage in ("one", "two"):
        patience = time.monotonic() + 60
        while [record.WhichOneof("record_type") for record in records(folder / stage)[-1:]] != ["exit"]:
            assert time.monotonic() < patience, "wandb never finished its file"
            time.sleep(0.2)
    return folder


STEPS = {"train/loss", "train/grad_norm", "system/images_per_second", "system/step_seconds", "system/memory_gib"}


@pytest.mark.parametrize(
    ("stage", "keys"),
    [
        (
            "one",
            {
                "train/degradation_loss",
                "val/degradation_accuracy",
                "val/degradation_accuracy/noisy",
                "val/content_cosine",
            },
        ),
        (
            "two",
            {"val/psnr", "val/gain", "val/gain/noisy", "val/psnr/hazy", "samples/grid/_type", "samples/table/_type"},
        ),
    ],
)
def test_the_run_holds_what_a_dashboard_needs(place: Path, stage: str, keys: set[str]) -> None:
    found = history(records(place / stage))
    assert STEPS | keys <= set(found)
    assert any(key.startswith("lr-AdamW") for key in found)
    assert found["system/images_per_second"] > 0
    assert found["system/memory_gib"] > 0.05


def test_the_run_holds_the_resolved_configuration(place: Path) -> None:
    config = {
        item.key: json.loads(item.value_json) for record in records(place / "two") for item in record.config.update
    }
    assert config["sampler"]["steps"] == 2
    assert config["stage"]["optimizer"]["lr"] > 0
    assert config["degradation"]["noisy"]["sigma"] == [10, 50]


def artifacts(folder: Path) -> dict[str, Any]:
    """Kind and name of an artifact to its last record; tables are artifacts too."""
    found = [record.artifact for record in records(folder) if record.HasField("artifact")]
    return {f"{artifact.type}:{artifact.name}": artifact for artifact in found}


def table(folder: Path, key: str) -> dict[str, Any]:
    (run,) = folder.glob("wandb/offline-run-*")
    found: dict[str, Any] = json.loads((run / "files" / history(records(folder))[f"{key}/path"]).read_text("utf-8"))
    return found


def test_samples_come_as_a_table_with_pictures(place: Path) -> None:
    found = table(place / "two", "samples/table")
    assert found["columns"] == ["photo", "degradation", "recognised", "PSNR in", "PSNR", "LQ", "restored", "HQ"]
    assert len(found["data"]) == 6
    assert {class_name for row in found["data"] for class_name in row[1:3]} <= {"noisy", "rainy", "hazy"}
    (kept,) = [artifact for name, artifact in artifacts(place / "two").items() if "samplestable" in name]
    pictures = [entry for entry in kept.manifest.contents if entry.path.endswith(".png")]
    # Two clean photos, and six degraded and restored ones each.
    assert len(pictures) == 14
    assert all(Image.open(entry.local_path).size == (32, 32) for entry in pictures)


def test_the_confusion_matrix_is_a_chart(place: Path) -> None:
    found = table(place / "one", "val/confusion_table")
    assert found["columns"] == ["Actual", "Predicted", "nPredictions"]
    assert len(found["data"]) == 9
    assert sum(row[2] for row in found["data"]) == 6
    charts = {name for r in records(place / "one") for item in r.config.update for name in item.nested_key}
    assert "val/confusion" in charts


def test_stage_2_uses_the_very_artifact_that_stage_1_logged(place: Path) -> None:
    first, second = artifacts(place / "one"), artifacts(place / "two")
    assert {name for name in first if name.startswith("model:")} == {"model:daclip"}
    assert {name for name in second if name.startswith("model:")} == {"model:daclip", "model:restorer"}
    assert second["model:daclip"].use_after_commit
    assert not first["model:daclip"].use_after_commit
    assert second["model:daclip"].digest == first["model:daclip"].digest
    facts = json.loads(second["model:restorer"].metadata)
    assert facts["made_from"] == {"daclip": first["model:daclip"].digest}
    assert facts["mean"]["psnr"] > 0
    entries = {entry.path: entry for entry in second["model:daclip"].manifest.contents}
    # Weights are named with their checksum and stay where they are; only logger.wandb.log_model=true uploads them.
    weights = entries.pop("weights.safetensors")
    assert weights.ref == (place / "one" / "artifact" / "weights.safetensors").resolve().as_uri()
    assert not weights.local_path
    # Uploading the rest later does not depend on where it is started from.
    assert all(Path(entry.local_path).is_absolute() for entry in entries.values())


def test_weights_are_uploaded_where_that_is_asked_for(place: Path) -> None:
    found = _artifact(wandb.Artifact("daclip", type="model"), place / "one" / "artifact", weights=True)
    assert found.manifest.entries["weights.safetensors"].ref is None


def test_the_workspace_has_its_sections_and_panels() -> None:
    pytest.importorskip("wandb_workspaces")
    workspace = build_workspace("someone", "daclip", "both stages")
    assert [section.name for section in workspace.sections] == ["Stage 1", "Stage 2", "Samples", "System"]
    lines = {
        key
        for section in workspace.sections
        for panel in section.panels
        for key in map(str, getattr(panel, "y", None) or [])
    }
    for panels in LINES.values():
        for _, keys in panels:
            for key in [] if isinstance(keys, str) else keys:
                assert any(key in line for line in lines), key
    patterns = [
        panel.metric_regex
        for section in workspace.sections
        for panel in section.panels
        if getattr(panel, "metric_regex", None)
    ]
    for key in ("lr-AdamW/pg1", "lr-Lion", "val/gain/noisy", "val/degradation_accuracy/rainy"):
        assert any(re.search(pattern, key) for pattern in patterns), key


def test_without_a_login_the_dashboard_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert_one_line(invoke("daclip.commands.dashboard"), "not logged in", "wandb login")
    assert not (tmp_path / "outputs").exists()
