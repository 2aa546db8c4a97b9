"""The nodes for ComfyUI, called as its server calls nodes, without it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from integrations import comfyui
from skimage import data
from torch import Tensor

from daclip import Restorer
from daclip.errors import DaclipError

TYPES = {"IMAGE", "MASK", "STRING", "INT", "FLOAT"}
IMAGES = torch.stack([torch.from_numpy(data.coffee()[y : y + 40, 100:160].copy()) for y in (0, 90)]).float() / 255


def execute(name: str, **linked: Any) -> tuple[Any, ...]:
    """What ComfyUI's execution does for one node: fields that are not linked hold their defaults."""
    node = comfyui.NODE_CLASS_MAPPINGS[name]
    inputs: dict[str, Any] = node.INPUT_TYPES()  # type: ignore[attr-defined]
    given: dict[str, Any] = {}
    for group, fields in inputs.items():
        assert group in ("required", "optional", "hidden")
        for field, (kind, *options) in fields.items():
            assert kind in TYPES
            if field in linked:
                given[field] = linked.pop(field)
            elif options and "default" in options[0]:
                given[field] = options[0]["default"]
            else:
                assert group != "required", f"{field} must be linked"
    assert not linked
    found: tuple[Any, ...] = getattr(node(), node.FUNCTION)(**given)  # type: ignore[attr-defined]
    kinds: tuple[str, ...] = node.RETURN_TYPES  # type: ignore[attr-defined]
    assert isinstance(found, tuple)
    assert len(found) == len(kinds)
    lists = getattr(node, "OUTPUT_IS_LIST", (False,) * len(kinds))
    for value, kind, several in zip(found, kinds, lists, strict=True):
        for one in value if several else [value]:
            if kind == "IMAGE":
                assert one.dtype == torch.float32
                assert one.ndim == 4
                assert one.shape[-1] == 3
                assert 0 <= one.min() <= one.max() <= 1
            else:
                assert isinstance(one, {"STRING": str, "FLOAT": float}[kind])
    return found


def test_every_node_has_a_name_and_a_place() -> None:
    assert comfyui.NODE_CLASS_MAPPINGS.keys() == comfyui.NODE_DISPLAY_NAME_MAPPINGS.keys()
    assert {node.CATEGORY for node in comfyui.NODE_CLASS_MAPPINGS.values()} == {"daclip"}  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def restorer(restorer_artifact: Path) -> Restorer:
    return Restorer.from_pretrained(restorer_artifact)


def own(restorer: Restorer, images: Tensor, **options: Any) -> Tensor:
    found: Tensor = restorer.restore(images.movedim(-1, 1), **options).images.movedim(1, -1)
    return found


def test_restore(restorer: Restorer, restorer_artifact: Path) -> None:
    artifact = str(restorer_artifact)
    assert torch.equal(execute("DaclipRestore", image=IMAGES, artifact=artifact)[0], own(restorer, IMAGES))
    # Resizing nodes step over the ends.
    found = execute("DaclipRestore", image=IMAGES * 1.2 - 0.1, artifact=artifact, seed=4, degradation="rainy")[0]
    expected = own(restorer.using(seed=4), (IMAGES * 1.2 - 0.1).clamp(0, 1), degradation="rainy")
    assert torch.equal(found, expected)
    with pytest.raises(DaclipError, match="no such checkpoint file"):
        execute("DaclipRestore", image=IMAGES, artifact=artifact, network="gone.pth")


def test_only_what_is_masked_is_restored(restorer: Restorer, restorer_artifact: Path) -> None:
    artifact = str(restorer_artifact)
    mask = torch.zeros(2, 40, 60)
    mask[0, 10:20, 30:50] = 1
    found = execute("DaclipMask", image=IMAGES, artifact=artifact, mask=mask)[0]
    assert torch.equal(found[1], IMAGES[1])
    assert torch.equal(found[0], own(restorer, IMAGES[:1], mask=mask[0])[0])
    one = execute("DaclipMask", image=IMAGES, artifact=artifact, mask=mask[:1])[0]
    assert torch.equal(one[0], found[0])
    changed = (one[1] != IMAGES[1]).any(-1)
    assert changed.any()
    assert not changed[mask[0] == 0].any()
    with pytest.raises(DaclipError, match="3 masks for 2 images"):
        execute("DaclipMask", image=IMAGES, artifact=artifact, mask=torch.zeros(3, 40, 60))


def test_classify(restorer: Restorer, restorer_artifact: Path) -> None:
    names, probabilities = execute("DaclipClassify", image=IMAGES, artifact=str(restorer_artifact))
    expected = restorer.classify(IMAGES.movedim(-1, 1))
    assert names == [next(iter(one)) for one in expected]
    assert probabilities == [max(one.values()) for one in expected]
