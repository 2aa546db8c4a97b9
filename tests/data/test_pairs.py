"""Pairs made on the fly, and how ranks share them."""

import itertools
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import daclip.data.pairs
from daclip.data.datamodule import MixedDegradationData
from daclip.data.loading import EpochLoader, StreamSampler
from daclip.data.pairs import Augmentation, Mix, PairMaker, TrainingPairs, ValidationPairs, collate, lay
from daclip.data.sources import EmbeddedPhotos
from daclip.degradations import Degradation
from daclip.degradations.base import Drawn
from daclip.degradations.clean import Clean
from daclip.degradations.mask import Inpainting
from daclip.degradations.noise import GaussianNoise
from daclip.errors import DaclipError

SOURCE = EmbeddedPhotos(["chelsea.png", "coffee.png"])


def degradations() -> dict[str, Degradation]:
    return {
        "noisy": GaussianNoise(sigma=[10, 50]),
        "uncompleted": Inpainting(coverage=[0.1, 0.4], brush=[3, 12], blocks=0.25, fill=1.0),
    }


def pairs(seed: int = 0, **changes: float | tuple[float, float] | bool | None) -> TrainingPairs:
    settings: dict[str, Any] = {"zoom": (0.5, 1.0), "colour": 0.2, "flip": True, "permute": 0.5, "collage": 0.5}
    augmentation = Augmentation(**{**settings, **changes})
    return TrainingPairs(SOURCE.train(), PairMaker(degradations(), 48, 64, augmentation), Mix(None, 0.5), 100, seed)


def test_a_sample_depends_on_seed_and_index_alone() -> None:
    first, again, other = pairs(0), pairs(0), pairs(1)
    a, b = first[7], again[7]
    _ = again[3]
    assert torch.equal(a.lq, b.lq)
    assert torch.equal(again[7].hq, a.hq)
    assert not torch.equal(a.hq, other[7].hq)
    assert not torch.equal(a.hq, first[9].hq)
    assert (a.lq.shape, a.lq.dtype) == ((3, 48, 48), torch.float32)
    assert 0 <= a.lq.min() <= a.lq.max() <= 1


def test_classes_are_balanced_in_every_batch() -> None:
    source = pairs()
    batch = collate([source[i] for i in range(10, 18)])
    assert batch.degradation.count("noisy") == batch.degradation.count("uncompleted") == 4
    assert len(batch) == 8
    assert all(batch.caption)


def test_without_augmentation_a_crop_is_a_piece_of_the_photo() -> None:
    sample = pairs(zoom=(1.0, 1.0), colour=0.0, flip=False, permute=0.0, collage=0.0)[5]
    levels = sample.hq * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)


def test_permuted_channels_are_those_of_the_photo() -> None:
    plain, permuted = (
        pairs(zoom=(1.0, 1.0), colour=0.0, permute=share, collage=0.0, flip=False) for share in (0.0, 1.0)
    )
    reordered = 0
    photo = SOURCE.train()[0]
    for seed in range(5):
        kept, mixed = (
            source.maker.augmentation.crop(photo.pixels(), 40, torch.Generator().manual_seed(seed))
            for source in (plain, permuted)
        )
        assert torch.equal(kept.sort(0).values, mixed.sort(0).values)
        reordered += not torch.equal(kept, mixed)
    assert reordered > 0


