"""Facts about compression by many encoders."""

import pytest
import torch
from skimage import data
from wide import seeded

from daclip.degradations.digital import (
    MODES,
    SLOPES,
    AnyCodec,
    JpegCompression,
    pictures,
    quantisation,
    resaved,
    tensors,
)

PHOTO = (torch.from_numpy(data.astronaut()).permute(2, 0, 1).float() / 255)[None, :, 20:116, 180:308]


def only(kind: str, table: str = "standard", mode: str = "4:2:0") -> AnyCodec:
    return AnyCodec(
        {name: float(name == kind) for name in AnyCodec.names},
        quality=[60, 5],
        webp_quality=[40, 5],
        tables={name: float(name == table) for name in ("standard", *SLOPES)},
        subsampling={name: float(name == mode) for name in MODES},
        scale=[0.7, 1.3],
    )


@pytest.mark.parametrize("kind", AnyCodec.names)
def test_every_kind_costs_more_the_more_severe_it_is(kind: str) -> None:
    seeds = [seeded(i) for i in range(6)]
    photos = PHOTO.expand(6, -1, -1, -1)
    states = [seed.get_state() for seed in seeds]
    errors = []
    for severity in (0.0, 0.5, 1.0):
        for seed, state in zip(seeds, states, strict=True):
            seed.set_state(state)
        errors.append(float((only(kind)(photos, seeds, severity) - photos).square().mean()))
    assert errors[0] < errors[1] < errors[2]


def test_one_standard_round_is_plain_jpeg() -> None:
    drawn = only("once", mode="4:2:2").draw(96, 128, 0.5, seeded(3))
    quality, mode, top, left = drawn["rounds"][0, 0, 1:].tolist()
    expected = JpegCompression([50, 10], ["4:2:2"], 7).apply(
        PHOTO, {"settings": torch.tensor([[quality, mode, top, left]])}
    )
    assert torch.equal(only("once").apply(PHOTO, drawn), expected)


def test_tables_of_every_slope_are_as_strong_as_the_standard_at_low_frequencies() -> None:
    for quality in (10, 50):
        plain = only("once").draw(96, 128, 0.5, seeded(0)) | {
            "rounds": torch.tensor([[[1, quality, 2, 0, 0], [0] * 5]])
        }
        expected = float((only("once").apply(PHOTO, plain) - PHOTO).square().mean())
        for slope in (0.0, 0.3, 1.0):
            tables = torch.stack((quantisation(quality, slope), quantisation(quality, slope)))[None]
            error = float((only("once").apply(PHOTO, plain | {"tables": tables}) - PHOTO).square().mean())
            assert 0.4 * expected < error < 2 * expected
    flat, steep = quantisation(50, 0.0), quantisation(50, 1.0)
    assert len(flat[0].unique()) == 1
    assert steep[0, 63] > 3 * steep[0, 0]
    assert quantisation(1, 1.0).max() == 255


def test_resaving_leaves_samples_without_a_quality_alone() -> None:
    exact = tensors(pictures(PHOTO), PHOTO)
    kept, changed = resaved(PHOTO.expand(2, -1, -1, -1), torch.tensor([[0], [90]])).split(1)
    assert torch.equal(kept, exact)
    assert 0 < float((changed - exact).abs().mean()) < 0.03
