"""Networks of others: small ones of spandrel's list with random weights, saved here, through every front door."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from running import assert_one_line, invoke, read
from safetensors.torch import save_file
from skimage import data
from torch import Tensor, nn

from daclip import Restorer
from daclip.app.service import Limits, Service, Settings
from daclip.errors import DaclipError
from daclip.restoring.batch import Job, Request, attempt
from daclip.restoring.networks import load_other

pytest.importorskip("spandrel")
from spandrel.architectures.Compact import Compact
from spandrel.architectures.DRUNet import DRUNet
from spandrel.architectures.NAFNet import NAFNet

CPU = torch.device("cpu")
PHOTO = np.ascontiguousarray(data.coffee()[40:250, 100:360])
IMAGE = torch.from_numpy(PHOTO).movedim(-1, 0).float() / 255


def nafnet(channels: int = 3) -> nn.Module:
    """One whose blocks count: theirs start at zero. Its channel attention looks at means over its input."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = NAFNet(img_channel=channels, width=8, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1])
        for name, value in made.named_parameters():
            if name.endswith(("beta", "gamma")):
                nn.init.normal_(value)
    return made.eval()


def compact(scale: int) -> nn.Module:
    return Compact(num_feat=8, num_conv=2, upscale=scale)


def result(network: nn.Module, image: Tensor = IMAGE) -> Tensor:
    with torch.inference_mode():
        found: Tensor = network(image[None])[0]
    return found.clamp(0, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The networks as their authors would publish them, and a photo."""
    folder = tmp_path_factory.mktemp("networks")
    torch.save({"params": nafnet().state_dict()}, folder / "nafnet.pth")
    save_file(nafnet().state_dict(), folder / "nafnet.safetensors")
    Image.fromarray(PHOTO).save(folder / "cup.png")
    return folder


@pytest.fixture(scope="module")
def restorer(restorer_artifact: Path) -> Restorer:
    return Restorer(restorer_artifact, None, "cpu", "fp32")


@pytest.mark.parametrize("name", ["nafnet.pth", "nafnet.safetensors"])
def test_their_network_restores_and_ours_recognises(restorer: Restorer, folder: Path, name: str) -> None:
    done = restorer.with_network(folder / name).restore(IMAGE)
    assert torch.allclose(done.image, result(nafnet()), atol=1e-5)
    assert not torch.allclose(done.image, IMAGE, atol=0.05)
    assert done.network == f"NAFNet {name}"
    own = restorer.restore(IMAGE)
    assert done.probabilities == own.probabilities
    assert own.network is None


def test_strength_mask_and_batch_are_ours(restorer: Restorer, folder: Path) -> None:
    by = restorer.with_network(folder / "nafnet.pth")
    whole = by.restore(IMAGE).image
    assert torch.allclose(by.restore(IMAGE, strength=0.25).image, IMAGE + (whole - IMAGE) / 4, atol=1e-6)
    mask = torch.zeros(IMAGE.shape[1:], dtype=torch.bool)
    mask[50:90, 60:100] = True
    # What is not marked stays, and what is marked is not filled before: the network sees it.
    assert torch.equal(by.restore(IMAGE, mask=mask).image, torch.where(mask, whole, IMAGE))
    photos = torch.stack([IMAGE, IMAGE.flip(-1)])
    assert torch.equal(by.restore(photos).images[0], whole)


def test_tiles_see_the_means_of_the_whole_photo(restorer_artifact: Path, folder: Path) -> None:
    tiled = Restorer(restorer_artifact, None, "cpu", "fp32", tile=128, overlap=64).with_network(folder / "nafnet.pth")
    whole = result(nafnet())
    error = (tiled.restore(IMAGE).image - whole).square().mean()
    alone = (result(nafnet(), IMAGE[:, :128, :128]) - whole[:, :128, :128]).square().mean()
    assert error < alone / 10


@pytest.mark.parametrize(
    ("network", "size"),
    [(lambda: compact(1), (5, 9)), (lambda: DRUNet(in_nc=4, out_nc=3, nc=[4] * 4, nb=2), (37, 51)), (nafnet, (3, 1))],
    ids=["Compact", "DRUNet", "NAFNet"],
)
def test_any_size(restorer: Restorer, tmp_path: Path, network: Callable[[], nn.Module], size: tuple[int, int]) -> None:
    torch.save(network().state_dict(), tmp_path / "network.pth")
    image = IMAGE[:, : size[0], : size[1]]
    found = restorer.with_network(tmp_path / "network.pth").restore(image).image
    assert found.shape == image.shape
    assert found.isfinite().all()


def test_recognition_chooses_among_networks(restorer: Restorer, folder: Path, tmp_path: Path) -> None:
    torch.save(compact(1).state_dict(), tmp_path / "other.pth")
    surest, second = list(restorer.restore(IMAGE).probabilities)[:2]
    by = restorer.with_network(folder / "nafnet.pth", surest).with_network(tmp_path / "other.pth", second)
    assert by.restore(IMAGE).network == "NAFNet nafnet.pth"
    assert torch.allclose(by.restore([IMAGE, IMAGE])[1].image, result(nafnet()), atol=1e-5)
    told = by.restore(IMAGE, degradation=second)
    assert told.network == "RealESRGAN Compact other.pth"
    third = next(name for name in restorer.classes if name not in (surest, second))
    own = by.restore(IMAGE, degradation=third)
    assert own.network is None
    assert torch.equal(own.image, restorer.restore(IMAGE, degradation=third).image)
    rest = by.with_network(folder / "nafnet.safetensors").using(seed=3)
    assert rest.restore(IMAGE, degradation=third).network == "NAFNet nafnet.safetensors"
    assert rest.restore(IMAGE, degradation=second).network == told.network
    assert rest.budget.weights > by.budget.weights > restorer.budget.weights


def test_an_instruction_lists_what_the_network_of_a_class_repairs(restorer: Restorer, folder: Path) -> None:
    by = restorer.with_network(folder / "nafnet.pth", "rainy")
    told = "remove the rain completely and half of the noise"
    done = by.restore(IMAGE, instruction=told)
    assert (done.network, done.repaired, done.shares) == ("NAFNet nafnet.pth", ("rainy",), {})
    assert "noisy" in done.left
    assert "left for lack of a network: noisy" in done.notes[-1]
    job = Job(folder / "cup.png", folder / "none.png")
    dry = attempt(by, job, Request(None, 1.0, 1, dry_run=True, overwrite=False, instruction=told))
    assert (dry.repaired, dry.notes) == (["rainy"], [done.notes[-1]])


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("run",)


def files(folder: Path) -> dict[str, str]:
    """Files that are refused, each with a part of the line."""
    torch.save({"params": compact(2).state_dict()}, folder / "large.pth")
    torch.save(nafnet(channels=1).state_dict(), folder / "gray.pth")
    torch.save({"w": torch.zeros(3)}, folder / "unknown.pth")
    torch.save({**nafnet().state_dict(), "intro.weight": torch.zeros(8, 3, 5, 5)}, folder / "twisted.pth")
    torch.save({"params": Evil()}, folder / "object.pth")
    (folder / "pickle.pth").write_bytes(pickle.dumps(Evil()))
    (folder / "text.safetensors").write_text("none")
    torch.jit.script(nn.Conv2d(3, 3, 3)).save(folder / "script.pt")
    return {
        "large.pth": "enlarges 2 times",
        "gray.pth": "turns 1 channels into 1",
        "unknown.pth": "no network of an architecture that spandrel",
        "twisted.pth": "spandrel cannot load",
        "object.pth": "refused",
        "pickle.pth": "refused",
        "text.safetensors": "damaged",
        "script.pt": "damaged or no checkpoint",
        "gone.pth": "no such checkpoint file",
    }


def test_what_is_no_restoring_network_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, reason in files(tmp_path).items():
        with pytest.raises(DaclipError, match=reason) as caught:
            load_other(tmp_path / name, CPU, "auto")
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert "run" not in capsys.readouterr().out


def test_what_a_network_of_others_cannot_do_is_refused(restorer: Restorer, folder: Path) -> None:
    by = restorer.with_network(folder / "nafnet.pth")
    with pytest.raises(DaclipError, match="one result"):
        by.restore(IMAGE, samples=2)
    with pytest.raises(DaclipError, match=r"NAFNet nafnet\.pth cannot be told"):
        by.restore(IMAGE, instruction="remove the rain")
    with pytest.raises(DaclipError, match="restores in one call"):
        by.using(steps=5)
    with pytest.raises(DaclipError, match="no class 'rainny'; choose from"):
        restorer.with_network(folder / "nafnet.pth", "rainny")


def test_the_command(
    restorer_artifact: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(folder)
    common = ["daclip.commands.restore", "cup.png", "--artifact", str(restorer_artifact), "-o", str(tmp_path)]
    assert invoke(*common, "--network", "nafnet.pth") is None
    assert "by NAFNet nafnet.pth" in capsys.readouterr().out
    found = np.asarray(Image.open(tmp_path / "cup.png")) / 255
    assert np.abs(found - result(nafnet()).movedim(0, -1).numpy()).max() < 0.51 / 255 + 1e-5
    record = json.loads((tmp_path / "summary.jsonl").read_text())
    assert record["network"] == "NAFNet nafnet.pth"
    classes = [f"--network={name}=nafnet.pth" for name in record["probabilities"]]
    assert invoke(*common, "--overwrite", *classes) is None
    assert "by NAFNet nafnet.pth" in capsys.readouterr().out
    assert_one_line(invoke(*common, "--network", "nafnet.pth", "--steps", "3"), "leave out --sampler and --steps")
    assert_one_line(invoke(*common, "--network", "blue=nafnet.pth"), "no class 'blue'")


def test_the_page(restorer: Restorer, folder: Path, tmp_path: Path) -> None:
    limits = Limits(megapixels=0.1, files=1, samples=1, steps=9, classes=40, samplers=("ddim",))
    service = Service(restorer.with_network(folder / "nafnet.pth"), limits)
    outcome = service.restore(folder / "cup.png", Settings(), tmp_path, None)
    assert (outcome.status, outcome.network) == ("restored", "NAFNet nafnet.pth")
    assert Image.open(outcome.results[0]).size == (260, 210)
    with pytest.raises(DaclipError, match="restores in one call"):
        service.restore(folder / "cup.png", Settings(sampler="ddim"), tmp_path, None)


def test_evaluation_and_report_compare_it_with_ours(
    restorer_artifact: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    score = ["daclip.commands.evaluate", f"artifact={restorer_artifact}", "data=embedded", "data.validation_size=64"]
    score += ["degradation=[noisy]", "data.validation_crops=1", "metric=[psnr]", "pictures=1", "bootstrap.draws=10"]
    assert invoke(*score, "output=ours", "sampler.steps=1") is None
    assert invoke(*score, "output=theirs", f"network={folder / 'nafnet.pth'}") is None
    assert invoke(*score, "output=noise", f"network={{noisy:{folder / 'nafnet.pth'}}}") is None
    assert read(tmp_path / "theirs" / "metrics.json")["sampler"] == "NAFNet nafnet.pth"
    assert read(tmp_path / "noise" / "metrics.json")["sampler"] == "PosteriorSampler, noisy: NAFNet nafnet.pth"
    assert invoke("daclip.commands.report", "ours", "theirs", "-o", "page") is None
    page = (tmp_path / "page" / "report.md").read_text()
    assert "| degradation | degraded photo | ours | theirs |" in page
    assert "NAFNet nafnet.pth, 1" in page
    taken = [f"network={folder / 'nafnet.pth'}", "output=more"]
    assert_one_line(invoke(*score, *taken, "sampler.steps=3"), "leave out the sampler")
    stage_1 = f"artifact={restorer_artifact / 'daclip'}"
    assert_one_line(invoke(score[0], stage_1, *score[2:], *taken), "a 'restorer' one is needed")
