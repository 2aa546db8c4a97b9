"""The samplers against the schedulers of diffusers, on y = (x − μ)/λ with equal noise."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from daclip.diffusion import Denoiser, MeanRevertingSDE, Prediction, ThetaSchedule
from daclip.samplers import DdimSampler, DpmSolverSampler, Sampler, UniPcSampler
from daclip.samplers import base as sampler_base
from daclip.samplers.solvers import SlopeRule
from daclip.types import Conditioning

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed (make setup installs it)")


class CurvedDenoiser(Denoiser):
    """A data estimate that is no polynomial: bounded, and depends on state and time."""

    def __init__(self, process: MeanRevertingSDE) -> None:
        super().__init__(nn.Identity(), process, "data")

    def forward(self, x_t: Tensor, lq: Tensor, t: Tensor, conditioning: Conditioning) -> Prediction:
        x0 = 0.5 + 0.4 * torch.tanh(3 * (x_t - lq) + 0.02 * t.view(-1, 1, 1, 1).to(x_t))
        return Prediction(x0, self.process.epsilon_from_data(x_t, lq, x0, t))


class LinearDenoiser(CurvedDenoiser):
    """A data estimate that is linear in log-SNR, whatever the state."""

    def forward(self, x_t: Tensor, lq: Tensor, t: Tensor, conditioning: Conditioning) -> Prediction:
        level = torch.log(self.process.alpha(t) / self.process.relative_std(t))
        x0 = (lq + 0.1 * level).expand_as(x_t)
        return Prediction(x0, self.process.epsilon_from_data(x_t, lq, x0, t))


def _theirs(scheduler: Any, denoiser: Denoiser, lq: Tensor, draws: Tensor, takes_noise: bool) -> Tensor:
    """The states after each step of a scheduler of diffusers; its timestep k is our grid index k + 1."""
    process = denoiser.process
    y = draws[0]
    states = []
    for number, k in enumerate(scheduler.timesteps):
        t = torch.full((len(lq),), int(k) + 1)
        x0 = denoiser(lq + process.lambda_ * y, lq, t, Conditioning()).x0
        noise = {"variance_noise": draws[number + 1]} if takes_noise else {}
        y = scheduler.step((x0 - lq) / process.lambda_, k, y, **noise).prev_sample
        states.append(lq + process.lambda_ * y)
    return torch.stack(states)


def _ours(sampler: Sampler, denoiser: Denoiser, lq: Tensor, draws: Tensor) -> Tensor:
    """The states after each step of our sampler."""
    queue = iter(draws)
    states: list[Tensor] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler_base, "draw_noise", lambda generators, like: next(queue))
        generators = [torch.Generator()] * len(lq)
        sampler.sample(denoiser, lq, Conditioning(), generators, lambda step, x: states.append(x))
    return torch.stack(states)


Make = Callable[[int], Sampler]
MakeTheirs = Callable[[dict[str, Any]], Any]


def _ddim() -> MakeTheirs:
    return lambda shared: diffusers.DDIMScheduler(**shared, clip_sample=False)


def _ode(order: int, solver: str) -> MakeTheirs:
    options = {"algorithm_type": "dpmsolver++", "solver_order": order, "solver_type": solver}
    return lambda shared: diffusers.DPMSolverMultistepScheduler(**shared, **options)


def _sde(order: int, solver: str) -> MakeTheirs:
    options = {"algorithm_type": "sde-dpmsolver++", "solver_order": order, "solver_type": solver}
    return lambda shared: diffusers.DPMSolverMultistepScheduler(**shared, **options)


def _unipc(order: int, solver: str) -> MakeTheirs:
    options = {"solver_order": order, "solver_type": solver, "predict_x0": True}
    return lambda shared: diffusers.UniPCMultistepScheduler(**shared, **options)


def _ours_dpm(order: int, tau: float, slope: SlopeRule) -> Make:
    return lambda steps: DpmSolverSampler(order, tau, slope, steps=steps, clamp=False)


def _ours_unipc(order: int, slope: SlopeRule) -> Make:
    return lambda steps: UniPcSampler(order, slope, steps=steps, clamp=False)


CASES: dict[str, tuple[Make, MakeTheirs, type[CurvedDenoiser]]] = {
    "ddim": (lambda steps: DdimSampler(eta=0.0, steps=steps, clamp=False), _ddim(), CurvedDenoiser),
    "dpm_1": (_ours_dpm(1, 0.0, "bh2"), _ode(1, "midpoint"), CurvedDenoiser),
    "dpm_2m": (_ours_dpm(2, 0.0, "bh2"), _ode(2, "midpoint"), CurvedDenoiser),
    "dpm_2m_exact": (_ours_dpm(2, 0.0, "exact"), _ode(2, "heun"), CurvedDenoiser),
    # The published third order halves the second difference: it is the same where that difference is zero.
    "dpm_3m": (_ours_dpm(3, 0.0, "exact"), _ode(3, "heun"), LinearDenoiser),
    "sde_1": (_ours_dpm(1, 1.0, "bh2"), _sde(1, "midpoint"), CurvedDenoiser),
    "sde_2m": (_ours_dpm(2, 1.0, "bh2"), _sde(2, "midpoint"), CurvedDenoiser),
    "sde_2m_exact": (_ours_dpm(2, 1.0, "exact"), _sde(2, "heun"), CurvedDenoiser),
    "unipc_1_bh1": (_ours_unipc(1, "bh1"), _unipc(1, "bh1"), CurvedDenoiser),
    "unipc_1_bh2": (_ours_unipc(1, "bh2"), _unipc(1, "bh2"), CurvedDenoiser),
    "unipc_2_bh1": (_ours_unipc(2, "bh1"), _unipc(2, "bh1"), CurvedDenoiser),
    "unipc_2_bh2": (_ours_unipc(2, "bh2"), _unipc(2, "bh2"), CurvedDenoiser),
    "unipc_3_bh1": (_ours_unipc(3, "bh1"), _unipc(3, "bh1"), CurvedDenoiser),
    "unipc_3_bh2": (_ours_unipc(3, "bh2"), _unipc(3, "bh2"), CurvedDenoiser),
}


@pytest.mark.parametrize("steps", [5, 20])
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_diffusers(name: str, steps: int) -> None:
    make_ours, make_theirs, oracle = CASES[name]
    process = MeanRevertingSDE(ThetaSchedule("cosine"), max_sigma=50)
    alpha = process.alpha(torch.arange(101)).flatten().double()
    shared = {
        "num_train_timesteps": 100,
        "trained_betas": (1 - (alpha[1:] / alpha[:-1]) ** 2).numpy(),
        "prediction_type": "sample",
        "timestep_spacing": "trailing",
    }
    g = torch.Generator().manual_seed(0)
    lq = torch.rand(2, 3, 4, 4, generator=g)
    draws = torch.randn(steps + 1, 2, 3, 4, 4, generator=g)
    scheduler = make_theirs(shared)
    scheduler.set_timesteps(steps)
    sampler = make_ours(steps)
    assert [int(k) + 1 for k in scheduler.timesteps] == sampler.times(process)[:-1]

    denoiser = oracle(process)
    theirs = _theirs(scheduler, denoiser, lq, draws, takes_noise=name.startswith("sde"))
    ours = _ours(sampler, denoiser, lq, draws)
    if name.endswith("bh1"):
        # Theirs is NaN at infinite log-SNR; ours gives the last estimate.
        assert theirs[-1].isnan().all()
        ours, theirs = ours[:-1], theirs[:-1]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
