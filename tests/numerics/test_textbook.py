"""Our ways to compute the restoration network against the papers' formulas."""

from contextlib import nullcontext

import torch
from benchmarks.textbook import textbook
from torch import Tensor, nn

from daclip.backbones import ConditionalUNet
from daclip.backbones.layers import LinearAttention
from daclip.types import Conditioning


def _network() -> ConditionalUNet:
    torch.manual_seed(0)
    network = ConditionalUNet(context_dim=16, width=32, multipliers=(1, 2), transformer_levels=[1], scale=0.5)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    return network


def _answer(network: nn.Module, written: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Output, and the gradient of its mean square by every parameter."""
    g = torch.Generator().manual_seed(1)
    x, lq = torch.rand(2, 2, 3, 24, 40, generator=g)
    embedding = torch.randn(2, 16, generator=g)
    network.zero_grad()
    with textbook(network) if written else nullcontext():
        out: Tensor = network(x, lq, torch.tensor([3.0, 70.0]), Conditioning(embedding, embedding))
        out.square().mean().backward()
    return out.detach(), {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def test_the_network_and_its_gradients_are_those_of_the_formulas() -> None:
    network = _network()
    ours, our_gradients = _answer(network, written=False)
    written, written_gradients = _answer(network, written=True)
    torch.testing.assert_close(ours, written, rtol=1e-4, atol=1e-5)
    assert our_gradients.keys() == written_gradients.keys()
    for name, gradient in written_gradients.items():
        error = (our_gradients[name] - gradient).norm() / gradient.norm().clamp_min(1e-12)
        assert error < 1e-3, name


def test_formulas_hold_only_within_the_context() -> None:
    network = _network()
    projections: list[nn.Module] = []
    for module in network.modules():
        if isinstance(module, LinearAttention):
            module.to_qkv.register_forward_hook(lambda projection, *_: projections.append(projection))
    _answer(network, written=False)
    assert not projections
    _answer(network, written=True)
    assert projections
    projections.clear()
    _answer(network, written=False)
    assert not projections
