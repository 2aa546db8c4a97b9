"""Matching folders, keeping extremes, collecting scores."""

import math
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from daclip.commands.options import make
from daclip.config import config_dir
from daclip.errors import DaclipError
from daclip.metrics.image import PairMetric, Protocol, Psnr
from daclip.metrics.scorer import Extremes, Scorer, match_folders, summarise
from daclip.pixels import quantise
from daclip.rng import generator_for


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)


def test_photos_are_matched_by_their_path_without_suffix(tmp_path: Path) -> None:
    touch(tmp_path / "gt/rainy/1.png", tmp_path / "gt/noisy/1.png", tmp_path / "gt/x y.png")
    touch(tmp_path / "pred/rainy/1.jpg", tmp_path / "pred/noisy/1.png", tmp_path / "pred/x y.webp")
    pairs, account = match_folders(tmp_path / "pred", tmp_path / "gt")
    assert account == "6 photos found; 3 pairs (3 by name)"
    assert [(pair.name, pair.group) for pair in pairs] == [("noisy/1", "noisy"), ("rainy/1", "rainy"), ("x y", "all")]
    assert pairs[1].pred.suffix == ".jpg"
    assert pairs[1].lq is None


@pytest.mark.parametrize(
    ("pred", "message"),
    [
        (["a.png"], r"1 in gt=\S+ have none in pred=\S+: b\.png"),
        (["a.png", "b.png", "c.png"], r"1 in pred=\S+ have none in gt=\S+: c\.png"),
        (["a.png", "a.jpg", "b.png"], "same name"),
    ],
)
def test_a_photo_without_its_partner_is_refused(tmp_path: Path, pred: list[str], message: str) -> None:
    touch(tmp_path / "gt/a.png", tmp_path / "gt/b.png", *(tmp_path / "pred" / name for name in pred))
    with pytest.raises(DaclipError, match=message):
        match_folders(tmp_path / "pred", tmp_path / "gt")


def test_results_may_have_names_of_their_own_and_share_a_reference(tmp_path: Path) -> None:
    touch(tmp_path / "gt/0.png", tmp_path / "gt/1.png")
    touch(tmp_path / "pred/0_out.png", tmp_path / "pred/1_1_0.8.png", tmp_path / "pred/1_2_0.8.png")
    touch(tmp_path / "lq/0_rain.png", tmp_path / "lq/1_1_0.8.png", tmp_path / "lq/1_2_0.8.png")
    pairs, _ = match_folders(tmp_path / "pred", tmp_path / "gt", tmp_path / "lq")
    assert [(pair.name, pair.gt.name, pair.lq and pair.lq.name) for pair in pairs] == [
        ("0", "0.png", "0_rain.png"),
        ("1_1_0.8", "1.png", "1_1_0.8.png"),
        ("1_2_0.8", "1.png", "1_2_0.8.png"),
    ]


@pytest.mark.parametrize("total", [0, 1, 2, 3, 4, 9])
def test_extremes_are_the_ends_of_the_order(total: int) -> None:
    merits = [(7 * i) % total + 0.5 for i in range(total)] if total else []
    extremes = Extremes(2)
    for number, merit in enumerate(merits):
        extremes.offer(merit, {"number": number, "merit": merit}, {})
    kept = [(rank, entry.facts["merit"]) for rank, entry in extremes.kept()]
    worst = [merit for rank, merit in kept if rank == "worst"]
    best = [merit for rank, merit in kept if rank == "best"]
    assert worst == sorted(merits)[: len(worst)]
    assert best == sorted(merits, reverse=True)[: len(best)]
    assert len(kept) == min(total, 4)
    assert len({entry.facts["number"] for _, entry in extremes.kept()}) == len(kept)


