"""What is left of a run, however it ends: artifacts of finished runs and of checkpoints."""

import shutil
from pathlib import Path

import pytest
from running import assert_one_line, invoke, read
from runs import compose

from daclip.artifacts import CONFIG, WEIGHTS, load_daclip
from daclip.commands.train import train

STEPS = 6
RUN = [f"trainer.max_steps={STEPS}", "callbacks.checkpoint.every_n_steps=1", "clip.architecture.vision_cfg.width=32"]


def run(stage: str, folder: Path, *overrides: str) -> Path:
    """A short run, whole; returns its artifact."""
    options = RUN[:2] if stage == "restorer" else RUN
    cfg = compose(stage, folder, *options, f"output={folder.parent}", *overrides)
    return Path(train(cfg, folder)[1]["artifact"])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The run folder of each stage, stage 2's with an average of the weights; nobody writes there."""
    root = tmp_path_factory.mktemp("runs")
    stage_1 = run("daclip", root / "daclip" / "run")
    run("restorer", root / "restorer" / "run", f"daclip={stage_1}", "callbacks.ema.decay=0.9")
    return {stage: root / stage / "run" for stage in ("daclip", "restorer")}


@pytest.mark.parametrize("stage", ["daclip", "restorer"])
def test_a_checkpoint_of_the_last_step_gives_the_artifact_of_the_run(
    runs: dict[str, Path], stage: str, tmp_path: Path
) -> None:
    checkpoint = runs[stage] / "checkpoints" / f"step_{STEPS:08d}.ckpt"
    made, own = tmp_path / "made", runs[stage] / "artifact"
    assert invoke("daclip.commands.convert", str(checkpoint), "-o", str(made)) is None
    names = [CONFIG, WEIGHTS] + ([f"daclip/{WEIGHTS}"] if stage == "restorer" else [])
    for name in names:
        assert (made / name).read_bytes() == (own / name).read_bytes()
    assert read(made / "metrics.json") == {"steps": STEPS, "checkpoint": checkpoint.name}
    assert_one_line(invoke("daclip.commands.convert", str(checkpoint), "-o", str(made)), "exists", "--overwrite")


def test_a_checkpoint_of_an_earlier_version_takes_the_configuration_that_hydra_wrote(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daclip.training.checkpointing.RecordedConfig.of", lambda checkpoint: None)
    (tmp_path / "checkpoints").mkdir()
    best = next((runs["daclip"] / "checkpoints").glob("best_*.ckpt"))
    copy = str(shutil.copy(best, tmp_path / "checkpoints"))
    assert_one_line(invoke("daclip.commands.convert", copy), "configuration is unknown")
    text = (runs["daclip"] / "artifact" / CONFIG).read_text(encoding="utf-8")
    (tmp_path / ".hydra").mkdir()
    marked = text.replace(str(runs["daclip"]), "${hydra:runtime.output_dir}")
    assert marked != text
    (tmp_path / ".hydra" / "config.yaml").write_text(marked, encoding="utf-8")
    assert invoke("daclip.commands.convert", copy) is None
    artifact = tmp_path / f"artifact_{best.stem}"
    assert f"folder: {tmp_path}/checkpoints" in (artifact / CONFIG).read_text(encoding="utf-8")
    load_daclip(artifact)
    assert_one_line(invoke("daclip.commands.convert", copy, "--variant", "wild"), "leave out --variant")
    assert_one_line(invoke("daclip.commands.convert", copy, "--overwrite", "--daclip", "x"), "holds stage 1 itself")
