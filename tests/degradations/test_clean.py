"""Facts about clean photos and the traces that they carry."""

from typing import Any

import pytest
import torch
from wide import PHOTO, configured, seeded

from daclip.commands.options import make
from daclip.config import composed
from daclip.degradations.clean import Traces
from daclip.degradations.digital import JpegCompression
from daclip.errors import DaclipError


def traces(*kinds: str, **changes: Any) -> Traces:
    settings = composed(None, ["+traces=world"])["data"]["augmentation"]["traces"]
    return make({**settings, "chances": {kind: float(kind in kinds) for kind in Traces.kinds}, **changes})


def test_a_clean_photo_is_left_as_it_is() -> None:
    clean = configured("clean")
    result = clean.degrade(PHOTO, [seeded(0)])
    assert torch.equal(result.images, PHOTO)
    assert result.images.data_ptr() != PHOTO.data_ptr()
    assert torch.equal(clean.replay(PHOTO, result.drawn), PHOTO)


def test_traces_are_faint() -> None:
    seeds = range(20)
    everything = traces(*Traces.kinds)(PHOTO.expand(20, -1, -1, -1), [seeded(seed) for seed in seeds])
    errors = (everything - PHOTO).square().mean(dim=(1, 2, 3))
    assert (-10 * errors.log10()).min() > 24
    assert (-10 * errors.log10()).median() > 30
    assert everything.min() >= 0
    assert everything.max() <= 1


def test_without_any_a_photo_is_only_rounded() -> None:
    photo = (PHOTO + 0.001).clamp(0, 1)
    assert torch.equal(traces()(photo, [seeded(0)]), (photo * 255).round() / 255)


@pytest.mark.parametrize("seed", range(4))
def test_resampling_moves_no_pixel(seed: int) -> None:
    slope = torch.linspace(0, 1, 96).expand(1, 3, 64, 96).clone()
    result = traces("resample")(slope, [seeded(seed)], 1.0)
    torch.testing.assert_close(result[..., 4:-4], slope[..., 4:-4], rtol=0, atol=0.6 / 255)


def test_noise_keeps_its_bound() -> None:
    grey = torch.full((12, 3, 64, 64), 0.5)
    deviation = 255 * (traces("noise")(grey, [seeded(i) for i in range(12)], 1.0) - 0.5).std(dim=(1, 2, 3))
    assert 0.8 < deviation.max() < 1.6  # 1.5 and what rounding adds
    assert deviation.min() < 0.6


def test_jpeg_is_the_codecs() -> None:
    codec = {"quality": 90, "subsampling": ["4:4:4"], "grid_shift": 0}
    jpeg = JpegCompression(**codec)  # type: ignore[arg-type]
    part = {"_target_": "daclip.degradations.digital.JpegCompression", **codec}
    assert torch.equal(traces("jpeg", jpeg=part)(PHOTO, [seeded(0)]), jpeg(PHOTO, [seeded(1)]))


def test_a_wrong_list_of_chances_is_refused() -> None:
    with pytest.raises(DaclipError, match="chances: expected one for each"):
        Traces(chances={"jpeg": 0.5}, scale=1, tone=0, sharpen=0, noise=0, jpeg=configured("clean"))
