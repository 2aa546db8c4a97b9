"""Scores of stage 1: closed forms, pictures, and the command from end to end."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from running import invoke
from torchmetrics.functional.classification import multiclass_calibration_error

from daclip.clip.controller import create_daclip
from daclip.clip.module import score_daclip
from daclip.errors import DaclipError
from daclip.metrics.classification import CalibrationError, caption_ranks, recall_at
from daclip.types import RestorationBatch

EVALUATE = "daclip.commands.evaluate"
CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def test_calibration_error_is_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(0)
    shares = torch.randn(200, 4, generator=generator).mul(2).softmax(-1)
    truth = torch.randint(4, (200,), generator=generator)
    confidence, named = shares.max(-1)
    expected = multiclass_calibration_error(shares, truth, num_classes=4, n_bins=15, norm="l1")
    found = CalibrationError(15)
    for part in range(0, 200, 50):
        found.update(confidence[part : part + 50], (named == truth)[part : part + 50])
    assert found.compute().item() == pytest.approx(expected.item(), abs=1e-5)
    assert sum(row["count"] for row in found.bins()) == 200


def test_a_constant_embedding_finds_nothing() -> None:
    text = torch.eye(12)
    ranks = caption_ranks(torch.ones(12, 12), text, torch.arange(12))
    assert recall_at(ranks, [1, 5, 10]) == {"1": 0, "5": 0, "10": 0}
    assert recall_at(caption_ranks(text, text, torch.arange(12)), [1])["1"] == 1


def test_scores_of_a_model_that_steers_nothing() -> None:
    daclip = create_daclip(CLIP, None, "resize", "reversed", 0).eval()
    lq, hq = torch.rand(2, 4, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    captions = ["a cat, asleep", "a dog", "", "a cat, asleep"]
    pairs = RestorationBatch(lq, hq, captions, ["rainy", "hazy", "hazy, rainy", "rainy"], ["a"] * 4)
    found = score_daclip(daclip, [pairs], ["rainy", "hazy"], ["{}", "a {} photo"], 10, "fp32")
    assert found["content_cosine"] == found["content_cosine_plain"]
    assert set(found["per_degradation_accuracy"]) == {"rainy", "hazy", "hazy, rainy"}
    # One of two right words is right.
    assert found["per_degradation_accuracy"]["hazy, rainy"] == 1
    assert found["retrieval"]["captions"] == 2
    assert found["retrieval"]["photos"] == 3
    assert found["retrieval"]["clean"]["5"] == 1
    assert found["retrieval"]["steered"] == found["retrieval"]["degraded"]


def test_templates_are_averaged_and_need_a_place_for_the_word() -> None:
    daclip = create_daclip(CLIP, None, "resize", "reversed", 0)
    single = daclip.word_embeddings(["rainy", "hazy"])
    assert torch.equal(single, daclip.clip.encode_text(["rainy", "hazy"]))
    both = daclip.word_embeddings(["rainy"], ["{}", "a {} photo"])
    mean = daclip.clip.encode_text(["rainy", "a rainy photo"]).mean(0)
    torch.testing.assert_close(both[0], mean / mean.norm())
    with pytest.raises(DaclipError, match="a photo"):
        daclip.word_embeddings(["rainy"], ["a photo"])


def test_the_command_scores_what_training_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        invoke("daclip.commands.train_daclip", "experiment=smoke_daclip", "loss=sigmoid", "distillation=contrastive")
        is None
    )
    assert invoke(EVALUATE, "artifact=outputs/daclip/latest", "templates=['{}','a {} photo']", "batch_size=7") is None
    folder = tmp_path / "outputs/evaluation"
    found = json.loads((folder / "metrics.json").read_text())
    trained = json.loads((tmp_path / "outputs/daclip/latest/metrics.json").read_text())
    assert set(found["per_degradation_accuracy"]) == set(trained["per_degradation_accuracy"])
    assert found["content_cosine"] == pytest.approx(trained["content_cosine"], abs=1e-3)
    assert found["retrieval"]["captions"] == 2
    assert 0 <= found["calibration_error"] <= 1
    for name in ("confusion", "reliability"):
        assert Image.open(folder / f"{name}.png").size > (200, 200)
    assert "template" in str(invoke(EVALUATE, "artifact=outputs/daclip/latest", "templates=[photo]"))
