"""The sampler report from end to end on real photos, with a restorer that has learnt nothing."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from running import assert_one_line, invoke

from daclip.artifacts import save_artifact
from daclip.commands.assembly import resolved
from daclip.commands.options import make
from daclip.commands.sampler_report import verdict
from daclip.config import config_dir
from daclip.metrics import image as ms_ssim
from daclip.metrics.image import PairMetric

COMMAND = "daclip.commands.sampler_report"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained restorer, its head moved off zero so that samplers differ."""
    folder = tmp_path_factory.mktemp("artifacts")
    overrides = ["experiment=smoke_restorer", "degradation=[noisy,rainy]", "data.validation_crops=1"]
    with hydra.initialize_config_dir(config_dir(), version_base="1.3"):
        cfg = hydra.compose("train_restorer", overrides)
        clip = hydra.compose("train_daclip", ["clip=tiny"]).clip
    del cfg.callbacks, cfg.logger
    config = {**resolved(cfg), "clip": resolved(clip)}
    daclip = make(config["clip"])
    torch.manual_seed(0)
    backbone = make(config["backbone"])(context_dim=daclip.embed_dim)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    stage_1 = save_artifact(folder / "stage_1", "daclip", config, daclip.state_dict(), {}, {})
    return save_artifact(folder / "stage_2", "restorer", config, backbone.state_dict(), {}, {}, {"daclip": stage_1})


def test_it_measures_every_sampler(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = ["nfe=[1,4]", "reference.nfe=6", "few=4", "photos=2"]
    assert invoke(COMMAND, f"artifact={artifact}", "output=out", *wanted) is None
    report: dict[str, Any] = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    names = {path.stem for path in (Path(config_dir()) / "sampler").glob("*.yaml")}
    scores = report["scores"]
    assert {(s["sampler"], s["grid"], s["budget"]) for s in scores} == {
        *((name, "trailing", budget) for name in names for budget in (1, 4)),
        ("posterior", "trailing", 6),
    }
    assert all(s["nfe"] <= s["budget"] and s["seconds"] > 0 for s in scores)
    assert {s["nfe"] for s in scores if s["sampler"] == "heun" and s["budget"] == 4} == {3}
    assert report["photos"] == 2
    assert report["verdict"]["reference"]["nfe"] == 6
    reference = report["verdict"]["reference"]
    few = [s for s in scores if s["nfe"] <= 4]
    reach = [
        s
        for s in few
        if s["psnr"] >= reference["psnr"] - 0.1
        and s["ssim"] >= reference["ssim"] * 0.98
        and s["others"]["lite"] <= reference["others"]["lite"] * 1.02
    ]
    assert len(report["verdict"]["reach_it"]) == len(reach)
    assert report["verdict"]["best_of_few"]["psnr"] == max(s["psnr"] for s in few)
    tables = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert all(f"| {name} |" in tables for name in names)
    assert ElementTree.parse(tmp_path / "out" / "report.svg").getroot().tag.endswith("svg")
    assert "written: out/report.json" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.json", "report.md", "report.svg"}


def test_grids_and_options_apply_to_all(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = ["samplers=[ddim]", "grids=[trailing,karras]", "nfe=[2]", "reference.nfe=2", "photos=1"]
    plain: dict[tuple[str, str], float] = {}
    late: dict[tuple[str, str], float] = {}
    for found, more in ((plain, ()), (late, ("+options.start=0.3",))):
        assert invoke(COMMAND, f"artifact={artifact}", "output=out", *wanted, *more) is None
        scores = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["scores"]
        found.update({(s["sampler"], s["grid"]): s["psnr"] for s in scores})
    assert set(plain) == {("ddim", "trailing"), ("ddim", "karras"), ("posterior", "trailing")}
    assert plain["ddim", "trailing"] != plain["ddim", "karras"]
    assert all(plain[key] != late[key] for key in plain)
    assert "| ddim (karras) |" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


class Darkness(PairMetric):
    """A stand-in for a distance whose network would be downloaded."""

    higher_is_better = False

    def score(self, images: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        return 1 - images.flatten(1).mean(1)


def test_further_metrics_count_in_the_verdict() -> None:
    cfg = OmegaConf.create(
        {
            "reference": {"sampler": "posterior", "grid": "trailing", "nfe": 100},
            "few": 10,
            "margin": {"psnr": 0.1, "ssim": 0.02, "others": 0.02},
        }
    )
    goal: dict[str, Any] = {"sampler": "posterior", "grid": "trailing", "budget": 100, "nfe": 100, "steps": 100}
    goal |= {"psnr": 30.0, "gain": 5.0, "ssim": 0.9, "seconds": 1.0, "others": {"darkness": 0.50}}
    near = {**goal, "sampler": "near", "budget": 5, "nfe": 5, "others": {"darkness": 0.509}}
    far = {**near, "sampler": "far", "others": {"darkness": 0.511}}
    found = verdict(cfg, [goal, near, far], {"darkness": Darkness()})
    assert [score["sampler"] for score in found["reach_it"]] == ["near"]


def test_a_further_metric_has_a_table(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ms_ssim.MsSsim, "score", Darkness.score)  # which needs larger photos
    wanted = ["metric=[ms_ssim]", "samplers=[posterior]", "nfe=[1]", "reference.nfe=1", "photos=1"]
    assert invoke(COMMAND, f"artifact={artifact}", "output=out", *wanted) is None
    (score,) = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["scores"]
    assert 0 < score["others"]["ms_ssim"] < 1
    tables = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "**ms_ssim over network evaluations**" in tables
    assert f"| posterior | {score['others']['ms_ssim']:.3f} |" in tables


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("metric=[fid]", "metrics of single photos"),
        ("samplers=[posteror]", "there is no sampler 'posteror'"),
        ("grids=[quadratic]", "there is no grid 'quadratic'"),
        ("nfe=[0,5]", "numbers of at least 1"),
        ("nfe=[101]", "101 is more than the 100 grid steps"),
        ("photos=0", "leaves nothing to measure"),
        ("+options.strat=0.5", "did you mean 'start'"),
        ("+options.start=2", "share of the process"),
        ("+options.guidance=2.0", "nfe=1 is too little"),
        ("correct_epsilon_shift=true", "needs parameterization epsilon"),
        ("artifact=nowhere", "no such artifact folder"),
    ],
)
def test_mistakes_end_in_one_line(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    error = invoke(COMMAND, f"artifact={artifact}", "output=out", "samplers=[posterior]", "photos=1", override)
    assert_one_line(error, message)
    assert not (tmp_path / "out").exists()
