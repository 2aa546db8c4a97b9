"""Facts about blur kernels, changes of size, compositions and the in-the-wild pipeline."""

import math
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import hydra
import pytest
import torch
from skimage import data
from torch import Tensor
from torch.nn import functional as F
from wide import seeded

from daclip.commands.evaluate import score
from daclip.commands.options import make
from daclip.config import config_dir
from daclip.data.pairs import ValidationPairs
from daclip.data.sources import EmbeddedPhotos
from daclip.degradations import blur as kernels
from daclip.degradations import vocabulary
from daclip.degradations.blur import KernelBlur
from daclip.degradations.compose import Chain, Combinations, OneOf, RandomOrder, WildPipeline, named, steps
from daclip.degradations.digital import Resize, resampling
from daclip.degradations.light import LowLight
from daclip.degradations.mask import Inpainting
from daclip.degradations.noise import GaussianNoise, PoissonNoise
from daclip.errors import DaclipError
from daclip.metrics.image import Protocol, Psnr
from daclip.metrics.scorer import Extremes, Scorer
from daclip.types import Restoration, Restored

PHOTO = (torch.from_numpy(data.astronaut()).permute(2, 0, 1).float() / 255)[None, :, 20:116, 180:308]
GREY = torch.full((1, 3, 128, 128), 0.5)
MODES = ["area", "bilinear", "bicubic"]


def configured(class_name: str) -> Any:
    with hydra.initialize_config_dir(config_dir(), version_base="1.3"):
        return make(hydra.compose("degradations", overrides=[f"degradation={class_name}"]).degradation[class_name])


@pytest.fixture(scope="module")
def wild() -> WildPipeline:
    return configured("wild")


@pytest.fixture(scope="module")
def composite() -> Combinations:
    return configured("composite")


def spreads(kernel: Tensor) -> tuple[float, float]:
    """Standard deviations of a kernel along its axes, the smaller first."""
    steps = torch.arange(len(kernel), dtype=torch.float32) - len(kernel) // 2
    rows, columns = kernel.sum(1), kernel.sum(0)
    mixed = (kernel * steps[:, None] * steps).sum()
    moments = torch.stack(
        (torch.stack(((rows * steps**2).sum(), mixed)), torch.stack((mixed, (columns * steps**2).sum())))
    )
    small, large = torch.linalg.eigvalsh(moments).clamp(min=0).sqrt().tolist()
    return small, large


# Kernels


def test_kernels_have_the_spread_of_their_formulas() -> None:
    assert spreads(kernels.gaussian(kernels.elliptic(12, 2, 2, 0), 1)) == pytest.approx((2, 2), rel=1e-3)
    assert spreads(kernels.gaussian(kernels.elliptic(12, 3, 1, 0.7), 1)) == pytest.approx((1, 3), rel=1e-2)
    assert spreads(kernels.defocus(12, 6)) == pytest.approx((3, 3), rel=0.02)
    assert spreads(kernels.box(12, 9)) == pytest.approx([math.sqrt((9**2 - 1) / 12)] * 2, rel=1e-3)
    small, large = spreads(kernels.line(12, 15, 0.5))
    assert small < 0.6
    assert large == pytest.approx(15 / math.sqrt(12), rel=0.03)


def test_a_line_points_where_it_should() -> None:
    horizontal = kernels.line(4, 5, 0)
    assert horizontal[4, 2:7].tolist() == pytest.approx([0.2] * 5)
    assert float(horizontal[4].sum()) == pytest.approx(1)
    torch.testing.assert_close(kernels.line(4, 5, math.pi / 2), horizontal.T, rtol=0, atol=1e-6)


def test_the_shape_changes_tails_and_top() -> None:
    squared = kernels.elliptic(12, 2, 2, 0)
    plain, heavy = kernels.gaussian(squared, 1), kernels.gaussian(squared, 0.5)
    assert heavy[12, 0] > 10 * plain[12, 0]
    top = kernels.plateau(squared, 3)
    assert top[12, 13] / top[12, 12] > 0.98  # flat
    assert top[12, 16] / top[12, 12] < 0.05  # steep: r = 2σ


