"""What is left of a run, however it ends: artifacts of finished runs and of checkpoints, `latest`, and resumed runs."""

import logging
import os
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from hydra.core.utils import setup_globals
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from omegaconf import OmegaConf
from PIL import Image
from running import assert_one_line, invoke, read
from runs import compose
from skimage import data as photos

from daclip.artifacts import CONFIG, METRICS, WEIGHTS, load_daclip, point_latest, save_artifact
from daclip.commands.assembly import build_trainer
from daclip.commands.run_folders import Sweep, claimed, take_latest
from daclip.commands.train import train
from daclip.errors import DaclipError, StoppedError

STEPS = 6
RUN = [
    f"trainer.max_steps={STEPS}",
    "callbacks.checkpoint.every_n_steps=1",
    "data.samples_per_epoch=12",
    "clip.architecture.vision_cfg.width=32",
]


def run(stage: str, folder: Path, *overrides: str) -> Path:
    """A short run, whole; returns its artifact."""
    return Path(parts(stage, folder, *overrides)["artifact"])


def parts(stage: str, folder: Path, *overrides: str) -> dict[str, Any]:
    options = RUN[:3] if stage == "restorer" else RUN
    cfg = compose(stage, folder, *options, f"output={folder.parent}", *overrides)
    return train(cfg, folder)[1]


def more(stage: str, runs: dict[str, Path]) -> list[str]:
    """What a run of a stage needs beside its length."""
    return [f"daclip={runs['daclip'] / 'artifact'}", "callbacks.ema.decay=0.9"] if stage == "restorer" else []


@pytest.fixture
def add_callback(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callback], None]:
    """Puts a callback into the next runs."""

    def add(callback: Callback) -> None:
        def build(cfg: Any) -> L.Trainer:
            trainer = build_trainer(cfg)
            trainer.callbacks.insert(0, callback)  # type: ignore[attr-defined]
            return trainer

        monkeypatch.setattr("daclip.commands.train.build_trainer", build)

    return add


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The run folder of each stage, stage 2's with an average of the weights; nobody writes there."""
    root = tmp_path_factory.mktemp("runs")
    found = {stage: root / stage / "run" for stage in ("daclip", "restorer")}
    for stage, folder in found.items():
        run(stage, folder, *more(stage, found))
    return found


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
    assert read(made / "metrics.json") == {
        "steps": STEPS,
        "not_scored": f"made of the checkpoint {checkpoint.name}",
    }
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


class Stop(Callback):
    """Sends SIGTERM once, in a phase of the run."""

    phase: str | None = None

    def _in(self, phase: str) -> None:
        if self.phase == phase:
            self.phase = None
            os.kill(os.getpid(), signal.SIGTERM)

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == 0:
            self._in("first step")

    def on_validation_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.state.fn == "fit":
            self._in("first pass" if trainer.global_step < STEPS else "last pass")
        else:
            self._in("final pass")


@pytest.mark.parametrize(
    ("stage", "phase"),
    [
        ("daclip", "last pass"),
        *(("restorer", phase) for phase in ("first step", "first pass", "last pass, final pass", "end")),
    ],
)
def test_a_run_stopped_anywhere_and_resumed_leaves_the_artifact_of_one_that_was_not(
    runs: dict[str, Path],
    stage: str,
    phase: str,
    tmp_path: Path,
    add_callback: Callable[[Callback], None],
) -> None:
    stop = Stop()
    add_callback(stop)
    if phase == "end":
        run(stage, tmp_path, *more(stage, runs))
    else:
        # A final pass follows only where the last one of training is missing.
        for stop.phase in phase.split(", "):
            with pytest.raises(StoppedError):
                run(stage, tmp_path, *more(stage, runs), "resume=auto")
            assert not (tmp_path / "artifact").exists()
            assert stop.phase is None
    artifact = run(stage, tmp_path, *more(stage, runs), "resume=auto")
    for name in (WEIGHTS, METRICS):
        assert (artifact / name).read_bytes() == (runs[stage] / "artifact" / name).read_bytes()


class Passes(Callback):
    """Keeps the step of each validation pass, and whether it was a part of training."""

    def __init__(self) -> None:
        self.found: list[tuple[int, bool]] = []

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.found.append((trainer.global_step, trainer.state.fn == "fit"))


