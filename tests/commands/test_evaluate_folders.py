"""Folders of restored photos of any system, scored by the command and by scikit-image."""

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
from PIL import Image
from running import assert_one_line, invoke, read
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from daclip.commands.evaluate import score_folders
from daclip.data.captions import embedded_captions
from daclip.metrics.image import Protocol, Psnr
from daclip.metrics.scorer import Extremes, FilePair, Scorer

PHOTOS = [Path(skimage.__file__).parent / "data" / name for name in sorted(embedded_captions())]


def save(image: Image.Image, path: Path, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty real pairs: pieces of photographs, and the same pieces after a JPEG codec, of several sizes."""
    folder = tmp_path_factory.mktemp("pairs")
    for number in range(20):
        photo = Image.open(PHOTOS[number % len(PHOTOS)]).convert("RGB")
        left, top = 100 + 3 * number, 80 + 2 * number
        piece = photo.crop((left, top, left + 70 + number, top + 90 - number))
        class_name = ("jpeg-compressed", "rainy")[number % 2]
        save(piece, folder / "gt" / class_name / f"{number:02d}.png")
        save(piece, folder / "pred" / class_name / f"{number:02d}.jpg", quality=20 + 3 * number)
        save(piece.resize((12, 12)).resize(piece.size), folder / "lq" / class_name / f"{number:02d}.png")
    return folder


def test_it_agrees_with_scikit_image(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    assert invoke("daclip.commands.evaluate", "pred=pred", "gt=gt", "output=out") is None
    with (place / "out" / "photos.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    for row in rows:
        gt = np.array(Image.open(place / "gt" / f"{row['name']}.png"))
        pred = np.array(Image.open(place / "pred" / f"{row['name']}.jpg"))
        assert float(row["psnr"]) == pytest.approx(peak_signal_noise_ratio(gt, pred), abs=1e-4)
        _, full = structural_similarity(
            gt / 255, pred / 255, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
            data_range=1.0, full=True,
        )  # fmt: skip
        assert float(row["ssim"]) == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-4)
    metrics = read(place / "out" / "metrics.json")
    assert set(metrics["per_degradation"]) == {"jpeg-compressed", "rainy"}
    for class_name, row in metrics["per_degradation"].items():
        assert row["count"] == 10
        mean = np.mean([float(r["psnr"]) for r in rows if r["degradation"] == class_name])
        assert row["psnr"] == pytest.approx(mean)
        low, high = metrics["intervals"]["per_degradation"][class_name]["psnr"]
        assert low < row["psnr"] < high
    assert metrics["intervals"]["photos"] == 20
    assert "degradation_accuracy" not in metrics


def test_degraded_photos_bring_gains_and_pictures(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    command = ["daclip.commands.evaluate", "pred=pred", "gt=gt", "lq=lq", "output=gains", "protocol=y_channel"]
    assert invoke(*command, "pictures=2") is None
    metrics = read(place / "gains" / "metrics.json")
    assert metrics["protocol"]["text"] == "y_channel: Y of YCbCr (BT.601), rounded to 8 bits, no border cut"
    assert metrics["mean"]["psnr"] > metrics["mean"]["psnr_lq"]
    assert metrics["intervals"]["mean"]["psnr_gain"][0] > 0
    assert [entry["rank"] for entry in metrics["pictures"]] == ["worst", "worst", "best", "best"]
    gains = [entry["scores"]["psnr"] - entry["scores"]["psnr_lq"] for entry in metrics["pictures"]]
    assert gains[0] <= gains[1] < gains[3] <= gains[2]
    for entry in metrics["pictures"]:
        assert set(entry["files"]) == {"lq", "restored", "hq"}
        shown = np.array(Image.open(place / "gains" / "pictures" / entry["files"]["hq"]))
        np.testing.assert_array_equal(shown, np.array(Image.open(place / "gt" / f"{entry['name']}.png")))
    # Fewer pictures leave none of the earlier ones behind.
    assert invoke(*command, "pictures=0") is None
    assert not list((place / "gains" / "pictures").iterdir())


def test_a_restorer_is_scored_on_whole_pairs_in_pieces_where_they_are_large(
    place: Path, restorer_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    for number in range(3):
        for split in ("train", "val"):
            for part, source in (("LQ", "lq"), ("GT", "gt")):
                (place / "sets" / split / "rainy" / part).mkdir(parents=True, exist_ok=True)
                name = f"{2 * number + 1:02d}.png"
                shutil.copy(place / source / "rainy" / name, place / "sets" / split / "rainy" / part / name)
    big = Image.open(PHOTOS[0]).convert("RGB").resize((200, 288))
    save(big.resize((50, 72)).resize(big.size), place / "sets" / "val" / "rainy" / "LQ" / "big.png")
    save(big, place / "sets" / "val" / "rainy" / "GT" / "big.png")
    command = ["daclip.commands.evaluate", f"artifact={restorer_artifact}", "data=paired", "data.root=sets"]
    assert invoke(*command, "output=whole", "sampler.steps=1", "max_memory=0.1", "pictures=1") is None
    with (place / "whole" / "photos.csv").open(encoding="utf-8") as file:
        rows = {Path(row["name"]).stem: row for row in csv.DictReader(file)}
    assert sorted(rows) == ["01", "03", "05", "big"]
    for name, row in rows.items():
        gt, lq = (np.array(Image.open(place / "sets/val/rainy" / part / f"{name}.png")) for part in ("GT", "LQ"))
        assert float(row["psnr_lq"]) == pytest.approx(peak_signal_noise_ratio(gt, lq), abs=1e-4)
    assert Image.open(place / "whole" / "grid.png").size[1] < 100


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["pred=pred"], ["pred=FOLDER", "gt=FOLDER"]),
        (["lq=lq"], ["pred=FOLDER"]),
        (["pred=pred", "gt=gt", "artifact=x"], ["not both"]),
        (["pred=nowhere", "gt=gt"], ["nowhere", "no such folder"]),
        (["pred=gt/rainy", "gt=gt"], ["10 in gt=gt have none in pred=gt/rainy: jpeg"]),
        (["pred=pred/rainy", "gt=smaller"], ["70×90", "71×89"]),
        (["pred=pred", "gt=gt", "metric=[]"], ["no metric"]),
        (["pred=pred", "gt=gt", "metric=[ms_ssim]"], ["no metric can be computed", "176"]),
        (["pred=pred", "gt=gt", "protocol.border=40"], ["inside a border of 40"]),
        (["pred=pred", "gt=gt", "protocol=ycc"], ["ycc"]),
        (["pred=pred", "gt=gt", "bootstrap.confidence=95"], ["bootstrap.confidence"]),
    ],
    ids=lambda value: "_".join(value)[:40],
)
def test_a_mistake_ends_in_one_line(
    place: Path, arguments: list[str], parts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    for path in (place / "pred" / "rainy").iterdir():
        save(Image.new("RGB", (70, 90)), place / "smaller" / f"{path.stem}.png")
    assert_one_line(invoke("daclip.commands.evaluate", *arguments, "output=wrong"), *parts)
    assert not (place / "wrong" / "metrics.json").exists()


def scored(pred: Image.Image, gt: Image.Image, folder: Path) -> float:
    """PSNR of two files under a protocol that rounds."""
    pred.save(folder / "pred.png")
    gt.save(folder / "gt.png")
    scorer = Scorer(Protocol("rgb", eight_bit=True, border=0, colour="rgb"), {"psnr": Psnr()})
    score_folders([FilePair("a", "all", folder / "pred.png", folder / "gt.png", None)], scorer, Extremes(0))
    return scorer.photos[0].scores["psnr"]


def test_deep_photos_are_scored_at_their_depth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gt = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 10
    found = scored(Image.fromarray(gt + 30), Image.fromarray(gt), tmp_path)
    assert found == pytest.approx(20 * np.log10(65535 / 30), abs=1e-3)  # 8 bits would see no difference
    assert "1 of 1 pairs have more than 8 bits" in capsys.readouterr().out


def test_colours_that_nobody_sees_do_not_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gt = np.full((32, 32, 4), 200, np.uint8)
    gt[:16, :, 3], gt[16:, :, 3] = 0, 255
    pred = gt.copy()
    pred[:16, :, :3] = 0  # below full transparency
    pred[16:, :, :3] = 210
    found = scored(Image.fromarray(pred), Image.fromarray(gt), tmp_path)
    assert found == pytest.approx(10 * np.log10(255**2 / (100 / 2)), abs=1e-3)
    assert "are compared as they look on white" in capsys.readouterr().out
