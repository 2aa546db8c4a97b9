"""Sweeps: the command they become, going on after a stop, and the summary."""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from running import TINY, assert_one_line, invoke, read

from daclip.commands.assembly import make
from daclip.commands.sweep import start, sweep_command
from daclip.config import config_dir
from daclip.errors import DaclipError

PRESETS = sorted((Path(config_dir()) / "sweep").glob("*.yaml"))
SEARCHES = sorted((Path(config_dir()) / "wandb_sweep").glob("*.yaml"))


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_run_of_a_preset_composes(path: Path) -> None:
    preset = yaml.safe_load(path.read_text(encoding="utf-8"))
    header = path.read_text(encoding="utf-8").split("primary:")[0]
    assert "# Question:" in header
    assert f"# Command:  make sweep SWEEP={path.stem}" in header
    sweep_command(path.stem, preset, Path("folder"))
    first = [override.split(",")[0] for override in preset["grid"]]
    with hydra.initialize_config_dir(config_dir(), version_base="1.3"):
        cfg = hydra.compose(preset["primary"], [*preset["overrides"], *first])
    make(cfg.stage.get("loss", {}))


PRESET_OPTIONS = [
    (preset["launcher"], preset.get("launcher_options") or {})
    for preset in (yaml.safe_load(path.read_text(encoding="utf-8")) for path in PRESETS)
]


@pytest.mark.parametrize(
    ("launcher", "options"),
    # Those of the presets, and those that the guides show.
    [*PRESET_OPTIONS, ("joblib", {"n_jobs": 2}), ("submitit_local", {"timeout_min": 60}), ("ray", {})],
)
def test_a_launcher_knows_its_options(launcher: str, options: dict[str, Any]) -> None:
    if launcher != "basic":
        pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    preset = {"primary": "train_daclip", "launcher": launcher, "launcher_options": options, "overrides": []}
    command = sweep_command("mine", {**preset, "grid": ["seed=0,1"]}, Path("f"))
    chosen = [part for part in command if part.startswith(("hydra/launcher=", "hydra.launcher."))]
    with hydra.initialize_config_dir(config_dir(), version_base="1.3"):
        cfg = hydra.compose("train_daclip", chosen, return_hydra_config=True)
    assert cfg.hydra.launcher._target_.startswith("hydra")
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
    assert parts[:4] == ["${env}", "python", "-m", "daclip.commands.train"]
    assert parts[-1] == "${args_no_hyphens}"
    primary = next(part.split("=")[1] for part in parts if part.startswith("--config-name="))
    overrides = [part for part in parts[4:-1] if not part.startswith("-")]
    with hydra.initialize_config_dir(config_dir(), version_base="1.3"):
        cfg = hydra.compose(primary, [*overrides, *arguments])
    assert "wandb" in cfg.logger
    assert search["method"] == "bayes"
    assert search["metric"]["name"] in {"val/psnr", "val/degradation_accuracy"}


def test_a_runs_folder_is_called_after_its_place_in_the_grid() -> None:
    preset = {"primary": "train_daclip", "launcher": "joblib", "launcher_options": {"n_jobs": 2}}
    command = sweep_command("mine", {**preset, "overrides": ["clip=tiny", "seed=7"], "grid": ["seed=0,1"]}, Path("f"))
    assert "hydra/launcher=joblib" in command
    assert "hydra.launcher.n_jobs=2" in command
    # What the grid varies is not fixed at the same time.
    assert command[-2:] == ["clip=tiny", "seed=0,1"]
    assert "hydra.job.config.override_dirname.exclude_keys=[clip,output]" in command


def test_options_reach_the_launcher() -> None:
    """Text with commas, lists, and keys that the launcher's own configuration does not name."""
    options = {"setup": ["module load a, b"], "account": None, "additional_parameters": {"mail-type": "END"}}
    preset = {"primary": "train_daclip", "launcher": "submitit_slurm", "launcher_options": options}
    command = sweep_command("mine", {**preset, "overrides": [], "grid": ["seed=0,1"]}, Path("f"))
    chosen = [part for part in command if "launcher" in part]
    with hydra.initialize_config_dir(config_dir(), version_base="1.3"):
        launcher = hydra.compose("train_daclip", chosen, return_hydra_config=True).hydra.launcher
    assert {key: launcher[key] for key in options} == options


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": None}, "grid is missing"),
        ({"primary": "nothing"}, "no primary 'nothing'"),
        ({"launcher": "slurm"}, "launcher=slurm: choose from basic"),
        ({"gird": []}, "unknown key gird"),
    ],
)
def test_a_damaged_preset_is_refused(change: dict[str, Any], message: str) -> None:
    preset = {"primary": "train_daclip", "launcher": "basic", "overrides": [], "grid": ["seed=0,1"], **change}
    preset = {key: value for key, value in preset.items() if value is not None}
    with pytest.raises(DaclipError, match=message):
        sweep_command("mine", preset, Path("f"))


