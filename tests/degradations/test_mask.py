"""Facts about missing parts."""

import pytest
import torch
from skimage import data
from wide import seeded

from daclip.degradations.mask import AnyHoles

PHOTO = (torch.from_numpy(data.astronaut()).permute(2, 0, 1).float() / 255)[None, :, 20:116, 180:308]


def only(shape: str | None = None, fill: str = "white", soft: float = 0.0, jpeg: float = 0.0) -> AnyHoles:
    shapes = {name: float(shape in (None, name)) for name in AnyHoles.names}
    fills = {name: float(name == fill) for name in AnyHoles.known_fills}
    return AnyHoles(shapes, fills, coverage=[0.05, 0.5], fine=[0.01, 0.1], brush=[4, 12], soft=soft, jpeg=jpeg)


@pytest.mark.parametrize("shape", AnyHoles.names)
def test_every_shape_covers_about_its_share(shape: str) -> None:
    ends = (0.01, 0.1) if shape in ("scratches", "text") else (0.05, 0.5)
    for severity, share in zip((0.0, 1.0), ends, strict=True):
        covered = [float(only(shape).draw(96, 128, severity, seeded(i))["opacity"].mean()) for i in range(6)]
        assert share * 0.8 - 0.01 < sum(covered) / 6 < share * 1.3 + 0.08


@pytest.mark.parametrize(("fill", "value"), [("white", 1.0), ("black", 0.0), ("gray", 0.5), ("mean", None)])
def test_holes_have_their_fill_and_all_else_stays(fill: str, value: float | None) -> None:
    degradation = only(fill=fill)
    drawn = degradation.draw(96, 128, 0.5, seeded(1))
    result, hole = degradation.apply(PHOTO, drawn), (drawn["opacity"] > 0).expand_as(PHOTO)
    assert torch.equal(result[~hole], PHOTO[~hole])
    expected = PHOTO.mean(dim=(2, 3), keepdim=True) if value is None else torch.tensor(value)
    torch.testing.assert_close(result[hole], expected.expand_as(PHOTO)[hole])


def test_soft_edges_are_one_pixel_wide() -> None:
    hard, soft = (only("boxes", soft=chance).draw(96, 128, 0.5, seeded(2))["opacity"] for chance in (0.0, 1.0))
    assert set(hard.unique().tolist()) == {0.0, 1.0}
    between = (soft > 0) & (soft < 1)
    assert between.any()
    assert float((soft - hard).abs().max()) < 0.7
    assert float(between.float().mean()) < 0.2


def test_jpeg_follows_where_it_is_drawn() -> None:
    plain, saved = (only(jpeg=chance)(PHOTO, [seeded(4)], 0.5) for chance in (0.0, 1.0))
    assert 0 < float((plain - saved).abs().mean()) < 0.04


def test_colours_and_noise_differ_between_channels() -> None:
    colour, noise = (only(fill=fill).draw(64, 64, 0.5, seeded(5))["fill"] for fill in ("colour", "noise"))
    assert len(colour.unique()) == 3
    assert float(noise.std()) == pytest.approx(12**-0.5, rel=0.05)


@pytest.mark.parametrize(("fill", "value", "other"), [("white", 1.0, 0.5), ("black", 0.0, 0.5), ("mean", 0.6, 0.1)])
def test_a_hole_is_seen_on_a_photo_of_its_own_colour(fill: str, value: float, other: float) -> None:
    photo = torch.full((1, 3, 48, 64), value)
    result = only(fill=fill)(photo, [seeded(0)], 0.5)
    assert result.unique().tolist() == pytest.approx(sorted((value, other)))
