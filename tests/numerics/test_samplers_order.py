"""The samplers' formulas: order of convergence, exact laws, and where two formulas are one."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from daclip.diffusion import Denoiser, MeanRevertingSDE, Prediction, ThetaSchedule
from daclip.errors import DaclipError
from daclip.samplers import (
    DdimSampler,
    DpmSolverSampler,
    FlowOdeSampler,
    HeunSampler,
    PosteriorSampler,
    Sampler,
    UniPcSampler,
)
from daclip.samplers import base as sampler_base
from daclip.samplers.solvers import exponential_step
from daclip.types import Conditioning

MEAN, STD = 0.7, 0.1
LQ = 0.4


class ExactDenoiser(Denoiser):
    """E[x_0 | x_t] for x_0 ~ N(0.7, 0.1²), in the precision of the state (a network's output is float32)."""

    def __init__(self, process: MeanRevertingSDE) -> None:
        super().__init__(nn.Identity(), process, "data")

    def forward(self, x_t: Tensor, lq: Tensor, t: Tensor, conditioning: Conditioning) -> Prediction:
        process = self.process
        alpha, std = process.alpha(t), process.marginal_std(t)
        gain = alpha * STD**2 / (alpha**2 * STD**2 + std**2)
        x0 = MEAN + gain * (x_t - lq - (MEAN - lq) * alpha)
        return Prediction(x0, process.epsilon_from_data(x_t, lq, x0, t))


def _end_of_the_ode(process: MeanRevertingSDE, start: Tensor, lq: Tensor) -> Tensor:
    """The probability flow of a Gaussian keeps the number of standard deviations from the mean."""
    t = torch.tensor([process.horizon])
    mean = lq + (MEAN - lq) * process.alpha(t)
    std = (process.alpha(t) ** 2 * STD**2 + process.marginal_std(t) ** 2).sqrt()
    return MEAN + STD * (start - mean) / std


def _error(sampler: Sampler, process: MeanRevertingSDE) -> float:
    """Largest deviation from the solution of the ODE, in float64."""
    lq = torch.full((1, 1, 1, 5), LQ, dtype=torch.float64)
    noise = torch.tensor([-2.0, -0.7, 0.1, 1.0, 2.0], dtype=torch.float64).view(1, 1, 1, 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler_base, "draw_noise", lambda generators, like: noise)
        out = sampler.sample(ExactDenoiser(process), lq, Conditioning(), [torch.Generator()])
    exact = _end_of_the_ode(process, process.terminal(lq, noise), lq)
    return (out - exact).abs().max().item()


MakeSampler = Callable[[int], Sampler]
ORDERS: dict[str, tuple[float, float, MakeSampler]] = {
    # Name: least and largest measured order, sampler of n steps. A multistep method starts with a step of
    # first order, whose error of h² stays: above the second order it shows in the errors' size, not their slope.
    "flow_ode": (0.8, 1.3, lambda n: FlowOdeSampler(steps=n, clamp=False)),
    "ddim": (0.8, 1.2, lambda n: DdimSampler(eta=0.0, steps=n, clamp=False)),
    "dpm_1": (0.8, 1.2, lambda n: DpmSolverSampler(1, 0.0, "bh2", steps=n, clamp=False)),
    "heun": (1.8, 9, lambda n: HeunSampler(steps=n, clamp=False)),
    "dpm_2m_bh2": (1.8, 9, lambda n: DpmSolverSampler(2, 0.0, "bh2", steps=n, clamp=False)),
    "dpm_2m_bh1": (1.8, 9, lambda n: DpmSolverSampler(2, 0.0, "bh1", steps=n, clamp=False)),
    "dpm_2m_exact": (1.8, 9, lambda n: DpmSolverSampler(2, 0.0, "exact", steps=n, clamp=False)),
    "dpm_3m": (1.9, 9, lambda n: DpmSolverSampler(3, 0.0, "exact", steps=n, clamp=False)),
    "unipc_1": (1.8, 9, lambda n: UniPcSampler(1, "bh2", steps=n, clamp=False)),
    "unipc_2_bh1": (2.3, 9, lambda n: UniPcSampler(2, "bh1", steps=n, clamp=False)),
    "unipc_2_bh2": (2.3, 9, lambda n: UniPcSampler(2, "bh2", steps=n, clamp=False)),
    "unipc_3": (2.3, 9, lambda n: UniPcSampler(3, "bh2", steps=n, clamp=False)),
}


@pytest.mark.parametrize("name", ORDERS)
def test_order_of_convergence(name: str) -> None:
    least, largest, make = ORDERS[name]
    process = MeanRevertingSDE(ThetaSchedule("cosine", horizon=1280), max_sigma=50).double()
    steps = [80, 160, 320]
    errors = [_error(make(n), process) for n in steps]
    order = math.log(errors[0] / errors[-1]) / math.log(steps[-1] / steps[0])
    assert least <= order <= largest, (order, errors)


@pytest.mark.parametrize("name", [name for name, (least, _, _) in ORDERS.items() if least > 1])
def test_second_order_solvers_need_twenty_steps(name: str) -> None:
    """Within a tenth of a standard deviation of the data for starts up to 2 σ; DDIM is 0.02 off."""
    process = MeanRevertingSDE(ThetaSchedule("cosine"), max_sigma=50).double()
    _, _, make = ORDERS[name]
    first_order = _error(DdimSampler(eta=0.0, steps=20, clamp=False), process)
    assert first_order > 0.018
    assert _error(make(20), process) < (0.018 if name.endswith("bh1") else 0.012)


def _images(seed: int = 0) -> tuple[Tensor, list[torch.Generator]]:
    lq = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(seed))
    return lq, [torch.Generator().manual_seed(seed) for seed in (3, 4)]


