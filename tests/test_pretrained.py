"""The restorer in the package, on photos that it was not trained on."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torch import Tensor

from daclip import Restorer
from daclip.artifacts import PACKAGED, Artifact
from daclip.degradations.base import CLEAN
from daclip.metrics.image import psnr
from daclip.pixels import Pixels

MOST_BYTES = 12.6e6


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    return Restorer.from_pretrained(device="cpu", precision="fp32")


def photo(name: str, side: int = 256) -> Tensor:
    pixels = np.ascontiguousarray(getattr(data, name)()[:side, :side])
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def noisy(hq: Tensor) -> Tensor:
    noise = torch.randn(hq.shape, generator=torch.Generator().manual_seed(0))
    return ((hq + 50 / 255 * noise).clamp(0, 1) * 255).round() / 255


def compressed(hq: Tensor) -> Tensor:
    file = io.BytesIO()
    Image.fromarray((hq * 255).byte().permute(1, 2, 0).numpy()).save(file, "JPEG", quality=10)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float() / 255


def test_it_is_small_and_knows_no_folder_of_the_machine_that_trained_it() -> None:
    files = [path for path in PACKAGED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES
    for path in files:
        if path.suffix != ".safetensors":
            text = path.read_text(encoding="utf-8")
            assert not [word for word in ("/home/", "/root/", "/tmp/", "/work/") if word in text], path


def test_its_card_says_what_it_is_from_and_what_it_cannot_do() -> None:
    card = (PACKAGED / "MODEL_CARD.md").read_text(encoding="utf-8")
    for word in ("CC BY-SA 4.0", "world_restorer", "commit", "seed", "cannot do", "| paired |", "| clean |"):
        assert word in card


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea"])
def test_it_leaves_good_photos_alone(restorer: Restorer, name: str) -> None:
    hq = photo(name, side=512)
    done = restorer.restore(hq)
    assert done.degradation == CLEAN
    assert torch.equal(done.image, hq)


@pytest.mark.parametrize(("corrupt", "class_name", "gain"), [(noisy, "noisy", 6), (compressed, "jpeg-compressed", 0.3)])
def test_it_names_and_repairs(restorer: Restorer, corrupt: "object", class_name: str, gain: float) -> None:
    hq = photo("astronaut")
    lq = corrupt(hq)  # type: ignore[operator]
    done = restorer.restore(lq)
    assert done.degradation == class_name
    assert float(psnr(done.image[None], hq[None]) - psnr(lq[None], hq[None])) > gain


def test_paths_and_the_name_stand_for_the_same(restorer: Restorer) -> None:
    other = Restorer(Path(PACKAGED), device="cpu", precision="fp32")
    lq = noisy(photo("coffee"))
    assert torch.equal(other.restore(lq).image, restorer.restore(lq).image)


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea"])
def test_what_is_painted_is_taken_from_around(restorer: Restorer, name: str) -> None:
    hq = photo(name)
    mask = torch.zeros(hq.shape[1:], dtype=torch.bool)
    mask[100:120, 60:110] = mask[180:200, 140:190] = True
    restored = restorer.restore(torch.where(mask, torch.ones_like(hq), hq), mask=mask).image
    assert torch.equal(restored[:, ~mask], hq[:, ~mask])
    assert float((restored - hq)[:, mask].square().mean()) < 0.15**2


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea"])
def test_holes_of_one_colour_are_found_and_filled(restorer: Restorer, name: str) -> None:
    hq = photo(name)
    lq = hq.clone()
    lq[:, 100:120, 60:110] = lq[:, 180:200, 140:190] = lq[:, 40:200, 30:42] = 1
    done = restorer.restore(lq)
    assert done.degradation == "uncompleted"
    assert done.share == 1
    assert not done.notes
    assert float(psnr(done.image[None], hq[None])) > max(26, float(psnr(lq[None], hq[None])) + 8)
    half = restorer.restore(lq, strength=0.5).image
    assert float((half - (lq + done.image) / 2).abs().max()) < 0.01
    assert torch.equal(restorer.restore(lq, strength=0).image, lq)


def test_a_filled_photo_that_needs_no_more_meets_no_network(
    restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hq = photo("chelsea")
    lq = hq.clone()
    lq[:, 100:120, 60:110] = lq[:, 180:200, 140:190] = lq[:, 40:200, 30:42] = 1
    sure, nothing = {"uncompleted": 1.0, CLEAN: 0.0}, {CLEAN: 1.0, "uncompleted": 0.0}
    found = restorer.recognise(Pixels.of(lq.permute(1, 2, 0).numpy()))[0]
    monkeypatch.setattr("daclip.restoring.restorer.sample_photos", None)
    monkeypatch.setattr("daclip.restoring.restorer.Classifier.recognise", lambda *_: (found, nothing))
    monkeypatch.setattr(restorer, "recognise", lambda _: (found, sure))
    done, half = restorer.restore(lq), restorer.restore(lq, strength=0.5)
    assert done.share == half.share == 1
    assert float(psnr(done.image[None], hq[None])) > 26
    assert float((half.image - (lq + done.image) / 2).abs().max()) < 0.01


def test_text_on_paper_is_no_hole(restorer: Restorer) -> None:
    page = torch.ones(3, 256, 256)
    page[:, 20:236:16, 20:236] = 0.1
    done = restorer.restore(page, degradation="uncompleted")
    assert float(done.image[:, :16].mean()) > 0.9


def test_missing_pixels_get_what_they_had_in_training(restorer_artifact: Path) -> None:
    assert Artifact(PACKAGED / "daclip").fill is None
    assert Artifact(restorer_artifact / "daclip").fill == 1.0
