"""Photos in pieces: nobody can tell that they were cut."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data
from torch import Tensor, nn
from torch.nn import functional as F

from daclip import Restorer
from daclip.backbones.layers import GlobalPool
from daclip.config import composed
from daclip.diffusion import Denoiser, MeanRevertingSDE, ThetaSchedule
from daclip.errors import DaclipError
from daclip.files import config_folder
from daclip.pixels import Pixels
from daclip.restoring.batch import Job, Request, attempt
from daclip.restoring.control import Plan
from daclip.restoring.memory import (
    GRID,
    PeakMemory,
    Pieces,
)
from daclip.restoring.restorer import Stopped
from daclip.restoring.sampling import Progress, TiledDenoiser, sample_photos, sampler_options, scouts, spans
from daclip.rng import NoiseField
from daclip.samplers import PosteriorSampler
from daclip.types import Conditioning

SAMPLERS = sorted(path.stem for path in (config_folder() / "sampler").glob("*.yaml"))
PHOTO = np.ascontiguousarray(data.coffee()[:300, :420])


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * torch.log10(((a - b) ** 2).mean()))


class Blur(nn.Module):
    """Sees 2 pixels around each: tiles that overlap can agree exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3, 1, 5, 5), 1 / 25))

    def forward(self, x_t: Tensor, lq: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        return F.conv2d(x_t, self.weight, padding=2, groups=3) - lq


class Levelled(nn.Module):
    """Moves the photo to a mean of one half: every tile by itself would move by its own mean."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = GlobalPool()
        self.level = nn.Parameter(torch.tensor(0.5))

    def forward(self, x_t: Tensor, lq: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        return self.level - self.pool(lq).expand_as(lq)


def denoiser_of(network: nn.Module) -> Denoiser:
    return Denoiser(network, MeanRevertingSDE(ThetaSchedule("cosine")), "data").requires_grad_(False)


def sampled(
    network: nn.Module, pieces: Pieces, photo: np.ndarray = PHOTO, seed: int = 0, on_progress: Progress | None = None
) -> Tensor:
    pixels = Pixels(photo)
    return sample_photos(
        PosteriorSampler(steps=3),
        denoiser_of(network),
        [pixels],
        Conditioning(),
        [NoiseField((seed, 0), pixels.height, pixels.width)],
        pieces,
        overlap=64,
        precision="fp32",
        on_progress=on_progress,
    )[0]


@settings(max_examples=200, deadline=None)
@given(length=st.integers(1, 3000), size=st.integers(2, 12), overlap=st.integers(1, 11))
def test_spans_cover_an_axis(length: int, size: int, overlap: int) -> None:
    overlap = min(overlap, size - 1)
    pieces = spans(length, size * GRID, overlap * GRID)
    total = torch.zeros(length)
    for piece in pieces:
        assert 0 < piece.stop - piece.start <= size * GRID
        assert piece.start % GRID == 0
        assert piece.weight.min() >= 0
        total[piece.start : piece.stop] += piece.weight
    assert torch.allclose(total, torch.ones(length), atol=1e-6)
    assert pieces[-1].stop == length
    for before, after in pairwise(pieces):
        assert before.stop - after.start >= min(overlap * GRID, length)
        # A rim without weight: there a network sees the edge of its tile.
        assert before.weight[-4:].max() == 0
        assert after.weight[:4].max() == 0


def test_one_piece_has_weight_one_exactly() -> None:
    (piece,) = spans(500, 512, 64)
    assert torch.equal(piece.weight, torch.ones(500))


def test_senseless_pieces_are_refused() -> None:
    for size, overlap in ((100, 64), (128, 32), (128, 128)):
        with pytest.raises(DaclipError, match="multiples of 64"):
            spans(1000, size, overlap)


@pytest.mark.parametrize("pieces", [Pieces(448, 128, 1), Pieces(192, 128, 1), Pieces(192, 192, 3)])
def test_a_local_network_gives_the_same_in_pieces(pieces: Pieces) -> None:
    whole = sampled(Blur(), Pieces(448, 448, 1))
    assert torch.allclose(sampled(Blur(), pieces), whole, atol=1e-5)


@pytest.mark.parametrize("network", [Blur, Levelled])
@pytest.mark.parametrize("pieces", [Pieces(448, 448, 1), Pieces(448, 128, 1), Pieces(192, 128, 2)])
def test_progress_is_told_after_each_call(network: type[nn.Module], pieces: Pieces) -> None:
    told: list[float] = []
    calls = 0

    class Counting(network):  # type: ignore[misc, valid-type]
        def forward(self, *arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            return super().forward(*arguments)

    sampled(Counting(), pieces, on_progress=told.append)
    assert len(told) == calls
    assert told == sorted(set(told))
    assert told[-1] == 1

    def stop(share: float) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        sampled(Counting(), pieces, on_progress=stop)


def test_global_means_are_those_of_the_photo() -> None:
    photo = PHOTO.copy()
    photo[:, 200:] = photo[:, 200:] // 4  # one dark half: tiles' own means are far apart
    whole = sampled(Levelled(), Pieces(448, 448, 1), photo)
    assert psnr(sampled(Levelled(), Pieces(448, 128, 1), photo), whole) > 40
    own = TiledDenoiser(denoiser_of(Levelled()), 128, 64, 1)
    lq = Pixels(photo).crop()[None]
    alone = own(lq, lq, torch.tensor([1]), Conditioning()).x0
    assert psnr(alone[0], whole) < 25  # what it would be otherwise


def test_blending_leaves_no_step_at_tile_borders() -> None:
    """On a flat photo whose estimate differs from tile to tile the result changes by small steps only."""

    class Bias(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(()))
            self.calls = 0

        def forward(self, x_t: Tensor, lq: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
            self.calls += 1
            return self.gain * torch.full_like(lq, 0.2 * (-1) ** self.calls)

    tiled = TiledDenoiser(denoiser_of(Bias()), 128, 64, 1)
    lq = torch.full((1, 3, 256, 256), 0.5)
    x0 = tiled(lq, lq, torch.tensor([1]), Conditioning()).x0
    assert x0.max() - x0.min() > 0.3
    assert x0.diff(dim=-1).abs().max() < 0.02
    assert x0.diff(dim=-2).abs().max() < 0.02


def test_noise_belongs_to_a_place() -> None:
    field = NoiseField((3, 1), 300, 700)
    whole = field.crop(0, 3, 0, 0, 300, 700)
    for top, left, height, width in ((0, 0, 1, 1), (250, 200, 50, 400), (100, 255, 160, 2)):
        part = field.crop(0, 3, top, left, height, width)
        assert torch.equal(part, whole[:, top : top + height, left : left + width])
    assert abs(float(whole.mean())) < 0.01
    assert float(whole.std()) == pytest.approx(1, abs=0.01)
    window = field.window(10, 20)
    first, second = window.normal((3, 5, 6)), window.normal((3, 5, 6))
    assert torch.equal(first, whole[:, 10:15, 20:26])
    assert not torch.equal(first, second)
    # Neighbouring cells, other draws and other photos are independent.
    assert abs(float((whole[:, :250, :250] * whole[:, :250, 256:506]).mean())) < 0.01
    assert not torch.equal(whole, NoiseField((3, 2), 300, 700).crop(0, 3, 0, 0, 300, 700))


def test_scouts_stand_for_the_photo() -> None:
    assert [window[:4] for window in scouts(512, 512, 256, 25)] == [
        (0, 256, 0, 256),
        (0, 256, 256, 512),
        (256, 512, 0, 256),
        (256, 512, 256, 512),
    ]
    for height, width, most in ((4000, 6000, 25), (300, 420, 12), (1, 5000, 4), (100, 9000, 25), (9000, 257, 3)):
        windows = scouts(height, width, 256, most)
        assert 1 <= len(windows) <= most
        assert len({(window.bottom - window.top, window.right - window.left) for window in windows}) == 1
        assert all(0 <= w.top < w.bottom <= height and 0 <= w.left < w.right <= width for w in windows)
        assert sum(window.weight for window in windows) == pytest.approx(height * width)


@pytest.fixture(scope="module")
def restorer(restorer_artifact: Path) -> Restorer:
    return Restorer.from_pretrained(restorer_artifact, precision="fp32", device="cpu")


def test_behind_the_sampler_there_is_one_copy_of_a_photo(restorer: Restorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """`Budget.photo_bytes` counts no more."""
    height, width = 2048, 32  # taken whole
    monkeypatch.setattr("daclip.restoring.restorer.sample_photos", lambda *_: torch.rand(1, 3, height, width))
    photo = Pixels(np.zeros((height, width, 3), np.uint8))
    with PeakMemory() as memory:
        restorer._samples([photo], [photo], Conditioning(), [0], [Plan(None, 0.5, certainty=0.8)], 1, None, None)
    image = height * width * 12
    assert image <= memory.peak < 1.5 * image


def test_memory_is_checked_before_a_photo_is_decoded(restorer: Restorer, tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new("1", (9200, 9200)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])  # decoding would say that it is damaged
    request = Request(None, strength=1.0, samples=1, dry_run=False, overwrite=False)
    outcome = attempt(restorer, Job(path, tmp_path / "out.png"), request)
    assert outcome.error is not None
    assert "2 GiB of memory are too little for a photo of 9200 x 9200 pixels" in outcome.error
    assert "give --max-memory" in outcome.error


def test_a_real_network_gives_the_same_in_tiles(restorer: Restorer) -> None:
    photo = torch.from_numpy(PHOTO).permute(2, 0, 1) / 255
    whole = restorer.restore(photo).image
    assert psnr(whole, photo) < 30  # it does something
    restorer.tile, restorer.overlap = 192, 128
    try:
        tiled = restorer.restore(photo).image
        assert not torch.equal(tiled, whole)
        assert psnr(tiled, whole) > 40
    finally:
        restorer.tile = None
    other = Restorer(restorer.artifact.folder, None, "cpu", "fp32", tile=192, overlap=128, batch_size=3)
    assert torch.equal(other.restore(photo).image, tiled)


def test_a_photo_does_not_depend_on_its_batch(restorer: Restorer) -> None:
    photos = torch.stack([torch.from_numpy(data.chelsea()[y : y + 70, :90]).permute(2, 0, 1) for y in (0, 90, 180)])
    photos = photos / 255
    alone = torch.stack([restorer.restore(photo, [i]).image for i, photo in enumerate(photos)])
    assert torch.equal(restorer.restore(photos).images, alone)
    other = Restorer(restorer.artifact.folder, None, "cpu", "fp32", batch_size=2)
    assert torch.equal(other.restore(photos).images, alone)
    assert torch.equal(restorer.restore(photos[1:], [1, 2]).images, alone[1:])
    assert not torch.equal(restorer.restore(photos[1], [7]).image, alone[1])


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_by_name_is_what_hydra_composes(name: str) -> None:
    assert sampler_options(name) == composed(None, [f"+sampler={name}"])["sampler"]


def test_a_sampler_is_chosen_by_name_and_steps(restorer: Restorer) -> None:
    other = restorer.using(sampler="unipc", steps=3, seed=5)
    assert type(other.sampler).__name__ == "UniPcSampler"
    assert (other.sampler.steps, other.seed) == (3, 5)
    assert restorer.using(steps=2).sampler.steps == 2
    with pytest.raises(DaclipError, match="steps=4"):
        restorer.using(sampler=other.sampler, steps=4)
    with pytest.raises(DaclipError, match="no sampler 'unipcc'; choose from ddim"):
        restorer.using(sampler="unipcc")


def test_a_path_is_read(restorer: Restorer, tmp_path: Path) -> None:
    picture = Image.fromarray(PHOTO[:40, :60])
    picture.save(tmp_path / "photo.png")
    given = restorer.restore([str(tmp_path / "photo.png"), tmp_path / "photo.png"])
    assert given[0].image == restorer.restore(picture).image
    assert restorer.classify(tmp_path / "photo.png") == restorer.classify(picture)
    with pytest.raises(DaclipError, match="no such file"):
        restorer.restore("gone.png")