def _run(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> str | None:
    """The command, its multirun inside this process, which saves seconds of imports."""

    def inside(command: Sequence[str]) -> int:
        outer = Singleton.get_state()
        GlobalHydra.instance().clear()
        error = invoke(*command[1:])
        Singleton.set_state(outer)
        return int(error is not None)

    monkeypatch.setattr("daclip.commands.sweep.start", inside)
    return invoke("daclip.commands.sweep", *overrides)


def test_a_stopped_sweep_goes_on_and_ends_in_one_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    more = [f"+job.{part}" for part in TINY]
    grid = 'sweep.grid=["loss=multi_positive,official","seed={}"]'
    assert _run(monkeypatch, "sweep=smoke", *more, grid.format("0")) is None
    folder = tmp_path / "outputs" / "sweeps" / "smoke"
    done = folder / "loss=official,seed=0" / "artifact" / "metrics.json"
    before = done.stat().st_mtime_ns
    # One run was interrupted: it has a checkpoint and no artifact yet.
    stopped = folder / "loss=multi_positive,seed=0"
    (stopped / "artifact" / "record.json").unlink()
    capsys.readouterr()
    assert _run(monkeypatch, "sweep=smoke", *more, grid.format("0,1")) is None
    assert done.stat().st_mtime_ns == before
    resumed = yaml.safe_load((stopped / "artifact" / "config.yaml").read_text(encoding="utf-8"))["resume"]
    assert Path(resumed).parent == stopped / "checkpoints"
    summary = read(folder / "summary.json")
    assert [set(run["overrides"]) for run in summary["runs"]] == [{"seed", "loss"}] * 4
    scores = [run["score"] for run in summary["runs"]]
    assert scores == sorted(scores, reverse=True)
    for run in summary["runs"]:
        metrics = read(folder / run["folder"] / "artifact" / "metrics.json")
        assert run["score"] == metrics["degradation_accuracy"]
    assert [group["count"] for group in summary["groups"]] == [2, 2]
    text = (folder / "summary.md").read_text(encoding="utf-8")
    assert "| loss | seed | score | seconds |" in text
    assert " ± " in text
    assert "best first" in capsys.readouterr().out
    # A changed configuration is another run, not the finished one.
    assert (
        _run(
            monkeypatch,
            "sweep=smoke",
            *more,
            grid.format("0"),
            'sweep.overrides=["experiments=smoke_daclip","stage.content_share=0.5"]',
        )
        is None
    )
    assert done.stat().st_mtime_ns > before


def test_an_interrupted_sweep_waits_for_its_run_to_save_its_state(tmp_path: Path) -> None:
    run = (
        "import os, pathlib, signal, sys, time; signal.signal(signal.SIGINT, signal.SIG_IGN);"
        "os.kill(os.getppid(), signal.SIGINT); time.sleep(1);"  # longer than Python itself would wait
        "pathlib.Path(sys.argv[1]).touch(); sys.exit(75)"
    )
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert start(["-c", run, str(tmp_path / "state")]) == 75
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "state").is_file()


def test_a_run_that_fails_leaves_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    more = [f"+job.{part}" for part in TINY]
    error = _run(monkeypatch, "sweep=smoke", *more, 'sweep.grid=["daclip=nowhere,null"]')
    assert_one_line(error, "the sweep stopped", "1 runs are finished")
    assert "daclip=nowhere" in capsys.readouterr().err  # which run it was
    summary = read(tmp_path / "outputs" / "sweeps" / "smoke" / "summary.json")
    assert [run["folder"] for run in summary["runs"]] == ["daclip=null"]


LAUNCHERS = {
    "submitit_local": ("hydra_submitit_launcher", "+launcher_options.timeout_min=10"),
    "ray": ("hydra_ray_launcher", "+launcher_options.ray.init.num_cpus=1"),
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_runs_in_other_processes_come_home(
    launcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One run finishes; the mistake of the other arrives as one line, without a traceback."""
    plugin, option = LAUNCHERS[launcher]
    pytest.importorskip(f"hydra_plugins.{plugin}")
    monkeypatch.chdir(tmp_path)
    more = [f"+job.{part}" for part in TINY]
    grid = 'sweep.grid=["daclip=nowhere,null"]'
    error = invoke("daclip.commands.sweep", "sweep=smoke", *more, grid, f"launcher={launcher}", option)
    assert_one_line(error, "the sweep stopped", "1 runs are finished")
    printed = capfd.readouterr().err
    assert "error: nowhere: no such artifact folder" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["sweep=NAME", "losses", "smoke"]),
        (["sweep=nothing"], ["nothing"]),
        (["sweep=smoke", "launcher=slurm"], ["launcher=slurm"]),
        (["sweep=smoke", "+launcher_options.ray.int.num_cpus=1"], ["the sweep stopped"]),
        (["sweep=smoke", 'sweep.grid=["stage.loss.metching=a,b"]'], ["the sweep stopped"]),
    ],
    ids=lambda value: "_".join(value)[:40],
)
def test_a_mistake_ends_in_one_line(
    arguments: list[str], parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_one_line(_run(monkeypatch, *arguments), *parts)
    assert not (tmp_path / "outputs").exists() or not list(tmp_path.rglob("summary.*"))