@pytest.mark.parametrize(("steps", "last"), [(3, (3, True)), (4, (4, False))])
@pytest.mark.parametrize("stage", ["daclip", "restorer"])
def test_the_weights_of_the_last_step_are_scored_once(
    runs: dict[str, Path],
    stage: str,
    steps: int,
    last: tuple[int, bool],
    tmp_path: Path,
    add_callback: Callable[[Callback], None],
) -> None:
    passes = Passes()
    add_callback(passes)
    done = parts(stage, tmp_path / "run", *more(stage, runs), f"trainer.max_steps={steps}")  # three an epoch
    assert passes.found == [(3, True)] + ([last] if steps > 3 else [])
    done["trainer"].validate(done["module"], done["data"], verbose=False)
    saved = save_artifact(tmp_path / "again", stage, {}, {}, {"steps": steps, **done["module"].results()}, {})
    assert (saved / METRICS).read_bytes() == (done["artifact"] / METRICS).read_bytes()


def test_a_run_without_validation_leaves_its_artifact(tmp_path: Path) -> None:
    artifact = run("daclip", tmp_path / "run", "trainer.limit_val_batches=0")
    assert read(artifact / METRICS) == {"steps": STEPS, "not_scored": "trainer.limit_val_batches=0"}
    assert (tmp_path / "latest").resolve() == artifact


class Break(Callback):
    """Calls something behind the last step."""

    def __init__(self, act: Callable[[L.LightningModule], None]):
        self.act = act

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.act(pl_module)


