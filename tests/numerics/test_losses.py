"""Stage-1 losses against their closed forms."""

import math

import pytest
import torch
from torch.nn import functional as F

from daclip.clip.losses import contrastive_loss, distillation_loss, multi_positive_loss

SCALE = torch.tensor(100.0)


def perfect_batch(words: int, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images that sit exactly on orthogonal texts: unique texts, labels, images."""
    texts = torch.eye(words, 16)
    label = torch.arange(size) % words
    return texts, label, texts[label]


@pytest.mark.parametrize("size", [8, 16, 64])
def test_official_loss_has_the_floor_and_multi_positive_has_none(size: int) -> None:
    texts, label, image = perfect_batch(4, size)
    official = contrastive_loss(image, texts[label], SCALE)
    # With K texts in a batch of B every sample has B/K perfect candidates.
    assert official.item() == pytest.approx(math.log(size / 4), abs=1e-4)
    assert multi_positive_loss(image, texts, label, SCALE).item() == pytest.approx(0, abs=1e-4)


def test_multi_positive_equals_official_when_all_texts_differ() -> None:
    generator = torch.Generator().manual_seed(0)
    image = F.normalize(torch.randn(6, 16, generator=generator), dim=-1)
    text = F.normalize(torch.randn(6, 16, generator=generator), dim=-1)
    official = contrastive_loss(image, text, torch.tensor(10.0))
    ours = multi_positive_loss(image, text, torch.arange(6), torch.tensor(10.0))
    torch.testing.assert_close(ours, official)


def test_multi_positive_ignores_texts_without_images() -> None:
    texts, label, image = perfect_batch(4, 8)
    few = label < 2
    loss = multi_positive_loss(image[few], texts, label[few], SCALE)
    assert torch.isfinite(loss)
    assert loss.item() == pytest.approx(0, abs=1e-4)


def test_distillation_is_zero_for_parallel_and_two_for_opposite_vectors() -> None:
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    assert distillation_loss(3 * x, x).item() == pytest.approx(0, abs=1e-6)
    assert distillation_loss(-x, x).item() == pytest.approx(2, abs=1e-6)
