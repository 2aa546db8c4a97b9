"""What every degradation in conf/degradation promises."""

import functools
import pickle
from collections.abc import Sequence
from pathlib import Path

import hydra
import pytest
import torch
from omegaconf import DictConfig
from skimage import data
from torch import Tensor

from daclip.commands.options import make
from daclip.config import config_dir
from daclip.degradations import Degradation, split_classes, vocabulary
from daclip.degradations.base import OneByOne
from daclip.errors import DaclipError

OTHERS = {"all", "world", "world_clean"}  # lists of degradations, and the one that changes nothing
FILES = sorted(
    path for path in (Path(__file__).parents[2] / "conf" / "degradation").glob("*.yaml") if path.stem not in OTHERS
)
PHOTOS = [torch.from_numpy(photo).permute(2, 0, 1).float() / 255 for photo in (data.astronaut(), data.coffee())]


@functools.cache
def composed(name: str) -> DictConfig:
    """The group as `degradation=NAME` composes it."""
    with hydra.initialize_config_dir(config_dir(), version_base="1.3"):
        return hydra.compose("degradations", overrides=[f"degradation={name}"]).degradation


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def file(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def class_name(file: Path) -> str:
    return file.stem.removeprefix("world_")


@functools.cache
def made(name: str) -> Degradation:
    """The degradation of a file."""
    return make(composed(name)[name.removeprefix("world_")])


@pytest.fixture
def degradation(file: Path) -> Degradation:
    return made(file.stem)


def crops(height: int, width: int, count: int = 3) -> Tensor:
    """Different crops of real photos, `[count, 3, height, width]`."""
    starts = [(20, 180), (120, 60), (180, 60), (60, 300)]  # nothing black, where no shadow would show
    return torch.stack(
        [
            PHOTOS[index % 2][:, top : top + height, left : left + width]
            for index, (top, left) in zip(range(count), starts, strict=False)
        ]
    )


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_the_group_is_found() -> None:
    assert FILES, "no yaml files in conf/degradation"


def test_each_file_holds_one_node_keyed_by_its_own_word(file: Path, class_name: str) -> None:
    assert list(composed(file.stem)) == [class_name]


@pytest.mark.parametrize(
    ("size", "severity"),
    [((32, 32), 0.0), ((32, 32), 1.0), ((33, 47), None), ((97, 64), 0.0), ((97, 64), 0.5), ((128, 96), 1.0)],
)
def test_output_is_a_picture_of_the_same_kind(
    degradation: Degradation, size: tuple[int, int], severity: float | None
) -> None:
    images = crops(*size)
    result = degradation(images, generators([0, 1, 2]), severity)
    assert result.shape == images.shape
    assert result.dtype == torch.float32
    assert result.isfinite().all()
    assert result.min() >= 0
    assert result.max() <= 1
    assert all((result[i] - images[i]).abs().max() > 0.01 for i in range(3)), "a sample came out clean"


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_flat_pictures_stay_in_range(degradation: Degradation, value: float) -> None:
    result = degradation(torch.full((1, 3, 48, 64), value), generators([0]), 1.0)
    assert result.isfinite().all()
    assert result.min() >= 0
    assert result.max() <= 1


def test_input_is_not_modified(degradation: Degradation) -> None:
    images = crops(64, 64)
    before = images.clone()
    degradation(images, generators([0, 1, 2]), 1.0)
    assert torch.equal(images, before)


def test_apply_does_not_modify_the_draw(degradation: Degradation) -> None:
    drawn = degradation.draw(64, 64, 0.7, torch.Generator().manual_seed(3))
    before = {key: value.clone() for key, value in drawn.items()}
    first, second = (degradation.apply(crops(64, 64, 1), drawn) for _ in range(2))
    assert torch.equal(first, second)
    assert all(torch.equal(drawn[key], value) for key, value in before.items())


def test_draws_concatenate(degradation: Degradation) -> None:
    mild, strong = (degradation.draw(64, 49, severity, *generators([4])) for severity in (0.0, 1.0))
    assert all(value.shape[0] == 1 for value in mild.values())
    assert {k: v.dtype for k, v in mild.items()} == {k: v.dtype for k, v in strong.items()}
    if not isinstance(degradation, OneByOne):  # which never concatenates
        assert [v.shape for v in mild.values()] == [v.shape for v in strong.values()]


@pytest.mark.parametrize("severity", [0.8, None])
def test_generator_decides_alone(degradation: Degradation, severity: float | None) -> None:
    images = crops(64, 64, 1)
    torch.manual_seed(0)
    first = degradation(images, generators([5]), severity)
    torch.manual_seed(1)  # the global generator must not matter
    again = degradation(images, generators([5]), severity)
    assert torch.equal(first, again)
    # A codec at a fixed severity has few settings, so several seeds are compared.
    others = [degradation(images, generators([seed]), severity) for seed in range(6, 16)]
    assert any(not torch.equal(first, other) for other in others)


def test_global_generator_is_left_alone(degradation: Degradation) -> None:
    before = torch.get_rng_state()
    degradation(crops(64, 64), generators([0, 1, 2]))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("severity", [0.6, None])
def test_what_was_drawn_repeats_the_corruption(degradation: Degradation, severity: float | None) -> None:
    images = crops(48, 64)
    done = degradation.degrade(images, generators([3, 4, 5]), severity)
    assert torch.equal(degradation(images, generators([3, 4, 5]), severity), done.images)
    assert len(done.severities) == len(done.drawn) == len(done.classes) == 3
    assert done.severities == [severity] * 3 or (severity is None and len(set(done.severities)) == 3)
    for drawn in done.drawn:
        assert drawn
        assert all(value.device.type == "cpu" and value.shape[0] == 1 for value in drawn.values())
    assert torch.equal(degradation.replay(images, done.drawn), done.images)


def test_labels_are_made_of_its_words(class_name: str, degradation: Degradation) -> None:
    labels = degradation.degrade(crops(32, 32, 1).expand(40, 3, 32, 32), generators(range(40))).classes
    classes = vocabulary({class_name: degradation})
    assert len(set(classes)) == len(classes)
    if degradation.classes:
        used = {single for label in labels if label is not None for single in split_classes(label)}
        assert None not in labels
        assert len(used) > 1
        assert used <= set(classes)
    else:
        assert classes == [class_name]
        assert set(labels) == {None}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_device_gives_the_same_as_the_cpu(degradation: Degradation) -> None:
    images = crops(65, 80)
    on_cpu = degradation.degrade(images, generators([7, 8, 9]), 0.6)
    on_device = degradation.degrade(images.cuda(), generators([7, 8, 9]), 0.6)
    for first, second in zip(on_cpu.drawn, on_device.drawn, strict=True):
        assert first.keys() == second.keys()
        assert all(torch.equal(value, second[key]) for key, value in first.items())
    # A codec rounds: the last bit of what it gets may move a pixel of what comes out.
    assert (on_device.images.cpu() - on_cpu.images).abs().mean() < 1e-3


@pytest.mark.parametrize("severity", [0.6, None])
def test_result_does_not_depend_on_the_batch_split(degradation: Degradation, severity: float | None) -> None:
    images = crops(65, 80)
    together = degradation(images, generators([7, 8, 9]), severity)
    alone = [degradation(images[i : i + 1], generators([7 + i]), severity) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=2e-6)


def test_severity_lowers_the_psnr(degradation: Degradation) -> None:
    images = crops(96, 96, 4).repeat(4, 1, 1, 1)
    psnr = []
    for severity in (0.1, 0.5, 1.0):
        error = (degradation(images, generators(range(16)), severity) - images).square().mean(dim=(1, 2, 3))
        psnr.append(float((-10 * error.log10()).mean()))
    assert psnr[0] > psnr[1] + 0.3
    assert psnr[1] > psnr[2] + 0.3


def test_pickling_keeps_the_result(degradation: Degradation) -> None:
    copy = pickle.loads(pickle.dumps(degradation))  # how loader workers receive it
    images = crops(48, 48, 1)
    assert torch.equal(copy(images, generators([2]), 0.5), degradation(images, generators([2]), 0.5))


@pytest.mark.parametrize("severity", [-0.01, 1.01, float("nan")])
def test_severity_outside_its_range_is_refused(degradation: Degradation, severity: float) -> None:
    with pytest.raises(DaclipError, match="severity"):
        degradation(crops(64, 64, 1), generators([0]), severity)


@pytest.mark.parametrize(
    ("images", "seeds", "message"),
    [
        (torch.zeros(2, 3, 64, 64), [0], "one generator a sample"),
        (torch.zeros(1, 1, 64, 64), [0], r"\[B, 3, H, W\]"),
        (torch.zeros(3, 64, 64), [0], r"\[B, 3, H, W\]"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), [0], "float32"),
        (torch.zeros(1, 3, 64, 31), [0], "at least 32 px"),
    ],
)
def test_wrong_input_is_refused(degradation: Degradation, images: Tensor, seeds: list[int], message: str) -> None:
    with pytest.raises(DaclipError, match=message):
        degradation(images, generators(seeds), 0.5)