def test_sinc_cuts_off_high_frequencies_only() -> None:
    cutoff = 1.2
    response = torch.fft.rfft2(kernels.sinc(20, cutoff), s=(128, 128)).abs()
    radius = 2 * math.pi * (torch.fft.fftfreq(128)[:, None] ** 2 + torch.fft.rfftfreq(128)[None] ** 2).sqrt()
    assert response[radius < 0.7 * cutoff].min() > 0.8
    assert response[radius > 1.3 * cutoff].max() < 0.2
    assert kernels.sinc(20, cutoff).min() < 0  # it rings


@pytest.mark.parametrize("kind", KernelBlur.names)
def test_each_kind_of_blur_keeps_brightness_and_grows_with_severity(kind: str) -> None:
    blur = KernelBlur({kind: 1}, sigma=[0.6, 3], ratio=[0.3, 1], generalised=1, plateau=2, cutoff=[2.4, 0.9])
    drawn = [blur.draw(96, 128, severity, seeded(0))["kernel"] for severity in (0.0, 0.5, 1.0)]
    assert len({kernel.shape for kernel in drawn}) == 1
    for kernel in drawn:
        assert float(kernel.sum()) == pytest.approx(1, abs=1e-5)
        torch.testing.assert_close(kernel, kernel.flip(-2, -1), rtol=0, atol=1e-6)
    # Kernels of a wider spread let less of the squares of the photo's details through.
    left = [float(blur.apply(PHOTO, {"kernel": kernel}).diff(dim=-1).square().mean()) for kernel in drawn]
    assert left[0] > 1.1 * left[1] > 1.1 * left[2]
    torch.testing.assert_close(blur.apply(GREY, {"kernel": drawn[2]}), GREY, rtol=0, atol=1e-5)


def test_blur_takes_all_kinds_in_proportion() -> None:
    kinds = {"box": 3.0, "sinc": 1.0}
    blur = KernelBlur(kinds, sigma=1, ratio=1, generalised=1, plateau=2, cutoff=1)
    rings = [bool((blur.draw(64, 64, 0.5, seeded(i))["kernel"] < 0).any()) for i in range(200)]
    assert sum(rings) / 200 == pytest.approx(0.25, abs=0.09)
    with pytest.raises(DaclipError, match="wobbly"):
        KernelBlur({"wobbly": 1}, sigma=1, ratio=1, generalised=1, plateau=2, cutoff=1)


# Noise


def test_photon_noise_has_the_variance_of_its_light() -> None:
    noise = PoissonNoise(peak=400)
    for light in (0.2, 0.6):
        photo = torch.full((1, 3, 128, 128), light)
        result = noise(photo, [seeded(0)], 0.5)
        assert float(result.mean()) == pytest.approx(light, abs=1e-3)
        assert float(result.std()) == pytest.approx(math.sqrt(light / 400), rel=0.03)


@pytest.mark.parametrize("noise", [GaussianNoise(sigma=20, gray=1.0), PoissonNoise(peak=200, gray=1.0)])
def test_gray_noise_is_the_same_in_all_channels(noise: GaussianNoise | PoissonNoise) -> None:
    photo = 0.4 + 0.2 * PHOTO  # where nothing clips
    error = noise(photo, [seeded(0)], 0.5) - photo
    torch.testing.assert_close(error[:, :1].expand_as(error), error, rtol=0, atol=1e-6)
    assert float(error.std()) > 0.02


def test_noise_far_beyond_the_usual_is_an_override() -> None:
    noise = GaussianNoise(sigma=120).draw(128, 128, 0.5, seeded(0))["noise"]
    assert float(noise.std()) * 255 == pytest.approx(120, rel=0.02)


# Size


