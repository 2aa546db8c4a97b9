"""Every command from end to end, on real photos, as a user runs it."""

import contextlib
import os
import re
from pathlib import Path

import numpy as np
import pytest
from benchmarks.timing import in_new_process
from PIL import Image
from running import TEN, TINY, assert_one_line, forked, invoke, read
from skimage import data


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder in which both stages have been trained for two steps."""
    folder = tmp_path_factory.mktemp("place")
    with contextlib.chdir(folder):
        assert invoke("daclip.commands.train_daclip", "experiment=smoke_daclip") is None
        assert invoke("daclip.commands.main", "train-restorer", "experiment=smoke_restorer") is None
    return folder


def test_stage_1_leaves_an_artifact(place: Path) -> None:
    artifact = place / "outputs" / "daclip" / "latest"
    assert artifact.is_symlink()
    metrics = read(artifact / "metrics.json")
    assert 0 <= metrics["degradation_accuracy"] <= 1
    assert set(metrics["per_degradation_accuracy"]) == TEN
    record = read(artifact / "record.json")
    assert record["seed"] == 0
    assert record["versions"]["torch"]
    assert (artifact / "weights.safetensors").is_file()
    logs = (artifact.resolve().parent / "logs" / "metrics.csv").read_text(encoding="utf-8")
    for column in (
        "train/degradation_loss",
        "train/grad_norm",
        "val/degradation_accuracy/rainy",
        "val/content_cosine",
    ):
        assert column in logs


def test_stage_2_leaves_an_artifact_with_both_stages_and_pictures(place: Path) -> None:
    artifact = place / "outputs" / "restorer" / "latest"
    metrics = read(artifact / "metrics.json")
    assert set(metrics["per_degradation"]) == TEN
    assert metrics["steps"] == 2
    assert (artifact / "daclip" / "weights.safetensors").is_file()
    grids = list((artifact.resolve().parent / "samples").glob("*.png"))
    assert grids
    assert Image.open(grids[0]).size == (3 * 52 + 4, 10 * 52 + 4)


def test_evaluate_writes_scores_of_every_word(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    assert invoke("daclip.commands.evaluate") is None
    shown = capsys.readouterr().out
    metrics = read(place / "outputs" / "evaluation" / "metrics.json")
    assert set(metrics["per_degradation"]) == TEN
    for row in [*metrics["per_degradation"].values(), metrics["mean"]]:
        assert {"psnr_lq", "psnr", "ssim_lq", "ssim", "count"} == set(row)
    assert metrics["mean"]["psnr"] == pytest.approx(
        np.mean([row["psnr"] for row in metrics["per_degradation"].values()])
    )
    assert 0 <= metrics["degradation_accuracy"] <= 1
    assert (place / "outputs" / "evaluation" / "grid.png").is_file()
    for class_name in TEN:
        assert class_name in shown


def test_evaluate_takes_another_sampler_or_other_steps(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    for options, sampler, nfe in (
        (["sampler=flow_ode", "sampler.steps=1"], "FlowOdeSampler", 1),
        (["sampler.steps=1"], "PosteriorSampler", 1),
        (["grid=uniform"], "PosteriorSampler", 2),
    ):
        assert invoke("daclip.commands.evaluate", *options, "output=other", "degradation=[noisy]") is None
        found = read(place / "other" / "metrics.json")
        assert (found["sampler"], found["nfe"]) == (sampler, nfe)
        assert set(found["per_degradation"]) == {"noisy"}


def test_restore_keeps_names_and_sizes_and_names_the_degradation(place: Path) -> None:
    photos = place / "my photos"
    (photos / "trip").mkdir(parents=True)
    Image.fromarray(data.coffee()[:45, :70]).save(photos / "a b.png")
    Image.fromarray(data.chelsea()[:33, :50]).convert("L").save(photos / "trip" / "cat.jpg")
    own = ["--artifact", "outputs/restorer/latest"]
    status, shown = forked("daclip", "restore", str(photos), "-o", "clean", *own, cwd=place)
    assert status == 0, shown
    assert Image.open(place / "clean" / "a b.png").size == (70, 45)
    assert Image.open(place / "clean" / "trip" / "cat.jpg").size == (50, 33)
    lines = [line for line in shown.splitlines() if "→" in line]
    assert len(lines) == 2
    assert all(any(class_name in line for class_name in TEN) for line in lines)
    first = (place / "clean" / "a b.png").read_bytes()
    with contextlib.chdir(place):
        assert invoke("daclip.commands.restore", str(photos / "a b.png"), "--output", "clean2", *own) is None
    assert (place / "clean2" / "a b.png").read_bytes() == first


def test_the_python_of_the_readme_runs(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    Image.fromarray(data.coffee()[:48, :64]).save("photo.jpg")
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    exec(compile(block, "README.md", "exec"), {})
    assert any(class_name in capsys.readouterr().out for class_name in TEN)
    assert Image.open("clean.png").size == (64, 48)


def test_info_shows_scores_and_provenance(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    assert invoke("daclip.commands.main", "info", "outputs/restorer/latest") is None
    shown = capsys.readouterr().out
    for part in ("restorer", "metrics.mean.psnr", "versions.torch", "seed"):
        assert part in shown


def test_resume_continues_the_count(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    arguments = ["experiment=smoke_daclip", *TINY, "trainer.max_steps=4", "output=outputs/resumed"]
    assert invoke("daclip.commands.train_daclip", *arguments, "trainer.max_steps=2") is None
    assert invoke("daclip.commands.train_daclip", *arguments, "resume=last") is None
    resumed = read(place / "outputs" / "resumed" / "latest" / "metrics.json")
    assert resumed["steps"] == 4
    logs = sorted((place / "outputs" / "resumed").glob("*/logs/metrics.csv"))[-1].read_text(encoding="utf-8")
    # The second run did steps 2 and 3 only.
    rows = [line.split(",") for line in logs.splitlines()]
    steps = {int(row[rows[0].index("step")]) for row in rows[1:]}
    assert min(steps) >= 2


def test_contact_sheet(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    assert invoke("daclip.commands.main", "degradations", "size=48", "severities=[0.5]") is None
    assert Image.open(place / "outputs" / "degradations.png").size[0] > 4 * 48


def test_benchmark_writes_rows(place: Path, restorer_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr("daclip.artifacts.PACKAGED", restorer_artifact)  # whose photos take seconds each
    assert in_new_process(os.getpid, plain=True) != os.getpid()
    for module in ("benchmark_daclip", "benchmark_restorer"):
        # Each of nine processes would import everything again, for figures that nobody looks at here.
        monkeypatch.setattr(f"benchmarks.{module}.in_new_process", lambda work, *given, plain=False: work(*given))
    sizes = ["--repeats=1", "--samples=8", "--photos=1", "--steps=3", "--folder=2", "--sides", "32"]
    assert invoke("benchmarks.benchmark", "--quick", *sizes) is None
    rows = read(place / "outputs" / "benchmark.json")
    assert {row["name"] for row in rows} == {
        "daclip_train_step",
        "daclip_train_memory",
        "daclip_embedded_step",
        "loader",
        "loader_2_workers",
        "loader_restorer",
        "restore_folder",
        "restorer_train_step",
        "restorer_train_memory",
        "restorer_loss_curve",
        "restore_64",
        "evaluation_memory_32",
        *(f"degrade_{class_name}" for class_name in (*TEN, "composite", "wild")),
    }
    for row in rows:
        assert set(row) == {"name", "unit", "baseline", "ours", "ratio", "note"}
        assert row["ratio"] in (row["ours"] / row["baseline"], row["baseline"] / row["ours"])
        assert row["ours"] > 0 or row["unit"] == "loss"  # that of stage 2 is a logarithm


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        (["daclip.commands.train_daclip", "experiment=null"], ["name your photos", "data=folder", "experiment="]),
        (["daclip.commands.train_daclip", "backbone=unet"], ["backbone", "train_restorer"]),
        (["daclip.commands.train_restorer", "experiment=embedded_daclip"], ["stage 1", "make train-daclip"]),
        (["daclip.commands.train_restorer", "clip=tiny"], ["clip", "daclip=ARTIFACT"]),
        (["daclip.commands.train_restorer", "experiment=smoke_restorer", "+clip=tiny"], ["stage 1", "daclip=ARTIFACT"]),
        (["daclip.commands.train_daclip", "experiment=smoke_daclip", "data.root=empty"], ["data.root", "data=folder"]),
        (
            ["daclip.commands.train_daclip", "experiment=smoke_daclip", "data.batch_size=21"],
            ["batch_size=21", "larger than the data"],
        ),
        (
            ["daclip.commands.train_daclip", "experiment=smoke_daclip", "data=folder", "data.root=empty"],
            ["empty", "no images"],
        ),
        (["daclip.commands.train_daclip", "experiment=smoke_daclip", "data=folder"], ["data.root"]),
        (["daclip.commands.train_daclip", "experiment=smoke_daclip", "data=folder", "data.root=broken"], ["damaged"]),
        (["daclip.commands.train_daclip", "experiment=smoke_daclip", "degradation.noisy.sigma=[1,2,3]"], ["sigma"]),
        (["daclip.commands.train_restorer", "experiment=smoke_restorer", "daclip=empty"], ["not an artifact"]),
        (
            ["daclip.commands.train_restorer", "experiment=smoke_restorer", "daclip=outputs/restorer/latest"],
            ["train-daclip"],
        ),
        (["daclip.commands.evaluate", "artifact=empty"], ["not an artifact"]),
        (["daclip.commands.evaluate", "artifact=nowhere"], ["no such artifact"]),
        (["daclip.commands.evaluate", "sampler=posterior", "sampler.steps=101"], ["101"]),
        (["daclip.commands.evaluate", "device=tpu"], ["device=tpu"]),
        (["daclip.commands.restore"], ["required: PHOTO"]),
        (["daclip.commands.restore", "gone.png"], ["gone.png"]),
        (["daclip.commands.restore", "empty"], ["no images"]),
        (["daclip.commands.restore", "broken", "-o", "broken"], ["would be lost"]),
        (["daclip.commands.restore", "broken/bad.png"], ["damaged"]),
        (["daclip.commands.main", "info", "empty"], ["not an artifact"]),
        (["daclip.commands.main", "paint"], ["paint"]),
        (["daclip.commands.main", "train"], ["no command 'train'"]),
    ],
    ids=lambda value: "_".join(value)[7:60] if isinstance(value, list) else None,
)
def test_a_mistake_ends_in_one_line(
    place: Path, command: list[str], parts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    (place / "empty").mkdir(exist_ok=True)
    (place / "broken").mkdir(exist_ok=True)
    if not list((place / "broken").iterdir()):
        for name, picture in {"bad.png": data.coffee(), "worse.png": data.coffee()[::-1]}.items():
            Image.fromarray(picture).save(place / "broken" / name)
            content = (place / "broken" / name).read_bytes()
            (place / "broken" / name).write_bytes(content[: len(content) // 2])
    before = (place / "outputs" / "daclip" / "latest").readlink()
    assert_one_line(invoke(*command), *parts)
    assert (place / "outputs" / "daclip" / "latest").readlink() == before
