"""Deterministic solvers of the probability flow ODE that need no history: Euler in t, and Heun in s_t/α_t."""

from torch import Tensor

from daclip.samplers.base import Sampler, Step


class FlowOdeSampler(Sampler):
    """Euler on the probability flow ODE (Song et al. 2021, eq. 13): x_s = x_t − [(μ − x_t) + λ ε̂/s_t] (θ̄_t − θ̄_s).
    First order in the stride, it needs many steps; `DdimSampler` with η = 0 and `HeunSampler` solve the same in few.
    """

    stochastic = False

    def step(self, step: Step) -> Tensor:
        """Euler step, `[B, C, H, W]`."""
        process = step.process
        score = process.score(step.prediction.epsilon, step.t)
        return process.reverse_ode_mean(step.x_t, step.lq, score, step.t, step.s)


class HeunSampler(Sampler):
    """Heun on the probability flow ODE in the noise-to-signal ratio r = s_t/α_t (EDM, Karras et al. 2022, alg. 1):

        d[(x − μ)/α] / dr = λ ε̂,    x_s = μ + α_s/α_t (x_t − μ) + λ α_s (r_s − r_t) (ε̂_t + ε̂_s)/2.

    ε̂_s is the estimate after an Euler step (DDIM). The last step is Euler and gives x̂_0: 2N − 1 estimates in N steps.
    """

    stochastic = False

    @property
    def estimates(self) -> int:
        """Two a step but for the last."""
        return 2 * self.steps - 1

    def step(self, step: Step) -> Tensor:
        """Trapezoidal rule, Euler in the last step, `[B, C, H, W]`."""
        euler = self._move(step, step.prediction.epsilon)
        if step.remaining == 1:
            return euler
        end = step.estimate(euler, step.s)
        return self._move(step, (step.prediction.epsilon + end.epsilon) / 2)

    @staticmethod
    def _move(step: Step, epsilon: Tensor) -> Tensor:
        """From t to s along a straight line in r."""
        process = step.process
        scale = process.alpha(step.s) / process.alpha(step.t)
        # λ α_s (r_s − r_t), written without r, which is 200 at T.
        shift = process.marginal_std(step.s) - scale * process.marginal_std(step.t)
        return step.lq + scale * (step.x_t - step.lq) + shift * epsilon