@pytest.mark.parametrize("mode", MODES)
def test_resizing_equals_interpolation(mode: str) -> None:
    drawn = {"rows": resampling(96, 41, mode)[None], "columns": resampling(128, 150, mode)[None]}
    corners = {} if mode == "area" else {"align_corners": False}
    expected = F.interpolate(PHOTO, (41, 150), mode=mode, **corners).clamp(0, 1)
    resize = Resize({"down": 1, "up": 1}, down=0.5, up=2, modes=[mode])
    torch.testing.assert_close(resize.apply(PHOTO, drawn), expected, rtol=0, atol=1e-5)


def test_resizing_goes_both_ways_and_not_below_what_later_parts_need() -> None:
    resize = Resize({"down": 1, "up": 1}, down=[0.9, 0.3], up=[1.1, 1.5], modes=MODES)
    sizes = [resize.draw(100, 60, 1.0, seeded(i))["rows"].shape[1] for i in range(20)]
    assert all(30 <= size <= 34 or 145 <= size <= 150 for size in sizes)
    assert min(sizes) < 50 < max(sizes)
    smallest = [resize.draw(32, 33, 1.0, seeded(i))["columns"].shape[1] for i in range(20)]
    assert min(smallest) == 16
    with pytest.raises(DaclipError, match="lanczos"):
        Resize({"down": 1, "up": 1}, down=0.5, up=2, modes=["lanczos"])


# Compositions


def darken() -> LowLight:
    return LowLight(gain=0.2, gamma=1, shot=0, read=0)


def holes() -> Inpainting:
    return Inpainting(coverage=0.3, brush=[3, 8], blocks=0.5, fill=1.0)


def test_a_chain_applies_its_parts_in_order_and_names_them() -> None:
    parts = {"low-light": darken(), "uncompleted": holes()}
    first = Chain(parts, share=1).degrade(PHOTO, [seeded(0)], 0.5)
    second = Chain(dict(reversed(parts.items())), share=1).degrade(PHOTO, [seeded(0)], 0.5)
    assert first.classes == ["low-light, uncompleted"]
    assert second.classes == ["uncompleted, low-light"]
    hole = first.drawn[0]["uncompleted/mask"].expand_as(PHOTO)
    assert (first.images[hole] == 1).all()
    # Light comes last: white becomes gray.
    hole = second.drawn[0]["uncompleted/mask"].expand_as(PHOTO)
    assert second.images[hole].max() < 0.6
    expected = parts["uncompleted"].apply(
        parts["low-light"].apply(PHOTO, dict(steps(first.drawn[0]))["low-light"]),
        dict(steps(first.drawn[0]))["uncompleted"],
    )
    assert torch.equal(first.images, expected)


def test_parts_take_their_share_of_the_severity() -> None:
    chain = Chain({"noisy": GaussianNoise(sigma=[0, 100])}, share=[0.5, 0.9])
    noise = [float(chain.draw(64, 64, 0.8, seeded(i))["noisy/noise"].std()) * 255 for i in range(40)]
    assert 0.39 * 100 < min(noise) < 45
    assert 67 < max(noise) < 0.73 * 100


def test_a_part_does_not_change_the_draws_of_the_others() -> None:
    # The number of drops depends on severity; the noise after them must not.
    chain = Chain({"uncompleted": holes(), "noisy": GaussianNoise(sigma=10)}, share=1)
    first, second = (chain.draw(64, 64, severity, seeded(0)) for severity in (0.1, 0.9))
    assert torch.equal(first["noisy/noise"], second["noisy/noise"])


def test_random_order_takes_all_parts_in_both_orders_under_one_label() -> None:
    mixed = RandomOrder({"low-light": darken(), "uncompleted": holes()}, share=1)
    done = mixed.degrade(PHOTO.expand(20, -1, -1, -1), [seeded(i) for i in range(20)], 0.5)
    assert {next(iter(steps(drawn)))[0] for drawn in done.drawn} == {"low-light", "uncompleted"}
    assert set(done.classes) == {"low-light, uncompleted"}