def test_what_fails_behind_the_last_step_costs_no_artifact(
    tmp_path: Path, add_callback: Callable[[Callback], None]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(12):
        Image.fromarray(photos.astronaut()[30 * i : 30 * i + 64, 150:250]).save(folder / f"{i}.png")

    def broken(*_: Any) -> None:
        raise DaclipError("the photos are gone")

    def act(module: Any) -> None:
        shutil.rmtree(folder)
        module.validation_step = broken

    add_callback(Break(act))
    options = [f"data.root={folder}", "data.num_workers=0", f"trainer.max_steps={STEPS - 1}"]  # a final pass follows
    with pytest.raises(DaclipError, match="the photos are gone"):
        run("daclip", tmp_path / "out" / "run", "data=folder", *options)
    artifact = tmp_path / "out" / "run" / "artifact"
    assert read(artifact / METRICS) == {"steps": STEPS - 1, "not_scored": "the photos are gone"}
    assert read(artifact / "record.json")["data"]["train"]["photos"] > 0
    load_daclip(artifact)
    assert not (tmp_path / "out" / "latest").exists()


def test_a_deleted_stage_1_costs_stage_2_no_artifact(
    tmp_path: Path, runs: dict[str, Path], add_callback: Callable[[Callback], None]
) -> None:
    stage_1 = tmp_path / "stage_1"
    shutil.copytree(runs["daclip"] / "artifact", stage_1)
    add_callback(Break(lambda _: shutil.rmtree(stage_1)))
    artifact = run("restorer", tmp_path / "out" / "run", f"daclip={stage_1}")
    weights = [folder / WEIGHTS for folder in (artifact / "daclip", runs["daclip"] / "artifact")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert not (tmp_path / "out" / "run" / "held_daclip").exists()


def test_a_diverged_run_ends_in_one_line_and_never_becomes_latest(
    tmp_path: Path, add_callback: Callable[[Callback], None]
) -> None:
    def explode(module: L.LightningModule) -> None:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.fill_(1e28)

    add_callback(Break(explode))
    with pytest.raises(DaclipError, match="has diverged: content_cosine is not a number at step 6") as caught:
        run("daclip", tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert not (tmp_path / "run" / "artifact").exists()


def test_a_trial_takes_latest_from_a_trial_only(tmp_path: Path) -> None:
    def artifact(name: str, **record: Any) -> Path:
        return save_artifact(tmp_path / name, "daclip", {}, {"weight": torch.zeros(1)}, {}, record)

    first, full, trial = artifact("first", trial=True), artifact("full"), artifact("trial", trial=True)
    root = tmp_path / "not" / "yet"
    assert [take_latest(found, root) for found in (first, trial, full, trial)] == [True, True, True, False]
    assert (root / "latest").resolve() == full
    point_latest(trial, root)
    assert (root / "latest").resolve() == trial


def test_a_resumed_run_takes_what_may_change_and_keeps_the_best_score(
    runs: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    last = runs["restorer"] / "checkpoints" / f"step_{STEPS:08d}.ckpt"
    options = [f"resume={last}", "callbacks.ema.decay=0.9", "stage.optimizer.lr=0.5", "trainer.max_steps=7"]
    with caplog.at_level(logging.INFO):
        done = parts("restorer", tmp_path / "run", *options)
    assert "stage.optimizer.lr 0.0002 → 0.5" in caplog.text
    group = done["trainer"].optimizers[0].param_groups[0]
    assert group["initial_lr"] == 0.5
    assert "lr: 0.5" in (done["artifact"] / CONFIG).read_text(encoding="utf-8")
    # Stage 1 is that of the run before, without a word.
    stage_1 = runs["daclip"] / "artifact" / WEIGHTS
    assert (done["artifact"] / "daclip" / WEIGHTS).read_bytes() == stage_1.read_bytes()
    best = next(path for path in (runs["restorer"] / "checkpoints").glob("best_*.ckpt"))
    state = torch.load(best, weights_only=True)["callbacks"]
    before = next(value["best_model_score"] for name, value in state.items() if name.startswith("ModelCheckpoint"))
    found = [callback for callback in done["trainer"].checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    assert found[0].best_model_score >= before


@pytest.mark.parametrize(
    ("stage", "options", "message"),
    [
        ("daclip", [], "a state of stage 2, and this is stage 1; use make train-restorer"),
        ("restorer", ["backbone.width=16"], "its run had other parts: backbone.width 8 → 16; give the same"),
        ("restorer", ["~callbacks.ema"], r"does not fit this run at the average of the weights \(callbacks.ema\)"),
    ],
)
def test_a_run_that_cannot_go_on_from_a_state_says_why_in_one_line(
    runs: dict[str, Path], stage: str, options: list[str], message: str, tmp_path: Path
) -> None:
    last = runs["restorer"] / "checkpoints" / f"step_{STEPS:08d}.ckpt"
    with pytest.raises(DaclipError, match=message) as caught:
        run(stage, tmp_path / "run", f"resume={last}", *options)
    assert "\n" not in str(caught.value)


def test_folders_of_one_second_are_claimed_by_one_run_each(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: claimed(tmp_path / "a" / "12-00-00"), range(8)))
    assert {path.name for path in found} == {"12-00-00", *(f"12-00-00_{number}" for number in range(2, 9))}
    setup_globals()
    cfg = OmegaConf.create({"hydra": {"run": {"dir": f"{tmp_path}/b/${{now:%Y}}"}}})
    (tmp_path / "b" / str(cfg.hydra.run.dir)).mkdir(parents=True)
    Sweep().on_run_start(cfg)
    assert cfg.hydra.run.dir.endswith("_2")
    cfg.hydra.run.dir = f"{tmp_path}/mine"
    Sweep().on_run_start(cfg)
    assert cfg.hydra.run.dir == f"{tmp_path}/mine"


def test_a_run_folder_that_is_named_again_keeps_its_run(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    before = (run("daclip", folder, "trainer.max_steps=1") / WEIGHTS).read_bytes()
    with pytest.raises(DaclipError, match="mine belongs to another run; go on with that by resume=auto"):
        run("daclip", folder, "trainer.max_steps=1", "seed=1")
    assert (folder / "artifact" / WEIGHTS).read_bytes() == before


def test_a_mistake_is_one_line_on_the_screen_and_a_traceback_in_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["daclip.commands.train_daclip", "experiment=smoke_daclip", "resume=gone.ckpt"]
    assert_one_line(invoke(*command, f"output={tmp_path}/out"), "gone.ckpt: no such checkpoint file")
    log = next((tmp_path / "out").glob("*/train_daclip.log")).read_text(encoding="utf-8")
    assert "Traceback" in log
    assert "DaclipError: resume=gone.ckpt" in log
    assert "Traceback" not in capsys.readouterr().err
    (tmp_path / "file").write_text("in the way")
    assert_one_line(invoke(*command, f"output={tmp_path}/file/out"), f"{tmp_path}/file/out", "cannot be written")
