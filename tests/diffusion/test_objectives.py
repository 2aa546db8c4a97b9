"""Objectives, weightings, times and parameterisations against their closed forms."""

import math
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from daclip.diffusion import (
    DataMatching,
    Denoiser,
    DirectRegression,
    EdmPreconditioning,
    MeanRevertingSDE,
    ThetaSchedule,
    VelocityMatching,
    objectives,
)
from daclip.diffusion.objectives import PerceptualDistance
from daclip.errors import DaclipError
from daclip.metrics.perceptual import efficientnet_lite
from daclip.samplers import PosteriorSampler
from daclip.types import Conditioning

CONF = Path(__file__).parents[2] / "conf"
LQ = 0.4


@pytest.fixture
def process() -> MeanRevertingSDE:
    return MeanRevertingSDE(ThetaSchedule("cosine"), max_sigma=50)


class Affine(nn.Module):
    """A small network that uses everything it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.3))

    def forward(self, x_t: Tensor, lq: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        return self.factor * (x_t - 0.5 * lq) + 0.001 * t.view(-1, 1, 1, 1)


def _batch() -> tuple[Tensor, Tensor, Conditioning, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    lq, hq = torch.rand(2, 4, 3, 8, 8, generator=g)
    return lq, hq, Conditioning(), torch.tensor([1, 10, 50, 100]), torch.randn(4, 3, 8, 8, generator=g)


def test_velocity_is_the_error_of_the_output_and_of_the_estimate(process: MeanRevertingSDE) -> None:
    lq, hq, conditioning, t, noise = _batch()
    network = Affine()
    x_t = process.perturb(hq, lq, t, noise)
    alpha, std = process.alpha(t), process.relative_std(t)
    v = alpha * noise - std * (hq - lq) / process.lambda_
    expected = (network(x_t, lq, t, conditioning) - v).abs().flatten(1).mean(1)
    loss = VelocityMatching().per_sample(Denoiser(network, process, "v"), lq, hq, conditioning, t, noise)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)

    other = Denoiser(network, process, "data")
    scaled = DataMatching(weighting=lambda p, s: 1 / (p.lambda_ * p.relative_std(s)).flatten())
    torch.testing.assert_close(
        VelocityMatching().per_sample(other, lq, hq, conditioning, t, noise),
        scaled.per_sample(other, lq, hq, conditioning, t, noise),
        rtol=1e-3,
        atol=1e-4,
    )


def test_edm_at_unit_deviation_is_v_with_the_sign_turned(process: MeanRevertingSDE) -> None:
    lq, hq, conditioning, t, noise = _batch()
    x_t = process.perturb(hq, lq, t, noise)

    class Turned(Affine):
        def forward(self, *arguments: object) -> Tensor:
            return -super().forward(*arguments)  # type: ignore[arg-type]

    edm = Denoiser(Affine(), process, EdmPreconditioning(1.0))(x_t, lq, t, conditioning)
    v = Denoiser(Turned(), process, "v")(x_t, lq, t, conditioning)
    torch.testing.assert_close(edm.x0, v.x0, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(edm.epsilon, v.epsilon, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("data_std", [0.3, 1.0, 2.5])
def test_edm_keeps_input_and_target_at_unit_variance(process: MeanRevertingSDE, data_std: float) -> None:
    g = torch.Generator().manual_seed(0)
    way = EdmPreconditioning(data_std)
    lq = torch.full((3, 1, 200, 200), LQ)
    y0, noise = torch.randn(2, *lq.shape, generator=g)
    hq = lq + process.lambda_ * data_std * y0
    t = torch.tensor([5, 30, 90])
    x_t = process.perturb(hq, lq, t, noise)
    seen = (way.network_input(process, x_t, lq, t) - lq) / process.lambda_
    zero, one = (way.clean(process, torch.full_like(lq, value), x_t, lq, t) for value in (0.0, 1.0))
    target = (hq - zero) / (one - zero)
    for values in (seen, target):
        torch.testing.assert_close(values.flatten(1).std(1), torch.ones(3), rtol=0.03, atol=0)


def test_weightings(process: MeanRevertingSDE) -> None:
    t = torch.arange(1, 101)
    ratio = objectives.snr(process, t)
    torch.testing.assert_close(ratio, (process.alpha(t) / process.relative_std(t)).flatten() ** 2)
    assert ratio[0] > 1000
    assert (ratio.diff() < 0).all()
    torch.testing.assert_close(objectives.min_snr(process, t, 5.0, 1.0), ratio.clamp_max(5))
    torch.testing.assert_close(objectives.min_snr(process, t, 5.0, 0.5), ratio.clamp_max(5).sqrt())
    torch.testing.assert_close(objectives.truncated_snr(process, t, 1.0, 1.0), ratio.clamp_min(1))
    torch.testing.assert_close(objectives.velocity(process, t, 1.0), 1 / process.relative_std(t).flatten() ** 2)
    torch.testing.assert_close(objectives.p2(process, t, 1.0, 1.0, 1.0), process.alpha(t).flatten() ** 2)
    sigma = (process.relative_std(t) / process.alpha(t)).flatten()
    published = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    torch.testing.assert_close(objectives.edm(process, t, 0.5, 1.0), published, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", [path.stem for path in sorted((CONF / "weighting").glob("*.yaml"))])
def test_every_weighting_yaml_weighs(name: str, process: MeanRevertingSDE) -> None:
    weighting = instantiate(OmegaConf.load(CONF / "weighting" / f"{name}.yaml"))
    weights = weighting(process, torch.arange(1, 101))
    assert weights.shape == (100,)
    assert (weights > 0).all()
    assert weights.isfinite().all()


@pytest.mark.parametrize("name", [path.stem for path in sorted((CONF / "objective").glob("*.yaml"))])
def test_every_objective_yaml_trains(name: str, process: MeanRevertingSDE) -> None:
    objective = instantiate(OmegaConf.load(CONF / "objective" / f"{name}.yaml"))
    denoiser = Denoiser(Affine(), process, "epsilon" if name == "posterior" else "data")
    lq, hq, conditioning, t, noise = _batch()
    assert objective.per_sample(denoiser, lq, hq, conditioning, t, noise).shape == (4,)
    objective(denoiser, lq, hq, conditioning, t, noise).backward()
    (factor,) = denoiser.parameters()
    assert factor.grad is not None
    assert factor.grad.abs() > 0


@pytest.mark.parametrize("name", [path.stem for path in sorted((CONF / "times").glob("*.yaml"))])
def test_every_law_of_times_stays_on_the_grid(name: str, process: MeanRevertingSDE) -> None:
    law = instantiate(OmegaConf.load(CONF / "times" / f"{name}.yaml"))
    t = law(process, 5000, torch.Generator().manual_seed(0))
    assert (t.min(), t.max(), t.dtype) == (1, 100, torch.long)


def test_log_snr_times_are_even_in_log_snr(process: MeanRevertingSDE) -> None:
    t = objectives.log_snr(process, 40_000, torch.Generator().manual_seed(0))
    level = objectives.snr(process, t).log()
    low, high = objectives.snr(process, torch.tensor([100, 1])).log().tolist()
    shares = torch.histc(level, bins=4, min=low, max=high) / len(t)
    # Neighbouring indices lie up to 2 apart in log-SNR near t = 1, of a span of about 19.
    torch.testing.assert_close(shares, torch.full((4,), 0.25), rtol=0, atol=0.05)


def test_direct_regression_is_the_network_itself() -> None:
    process = DirectRegression()
    lq, hq, conditioning, _, noise = _batch()
    one = torch.ones(4, dtype=torch.long)
    for parameterization in ("data", "image"):
        denoiser = Denoiser(Affine(), process, parameterization)
        output = denoiser.backbone(lq, lq, one.float(), conditioning)
        estimate = output + lq if parameterization == "data" else output
        loss = DataMatching().per_sample(denoiser, lq, hq, conditioning, one, noise)
        torch.testing.assert_close(loss, (estimate - hq).abs().flatten(1).mean(1))
        sampler = PosteriorSampler(steps=1, clamp=False)
        restored = sampler.sample(denoiser, lq, conditioning, [torch.Generator() for _ in lq])
        torch.testing.assert_close(restored, estimate)
    with pytest.raises(DaclipError, match="parameterization data or image"):
        Denoiser(Affine(), process, "epsilon")
    with pytest.raises(DaclipError, match="2 is more than the 1"):
        PosteriorSampler(steps=2).times(process)
    with pytest.raises(DaclipError, match="no equation"):
        process.reverse_sde_mean(lq, lq, lq, one, one - 1)


def test_the_perceptual_term(process: MeanRevertingSDE) -> None:
    network = efficientnet_lite()
    distance = PerceptualDistance(network, factor=2.0)
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    other = torch.rand(2, 3, 32, 32)
    found = distance(images, other)
    torch.testing.assert_close(found, 2 * network.distance(images, other))
    found.sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in network.parameters())

    lq, hq, conditioning, t, noise = _batch()
    lq, hq, noise = (nn.functional.interpolate(z[:2], (32, 32)) for z in (lq, hq, noise))
    t = t[:2]
    denoiser = Denoiser(Affine(), process, "data")
    without, added = (
        objective.per_sample(denoiser, lq, hq, conditioning, t, noise)
        for objective in (DataMatching(), DataMatching(perceptual=distance))
    )
    x0 = denoiser(process.perturb(hq, lq, t, noise), lq, t, conditioning).x0
    torch.testing.assert_close(added - without, distance(x0, hq), rtol=1e-3, atol=1e-4)


def test_dropped_conditioning_is_zero() -> None:
    full = Conditioning(torch.ones(2, 4), torch.ones(2, 4), torch.ones(2, 3, 4))
    kept = full.kept(torch.tensor([True, False]))
    for value in (kept.content, kept.degradation, kept.patches):
        assert value is not None
        assert value[0].eq(1).all()
        assert value[1].eq(0).all()
    assert Conditioning(content=torch.ones(1, 4)).kept(0.0).degradation is None
    assert math.isclose(float(full.kept(0.0).content.sum()), 0.0)  # type: ignore[union-attr]
