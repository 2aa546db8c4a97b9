"""Pairs by their names, on a small tree of each official layout, and pairs that show different pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage import data

from daclip.data.pairing import key_of, match_names, require_partners, small_copy, strangers
from daclip.data.sources import PairedFolder
from daclip.errors import DaclipError

# The ten data sets of the paper, as their authors name the files: class, LQ to GT.
LAYOUTS = {
    "motion-blurry": {  # GoPro: a folder a clip, equal numbers in all of them
        "GOPR0372_07_00/blur/000047.png": "GOPR0372_07_00/sharp/000047.png",
        "GOPR0384_11_00/blur/000047.png": "GOPR0384_11_00/sharp/000047.png",
    },
    "hazy": {  # RESIDE: several densities of haze for one clear photo
        "0001_1_0.8.jpg": "0001.png",
        "0001_0.85_0.12.jpg": "0001.png",
        "1400_1.png": "1400.png",
    },
    "jpeg-compressed": {"0801.jpg": "0801.png", "0802.jpg": "0802.png"},  # DIV2K
    "low-light": {"1.png": "1.png", "low00023.png": "normal00023.png"},  # LOL, and its second edition
    "noisy": {"0001_NOISY_SRGB_010.PNG": "0001_GT_SRGB_010.PNG", "0002_NOISY_SRGB_010.PNG": "0002_GT_SRGB_010.PNG"},
    "raindrop": {"0_rain.png": "0_clean.png", "10_rain.png": "10_clean.png"},
    "rainy": {  # Rain100H, Rain100L, Rain1400
        "rain-001.png": "norain-001.png",
        "norain-7x2.png": "norain-7.png",
        "901_1.jpg": "901.jpg",
        "901_14.jpg": "901.jpg",
    },
    "shadowed": {"_MG_2456.jpg": "_MG_2456_no_shadow.jpg", "90-1.png": "90-1.png"},  # SRD, ISTD
    "snowy": {"beautiful_smile_00003.jpg": "beautiful_smile_00003.jpg"},  # Snow100K
    "uncompleted": {"00000.png": "00000.jpg", "00001.png": "00001.jpg"},  # CelebA-HQ
}


@pytest.mark.parametrize("class_name", LAYOUTS)
def test_each_official_layout_is_paired(tmp_path: Path, class_name: str) -> None:
    layout = LAYOUTS[class_name]
    for shade, (part, names) in enumerate({"LQ": layout.keys(), "GT": set(layout.values())}.items()):
        for name in names:
            path = tmp_path / class_name / part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (shade * 90, 9, 9)).save(path, format=None if path.suffix != ".PNG" else "PNG")
    for name in ("a.png", "b.png"):  # a second class, so that even one pair can be split
        for part in ("LQ", "GT"):
            (tmp_path / "other" / part).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16)).save(tmp_path / "other" / part / name)
    source = PairedFolder(tmp_path, 0.3, None)
    photos = [photo for photo in [*source.train(), *source.validation()] if photo.class_name == class_name]
    root = tmp_path / class_name
    found = {
        str(photo.degraded.relative_to(root / "LQ")): str(photo.path.relative_to(root / "GT"))
        for photo in photos
        if photo.degraded
    }
    assert found == layout
    assert len({photo.name for photo in photos}) == len(layout)
    # All versions of one clean photo are on one side.
    assert not {photo.path for photo in source.train()} & {photo.path for photo in source.validation()}
    assert f"{len(layout) + 2} pairs" in source.account


@pytest.mark.parametrize(
    ("lq", "gt"),
    [
        ([f"080{i}.png" for i in range(1, 7)], [f"000{i}.png" for i in range(1, 7)]),
        (["frame010.png"], ["frame020.png"]),
        (["scene_a_1.png", "scene_a_2.png"], ["scene_b_1.png", "scene_b_2.png"]),
        (["clip_a/1.png"], ["clip_b/1.png"]),
    ],
)
def test_no_pair_without_a_reason(lq: list[str], gt: list[str]) -> None:
    found = match_names(lq, gt)
    assert not found.pairs
    with pytest.raises(DaclipError) as caught:
        require_partners(found, "pairs/LQ", "pairs/GT")
    for part in (f"{len(lq)} in pairs/LQ", f"{len(gt)} in pairs/GT", lq[0], gt[0]):
        assert part in str(caught.value)


def test_a_photo_that_fits_two_clean_ones_is_refused_by_name() -> None:
    with pytest.raises(DaclipError, match=r"a_rain\.png belongs to a_clean\.png as well as a_sharp\.png"):
        require_partners(match_names(["a_rain.png"], ["a_clean.png", "a_sharp.png"]), "LQ", "GT")
    assert match_names(["a.png"], ["a.jpg", "a.png"]).pairs == [("a.png", "a.png")]


@given(st.lists(st.text("ab0_-./", min_size=1, max_size=8).filter(lambda t: t.strip("./") == t), unique=True))
def test_equal_names_are_pairs_whatever_they_are(names: list[str]) -> None:
    found = match_names([f"{name}.png" for name in names], [f"{name}.png" for name in names])
    assert found.pairs == sorted((f"{name}.png", f"{name}.png") for name in names)
    assert all("rain" not in key_of(f"rain_{name}.png") for name in names)


def unlike(lq: list[np.ndarray], gt: list[np.ndarray]) -> dict[int, str]:
    pairs = zip(lq, gt, strict=True)
    return strangers([[small_copy(torch.from_numpy(one.copy()).permute(2, 0, 1)) for one in pair] for pair in pairs])


def test_pairs_of_different_pictures_are_told_from_degraded_ones() -> None:
    clean = [data.astronaut()[i : i + 96, i : i + 128] for i in range(0, 360, 45)]
    noise = np.random.default_rng(0)
    noisy = [(picture // 3 + noise.integers(0, 60, picture.shape)).astype(np.uint8) for picture in clean]
    assert unlike(noisy, clean) == {}
    swapped = [noisy[1], noisy[0], *noisy[2:]]
    assert set(unlike(swapped, clean)) == {0, 1}
    turned = [picture[::-1, ::-1] for picture in noisy]
    assert len(unlike(turned, clean)) > len(clean) / 2
    # Holes hide most of some pictures, which is what they are for.
    holed = [picture.copy() for picture in clean]
    for i, picture in enumerate(holed):
        picture[: 12 * i] = 255
    assert unlike(holed, clean) == {}
    # A uniform picture tells nothing.
    assert unlike([np.zeros_like(clean[0])], clean[:1]) == {}
