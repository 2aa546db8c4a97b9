"""The closed forms of the process against independent numerics."""

import math

import pytest
import torch
from reference import forward_step
from torch import Tensor, nn

from daclip.diffusion import DataMatching, Denoiser, MeanRevertingSDE, NoiseMatching, PosteriorMatching, ThetaSchedule
from daclip.diffusion.denoiser import Parameterization
from daclip.diffusion.objectives import min_snr
from daclip.diffusion.sde import ScheduleKind
from daclip.errors import DaclipError
from daclip.types import Conditioning

KINDS: list[ScheduleKind] = ["cosine", "linear", "constant"]
LAMBDA = 50 / 255


@pytest.fixture(params=KINDS)
def process(request: pytest.FixtureRequest) -> MeanRevertingSDE:
    return MeanRevertingSDE(ThetaSchedule(request.param), max_sigma=50)


def _images(count: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """x_0, μ and noise."""
    g = torch.Generator().manual_seed(seed)
    x0, mu = torch.rand(2, count, 3, 4, 4, generator=g)
    return x0, mu, torch.randn(count, 3, 4, 4, generator=g)


def _times(*values: int) -> Tensor:
    return torch.tensor(values)


def test_the_schedule_ends_at_delta(process: MeanRevertingSDE) -> None:
    assert process.alpha(_times(0)).item() == 1
    assert process.alpha(_times(100)).item() == pytest.approx(0.005, rel=1e-4)
    assert (process.schedule.integral.diff() > 0).all()
    assert process.lambda_ == pytest.approx(LAMBDA)
    assert MeanRevertingSDE(process.schedule, max_sigma=0.1).lambda_ == 0.1


def test_tables_move_with_the_module_but_stay_out_of_checkpoints(process: MeanRevertingSDE) -> None:
    assert process.state_dict() == {}
    moved = MeanRevertingSDE(ThetaSchedule("cosine")).to("meta")
    assert moved.alpha(torch.ones(2, dtype=torch.long, device="meta")).is_meta


def test_marginals_solve_the_equation(process: MeanRevertingSDE) -> None:
    """Integrate dm = θ(μ − m) dt and dV = (−2θV + σ²) dt with tiny steps in float64."""
    x0, mu, _ = _images(1)
    mean, variance = x0.double(), torch.zeros((), dtype=torch.float64)
    fine = 200
    dt = process.schedule.dt.double() / fine
    for t in range(1, 31):
        theta = process.schedule.thetas[t].double()
        for _ in range(fine):
            mean = mean + theta * (mu.double() - mean) * dt
            variance = variance + (-2 * theta * variance + 2 * LAMBDA**2 * theta) * dt
    t30 = _times(30)
    torch.testing.assert_close(process.marginal_mean(x0, mu, t30).double(), mean, rtol=0, atol=2e-4)
    assert process.marginal_std(t30).item() ** 2 == pytest.approx(float(variance), rel=2e-3)


def test_forward_steps_simulate_the_marginal() -> None:
    """Euler–Maruyama by Monte Carlo; the constant schedule, whose steps are all alike, for its known bias."""
    process = MeanRevertingSDE(ThetaSchedule("constant"), max_sigma=50)
    g = torch.Generator().manual_seed(3)
    mu = torch.full((1, 1, 200, 200), 0.3)
    x = torch.full_like(mu, 0.9)
    x0 = x
    for t in range(1, 41):
        noise = torch.randn(x.shape, generator=g)
        x = forward_step(process, x, mu, _times(t), noise)
    # 40,000 samples know the mean to 0.001 and the deviation to 0.4 %; Euler at u = 0.053 adds about 2.7 %.
    assert x.mean().item() == pytest.approx(process.marginal_mean(x0, mu, _times(40)).mean().item(), abs=0.006)
    assert x.std().item() == pytest.approx(process.marginal_std(_times(40)).item(), rel=0.03)


def test_noise_and_data_are_inverse(process: MeanRevertingSDE) -> None:
    x0, mu, noise = _images()
    t = _times(1, 40, 100)
    x_t = process.perturb(x0, mu, t, noise)
    epsilon = process.epsilon_from_data(x_t, mu, x0, t)
    # At t = 1 the cosine schedule has s_t = 0.01: rounding of x_t is divided by λ s_t.
    torch.testing.assert_close(epsilon, noise, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(process.data_from_epsilon(x_t, mu, epsilon, t), x0, rtol=1e-3, atol=1e-4)


def test_a_stationary_start_holds_nothing_of_the_clean_image_at_the_last_index_only(process: MeanRevertingSDE) -> None:
    x0, mu, noise = _images()
    t = _times(1, 99, 100)
    whole = process.perturb(x0, mu, t, noise)
    without = MeanRevertingSDE(process.schedule, max_sigma=50, stationary_start=True).perturb(x0, mu, t, noise)
    assert torch.equal(without[:2], whole[:2])
    assert torch.equal(without[2], process.terminal(mu, noise)[2])
    assert not torch.equal(without[2], whole[2])


def test_score_is_the_gradient_of_the_log_density(process: MeanRevertingSDE) -> None:
    x0, mu, noise = _images()
    t = _times(5, 40, 100)
    x_t = process.perturb(x0, mu, t, noise).requires_grad_()
    law = torch.distributions.Normal(process.marginal_mean(x0, mu, t), process.marginal_std(t))
    (gradient,) = torch.autograd.grad(law.log_prob(x_t).sum(), x_t)
    torch.testing.assert_close(process.score(noise, t), gradient, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("t", "s"), [(100, 99), (100, 50), (60, 7), (2, 1)])
def test_posterior_is_bayes_rule(process: MeanRevertingSDE, t: int, s: int) -> None:
    """p(x_s | x_t, x_0) from p(x_s | x_0) and p(x_t | x_s), by adding precisions in float64."""
    x0, mu, noise = (z.double() for z in _images(1))
    integral = process.schedule.integral.double()
    decay = torch.exp(integral[s] - integral[t])
    var_s = LAMBDA**2 * (1 - torch.exp(-2 * integral[s]))
    var_step = LAMBDA**2 * (1 - decay**2)
    mean_s = mu + (x0 - mu) * torch.exp(-integral[s])
    x_t = mu + (mean_s - mu) * decay + 0.1 * noise
    precision = 1 / var_s + decay**2 / var_step
    mean = (mean_s / var_s + decay * (x_t - mu + decay * mu) / var_step) / precision

    ours = process.posterior_mean(x_t.float(), mu.float(), x0.float(), _times(t), _times(s))
    torch.testing.assert_close(ours.double(), mean, rtol=1e-4, atol=1e-5)
    assert process.posterior_std(_times(t), _times(s)).item() ** 2 == pytest.approx((1 / precision).item(), rel=1e-3)


def test_posterior_jumps_compose(process: MeanRevertingSDE) -> None:
    """t → r → s has the law of t → s: the ratios are those of the stride."""
    x0, mu, noise = _images(1)
    t, r, s = _times(90), _times(40), _times(15)
    x_t = process.perturb(x0, mu, t, noise)
    mean_r = process.posterior_mean(x_t, mu, x0, t, r)
    direct = process.posterior_mean(x_t, mu, x0, t, s)
    torch.testing.assert_close(process.posterior_mean(mean_r, mu, x0, r, s), direct, rtol=1e-4, atol=1e-5)
    # The factor of x_r in the second mean, from a finite difference of an affine function.
    factor = process.posterior_mean(mean_r + 1, mu, x0, r, s) - process.posterior_mean(mean_r, mu, x0, r, s)
    variance = process.posterior_std(r, s) ** 2 + factor.mean() ** 2 * process.posterior_std(t, r) ** 2
    assert variance.item() == pytest.approx(process.posterior_std(t, s).item() ** 2, rel=1e-4)


def test_posterior_keeps_the_marginal(process: MeanRevertingSDE) -> None:
    """x_t with variance λ²s_t² around its mean becomes x_s with λ²s_s², whatever the stride."""
    x0, mu, _ = _images(1)
    t, s = _times(80), _times(20)
    mean = process.posterior_mean(process.marginal_mean(x0, mu, t), mu, x0, t, s)
    torch.testing.assert_close(mean, process.marginal_mean(x0, mu, s), rtol=1e-4, atol=1e-5)
    factor = process.posterior_mean(mu + 1, mu, x0, t, s) - process.posterior_mean(mu, mu, x0, t, s)
    variance = process.posterior_std(t, s) ** 2 + factor.mean() ** 2 * process.marginal_std(t) ** 2
    assert variance.item() == pytest.approx(process.marginal_std(s).item() ** 2, rel=1e-4)


def test_the_last_jump_gives_the_clean_image(process: MeanRevertingSDE) -> None:
    x0, mu, noise = _images()
    t, zero = _times(1, 30, 100), torch.zeros(3, dtype=torch.long)
    torch.testing.assert_close(process.posterior_mean(noise, mu, x0, t, zero), x0, rtol=0, atol=2e-5)
    assert (process.posterior_std(t, zero) == 0).all()


def test_epsilon_shift_has_an_inverse(process: MeanRevertingSDE) -> None:
    _, mu, noise = _images()
    t = _times(1, 40, 100)
    x_t = process.terminal(mu, noise.flip(0))
    shifted = process.shift_epsilon(noise, x_t, mu, t)
    assert (shifted[2] - noise[2]).abs().max() > 1e-3
    torch.testing.assert_close(process.unshift_epsilon(shifted, x_t, mu, t), noise, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("t_value", [5, 50, 100])
def test_posterior_matching_learns_the_shifted_epsilon(process: MeanRevertingSDE, t_value: int) -> None:
    """A Gaussian x_0 ~ N(m, v) with known score: regress the objective, undo the shift, find the score.

    E[ε | x_t] is affine in x_t, so the best network is too: ε_net = a + b x_t, fitted by least squares to the
    posterior means of many samples (the mean that the objective's squared form asks for).
    """
    m, v, mu_value, count = 0.8, 0.15, 0.3, 200_000
    g = torch.Generator().manual_seed(1)
    x0 = m + v * torch.randn(1, 1, 1, count, generator=g)
    noise = torch.randn(x0.shape, generator=g)
    mu, t = torch.full_like(x0, mu_value), _times(t_value)
    x_t = process.perturb(x0, mu, t, noise)
    target = process.posterior_mean(x_t, mu, x0, t, t - 1)
    # Euler mean = base + slope · ε_net, so the ε_net that a sample asks for is (target − base) / slope.
    nought, one = torch.zeros_like(x0), torch.ones_like(x0)
    base = process.reverse_sde_mean(x_t, mu, process.score(nought, t), t, t - 1)
    slope = process.reverse_sde_mean(x_t, mu, process.score(one, t), t, t - 1) - base
    asked = ((target - base).double() / slope.double()).flatten()
    design = torch.stack([torch.ones(count).double(), x_t.double().flatten()], 1)
    a, b = torch.linalg.lstsq(design, asked[:, None]).solution.flatten().float()

    probe = torch.linspace(0, 1, 9).view(1, 1, 1, 9)
    probe_mu = torch.full_like(probe, mu_value)
    epsilon = process.unshift_epsilon(a + b * probe, probe, probe_mu, t)
    variance = process.alpha(t) ** 2 * v**2 + process.marginal_std(t) ** 2
    mean = mu_value + (m - mu_value) * process.alpha(t)
    true_epsilon = process.marginal_std(t) * (probe - mean) / variance
    torch.testing.assert_close(epsilon, true_epsilon, rtol=0, atol=0.02)


class _Oracle(nn.Module):
    """Puts out what a parameterisation asks for when x_0 is known."""

    def __init__(self, kind: str, process: MeanRevertingSDE, x0: Tensor, noise: Tensor) -> None:
        super().__init__()
        self.kind, self.process, self.x0, self.noise = kind, process, x0, noise

    def forward(self, x_t: Tensor, lq: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        index = t.long()
        if self.kind == "data":
            return self.x0 - lq
        if self.kind == "epsilon":
            return self.noise
        if self.kind == "shifted":
            return self.process.shift_epsilon(self.noise, x_t, lq, index)
        y0 = (self.x0 - lq) / self.process.lambda_
        return self.process.alpha(index) * self.noise - self.process.relative_std(index) * y0


@pytest.mark.parametrize("kind", ["data", "epsilon", "v", "shifted"])
def test_parameterizations_agree(kind: str, process: MeanRevertingSDE) -> None:
    x0, lq, noise = _images()
    t = _times(3, 40, 90)
    conditioning = Conditioning()
    parameterization: Parameterization = "epsilon" if kind == "shifted" else kind  # type: ignore[assignment]
    oracle = _Oracle(kind, process, x0, noise)
    denoiser = Denoiser(oracle, process, parameterization, correct_epsilon_shift=kind == "shifted")
    prediction = denoiser(process.perturb(x0, lq, t, noise), lq, t, conditioning)
    torch.testing.assert_close(prediction.x0, x0, rtol=0, atol=2e-4)
    torch.testing.assert_close(prediction.epsilon, noise, rtol=0, atol=1e-3)
    assert DataMatching()(denoiser, lq, x0, conditioning, t, noise) < 2e-4
    assert NoiseMatching()(denoiser, lq, x0, conditioning, t, noise) < 1e-3
    if kind == "shifted":
        assert PosteriorMatching()(denoiser, lq, x0, conditioning, t, noise) < 1e-5


def test_objectives_measure_the_error() -> None:
    process = MeanRevertingSDE(ThetaSchedule("cosine"))
    x0, lq, noise = _images()
    t = _times(3, 40, 90)
    off = Denoiser(_Oracle("data", process, x0 + 0.25, noise), process, "data")
    arguments = (off, lq, x0, Conditioning(), t, noise)
    torch.testing.assert_close(DataMatching().per_sample(*arguments), torch.full((3,), 0.25))
    weights = min_snr(process, t, limit=2.0, power=1.0)
    assert weights[0] == 2
    assert (weights.diff() < 0).all()
    weighted = DataMatching(weighting=lambda p, s: min_snr(p, s, 2.0, 1.0)).per_sample(*arguments)
    torch.testing.assert_close(weighted, 0.25 * weights)
    with pytest.raises(DaclipError, match="DataMatching"):
        PosteriorMatching()(*arguments)


def test_the_spectrum_of_a_uniform_error_is_a_single_coefficient() -> None:
    process = MeanRevertingSDE(ThetaSchedule("cosine"))
    x0, lq, noise = _images()
    t = _times(3, 40, 90)

    def loss(error: Tensor, weight: float) -> Tensor:
        off = Denoiser(_Oracle("data", process, x0 + error, noise), process, "data")
        return DataMatching(frequency_weight=weight).per_sample(off, lq, x0, Conditioning(), t, noise)

    uniform = torch.full_like(x0, 0.25)
    side = math.sqrt(x0.shape[-1] * x0.shape[-2])
    torch.testing.assert_close(loss(uniform, 3.0), torch.full((3,), 0.25 * (1 + 3 / side)), rtol=1e-4, atol=1e-6)
    # A single wrong pixel has a flat spectrum: here the Fourier term is the larger one.
    pixel = torch.zeros_like(x0)
    pixel[..., 2, 1] = 0.25
    torch.testing.assert_close(loss(pixel, 1.0), loss(pixel, 0.0) * (1 + side), rtol=1e-4, atol=1e-6)


def test_relative_errors_have_the_gradient_of_decibels() -> None:
    process = MeanRevertingSDE(ThetaSchedule("cosine"))
    x0, lq, noise = _images()
    gradients = []
    for size in (0.05, 0.5):
        target = (x0 + size).requires_grad_()
        off = Denoiser(_Oracle("data", process, target, noise), process, "data")
        loss = DataMatching(relative=True)(off, lq, x0, Conditioning(), _times(3, 40, 90), noise)
        gradients.append(torch.autograd.grad(loss, target)[0].mean().item())
    # A tenth of the error has ten times the gradient, but for the floor of 0.01.
    assert gradients[0] / gradients[1] == pytest.approx(0.51 / 0.06, rel=1e-3)
