"""Fidelity scores against scikit-image and the recorded numbers of the original."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from reference import golden
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from daclip.metrics.image import MetricUnavailableError, MsSsim, luma, psnr, ssim
from daclip.pixels import quantise


def noisy_pair() -> tuple[torch.Tensor, torch.Tensor]:
    clean = torch.from_numpy(data.coffee()[:120, :160]).permute(2, 0, 1).float() / 255
    noise = torch.randn(2, *clean.shape, generator=torch.Generator().manual_seed(0))
    return quantise(clean + 0.1 * noise), clean.expand(2, -1, -1, -1)


def test_psnr_agrees_with_scikit_image() -> None:
    image, clean = noisy_pair()
    for i, value in enumerate(psnr(image, clean).tolist()):
        expected = peak_signal_noise_ratio(clean[i].numpy(), image[i].numpy(), data_range=1.0)
        assert value == pytest.approx(expected, abs=1e-4)
    assert psnr(clean, clean).isinf().all()


def test_ssim_agrees_with_scikit_image() -> None:
    image, clean = noisy_pair()
    for i, value in enumerate(ssim(image, clean).tolist()):
        _, full = structural_similarity(
            clean[i].permute(1, 2, 0).numpy().astype(np.float64),
            image[i].permute(1, 2, 0).numpy().astype(np.float64),
            channel_axis=2,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1.0,
            full=True,
        )
        assert value == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-4)


@pytest.mark.parametrize(("suffix", "seen"), [("", quantise), ("_y", lambda image: luma(quantise(image)))])
def test_scores_of_the_original_are_reproduced(suffix: str, seen: Callable[[torch.Tensor], torch.Tensor]) -> None:
    known = golden("metrics")
    image, clean = (seen(known[f"1/in_{name}"]) for name in ("output", "target"))
    expected = known.facts["values"]["1"]
    assert psnr(image, clean).item() == pytest.approx(expected[f"psnr{suffix}"], abs=1e-4)
    assert ssim(image, clean).item() == pytest.approx(expected[f"ssim{suffix}"], abs=1e-4)


def test_luma_is_that_of_video() -> None:
    """White is 235, black 16 of 255, whatever the picture's shape (ITU-R BT.601)."""
    ends = luma(torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 3, 2, 5))
    torch.testing.assert_close(ends[:, :, 0, 0], torch.tensor([[16.0], [235.0]]) / 255)
    assert ends.shape == (2, 1, 2, 5)


@pytest.mark.parametrize(("side", "enough"), [(175, False), (176, True)])
def test_ms_ssim_refuses_photos_that_its_window_does_not_fit_into(side: int, enough: bool) -> None:
    image = torch.rand(1, 3, side, 200, generator=torch.Generator().manual_seed(0))
    if enough:
        assert MsSsim().score(image, image).item() == pytest.approx(1)
    else:
        with pytest.raises(MetricUnavailableError, match="176"):
            MsSsim().score(image, image)


def test_ssim_of_nearly_equal_photos_is_not_lost_in_rounding() -> None:
    """On a bright flat picture float32 loses the variance, a difference of squares near 1."""
    image = torch.full((1, 1, 32, 32), 0.99)
    image[..., ::2] += 1e-4
    other = image.flip(-1)
    expected = structural_similarity(
        image[0, 0].double().numpy(),
        other[0, 0].double().numpy(),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1.0,
        full=True,
    )[1][5:-5, 5:-5].mean()
    assert 1 - ssim(image, other).item() == pytest.approx(1 - expected, rel=1e-2)


def test_ms_ssim_falls_with_noise() -> None:
    clean = torch.from_numpy(data.coffee()[:192, :192].copy()).permute(2, 0, 1).float()[None] / 255
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    values = [MsSsim().score((clean + s * noise).clamp(0, 1), clean).item() for s in (0.0, 0.05, 0.2)]
    assert values[0] == pytest.approx(1, abs=1e-6)
    assert values[0] > values[1] > values[2] > 0


def test_quantise_is_what_a_saved_picture_holds() -> None:
    values = torch.tensor([[[[-0.2, 0.4999 / 255, 0.5001 / 255, 1.7]]]])
    torch.testing.assert_close(quantise(values), torch.tensor([[[[0.0, 0.0, 1 / 255, 1.0]]]]))
