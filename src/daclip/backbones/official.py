"""Names of the official restoration weights."""

import re
from collections.abc import Mapping
from typing import TypeVar

__all__ = ["from_official"]

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


def from_official(state_dict: Mapping[str, T]) -> dict[str, T]:
    """Rename the keys of an official restoration checkpoint to those of `ConditionalUNet`.

    Works for `daclip-sde` and `wild-ir`, for plain and EMA files, with and without the `module.` of
    distributed training. A pure renaming: tensors are untouched, and no two keys become one.
    """
    return {_rename(key): value for key, value in state_dict.items()}


def _rename(key: str) -> str:
    for pattern, replacement in _RULES:
        key = re.sub(pattern, replacement, key)
    return key
