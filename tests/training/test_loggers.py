"""Every logger with two processes, in both stages; wandb without a network and in a sweep."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ranks import free_port, run_ranks
from running import TINY
from test_wandb import history, records

from daclip.commands.options import make
from daclip.commands.train import TrainConfig, train
from daclip.config import run_config
from daclip.files import choices
from daclip.training.loggers import finish_run

SCORES = {"daclip": "val/degradation_accuracy", "restorer": "val/psnr"}


def seen_by_csv(folder: Path) -> set[str]:
    (path,) = folder.rglob("metrics.csv")
    return set(path.read_text(encoding="utf-8").splitlines()[0].split(","))


def seen_by_wandb(folder: Path) -> set[str]:
    found = records(folder)  # of the only run: a second rank would have made another
    assert json_config(found)["trainer"]["max_steps"] == 1
    return {key.removesuffix("/_type") for key in history(found)}


def json_config(found: list[Any]) -> dict[str, Any]:
    return {item.key: json.loads(item.value_json) for record in found for item in record.config.update}


def seen_by_tensorboard(folder: Path) -> set[str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # The name is events.out.tfevents.TIME.MACHINE.PROCESS.NUMBER; training and the pass behind it have one each.
    assert len({path.name.split(".")[-2] for path in (folder / "tensorboard").glob("events.*")}) == 1
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    tags: Mapping[str, Any] = events.Tags()
    assert "max_steps" in (folder / "tensorboard" / "hparams.yaml").read_text(encoding="utf-8")
    return {*tags["scalars"], *tags["images"]}


def seen_by_mlflow(folder: Path) -> set[str]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (experiment,) = (one for one in client.search_experiments() if one.name == "daclip")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params["trainer/max_steps"] == "1"
    grids = {"samples/grid" for _ in client.list_artifacts(run.info.run_id, "samples/grid")}
    return grids | set(run.data.metrics)


SEEN = {"csv": seen_by_csv, "wandb": seen_by_wandb, "tensorboard": seen_by_tensorboard, "mlflow": seen_by_mlflow}


@pytest.mark.parametrize(
    ("logger", "stage"), [("csv", "daclip"), *((logger, "restorer") for logger in choices("logger") if logger != "csv")]
)
def test_two_processes_write_one_run(
    logger: str, stage: str, tmp_path: Path, restorer_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if logger != "csv":
        pytest.importorskip(logger)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staging"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    guide = [f"daclip={restorer_artifact / 'daclip'}"] if stage == "restorer" else []
    ranks = ["trainer=torchrun", "trainer.accelerator=cpu", "trainer.log_every_n_steps=1", "data.batch_size=5"]
    roots = [f"paths.root={tmp_path}", f"output={tmp_path}", f"logger={logger}"]

    def work(rank: int) -> float:
        chosen = [f"experiment=smoke_{stage}", *TINY, *ranks, *roots, *guide]
        cfg = run_config(f"train_{stage}", TrainConfig, run, chosen)
        try:
            metrics, _ = train(cfg, run)
        finally:
            finish_run()
        return float(metrics["steps"])

    found, statuses = run_ranks(2, tmp_path, work)
    assert statuses == [0, 0], [path.read_text(encoding="utf-8") for path in tmp_path.glob("rank_*.txt")]
    assert found == [1.0, 1.0]
    wanted = {"train/loss", "lr-AdamW", SCORES[stage]}
    if stage == "restorer" and logger != "csv":
        wanted.add("samples/grid")
    seen = SEEN[logger](tmp_path if logger == "mlflow" else run)
    assert all(any(key.startswith(name) for key in seen) for name in wanted), sorted(seen)


def logger_in(folder: Path, *overrides: str) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    cfg = run_config("train_daclip", TrainConfig, folder, ["experiment=smoke_daclip", "logger=wandb", *overrides])
    return make(cfg.logger.wandb)


def test_a_key_without_a_network_falls_back_to_an_offline_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr("wandb.login", lambda **options: True)
    monkeypatch.setattr("wandb.setup", lambda: Server())
    assert logger_in(tmp_path)._wandb_init["mode"] == "offline"
    assert [line for line in caplog.messages if "wandb cannot be reached" in line]


class Server:
    """Stands for wandb's settings; nobody listens there."""

    settings: Any

    def __init__(self) -> None:
        self.settings = type("Settings", (), {"base_url": f"http://127.0.0.1:{free_port()}"})


def test_names_and_groups_come_from_folders_and_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    plain = logger_in(tmp_path / "2026-01-01")._wandb_init
    assert (plain["name"], plain["group"]) == ("2026-01-01", None)
    (tmp_path / "sweep_1").mkdir()
    (tmp_path / "sweep_1" / "multirun.yaml").touch()
    job = logger_in(tmp_path / "sweep_1" / "0", "seed=3")._wandb_init
    assert job["group"] == "sweep_1"
    assert "seed=3" in job["name"]
    named = logger_in(tmp_path / "sweep_1" / "0", "logger.wandb.name=mine", "logger.wandb.tags=[a]")._wandb_init
    assert (named["name"], named["tags"]) == ("mine", ["a"])


@pytest.mark.parametrize("variable", ["WANDB_MODE"])
def test_the_mode_of_the_environment_wins(variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "disabled")
    assert logger_in(tmp_path)._wandb_init["mode"] == os.environ[variable]
