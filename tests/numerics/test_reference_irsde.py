"""The process and the samplers against recordings of the official IRSDE."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from reference import Recording, assert_near, forward_step, irsde, irsde_settings, recorded_process
from torch import Tensor, nn

from daclip.config import config_dir
from daclip.diffusion import Denoiser, MeanRevertingSDE, PosteriorMatching, ThetaSchedule
from daclip.diffusion.objectives import draw_training_state
from daclip.samplers import FlowOdeSampler, PosteriorSampler, ReverseSdeSampler, Sampler
from daclip.samplers import base as sampler_base
from daclip.types import Conditioning

SETTINGS = irsde_settings(trajectories=False)
SAMPLERS: dict[str, tuple[type[Sampler], dict[str, Any]]] = {
    "sde": (ReverseSdeSampler, {"final_noise": True}),
    "ode": (FlowOdeSampler, {}),
    "posterior": (PosteriorSampler, {}),
}
# The tables' own rounding: e^{−θ̄} and 1 − e^{−2θ̄} near t = 0.
TABLE_RTOL = 2e-4


class AnalyticNetwork(nn.Module):
    """The recordings' stand-in for a network: 0.3 (x − μ) + 0.01 t."""

    def __init__(self, time_scale: float = 1.0) -> None:
        super().__init__()
        self.time_scale = time_scale
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, x_t: Tensor, lq: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        t = t * self.time_scale
        self.seen.append((x_t.clone(), t))
        return 0.3 * (x_t - lq) + 0.01 * t.view(-1, 1, 1, 1)


def _recorded_times(known: Recording, name: str) -> dict[str, Tensor]:
    """Tags such as `t_1` and `t_batch` with their times, long `[2]`."""
    tags = {key.split("/")[2] for key in known.tensors if key.startswith(f"{name}/t_")}
    times = {tag: torch.full((2,), int(tag[2:])) for tag in tags - {"t_batch"}}
    return times | {"t_batch": known[f"{name}/batch_t"].flatten()}


@pytest.mark.parametrize("name", SETTINGS)
def test_tables(name: str) -> None:
    known = irsde(name)
    process = recorded_process(known.facts["settings"][name])
    schedule = process.schedule
    assert_near(schedule.thetas, known[f"{name}/thetas"], rtol=TABLE_RTOL, atol=1e-6)
    assert_near(schedule.thetas_cumsum, known[f"{name}/thetas_cumsum"], rtol=TABLE_RTOL, atol=1e-6)
    assert_near(schedule.dt, known[f"{name}/dt"], rtol=TABLE_RTOL, atol=1e-6)
    assert process.lambda_ == pytest.approx(known[f"{name}/max_sigma"].item())
    t = torch.arange(process.horizon + 1)
    assert_near(process.lambda_ * (2 * schedule.thetas).sqrt(), known[f"{name}/sigmas"], rtol=TABLE_RTOL, atol=1e-6)
    bars = process.marginal_std(t).flatten()
    assert_near(bars, known[f"{name}/sigma_bars"], rtol=TABLE_RTOL, atol=1e-6)


@pytest.mark.parametrize("name", SETTINGS)
def test_pointwise_functions(name: str) -> None:
    known = irsde(name)
    process = recorded_process(known.facts["settings"][name])
    x0, mu, x_t, noise = (known[f"in/{part}"] for part in ("x0", "mu", "xt", "noise"))
    assert_near(process.terminal(mu, noise), known[f"{name}/noise_state"])
    for tag, t in _recorded_times(known, name).items():
        s = t - 1
        epsilon = AnalyticNetwork()(x_t, mu, t, Conditioning())
        score = process.score(epsilon, t)
        sde_mean = process.reverse_sde_mean(x_t, mu, score, t, s)
        from_noise = process.data_from_epsilon(x_t, mu, noise, t)
        from_network = process.data_from_epsilon(x_t, mu, epsilon, t)
        posterior_std = process.posterior_std(t, s)
        ours = {
            "mu_bar": process.marginal_mean(x0, mu, t),
            "sigma_bar": process.marginal_std(t),
            "real_noise": process.epsilon_from_data(x_t, mu, x0, t),
            "real_score": process.score(process.epsilon_from_data(x_t, mu, x0, t), t),
            "score": score,
            "score_from_noise": process.score(noise, t),
            "forward_step": forward_step(process, x0, mu, t, noise),
            "reverse_sde_step_mean": sde_mean,
            "reverse_sde_step": sde_mean - process.reverse_sde_std(t, s) * noise,
            "reverse_ode_step": process.reverse_ode_mean(x_t, mu, score, t, s),
            "init_state_from_noise": from_noise,
            "reverse_optimum_step": process.posterior_mean(x_t, mu, x0, t, s),
            "reverse_optimum_std": posterior_std,
            "posterior_mean": process.posterior_mean(x_t, mu, from_noise, t, s),
            "reverse_posterior_step": process.posterior_mean(x_t, mu, from_network, t, s) + posterior_std * noise,
        }
        for function, value in ours.items():
            expected = known[f"{name}/{tag}/{function}"]
            # Values of large size (real_score up to thousands) are compared by their size.
            atol = 2e-5 * max(1.0, expected.abs().max().item())
            assert_near(value, expected.expand_as(value), TABLE_RTOL, atol, f"{function} at {tag}")


