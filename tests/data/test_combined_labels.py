"""Stage 1 from end to end on labels that the degradations decide themselves."""

import json
import os
import subprocess
import sys
from pathlib import Path

from running import TEN

from daclip.artifacts import Artifact
from daclip.degradations import vocabulary


def test_stage_1_learns_the_single_classes_of_combined_labels(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "daclip.commands.train_daclip",
            "experiment=smoke_daclip",
            "degradation=[composite,wild]",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    artifact = tmp_path / "outputs" / "daclip" / "latest"
    # What a restorer names photos with.
    assert set(vocabulary(Artifact(artifact).build("degradation"))) == TEN | {"gray", "blurry", "low-resolution"}
    metrics = json.loads((artifact / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["steps"] == 2
    assert metrics["per_degradation_accuracy"]
    assert set(metrics["per_degradation_accuracy"]) <= TEN | {"gray", "blurry", "low-resolution"}
