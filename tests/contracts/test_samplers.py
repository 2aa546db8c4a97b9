"""What every sampler in conf/sampler must keep."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from daclip.diffusion import Denoiser, MeanRevertingSDE, ThetaSchedule
from daclip.errors import DaclipError
from daclip.samplers import Sampler, Step
from daclip.types import Conditioning

CONFIGS = sorted((Path(__file__).parents[2] / "conf" / "sampler").glob("*.yaml"))
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


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem)
def config(request: pytest.FixtureRequest) -> Path:
    return request.param


def _sampler(path: Path, **overrides: object) -> Sampler:
    return instantiate(OmegaConf.merge(OmegaConf.load(path), overrides))


def test_recovers_a_gaussian(config: Path) -> None:
    """With the exact denoiser and all steps the samples have the mean and deviation of the data."""
    denoiser, _ = _denoiser()
    sampler = _sampler(config, steps=100, clamp=False)
    lq = torch.full((2, 3, 64, 64), 0.4)
    out = sampler.sample(denoiser, lq, Conditioning(), _generators(0, 1))
    # 24,576 values: sampling error 0.0006 of the mean, 0.5 % of the deviation; the rest is Euler's.
    assert out.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert out.std().item() == pytest.approx(STD, rel=0.1)


@pytest.mark.parametrize("size", [(1, 1), (5, 8)])
def test_few_steps_give_a_finite_image_of_the_same_shape(config: Path, size: tuple[int, int]) -> None:
    for steps in (1, 3):
        denoiser, oracle = _denoiser()
        sampler = _sampler(config, steps=steps, clamp=True)
        lq = torch.rand(2, 3, *size)
        out = sampler.sample(denoiser, lq, Conditioning(), _generators(0, 1))
        assert out.shape == lq.shape
        assert out.dtype == torch.float32
        assert out.min() >= 0
        assert out.max() <= 1  # also false for NaN
        assert oracle.calls == sampler.nfe


def test_an_image_does_not_depend_on_its_batch(config: Path) -> None:
    denoiser, _ = _denoiser()
    sampler = _sampler(config, steps=5)
    lq = torch.rand(3, 3, 6, 6)
    together = sampler.sample(denoiser, lq, Conditioning(), _generators(7, 8, 9))
    alone = [
        sampler.sample(denoiser, image[None], Conditioning(), _generators(seed))
        for image, seed in zip(lq, (7, 8, 9), strict=True)
    ]
    assert torch.equal(together, torch.cat(alone))
    other = sampler.sample(denoiser, lq, Conditioning(), _generators(1, 2, 3))
    assert not torch.equal(together, other)


def test_hook_sees_every_step(config: Path) -> None:
    denoiser, _ = _denoiser()
    seen: list[tuple[Step, Tensor]] = []
    sampler = _sampler(config, steps=4, clamp=False)
    lq = torch.rand(1, 3, 4, 4)
    out = sampler.sample(denoiser, lq, Conditioning(), _generators(0), lambda step, x: seen.append((step, x)))
    assert [(step.t.item(), step.s.item()) for step, _ in seen] == [(100, 75), (75, 50), (50, 25), (25, 0)]
    assert torch.equal(seen[-1][1], out)
    assert all(torch.equal(step.x_t, x) for (step, _), (_, x) in zip(seen[1:], seen, strict=False))


def test_user_mistakes_have_one_clear_line(config: Path) -> None:
    denoiser, _ = _denoiser()
    lq = torch.rand(1, 3, 4, 4)
    with pytest.raises(DaclipError, match="101 is more than the 100"):
        _sampler(config, steps=101).sample(denoiser, lq, Conditioning(), _generators(0))
    backwards = _sampler(config, steps=2)
    backwards.grid = lambda horizon, steps: [0, 50, horizon]
    with pytest.raises(DaclipError, match="time grid"):
        backwards.sample(denoiser, lq, Conditioning(), _generators(0))
    with pytest.raises(ValueError, match="one generator an image"):
        _sampler(config).sample(denoiser, lq, Conditioning(), _generators(0, 1))
    with pytest.raises(Exception, match="steps >= 1"):
        _sampler(config, steps=0)
