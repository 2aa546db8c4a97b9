"""Sweeps: presets, going on after a stop, and the summary."""

from pathlib import Path

import hydra
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from running import TINY, assert_one_line, invoke, read

from daclip.commands.options import make
from daclip.config import config_dir
from daclip.files import choices

PRESETS = choices("sweep")
SEARCHES = sorted((Path(config_dir()) / "wandb_sweep").glob("*.yaml"))
SMOKE = ["daclip.commands.train_daclip", "-m", "sweep=smoke", *TINY]
FOLDER = Path("outputs", "sweeps", "smoke")


@pytest.mark.parametrize("name", PRESETS)
def test_every_run_of_a_preset_composes(name: str) -> None:
    header = (Path(config_dir()) / "sweep" / f"{name}.yaml").read_text(encoding="utf-8").split("defaults:")[0]
    assert "# Question:" in header
    primary = "train_daclip" if "# Command:  make train-daclip " in header else "train_restorer"
    assert f"-m sweep={name}" in header
    with hydra.initialize_config_dir(config_dir(), version_base="1.3"):
        whole = hydra.compose(primary, [f"sweep={name}"], return_hydra_config=True)
        grid = [f"{key}={values}" for key, values in whole.hydra.sweeper.params.items()]
        parsed = OverridesParser.create().parse_overrides(grid)
        assert all(override.is_sweep_override() for override in parsed)
        first = [f"{override.key_or_group}={next(override.sweep_string_iterator())}" for override in parsed]
        cfg = hydra.compose(primary, [f"sweep={name}", *first])
    assert whole.hydra.sweep.subdir == whole.hydra.job.override_dirname
    make(cfg.stage.get("loss", {}))


@pytest.mark.parametrize(
    ("launcher", "options"),
    [("joblib", {"n_jobs": 2}), ("submitit_local", {"timeout_min": 60}), ("submitit_slurm", {"setup": ["a b", "c"]})],
)
def test_a_launcher_is_one_option(launcher: str, options: dict[str, object]) -> None:
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    chosen = [f"hydra/launcher={launcher}", *(f"hydra.launcher.{key}={value}" for key, value in options.items())]
    with hydra.initialize_config_dir(config_dir(), version_base="1.3"):
        cfg = hydra.compose("train_daclip", chosen, return_hydra_config=True)
    assert {key: cfg.hydra.launcher[key] for key in options} == options


@pytest.mark.parametrize("path", SEARCHES, ids=lambda path: path.stem)
def test_a_wandb_search_drives_the_same_entry_point(path: Path) -> None:
    """What its agent would run composes, and the metric it watches is logged by that stage."""
    search = yaml.safe_load(path.read_text(encoding="utf-8"))
    chosen = {
        name: values["values"][0] if "values" in values else values["min"]
        for name, values in search["parameters"].items()
    }
    arguments = [f"{name}={value}" for name, value in chosen.items()]
    parts = [search["program"] if part == "${program}" else part for part in search["command"]]
    assert parts[:3] == ["${env}", "python", "-m"]
    assert parts[-1] == "${args_no_hyphens}"
    primary = parts[3].removeprefix("daclip.commands.")
    with hydra.initialize_config_dir(config_dir(), version_base="1.3"):
        cfg = hydra.compose(primary, [*parts[4:-1], *arguments])
    assert "wandb" in cfg.logger
    assert search["method"] == "bayes"
    assert search["metric"]["name"] in {"val/psnr", "val/degradation_accuracy"}


def test_a_stopped_sweep_goes_on_and_ends_in_one_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke(*SMOKE, "seed=0") is None  # in place of the preset's seeds
    done = FOLDER / "loss=official" / "artifact" / "metrics.json"
    before = done.stat().st_mtime_ns
    # One run was interrupted: it has a checkpoint and no artifact yet.
    stopped = FOLDER / "loss=multi_positive"
    (stopped / "artifact" / "record.json").unlink()
    capsys.readouterr()
    assert invoke(*SMOKE, "seed=0") is None
    assert done.stat().st_mtime_ns == before
    resumed = yaml.safe_load((stopped / "artifact" / "config.yaml").read_text(encoding="utf-8"))["resume"]
    assert Path(resumed).parent.resolve() == (stopped / "checkpoints").resolve()
    summary = read(FOLDER / "summary.json")
    assert [set(run["overrides"]) for run in summary["runs"]] == [{"loss"}] * 2
    scores = [run["score"] for run in summary["runs"]]
    assert scores == sorted(scores, reverse=True)
    for run in summary["runs"]:
        metrics = read(FOLDER / run["folder"] / "artifact" / "metrics.json")
        assert run["score"] == metrics["degradation_accuracy"]
    assert "best first" in capsys.readouterr().out
    # A changed configuration is another run, not the finished one.
    assert invoke(*SMOKE, "seed=0", "stage.content_share=0.5") is None
    assert done.stat().st_mtime_ns > before


def test_seeds_are_averaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke(*SMOKE, "loss=official,multi_positive", "seed=0,1", "trainer.max_steps=1") is None
    summary = read(FOLDER / "summary.json")
    assert {run["folder"] for run in summary["runs"]} == {
        f"loss={loss},seed={seed}" for loss in ("official", "multi_positive") for seed in (0, 1)
    }
    assert [group["count"] for group in summary["groups"]] == [2, 2]
    text = (FOLDER / "summary.md").read_text(encoding="utf-8")
    assert "| loss | seed | score | seconds |" in text
    assert " ± " in text


def test_a_run_that_fails_leaves_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_one_line(invoke(*SMOKE, "loss=official", "seed=0", "daclip=nowhere,null"), "nowhere: no such artifact")
    printed = capsys.readouterr()
    assert "daclip=nowhere" in printed.err  # which run it was
    assert "1 runs are finished; the same command goes on" in printed.out
    assert [run["folder"] for run in read(FOLDER / "summary.json")["runs"]] == ["daclip=null"]


@pytest.mark.parametrize("launcher", ["submitit_local", "ray"])
def test_runs_in_other_processes_come_home(
    launcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One run finishes; the mistake of the other arrives as one line, without a traceback."""
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    monkeypatch.chdir(tmp_path)
    grid = ["loss=official", "seed=0", "daclip=nowhere,null", f"hydra/launcher={launcher}"]
    assert_one_line(invoke(*SMOKE, *grid), "nowhere: no such artifact folder")
    assert [run["folder"] for run in read(FOLDER / "summary.json")["runs"]] == ["daclip=null"]
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["sweep=nothing"], ["nothing", "losses", "smoke"]),
        (["sweep=smoke", "hydra/launcher=slurm"], ["slurm", "basic"]),
        (["sweep=smoke", "stage.loss.metching=a,b"], ["metching"]),
    ],
    ids=lambda value: "_".join(value)[:40],
)
def test_a_mistake_ends_in_one_line(
    arguments: list[str], parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_one_line(invoke("daclip.commands.train_daclip", "-m", *arguments), *parts)
    assert not list(tmp_path.rglob("summary.*"))


def test_what_a_preset_fixes_is_in_its_own_yaml() -> None:
    with hydra.initialize_config_dir(config_dir(), version_base="1.3"):
        cfg = hydra.compose("train_restorer", ["sweep=cluster_seeds"], return_hydra_config=True)
    assert OmegaConf.select(cfg, "hydra.launcher.tasks_per_node") == 4
    assert cfg.hydra.runtime.choices.experiment == "universal_restorer"
