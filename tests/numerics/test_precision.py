"""What must be exact in bfloat16."""

from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from daclip.backbones.layers import ChannelNorm

NORMS: dict[str, Callable[[], nn.Module]] = {
    "rows": lambda: nn.LayerNorm(8),
    "compiled": lambda: cast(nn.Module, torch.compile(nn.LayerNorm(8), backend="aot_eager")),
    "channels": lambda: nn.Sequential(nn.Unflatten(1, (256, 256)), _Turned(), ChannelNorm(8)),
}


class _Turned(nn.Module):
    """Channels last to an image."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)


@pytest.mark.parametrize("kind", list(NORMS))
def test_a_norm_learns_the_same_in_bfloat16(kind: str) -> None:
    x = torch.randn(1, 256 * 256, 8, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    gradients: list[list[Tensor]] = []
    for dtype in (torch.bfloat16, torch.float32):
        norm = NORMS[kind]()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            normed: Tensor = norm(x.to(dtype))
        assert normed.dtype == dtype
        # Goes with the signal and its mean: what a wrong gain and a wrong bias cause.
        normed.backward(0.01 * (normed.detach() + 0.5))
        gradients.append([p.grad for p in norm.parameters() if p.grad is not None])
    assert gradients[0]
    for found, exact in zip(*gradients, strict=True):
        torch.testing.assert_close(found, exact, rtol=0.01, atol=0.0)
