"""What a report reads: curves over resumed attempts, sweeps, and which runs share their degraded photos."""

from pathlib import Path
from typing import Any

import pytest

from daclip.errors import DaclipError
from daclip.metrics.scorer import PhotoScore
from daclip.reporting.runs import Run, _curves, _folders, compare, same_inputs
from daclip.reporting.tables import scores


def test_the_curve_of_a_resumed_run_is_whole(tmp_path: Path) -> None:
    logs = {
        "metrics_1.csv": "step,epoch,train/loss,val/gain\n0,0,9.0,\n1,0,8.0,\n2,0,7.0,1.0\n",
        "metrics_2.csv": "step,epoch,train/loss\n2,0,6.0\n9,0,5.5\n",  # went on from step 2
        "metrics_10.csv": "step,epoch,train/loss\n",  # stopped before it logged anything
        "metrics.csv": "step,epoch,train/loss,val/gain\n3,0,5.0,\n4,0,4.0,2.0\n",
    }
    for name, text in logs.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    curves = _curves(tmp_path)
    assert curves["train/loss"] == [(1, 9.0), (2, 8.0), (3, 6.0), (4, 5.0), (5, 4.0)]
    assert curves["val/gain"] == [(5, 2.0)]
    assert _curves(tmp_path / "nowhere") == {}


def test_a_sweep_stands_for_its_finished_jobs(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    for job in ("a=1", "a=2"):
        (sweep / job / "artifact").mkdir(parents=True)
    (sweep / "multirun.yaml").touch()
    with pytest.raises(DaclipError, match="no job of this sweep is finished"):
        _folders([str(sweep)])
    for job in ("a=1", "a=2"):
        (sweep / job / "artifact" / "record.json").touch()
    assert _folders([str(sweep), str(tmp_path)]) == [sweep / "a=1", sweep / "a=2", tmp_path]


def evaluation(label: str, degraded: float, restored: float, photos: int = 8) -> Run:
    row = {"psnr": restored, "psnr_lq": degraded, "count": photos}
    metrics: dict[str, Any] = {
        "mean": row,
        "per_degradation": {"noisy": row},
        "intervals": {"mean": {}, "per_degradation": {}},
        "higher_is_better": {"psnr": True},
        "protocol": {"eight_bit": True, "border": 0, "colour": "rgb"},
        "sets": {},
    }
    scored = [PhotoScore(f"{i}", 0, "noisy", None, {"psnr": restored, "psnr_lq": degraded}) for i in range(photos)]
    return Run(label, "evaluation", Path(label), metrics, {}, photos=scored)


def test_runs_on_the_same_photos_share_the_column_of_the_degraded_ones() -> None:
    runs = [evaluation("a", 20.0, 25.0), evaluation("b", 20.0, 26.0)]
    assert same_inputs(runs)
    (table,) = scores(runs)
    assert table.heading == ["degradation", "degraded photo", "a", "b"]
    assert table.rows == [["noisy", "20.00", "25.00", "26.00"], ["mean", "20.00", "25.00", "26.00"]]
    assert not table.note


@pytest.mark.parametrize("other", [evaluation("b", 25.5, 25.6), evaluation("b", 20.0, 26.0, photos=3)])
def test_other_degraded_photos_have_a_column_of_their_own(other: Run) -> None:
    runs = [evaluation("a", 10.5, 10.6), other]
    (table,) = scores(runs)
    assert table.heading == ["degradation", "degraded photo of a", "a", "degraded photo of b", "b"]
    assert table.rows[0][:4] == ["noisy", "10.50", "10.60", f"{other.metrics['mean']['psnr_lq']:.2f}"]
    assert "cannot be compared" in table.note


def test_scores_of_other_degraded_photos_are_not_compared() -> None:
    (found,) = compare([evaluation("a", 10.5, 10.6), evaluation("b", 25.5, 25.6)], 100, 0.95, 0)
    assert found.verdict == "other degraded photos: not comparable"
    assert found.difference is None
