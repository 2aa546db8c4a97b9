"""Names of the official restoration weights, translated in both directions."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from daclip.errors import DaclipError

T = TypeVar("T")

# Applied in this order to every key; names that no rule mentions are the same on both sides.
_RULES = [
    (r"^module\.", ""),
    (r"^(downs|ups)\.(\d+)\.0\.", r"\1.\2.block1."),
    (r"^(downs|ups)\.(\d+)\.1\.", r"\1.\2.block2."),
    (r"^(downs|ups)\.(\d+)\.2\.", r"\1.\2.attention."),
    (r"^(downs|ups)\.(\d+)\.3\.", r"\1.\2.resample."),
    (r"^mid_attn\.", "mid_attention."),
    (r"^text_mlp\.", "degradation_mlp."),
    (r"^(time_mlp|degradation_mlp|prompt_mlp|prompt)(\.|$)", r"embedding.\1\2"),
    (r"^final_res_block\.", "final_block."),
    (r"\.mlp\.1\.", ".modulation."),
    (r"\.block([12])\.proj\.", r".conv\1."),
    (r"\.res_conv\.", ".shortcut."),
    (r"\.attn1\.", ".self_attention."),
    (r"\.attn2\.", ".cross_attention."),
    (r"\.ff\.net\.0\.proj\.", ".feed_forward.expand."),
    (r"\.ff\.net\.2\.", ".feed_forward.contract."),
    (r"\.transformer_blocks\.0\.", "."),
    (r"\.fn\.norm\.g$", ".norm.gain"),
    (r"\.fn\.fn\.", ".body."),
    (r"\.to_out\.1\.g$", ".norm.gain"),
    (r"\.to_out\.0\.", ".to_out."),
]


# The way back, likewise. The norm of linear attention is `body.norm`, and so is that of a transformer block, which
# has a weight and a bias and no gain.
_BACK = [
    (r"^(downs|ups)\.(\d+)\.block1\.", r"\1.\2.0."),
    (r"^(downs|ups)\.(\d+)\.block2\.", r"\1.\2.1."),
    (r"^(downs|ups)\.(\d+)\.attention\.", r"\1.\2.2."),
    (r"^(downs|ups)\.(\d+)\.resample\.", r"\1.\2.3."),
    (r"^mid_attention\.", "mid_attn."),
    (r"^embedding\.degradation_mlp\.", "text_mlp."),
    (r"^embedding\.", ""),
    (r"^final_block\.", "final_res_block."),
    (r"\.modulation\.", ".mlp.1."),
    (r"\.conv([12])\.", r".block\1.proj."),
    (r"\.shortcut\.", ".res_conv."),
    (r"\.body\.norm\.gain$", ".fn.fn.to_out.1.g"),
    (r"\.norm\.gain$", ".fn.norm.g"),
    (r"\.to_out\.(weight|bias)$", r".to_out.0.\1"),
    (r"\.body\.(norm1|norm2|norm3|self_attention|cross_attention|feed_forward)\.", r".body.transformer_blocks.0.\1."),
    (r"\.self_attention\.", ".attn1."),
    (r"\.cross_attention\.", ".attn2."),
    (r"\.feed_forward\.expand\.", ".ff.net.0.proj."),
    (r"\.feed_forward\.contract\.", ".ff.net.2."),
    (r"\.body\.", ".fn.fn."),
]


def from_official(state_dict: Mapping[str, T]) -> dict[str, T]:
    """Rename the keys of an official restoration checkpoint (`daclip-sde`, `wild-ir`) to those of `ConditionalUNet`."""
    return {_rename(key, _RULES): value for key, value in state_dict.items()}


def to_official(state_dict: Mapping[str, T]) -> dict[str, T]:
    """The exact inverse of `from_official`, without `module.`."""
    return {_rename(key, _BACK): value for key, value in state_dict.items()}


def network_state(content: Any, path: str | Path) -> dict[str, Tensor]:
    """Tensors of a restoration checkpoint, the `content` of `path`, by the network's names: of a bare state dict, with
    or without the `module.` of distributed training, or the average of an `ema_pytorch` object. Else a `DaclipError`.
    """
    if not isinstance(content, Mapping) or not content:
        raise DaclipError(f"{path}: holds no state dict")
    found = {str(name): value for name, value in content.items()}
    average = {name: value for name, value in found.items() if name.startswith("ema_model.")}
    found = {name.removeprefix("ema_model."): value for name, value in (average or found).items()}
    wrong = [name for name, value in found.items() if not isinstance(value, Tensor)]
    if wrong:
        raise DaclipError(
            f"{path}: holds no state dict, {wrong[0]} is no tensor; give the network's own file (N_G.pth)"
        )
    return {name.removeprefix("module."): value for name, value in found.items()}


def _rename(key: str, rules: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key