PAIRS: dict[str, tuple[Sampler, Sampler]] = {
    "posterior = ddim eta 1": (PosteriorSampler(steps=7), DdimSampler(eta=1.0, steps=7)),
    "posterior = sde order 1": (PosteriorSampler(steps=7), DpmSolverSampler(1, 1.0, "bh2", steps=7)),
    "ddim = dpm 1": (DdimSampler(eta=0.0, steps=7), DpmSolverSampler(1, 0.0, "exact", steps=7)),
    "ddim = heun in one step": (DdimSampler(eta=0.0, steps=1), HeunSampler(steps=1)),
    "dpm 2m = unipc in one step": (DpmSolverSampler(2, 0.0, "bh2", steps=1), UniPcSampler(2, "bh2", steps=1)),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("clamp", [True, False])
def test_two_names_of_one_formula(pair: str, clamp: bool) -> None:
    denoiser = ExactDenoiser(MeanRevertingSDE(ThetaSchedule("cosine"), max_sigma=50))
    results = []
    for sampler in PAIRS[pair]:
        sampler.clamp = clamp
        lq, generators = _images()
        results.append(sampler.sample(denoiser, lq, Conditioning(), generators))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("times", [(60,), (60, 75), (60, 40), (60, 75, 88), (60, 40, 71)])
def test_polynomials_are_integrated_exactly(times: tuple[int, ...], tau: float) -> None:
    """One step against quadrature of its integral, for a data estimate that is a polynomial in log-SNR."""
    process = MeanRevertingSDE(ThetaSchedule("cosine"), max_sigma=50).double()
    t, s = torch.tensor([60]), torch.tensor([40])

    def level(index: int) -> Tensor:
        alpha = process.alpha(torch.tensor([index]))
        return torch.log(alpha / (1 - alpha**2).sqrt())

    def polynomial(value: Tensor) -> Tensor:
        return sum(c * value**k for k, c in enumerate([0.3, -0.7, 0.4][: len(times)]))  # type: ignore[return-value]

    zero = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    nodes = [(torch.tensor([time]), polynomial(level(time))) for time in times]
    noise = zero + 0.8
    x_s = exponential_step(process, zero + 0.25, zero, t, s, nodes, "exact", tau, noise)

    start, end = level(60), level(40)
    h, kappa = end - start, (1 + tau**2) * (end - start)
    u = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    integrand = torch.exp(-kappa.flatten() * (1 - u)) * polynomial(start.flatten() + u * h.flatten())
    integral = torch.trapezoid(integrand, u)
    std_s, std_t = process.relative_std(s), process.relative_std(t)
    expected = std_s / std_t * torch.exp(-(tau**2) * h) * 0.25 + process.alpha(s) * kappa * integral
    expected = expected + process.lambda_ * std_s * (1 - torch.exp(-2 * tau**2 * h)).sqrt() * 0.8
    torch.testing.assert_close(x_s, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("tau", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("jump", [(100, 37), (60, 59), (12, 1), (25, 0)])
def test_a_known_image_keeps_its_marginal(jump: tuple[int, int], tau: float) -> None:
    """With D = x_0 − μ the law at t goes over into the law at s, whatever the noise strength."""
    process = MeanRevertingSDE(ThetaSchedule("cosine"), max_sigma=50)
    t, s = (torch.tensor([index]) for index in jump)
    x0, mu, one = torch.tensor(0.9).view(1, 1, 1, 1), torch.tensor(0.2).view(1, 1, 1, 1), torch.ones(1, 1, 1, 1)

    def jump_from(x_t: Tensor, noise: Tensor) -> Tensor:
        return exponential_step(process, x_t, mu, t, s, [(t, x0)], "exact", tau, noise)

    mean = jump_from(process.marginal_mean(x0, mu, t), 0 * one)
    torch.testing.assert_close(mean, process.marginal_mean(x0, mu, s), rtol=1e-4, atol=1e-5)
    carried = jump_from(mean + 1, 0 * one) - jump_from(mean, 0 * one)
    fresh = jump_from(mean, one) - jump_from(mean, 0 * one)
    variance = (carried * process.marginal_std(t)) ** 2 + fresh**2
    assert variance.item() == pytest.approx(process.marginal_std(s).item() ** 2, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DdimSampler(eta=1.5), "eta must lie in"),
        (lambda: DpmSolverSampler(4, 0.0, "bh2"), "order of DPM-Solver"),
        (lambda: DpmSolverSampler(2, 2.0, "bh2"), "tau must lie in"),
        (lambda: DpmSolverSampler(2, 0.0, "midpoint"), "choose exact, bh1 or bh2"),  # type: ignore[arg-type]
        (lambda: UniPcSampler(0, "bh2"), "order of UniPC"),
        (lambda: UniPcSampler(2, "bh3"), "choose exact, bh1 or bh2"),  # type: ignore[arg-type]
    ],
)
def test_values_out_of_range(make: Callable[[], Sampler], message: str) -> None:
    with pytest.raises(DaclipError, match=message):
        make()