def test_one_of_several_follows_its_weights() -> None:
    several = OneOf({"low-light": darken(), "noisy": GaussianNoise(sigma=9)}, {"low-light": 3, "noisy": 1})
    done = several.degrade(PHOTO[..., :32, :32].expand(200, -1, -1, -1), [seeded(i) for i in range(200)], 0.5)
    assert Counter(done.classes)["noisy"] / 200 == pytest.approx(0.25, abs=0.09)
    assert vocabulary({"either": several, "snowy": darken()}) == ["low-light", "noisy", "snowy"]


def test_compositions_nest() -> None:
    inner = OneOf({"noisy": GaussianNoise(sigma=9)})
    outer = Chain({"low-light": darken(), "sensor": inner}, share=1)
    done = outer.degrade(PHOTO, [seeded(0)], 0.5)
    assert done.classes == ["low-light, noisy"]
    assert outer.classes == ("low-light", "noisy")
    assert list(done.drawn[0])[-1] == "sensor/noisy/noise"


def test_wrong_compositions_are_refused() -> None:
    noise = {"noisy": GaussianNoise(sigma=9)}
    with pytest.raises(DaclipError, match="weights"):
        OneOf(noise, {"rainy": 1})
    with pytest.raises(DaclipError, match="not all 0"):
        OneOf(noise, {"noisy": 0})
    with pytest.raises(DaclipError, match="rainy"):
        Combinations(noise, [["noisy", "rainy"]], share=1)
    with pytest.raises(DaclipError, match="a/b"):
        Chain({"a/b": GaussianNoise(sigma=9)}, share=1)
    with pytest.raises(DaclipError, match="share"):
        Chain(noise, share=1.5)


def test_composite_is_every_listed_pair_of_the_ten(composite: Combinations) -> None:
    done = composite.degrade(PHOTO[..., :32, :32].expand(150, -1, -1, -1), [seeded(i) for i in range(150)])
    assert set(done.classes) == set(composite.parts)
    assert all(len(str(label).split(", ")) == 2 for label in done.classes)
    with hydra.initialize_config_dir(config_dir(), version_base="1.3"):
        ten = hydra.compose("train_daclip").degradation
        own = hydra.compose("degradations", overrides=["degradation=composite"]).degradation.composite.parts
    assert own == ten
    assert set(composite.classes) == set(ten)


# In the wild


def test_wild_photos_keep_their_size_and_show_all_parts(wild: WildPipeline) -> None:
    photos = PHOTO[..., :64, :80].expand(120, -1, -1, -1)
    done = wild.degrade(photos, [seeded(i) for i in range(120)])
    assert done.images.shape == photos.shape
    single = Counter(class_name for label in done.classes for class_name in str(label).split(", "))
    assert set(single) == set(wild.classes)
    for class_name in ("blurry", "low-resolution", "noisy", "jpeg-compressed"):
        assert 0.4 < single[class_name] / 120 < 0.95  # a word that is always there would say nothing
    assert single["gray"] < 12


def test_wild_severity_changes_strength_but_not_the_label(wild: WildPipeline) -> None:
    for seed in range(20):
        mild, strong = (wild.degrade(PHOTO, [seeded(seed)], severity) for severity in (0.2, 1.0))
        assert mild.classes == strong.classes
        assert list(mild.drawn[0]) == list(strong.drawn[0])
        assert (strong.images - PHOTO).square().mean() > (mild.images - PHOTO).square().mean()


def test_wild_orders_vary(wild: WildPipeline) -> None:
    orders = {
        tuple(name for _, part in steps(wild.draw(48, 48, 0.5, seeded(i))) for name, _ in steps(part))
        for i in range(60)
    }
    firsts = {order[0] for order in orders}
    assert {"blurry", "low-resolution", "noisy", "jpeg-compressed"} <= firsts
    assert len(orders) > 30


def pipeline(chances: list[float], shares: list[float], gray: float = 0.0, **parts: Any) -> WildPipeline:
    parts.setdefault("small", Resize({"down": 1, "up": 0}, down=0.5, up=1, modes=MODES))
    return WildPipeline(parts, chances, shares, shuffle=0, gray=gray)


