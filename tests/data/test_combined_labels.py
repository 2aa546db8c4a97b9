"""Stage 1 from end to end on labels that the degradations decide themselves."""

from pathlib import Path

import pytest
from running import TEN, invoke, read

from daclip.artifacts import Artifact
from daclip.degradations import vocabulary


def test_stage_1_learns_the_single_classes_of_combined_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["experiment=smoke_daclip", "degradation=[composite,wild]"]
    assert invoke("daclip.commands.train_daclip", *options) is None
    artifact = tmp_path / "outputs" / "daclip" / "latest"
    # What a restorer names photos with.
    assert set(vocabulary(Artifact(artifact).build("degradation"))) == TEN | {"gray", "blurry", "low-resolution"}
    metrics = read(artifact / "metrics.json")
    assert metrics["steps"] == 2
    assert metrics["per_degradation_accuracy"]
    assert set(metrics["per_degradation_accuracy"]) <= TEN | {"gray", "blurry", "low-resolution"}
