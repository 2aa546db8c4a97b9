"""The nodes: restore, classify, and restore what a mask marks.

ComfyUI hands over an IMAGE as float32 `[B, H, W, C]` in [0, 1] and a MASK as float32 `[B, H, W]`, one for each image or
one for all, and calls the method that FUNCTION names.
"""

from functools import lru_cache
from typing import Any

from torch import Tensor

from daclip import Restorer
from daclip.errors import DaclipError

IMAGE = ("IMAGE",)
ARTIFACT = ("STRING", {"default": "outputs/restorer/latest", "tooltip": "artifact folder, or OWNER/NAME on the hub"})
SEED = ("INT", {"default": 0, "min": 0, "max": 2**31 - 1})
STRENGTH = ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.05})


def _text(tooltip: str) -> tuple[str, dict[str, str]]:
    return "STRING", {"default": "", "tooltip": tooltip}


OPTIONAL = {
    "degradation": _text("repair this instead of what is recognised: rainy, or rainy:0.7,hazy:0.3"),
    "instruction": _text("what to repair and what to leave, in plain English"),
    "network": _text("file with a network of others that spandrel reads"),
}


@lru_cache(maxsize=2)
def _restorer(artifact: str, network: str = "") -> Restorer:
    """The restorer of a workflow, kept from one run to the next."""
    restorer = Restorer.from_pretrained(artifact)
    return restorer.with_network(network) if network else restorer


class Restore:
    """Restores images."""

    CATEGORY = "daclip"
    FUNCTION = "restore"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802  ComfyUI's name
        """The sockets and fields of the node."""
        return {
            "required": {"image": IMAGE, "artifact": ARTIFACT, "strength": STRENGTH, "seed": SEED},
            "optional": OPTIONAL,
        }

    def restore(
        self,
        image: Tensor,
        artifact: str,
        strength: float,
        seed: int,
        degradation: str = "",
        instruction: str = "",
        network: str = "",
        mask: Tensor | None = None,
    ) -> tuple[Tensor]:
        """The restored images."""
        restorer = _restorer(artifact, network).using(seed=seed)
        wanted: dict[str, Any] = {
            "degradation": degradation or None,
            "instruction": instruction or None,
            "strength": strength,
        }
        photos = image.clamp(0, 1).movedim(-1, 1)  # resizing may have stepped over the ends
        if mask is None:
            return (restorer.restore(photos, **wanted).images.movedim(1, -1),)
        if len(mask) not in (1, len(photos)):
            raise DaclipError(f"{len(mask)} masks for {len(photos)} images; give one, or one for each")
        masks = mask.expand(len(photos), -1, -1) > 0.5
        done = image.clone()
        for number, (photo, holes) in enumerate(zip(photos, masks, strict=True)):
            if holes.any():
                done[number] = restorer.restore([photo], [number], mask=holes, **wanted).images[0].movedim(0, -1)
        return (done,)


class Mask(Restore):
    """Restores what the mask marks as missing, and leaves the rest as it is."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        """The sockets and fields of the node."""
        fields = super().INPUT_TYPES()
        return {**fields, "required": {**fields["required"], "mask": ("MASK",)}}


class Classify:
    """Names what is wrong with each image, and how sure that is."""

    CATEGORY = "daclip"
    FUNCTION = "classify"
    RETURN_TYPES = ("STRING", "FLOAT")
    RETURN_NAMES = ("degradation", "probability")
    OUTPUT_IS_LIST = (True, True)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        """The sockets and fields of the node."""
        return {"required": {"image": IMAGE, "artifact": ARTIFACT}}

    def classify(self, image: Tensor, artifact: str) -> tuple[list[str], list[float]]:
        """The most likely class of each image, and its probability."""
        found = [
            next(iter(classes.items())) for classes in _restorer(artifact).classify(image.clamp(0, 1).movedim(-1, 1))
        ]
        return [name for name, _ in found], [probability for _, probability in found]


NODE_CLASS_MAPPINGS: dict[str, type] = {"DaclipRestore": Restore, "DaclipMask": Mask, "DaclipClassify": Classify}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {
    "DaclipRestore": "Restore (daclip)",
    "DaclipMask": "Restore what a mask marks (daclip)",
    "DaclipClassify": "Name the degradation (daclip)",
}
