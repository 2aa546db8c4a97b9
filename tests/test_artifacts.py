"""Artifact folders: complete or absent, and data only."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hydra.utils import get_object
from safetensors import SafetensorError
from small_clip import CLIP
from torch import nn

from daclip.artifacts import (
    Artifact,
    find_artifact,
    load_daclip,
    load_denoiser,
    point_latest,
    present_names,
    read_metrics,
    save_artifact,
)
from daclip.clip.controller import create_daclip
from daclip.errors import DaclipError
from daclip.files import write_json
from daclip.restoring.restorer import Restorer


def settings(**changes: Any) -> dict[str, Any]:
    return {key: value for key, value in {**CLIP, **changes}.items() if key != "_target_"}


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    model = create_daclip(**settings(seed=7))
    return save_artifact(tmp_path / "run" / "artifact", "daclip", {"clip": CLIP}, model.state_dict(), {"a": 1}, {})


def test_weights_come_back_and_are_frozen(artifact: Path) -> None:
    loaded = load_daclip(artifact)
    # The seed of the artifact's configuration differs on purpose: all weights come from the file.
    expected = create_daclip(**settings(seed=7)).state_dict()
    state = loaded.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert not any(p.requires_grad for p in loaded.parameters())


def test_a_pretrained_tag_is_not_downloaded_again(artifact: Path) -> None:
    path = artifact / "config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    config["clip"]["pretrained"] = "laion2b_s34b_b79k"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    assert load_daclip(artifact).embed_dim == 16


def test_a_failed_save_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        save_artifact(tmp_path / "artifact", "daclip", {}, {"w": torch.zeros(1)}, {"bad": object()}, {})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_or_a_broken_folder_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(state: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr("daclip.artifacts.save_file", full)
        with pytest.raises(DaclipError, match=r"No space left on device.*resume=last"):
            save_artifact(tmp_path / "artifact", "daclip", {}, {"w": torch.zeros(1)}, {}, {})
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(DaclipError, match="cannot be written"):
        save_artifact(tmp_path / "file" / "artifact", "daclip", {}, {}, {}, {})
    with pytest.raises(DaclipError, match=r"metrics\.json: cannot be written"):
        write_json(tmp_path / "file" / "metrics.json", {})


def test_latest_moves_to_the_newest(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(DaclipError, match="make train-daclip"):
        find_artifact(None, tmp_path, "make train-daclip")
    point_latest(artifact, tmp_path)
    assert (tmp_path / "latest").readlink() == Path("run/artifact")
    newer = save_artifact(tmp_path / "run2" / "artifact", "daclip", {}, {}, {}, {})
    point_latest(newer, tmp_path)
    assert find_artifact(None, tmp_path, "make train-daclip") == newer.resolve()


def test_the_words_come_from_the_artifact_and_else_from_its_degradations(artifact: Path) -> None:
    path = artifact / "config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))

    def classes(**changes: Any) -> list[str]:
        path.write_text(yaml.safe_dump({**config, **changes}), encoding="utf-8")
        return Artifact(artifact).classes

    noisy = {"noisy": {"_target_": "daclip.degradations.noise.GaussianNoise", "sigma": 25.0}}
    assert classes(degradation=noisy) == ["noisy"]
    assert classes(degradation=noisy, classes=["underwater", "noisy"]) == ["underwater", "noisy"]
    assert classes(classes=["underwater"]) == ["underwater"]
    refused: list[Any] = [[], "noisy", [1], {}]
    for wrong in refused:
        with pytest.raises(DaclipError, match=r"config\.yaml: classes must be"):
            classes(degradation=noisy, classes=wrong)


def test_a_foreign_target_is_refused(artifact: Path) -> None:
    path = artifact / "config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    config["clip"]["architecture"]["text_cfg"]["evil"] = {"_target_": "os.system", "command": "true"}
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    with pytest.raises(DaclipError, match=r"os\.system"):
        load_daclip(artifact)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("config.yaml", None, "config.yaml is missing"),
        ("weights.safetensors", None, "weights.safetensors is missing"),
        ("config.yaml", b"kind: [", "damaged"),
        ("config.yaml", b"just text", "not the configuration"),
        ("config.yaml", b"!!python/object/apply:os.system ['true']", "damaged"),
        ("weights.safetensors", b"\x00" * 100, "damaged"),
    ],
)
def test_a_broken_artifact_is_named_in_one_line(artifact: Path, name: str, content: bytes | None, reason: str) -> None:
    if content is None:
        (artifact / name).unlink()
    else:
        (artifact / name).write_bytes(content)
    with pytest.raises(DaclipError, match=reason) as caught:
        load_daclip(artifact)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["[1]", "{", "null", "[" * 100_000])
def test_broken_records_are_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(DaclipError, match=r"metrics\.json: missing or damaged") as caught:
        read_metrics(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": {"_target_": "daclip.backbones.nafnet.ConditionalNAFNet", "_partial_": True, "width": "wide"}},
        {"backbone": {"_target_": "daclip.backbones.layers.GlobalPool"}},
        {
            "process": {
                "_target_": "daclip.diffusion.sde.ThetaSchedule",
                "kind": "cosine",
                "horizon": "long",
                "delta": 0.1,
            }
        },
        {"stage": {"parameterization": "data"}},
        {"stage": {"parameterization": {"_target_": "daclip.diffusion.denoiser.EdmPreconditioning", "x": 1}}},
    ],
    ids=["a word for a number", "no network", "a word for a length", "a missing choice", "an unknown choice"],
)
def test_values_of_another_kind_are_one_line(restorer_artifact: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    config = yaml.safe_load((restorer_artifact / "config.yaml").read_text(encoding="utf-8"))
    folder = save_artifact(tmp_path / "a", "restorer", {**config, **changes}, {}, {}, {})
    with pytest.raises(DaclipError, match=r"config\.yaml") as caught:
        load_denoiser(Artifact(folder), 16)
    assert "\n" not in str(caught.value)


def test_weights_of_another_layout_are_refused_by_name(artifact: Path) -> None:
    with pytest.raises(DaclipError, match="weight"):
        Artifact(artifact).load_into(nn.Linear(2, 2))


def test_json_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    with pytest.raises(TypeError):
        write_json(path, {"x": object()})
    assert path.read_text(encoding="utf-8") == '{\n  "x": 1\n}\n'
    assert [found.name for found in tmp_path.iterdir()] == ["a.json"]


def test_an_artifact_written_before_the_move_restores_as_it_did(tmp_path: Path) -> None:
    """Random weights, saved by the code of commit 15de3a0 under its module names and keys."""
    shutil.unpack_archive(Path(__file__).parent / "goldens" / "artifact_before_the_move.zip", tmp_path)
    restorer = Restorer(tmp_path, device="cpu", precision="fp32")
    assert restorer.temperature == 0.25  # certainty: 4
    y, x = np.mgrid[:24, :40]
    photo = np.stack([(7 * x + 3 * y) % 256, (5 * x * y) % 256, (11 * y) % 256], -1).astype(np.uint8)
    restored = np.asarray(restorer.restore(photo).image, dtype=float)
    expected = [[[255, 155, 143], [89, 156, 102], [105, 255, 0]], [[156, 254, 108], [255, 157, 25], [93, 196, 78]]]
    np.testing.assert_allclose(restored[8:10, 8:11], expected, atol=1)
    assert restored.mean() == pytest.approx(122.304, abs=0.05)
    probabilities = restorer.classify(photo)[0]
    assert list(probabilities)[:2] == ["noisy", "blurry"]
    # 0.513814 before the view of the whole photo was rounded between its passes.
    assert probabilities["noisy"] == pytest.approx(0.511958, abs=1e-4)
    data = restorer.artifact.build("data")
    assert data.num_workers == 0
    assert len(data.validation_pairs()) == 2 * 3


@pytest.mark.parametrize(
    "name",
    [
        *("weather.Haze", "weather.Rain", "weather.Snow", "weather.Raindrops", "wild.WildPipeline"),
        *("world.clean.Clean", "world.clean.Traces", "world.codec.AnyCodec", "world.drops.WaterOnGlass"),
        *("world.fog.Fog", "world.holes.AnyHoles", "world.motion.AnyMotion", "world.night.Night"),
        *("world.rainfall.Rainfall", "world.sensor.AnyNoise", "world.shadows.CastShadows", "world.snowfall.Snowfall"),
    ],
)
def test_degradations_are_found_under_their_earlier_names(name: str) -> None:
    present = present_names({"_target_": f"daclip.degradations.{name}"})["_target_"]
    assert get_object(present).__qualname__ == name.rpartition(".")[2]