def test_gray_crops_have_no_colours() -> None:
    photo = torch.randint(256, (3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    augmentation = Augmentation(zoom=(1, 1), colour=0.2, flip=True, gray=0.5)
    crops = [augmentation.crop(photo, 16, torch.Generator().manual_seed(i)) for i in range(20)]
    spread = [float((crop.amax(0) - crop.amin(0)).max()) for crop in crops]
    assert 3 < sum(value == 0 for value in spread) < 17


def test_a_crop_shows_what_its_label_says() -> None:
    holes = {"uncompleted": Inpainting(coverage=[0.05, 0.1], brush=[3, 6], blocks=1.0, fill=1.0)}
    still = Augmentation(zoom=(1.0, 1.0), colour=0.0, flip=False, permute=0.0, collage=0.0)
    samples = TrainingPairs(SOURCE.train(), PairMaker(holes, 24, 96, still), Mix(None, 0.5), 60, 0)
    marked = sum(not torch.equal(samples[i].lq, samples[i].hq) for i in range(60))
    assert marked > 50  # a crop of a sixteenth of the area, holes on a tenth of it: mostly none with one try


class Lift(GaussianNoise):
    """A trace that can be told from others: brighter by 2 each time, beyond what a photo can be."""

    def apply(self, images: torch.Tensor, drawn: Drawn) -> torch.Tensor:
        return images + 2


def traced(degradation: Degradation, share: float) -> TrainingPairs:
    augmentation = Augmentation((1.0, 1.0), 0.0, False, traces=Lift(0), trace_share=share)
    return TrainingPairs(SOURCE.train(), PairMaker({"x": degradation}, 48, 64, augmentation), Mix(None, 0.5), 100, 0)


def test_traces_lie_on_both_sides_and_some_more_on_the_degraded_one() -> None:
    source = traced(Inpainting(coverage=0.1, brush=[3, 6], blocks=1.0, fill=1.0), 0.5)
    seen = {(int(sample.hq.mean() / 2), int(sample.lq.mean() / 2)) for sample in (source[i] for i in range(24))}
    assert seen >= {(0, 0), (0, 1)}
    assert all(lq - hq in (0, 1) or hq for hq, lq in seen)
    assert {hq for hq, _ in seen} == {0, 1}


def test_without_traces_nothing_more_is_drawn() -> None:
    assert torch.equal(pairs(traces=None, trace_share=1.0)[3].lq, pairs()[3].lq)


def test_a_clean_photo_is_its_own_degraded_version(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = Mock(side_effect=daclip.data.pairs.random_crop)
    monkeypatch.setattr(daclip.data.pairs, "random_crop", cut)
    samples = [traced(Clean(), 0.5)[i] for i in range(12)]
    assert all(torch.equal(sample.lq, sample.hq) and sample.lq.shape == (3, 48, 48) for sample in samples)
    assert {int(sample.hq.mean() / 2) for sample in samples} == {0, 1}
    assert cut.call_count == 2 * 12  # the piece and the crop; a clean crop is no failure to be tried again


@given(seed=st.integers(0, 10_000), size=st.integers(16, 65))
def test_a_laid_piece_hides_a_part_of_the_ground(seed: int, size: int) -> None:
    laid = lay(torch.ones(3, size, size + 3), torch.zeros(3, size, size + 3), torch.Generator().manual_seed(seed))
    assert laid.shape == (3, size, size + 3)
    assert laid.min() >= 0
    assert 0 < laid.mean() <= 1
    soft = ((laid > 0) & (laid < 1)).float().mean()
    assert soft < 6 / size  # an edge, not a veil


def test_training_never_sees_a_validation_photo() -> None:
    seen = {pairs()[i].name for i in range(60)}
    assert seen
    assert seen <= {photo.name for photo in SOURCE.train()}
    assert not seen & {photo.name for photo in SOURCE.validation()}


def test_validation_set_is_fixed_and_shows_every_class_on_the_same_crop() -> None:
    fixed = ValidationPairs(SOURCE.validation(), degradations(), 64, 3, 0)
    assert len(fixed) == 2 * 3 * 2
    assert torch.equal(fixed[4].lq, ValidationPairs(SOURCE.validation(), degradations(), 64, 3, 0)[4].lq)
    assert torch.equal(fixed[0].hq, fixed[1].hq)
    assert not torch.equal(fixed[0].hq, fixed[2].hq)
    assert [fixed[i].degradation for i in range(2)] == ["noisy", "uncompleted"]
    with pytest.raises(IndexError):
        fixed[len(fixed)]
    # A crop larger than the smallest photo is cut to it: chelsea has 300 rows.


@pytest.mark.parametrize("first_step", [0, 3])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_the_stream_without_overlap_or_loss(world_size: int, first_step: int) -> None:
    size = 8 // world_size
    shares = [iter(StreamSampler(size, rank, world_size, first_step)) for rank in range(world_size)]
    for step in range(first_step, first_step + 5):
        # Step by step the union is the batch of a single process.
        batch = [next(share) for share in shares for _ in range(size)]
        assert sorted(batch) == list(range(8 * step, 8 * (step + 1)))


def test_epochs_are_cut_from_one_stream_and_resumed_anywhere() -> None:
    def numbers(step: int) -> Any:
        return itertools.count(step)

    loader = EpochLoader(numbers, 3, 0)
    assert len(loader) == 3
    assert [list(loader), list(loader)] == [[0, 1, 2], [3, 4, 5]]
    # An epoch that is left before its end goes on; so does a loader that was closed, or made anew.
    assert next(iter(loader)) == 6
    assert list(loader) == [7, 8, 9]
    loader.close()
    assert list(loader) == [10, 11, 12]
    assert list(EpochLoader(numbers, 3, loader.position())) == [13, 14, 15]


def test_contradictory_sizes_are_refused() -> None:
    def build(**changes: Any) -> MixedDegradationData:
        settings: dict[str, Any] = {
            "crop_size": 48,
            "context_size": 48,
            "batch_size": 4,
            "samples_per_epoch": 8,
            "validation_size": 64,
            "validation_crops": 1,
            "validation_batch_size": 2,
            "num_workers": 0,
            "seed": 0,
            **changes,
        }
        return MixedDegradationData(
            SOURCE, degradations(), augmentation=Augmentation((1, 1), 0, False, 0, 0), **settings
        )

    assert len(next(iter(build().train_dataloader()))) == 4
    with pytest.raises(DaclipError, match="larger than the data"):
        build(batch_size=9)
    with pytest.raises(DaclipError, match=r"context_size=40 is smaller than data\.crop_size=48"):
        build(context_size=40)
    with pytest.raises(DaclipError, match="at least 1"):
        build(batch_size=0)