@pytest.mark.parametrize("name", SETTINGS)
def test_training_loss_and_states(name: str) -> None:
    known = irsde(name)
    process = recorded_process(known.facts["settings"][name])
    x0, mu, noise = known["in/x0"], known["in/mu"], known["in/noise"]
    t = known[f"{name}/batch_t"].flatten()
    assert_near(process.perturb(x0, mu, t, noise), known[f"{name}/train/state"])
    denoiser = Denoiser(AnalyticNetwork(), process, "epsilon")
    arguments = (mu, x0, Conditioning(), t, noise)
    expected = known[f"{name}/train/l1"].item()
    assert PosteriorMatching()(denoiser, *arguments).item() == pytest.approx(expected, rel=1e-4)
    # A denoiser that corrects the shift is trained on the same loss.
    corrected = Denoiser(AnalyticNetwork(), process, "epsilon", correct_epsilon_shift=True)
    assert PosteriorMatching()(corrected, *arguments).item() == pytest.approx(expected, rel=1e-4)

    if f"{name}/random_states/t" not in known.tensors:  # drawing states needs T = sample_T there
        assert name.endswith("_s25")
        return
    generator = torch.Generator().manual_seed(known.facts["random_states_seed"])
    drawn_t, drawn_noise = draw_training_state(process, x0.shape, generator)
    assert torch.equal(drawn_t, known[f"{name}/random_states/t"].flatten())
    state = process.perturb(x0, mu, drawn_t, drawn_noise)
    assert_near(state, known[f"{name}/random_states/state"])


class _Recorded:
    """Hands out recorded noise, first the start, in place of draws."""

    def __init__(self, draws: list[Tensor]) -> None:
        self.draws = iter(draws)

    def __call__(self, generators: Any, like: Tensor) -> Tensor:
        return next(self.draws)


@pytest.mark.parametrize("name", irsde_settings(trajectories=True))
def test_trajectories_equal_the_reference(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = irsde(name)
    setting = known.facts["settings"][name]
    draws = [known["traj/start_noise"], *known["traj/draws"]]
    monkeypatch.setattr(sampler_base, "draw_noise", _Recorded(draws))
    process = recorded_process(setting)
    network = AnalyticNetwork(time_scale=setting["T"] / process.horizon)
    recorded = known.under(name)
    make, options = SAMPLERS[name.rsplit("/", 1)[-1]]
    sampler = make(steps=len(recorded["states"]), clamp=False, **options)
    generators = [torch.Generator() for _ in range(2)]
    final = sampler.sample(Denoiser(network, process, "epsilon"), known["in/mu"], Conditioning(), generators)

    # Division by α_T = 0.005 amplifies rounding, as in the reference itself.
    assert_near(torch.stack([x for x, _ in network.seen]), recorded["states"], rtol=1e-3, atol=1e-4)
    times = torch.stack([t[0] for _, t in network.seen])
    assert_near(times, recorded["network_times"])
    assert_near(final, recorded["final"], rtol=1e-3, atol=1e-4)


def test_the_original_sampler_leaves_the_shift_of_the_noise_in() -> None:
    """The preset on a network whose shift is undone is posterior sampling on one whose shift is not."""
    process = MeanRevertingSDE(ThetaSchedule("cosine"))
    node = OmegaConf.load(Path(config_dir()) / "sampler" / "original.yaml")
    preset = instantiate({"_target_": node._target_, "steps": node.steps, "clamp": node.clamp})
    lq = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def restored(sampler: Sampler, corrected: bool) -> Tensor:
        denoiser = Denoiser(AnalyticNetwork(), process, "epsilon", corrected)
        return sampler.sample(denoiser, lq, Conditioning(), [torch.Generator().manual_seed(1)])

    plain = PosteriorSampler(steps=100, clamp=False)
    expected = restored(plain, corrected=False)
    size = expected.abs().max().item()
    assert_near(restored(preset, corrected=True), expected, rtol=1e-3, atol=1e-4 * size)
    assert torch.equal(restored(preset, corrected=False), expected)
    assert (restored(plain, corrected=True) - expected).abs().max() > 0.01 * size
