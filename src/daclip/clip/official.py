"""Names of the published DA-CLIP checkpoints in terms of `DaClip`."""

import re
from collections.abc import Mapping

from torch import Tensor

__all__ = ["from_official"]

RULES = (
    (r"^visual_control\.transformer\.transformer\.", "controller.tower.transformer."),
    (r"^visual_control\.transformer\.zero_modules\.", "controller.links."),
    (r"^visual_control\.", "controller.tower."),
    (r"^clip\.", "clip.model."),
)


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename an official state dict for `DaClip.load_state_dict`.

    The `module.` prefix of distributed runs is cut. `visual.*` repeats `clip.visual.*` tensor for tensor and
    is left out.
    """
    renamed = {}
    for name, value in state.items():
        name = name.removeprefix("module.")
        if name.startswith("visual."):
            continue
        for pattern, replacement in RULES:
            name, hits = re.subn(pattern, replacement, name)
            if hits:
                break
        renamed[name] = value
    return renamed