def test_growing_a_photo_is_only_named_where_nothing_else_happened() -> None:
    grow = Resize({"down": 0, "up": 1}, down=1, up=1.5, modes=["bilinear"])
    only = pipeline([1], [1], small=grow).degrade(PHOTO, [seeded(0)], 0.5)
    assert only.classes == ["small"]
    both = pipeline([1], [1], small=grow, noisy=GaussianNoise(sigma=9)).degrade(PHOTO, [seeded(0)], 0.5)
    assert both.classes == ["noisy"]


def test_what_chance_leaves_out_is_made_up_for_by_the_last_part() -> None:
    done = pipeline([0, 0], [1, 1], noisy=GaussianNoise(sigma=9)).degrade(PHOTO, [seeded(0)], 0.5)
    assert done.classes == ["small"]  # added after noisy


def test_a_gray_photo_has_equal_channels() -> None:
    done = pipeline([1], [1], gray=1.0).degrade(PHOTO, [seeded(0)], 0.5)
    assert done.classes == ["gray, small"]
    torch.testing.assert_close(done.images[:, :1].expand_as(PHOTO), done.images, rtol=0, atol=1e-6)


def test_rounds_take_their_share_of_the_severity() -> None:
    both = pipeline([1, 1], [1.0, 0.25], noisy=GaussianNoise(sigma=[0, 100]))
    drawn = both.draw(96, 96, 0.8, seeded(0))
    assert float(drawn["1/noisy/noise"].std()) * 255 == pytest.approx(80, rel=0.05)
    assert float(drawn["2/noisy/noise"].std()) * 255 == pytest.approx(20, rel=0.1)


def test_wrong_pipelines_are_refused() -> None:
    noise = GaussianNoise(sigma=9)
    with pytest.raises(DaclipError, match="one Resize"):
        WildPipeline({"noisy": noise}, [1], [1], shuffle=0, gray=0)
    with pytest.raises(DaclipError, match="each round"):
        pipeline([1, 1], [1], noisy=noise)
    with pytest.raises(DaclipError, match="back"):
        pipeline([1], [1], back=noise)
    with pytest.raises(DaclipError, match="gray"):
        pipeline([1], [1], gray=2.0)


def test_names_lead_back_to_the_parts() -> None:
    drawn = {**named("b", {"x/y": torch.zeros(1)}), **named("a", {"z": torch.ones(1)})}
    assert [(name, list(part)) for name, part in steps(drawn)] == [("b", ["x/y"]), ("a", ["z"])]


def test_scores_are_kept_by_label_and_any_of_its_words_is_right(wild: WildPipeline) -> None:
    class Echo:
        """Restores nothing and calls everything noisy."""

        vocabulary = ("noisy", "rainy")
        sampler = SimpleNamespace(nfe=1)

        def restore(self, lq: Tensor, numbers: Sequence[int]) -> Restored:
            return Restored([Restoration(image, {"noisy": 1.0}, seed=0, seconds=0.0) for image in lq])

    photos = EmbeddedPhotos(["chelsea.png", "coffee.png"]).validation()
    pairs = ValidationPairs(photos, {"wild": wild}, size=48, crops=10, seed=0)
    restorer: Any = Echo()
    scorer = Scorer(Protocol("rgb", eight_bit=True, border=0, colour="rgb"), {"psnr": Psnr()})
    metrics, _ = score(restorer, pairs, 5, scorer, Extremes(0))
    labels = Counter(sample.degradation for sample in (pairs[i] for i in range(len(pairs))))
    assert Counter(photo.degradation for photo in scorer.photos) == labels
    named = {label: float("noisy" in label) for label in labels}
    assert metrics["per_degradation_accuracy"] == named
    expected = sum(named[label] * count for label, count in labels.items()) / 20
    assert 0 < expected < 1
    assert metrics["degradation_accuracy"] == pytest.approx(expected)
