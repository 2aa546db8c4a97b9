"""Learning-rate schedule and parameter groups."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra.utils import instantiate
from runs import compose, fit, parts
from timm.optim import muon as timm_muon
from torch import nn

from daclip.config import composed, config_dir
from daclip.training.optimizers import Muon, decay_groups, warmup_cosine

zeropower = timm_muon.zeropower_via_newtonschulz

OPTIMIZERS = sorted(Path(config_dir(), "optimizer").glob("*.yaml"))


def test_schedule_is_that_of_the_paper() -> None:
    # lr (s+1)/W while s < W, then half a cosine over the remaining steps.
    assert warmup_cosine(0, 100, 1000, 0.0) == pytest.approx(0.01)
    assert warmup_cosine(99, 100, 1000, 0.0) == pytest.approx(1.0)
    for step in (100, 321, 999):
        expected = 0.5 * (1 + math.cos(math.pi * (step - 100) / 900))
        assert warmup_cosine(step, 100, 1000, 0.0) == pytest.approx(expected)
    assert warmup_cosine(5000, 100, 1000, 0.005) == pytest.approx(0.005)
    assert warmup_cosine(0, 0, 10, 0.0) == 1.0


def test_vectors_do_not_decay_and_frozen_parameters_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2).requires_grad_(False))
    decayed, free = decay_groups(model)
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 3)]
    assert [tuple(p.shape) for p in free["params"]] == [(4,), (4,), (4,)]
    assert "weight_decay" not in decayed
    assert free["weight_decay"] == 0


@pytest.mark.parametrize("path", OPTIMIZERS, ids=[path.stem for path in OPTIMIZERS])
def test_every_optimizer_yaml_descends(path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = instantiate(composed(None, [f"+optimizer={path.stem}"])["stage"]["optimizer"])(decay_groups(model))
    x = torch.randn(64, 4)
    losses = []
    for _ in range(50):
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.01


def test_muon_is_timms_where_bfloat16_is_native_and_else_differs_by_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    moves = []
    choices: tuple[tuple[type[timm_muon.Muon], bool], ...] = ((timm_muon.Muon, False), (Muon, True), (Muon, False))
    for make, hardware in choices:
        monkeypatch.setattr("daclip.training.optimizers.supports_bf16", lambda device, found=hardware: found)
        torch.manual_seed(0)
        layer, photo = nn.Linear(24, 16, bias=False), torch.rand(8, 24)
        start = layer.weight.detach().clone()
        optimizer = make(layer.parameters(), lr=0.01)
        layer(photo).square().sum().backward()
        optimizer.step()
        moves.append(layer.weight.detach() - start)
    plain, native, precise = moves
    assert torch.equal(plain, native)
    # Bfloat16 keeps three digits; directions that the gradient hardly has are made of its rounding.
    assert not torch.equal(plain, precise)
    assert torch.cosine_similarity(plain.flatten(), precise.flatten(), dim=0) > 0.9
    assert timm_muon.zeropower_via_newtonschulz is zeropower


def test_another_scheduler_takes_the_place_of_the_cosine(tmp_path: Path) -> None:
    chosen = ["scheduler=multi_step", "stage.scheduler.milestones=[1,3]", "stage.optimizer.lr=8e-5"]
    trainer, _, _ = fit("restorer", tmp_path, *chosen, "trainer.max_steps=4")
    assert [group["lr"] for group in trainer.optimizers[0].param_groups] == pytest.approx([2e-5] * 2)


@pytest.mark.parametrize("algorithm", ["value", "norm", None])
def test_gradients_are_clipped_as_asked(algorithm: str | None, tmp_path: Path) -> None:
    module, _ = parts("restorer", compose("restorer", tmp_path))
    module.log = lambda *_: None  # type: ignore[method-assign]
    module._trainer = SimpleNamespace(precision_plugin=None)  # type: ignore[assignment]
    weight = next(p for p in module.parameters() if p.requires_grad)
    given = torch.tensor([4.0, -2.0, 0.1])
    weight.grad = torch.zeros_like(weight)
    weight.grad.view(-1)[:3] = given
    module.configure_gradient_clipping(torch.optim.SGD([weight]), 0.5, algorithm)
    limited = (given.clamp(-0.5, 0.5) if algorithm == "value" else given * 0.5 / given.norm()).tolist()
    assert weight.grad.view(-1)[:3].tolist() == pytest.approx(limited, rel=1e-4)
