"""What every sampler in conf/sampler must keep."""

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from daclip.config import config_dir
from daclip.diffusion import Denoiser, MeanRevertingSDE, ThetaSchedule
from daclip.errors import DaclipError
from daclip.samplers import Sampler, Step
from daclip.types import Conditioning

FOLDER = Path(__file__).parents[2] / "conf" / "sampler"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
GRIDS = sorted(path.stem for path in (FOLDER.parent / "grid").glob("*.yaml"))
MEAN, STD = 0.7, 0.1


class GaussianOracle(nn.Module):
    """Knows E[x_0 | x_t] for x_0 ~ N(0.7, 0.1²) and counts its calls."""

    def __init__(self, process: MeanRevertingSDE) -> None:
        super().__init__()
        self.process = process
        self.calls = 0

    def forward(self, x_t: Tensor, lq: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        self.calls += 1
        alpha, std = self.process.alpha(t.long()), self.process.marginal_std(t.long())
        gain = alpha * STD**2 / (alpha**2 * STD**2 + std**2)
        return MEAN + gain * (x_t - lq - (MEAN - lq) * alpha) - lq


def _denoiser() -> tuple[Denoiser, GaussianOracle]:
    process = MeanRevertingSDE(ThetaSchedule("cosine"))
    oracle = GaussianOracle(process)
    return Denoiser(oracle, process, "data"), oracle


def _generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@cache
def _config(name: str, grid: str) -> DictConfig:
    with hydra.initialize_config_dir(config_dir(), version_base="1.3"):
        return hydra.compose("evaluate", [f"sampler={name}", f"grid={grid}"]).sampler


def _sampler(name: str, grid: str = "trailing", **overrides: Any) -> Sampler:
    return instantiate(OmegaConf.merge(_config(name, grid), overrides))


def test_the_groups_are_found() -> None:
    assert {"posterior", "reverse_sde", "flow_ode"} < set(NAMES)
    assert "trailing" in GRIDS


def test_recovers_a_gaussian(name: str) -> None:
    """With the exact denoiser and all steps the samples have the mean and deviation of the data."""
    denoiser, _ = _denoiser()
    sampler = _sampler(name, steps=100, clamp=False)
    lq = torch.full((2, 3, 64, 64), 0.4)
    out = sampler.sample(denoiser, lq, Conditioning(), _generators(0, 1))
    # 24,576 values: sampling error 0.0006 of the mean, 0.5 % of the deviation; the rest is Euler's.
    assert out.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert out.std().item() == pytest.approx(STD, rel=0.1)


@pytest.mark.parametrize("size", [(1, 1), (5, 8)])
def test_few_steps_give_a_finite_image_of_the_same_shape(name: str, size: tuple[int, int]) -> None:
    for steps in (1, 3):
        denoiser, oracle = _denoiser()
        sampler = _sampler(name, steps=steps, clamp=True)
        lq = torch.rand(2, 3, *size)
        out = sampler.sample(denoiser, lq, Conditioning(), _generators(0, 1))
        assert out.shape == lq.shape
        assert out.dtype == torch.float32
        assert out.min() >= 0
        assert out.max() <= 1  # also false for NaN
        assert oracle.calls == sampler.nfe


def test_an_image_does_not_depend_on_its_batch(name: str) -> None:
    denoiser, _ = _denoiser()
    sampler = _sampler(name, steps=5)
    lq = torch.rand(3, 3, 6, 6)
    together = sampler.sample(denoiser, lq, Conditioning(), _generators(7, 8, 9))
    alone = [
        sampler.sample(denoiser, image[None], Conditioning(), _generators(seed))
        for image, seed in zip(lq, (7, 8, 9), strict=True)
    ]
    assert torch.equal(together, torch.cat(alone))
    other = sampler.sample(denoiser, lq, Conditioning(), _generators(1, 2, 3))
    assert not torch.equal(together, other)


def test_hook_sees_every_step(name: str) -> None:
    denoiser, _ = _denoiser()
    seen: list[tuple[Step, Tensor]] = []
    sampler = _sampler(name, steps=4, clamp=False)
    lq = torch.rand(1, 3, 4, 4)
    out = sampler.sample(denoiser, lq, Conditioning(), _generators(0), lambda step, x: seen.append((step, x)))
    assert [(step.t.item(), step.s.item()) for step, _ in seen] == [(100, 75), (75, 50), (50, 25), (25, 0)]
    assert torch.equal(seen[-1][1], out)
    assert [step.remaining for step, _ in seen] == [4, 3, 2, 1]
    if type(sampler).correct is Sampler.correct:
        assert all(torch.equal(step.x_t, x) for (step, _), (_, x) in zip(seen[1:], seen, strict=False))


def test_user_mistakes_have_one_clear_line(name: str) -> None:
    denoiser, _ = _denoiser()
    lq = torch.rand(1, 3, 4, 4)
    with pytest.raises(DaclipError, match="101 is more than the 100"):
        _sampler(name, steps=101).sample(denoiser, lq, Conditioning(), _generators(0))
    with pytest.raises(DaclipError, match="31 is more than the 30"):
        _sampler(name, steps=31, start=0.3).sample(denoiser, lq, Conditioning(), _generators(0))
    backwards = _sampler(name, steps=2)
    backwards.grid = lambda process, start, steps: [0, 50, start]
    with pytest.raises(DaclipError, match="time grid"):
        backwards.sample(denoiser, lq, Conditioning(), _generators(0))
    with pytest.raises(ValueError, match="one generator an image"):
        _sampler(name).sample(denoiser, lq, Conditioning(), _generators(0, 1))
    for wrong, message in (
        ({"steps": 0}, "steps >= 1"),
        ({"start": 0.0}, "share of the process"),
        ({"guidance": -1.0}, "guidance must be at least 0"),
    ):
        with pytest.raises(Exception, match=message):
            _sampler(name, **wrong)


@pytest.mark.parametrize("grid", GRIDS)
def test_every_grid_is_a_walk_to_zero(grid: str) -> None:
    for kind in ("cosine", "linear", "constant"):
        process = MeanRevertingSDE(ThetaSchedule(kind))
        for start in (1.0, 0.37, 0.01):
            last = round(100 * start)
            for steps in {1, 2, 3, 10, 36, 37, 99, 100}:
                if steps <= last:
                    times = _sampler("posterior", grid, steps=steps, start=start).times(process)
                    assert (times[0], times[-1], len(times)) == (last, 0, steps + 1)
                    assert all(t > s for t, s in pairwise(times))
                else:
                    with pytest.raises(DaclipError, match="is more than"):
                        _sampler("posterior", grid, steps=steps, start=start).times(process)


@pytest.mark.parametrize("grid", GRIDS)
def test_every_sampler_takes_every_grid(name: str, grid: str) -> None:
    """Few steps on the exact denoiser: no grid breaks a formula."""
    denoiser, _ = _denoiser()
    lq = torch.full((1, 3, 16, 16), 0.4)
    out = _sampler(name, grid, steps=8, clamp=True).sample(denoiser, lq, Conditioning(), _generators(0))
    assert out.isfinite().all()
    assert out.mean().item() == pytest.approx(MEAN, abs=0.1)


def test_a_late_start_stays_near_the_lq_photo(name: str) -> None:
    """Started at 1 % of the process almost nothing of the photo is noise, so almost nothing changes."""
    lq = torch.rand(2, 3, 8, 8, generator=_generators(5)[0])
    moved = []
    for start in (0.02, 0.3, 1.0):
        denoiser, oracle = _denoiser()
        sampler = _sampler(name, steps=2, start=start, clamp=False)
        out = sampler.sample(denoiser, lq, Conditioning(), _generators(0, 1))
        assert oracle.calls == sampler.nfe
        moved.append((out - lq).abs().mean().item())
    assert moved[0] < 0.03
    assert moved == sorted(moved)


class TellTale(nn.Module):
    """Answers with the LQ image plus what the content embedding says, or plus 0.2 where that is dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x_t: Tensor, lq: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        self.calls += 1
        assert conditioning.content is not None
        content = conditioning.content.view(-1, 1, 1, 1)
        shift = torch.where(content == 0, 0.2, content)
        return shift.expand_as(lq)


@pytest.mark.parametrize(("guidance", "expected"), [(0.0, 0.2), (1.0, 0.3), (3.0, 0.5)])
def test_guidance_weighs_the_conditioning(name: str, guidance: float, expected: float) -> None:
    """x̂_0(∅) + w [x̂_0(c) − x̂_0(∅)], at the cost that `nfe` states."""
    process, network = MeanRevertingSDE(ThetaSchedule("cosine")), TellTale()
    sampler = _sampler(name, steps=3, guidance=guidance, clamp=False)
    seen: list[Step] = []
    lq = torch.zeros(1, 1, 2, 2)
    sampler.sample(
        Denoiser(network, process, "data"),
        lq,
        Conditioning(content=torch.tensor([[0.3]])),
        _generators(0),
        lambda step, x: seen.append(step),
    )
    assert network.calls == sampler.nfe
    for step in seen:
        torch.testing.assert_close(step.prediction.x0, torch.full_like(lq, expected))
    # Both views of a guided estimate belong together.
    first = seen[0]
    epsilon = process.epsilon_from_data(first.x_t, lq, first.prediction.x0, first.t)
    torch.testing.assert_close(first.prediction.epsilon, epsilon, rtol=1e-4, atol=1e-4)