def test_means_are_by_word_first() -> None:
    scorer = Scorer(Protocol("plain", eight_bit=False, border=0, colour="rgb"), {"psnr": Psnr()})
    black = torch.zeros(1, 3, 8, 8)
    for class_name, error in [("rainy", 0.1), ("rainy", 0.01), ("hazy", 0.001)]:
        scorer.add(["a"], [class_name], black + error, black, black + 0.1)
    found = summarise(scorer.photos, 50, 0.9, generator_for(0))
    assert found["per_degradation"]["rainy"]["psnr"] == pytest.approx(30, abs=1e-4)
    assert found["per_degradation"]["hazy"]["psnr"] == pytest.approx(60, abs=1e-3)
    assert found["mean"]["psnr"] == pytest.approx(45, abs=1e-3)
    assert found["mean"]["psnr_lq"] == pytest.approx(20, abs=1e-4)
    assert found["mean"]["count"] == 3
    assert [photo.crop for photo in scorer.photos] == [0, 1, 0]
    # One photo: nothing can be redrawn, so the interval is the mean itself.
    low, high = found["intervals"]["mean"]["psnr_gain"]
    assert low == high == pytest.approx(25, abs=1e-3)


def test_equal_photos_have_an_infinite_score_and_no_interval() -> None:
    scorer = Scorer(Protocol("plain", eight_bit=True, border=0, colour="rgb"), {"psnr": Psnr()})
    scorer.add(["a"], ["all"], torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))
    found = summarise(scorer.photos, 50, 0.9, generator_for(0))
    assert math.isinf(found["mean"]["psnr"])
    assert found["intervals"]["mean"]["psnr"] is None


def test_one_pair_of_equal_photos_is_counted_and_left_out_of_the_means() -> None:
    scorer = Scorer(Protocol("plain", eight_bit=True, border=0, colour="rgb"), {"psnr": Psnr()})
    black, grey = torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.2)
    for name, restored in (("a", black), ("b", grey), ("c", grey)):
        scorer.add([name], ["all"], restored, black)
    found = summarise(scorer.photos, 50, 0.9, generator_for(0))
    assert found["mean"]["psnr"] == found["per_degradation"]["all"]["psnr"] == pytest.approx(13.979, abs=1e-3)
    assert found["mean"]["count"] == 3
    assert found["infinite"] == {"psnr": 1}


class Fails(PairMetric):
    """As a library's metric that meets a photo it does not expect."""

    higher_is_better = True

    def score(self, images: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        raise ValueError("kernel too large")


def test_a_metric_that_fails_does_not_cost_the_others() -> None:
    scorer = Scorer(Protocol("plain", eight_bit=True, border=0, colour="rgb"), {"fails": Fails(), "psnr": Psnr()})
    for error in (0.1, 0.2):
        scorer.add(["a"], ["all"], torch.full((1, 3, 8, 8), error), torch.zeros(1, 3, 8, 8))
    assert [list(photo.scores) for photo in scorer.photos] == [["psnr"], ["psnr"]]
    assert scorer.missing == {"fails": "it failed with ValueError: kernel too large"}


def test_the_original_s_protocol_cuts_and_rounds_for_psnr_and_not_for_networks() -> None:
    protocol = make(OmegaConf.load(Path(config_dir()) / "protocol" / "daclip.yaml"))
    image = torch.rand(1, 3, 20, 30)
    assert torch.equal(protocol.prepare(image), quantise(image[..., 4:-4, 4:-4]))
    assert torch.equal(protocol.prepare(image, network=True), image)
    plain = Protocol("rgb", eight_bit=True, border=0, colour="y")
    assert torch.equal(plain.prepare(image, network=True), quantise(image))


def test_a_border_wider_than_the_photo_is_refused() -> None:
    with pytest.raises(DaclipError, match="6×8 pixels has nothing inside"):
        Protocol("wide", eight_bit=True, border=3, colour="rgb").prepare(torch.zeros(1, 3, 8, 6))
    with pytest.raises(DaclipError, match=r"protocol\.colour"):
        Protocol("odd", eight_bit=True, border=0, colour="lab")  # type: ignore[arg-type]
