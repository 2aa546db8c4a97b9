"""The smallest CLIP that everything works with, as an artifact and as a command line state it."""

import json
from typing import Any

ARCHITECTURE: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 2, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
OVERRIDE = "clip.architecture=" + json.dumps(ARCHITECTURE).replace('"', "")
CLIP: dict[str, Any] = {
    "_target_": "daclip.clip.controller.create_daclip",
    "architecture": ARCHITECTURE,
    "pretrained": None,
    "view": "resize",
    "injection": "reversed",
    "seed": 0,
}
