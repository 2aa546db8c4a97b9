"""Stage-1 losses against their closed forms."""

import math

import pytest
import torch
from torch.nn import functional as F

from daclip.clip.losses import (
    ContrastiveDistillation,
    CosineDistillation,
    MultiLabel,
    MultiPositive,
    Sigmoid,
    Targets,
    contrastive_loss,
)

SCALE = torch.tensor(100.0)


def single(texts: torch.Tensor, label: torch.Tensor) -> Targets:
    """One text for each image."""
    return Targets(texts, [[row] for row in label.tolist()])


def several(texts: torch.Tensor, member: torch.Tensor) -> Targets:
    return Targets(texts, [row.nonzero().flatten().tolist() for row in member])


def perfect_batch(classes: int, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images that sit exactly on orthogonal texts: unique texts, labels, images."""
    texts = torch.eye(classes, 16)
    label = torch.arange(size) % classes
    return texts, label, texts[label]


@pytest.mark.parametrize("size", [8, 16, 64])
def test_official_loss_has_the_floor_and_multi_positive_has_none(size: int) -> None:
    texts, label, image = perfect_batch(4, size)
    official = contrastive_loss(image, texts[label], SCALE)
    # With K texts in a batch of B every sample has B/K perfect candidates.
    assert official.item() == pytest.approx(math.log(size / 4), abs=1e-4)
    assert MultiPositive()(image, single(texts, label), SCALE).item() == pytest.approx(0, abs=1e-4)


def test_multi_positive_equals_official_when_all_texts_differ() -> None:
    generator = torch.Generator().manual_seed(0)
    image = F.normalize(torch.randn(6, 16, generator=generator), dim=-1)
    text = F.normalize(torch.randn(6, 16, generator=generator), dim=-1)
    official = contrastive_loss(image, text, torch.tensor(10.0))
    ours = MultiPositive()(image, single(text, torch.arange(6)), torch.tensor(10.0))
    torch.testing.assert_close(ours, official)


def test_multi_positive_ignores_texts_without_images() -> None:
    texts, label, image = perfect_batch(4, 8)
    few = label < 2
    loss = MultiPositive()(image[few], single(texts, label[few]), SCALE)
    assert torch.isfinite(loss)
    assert loss.item() == pytest.approx(0, abs=1e-4)


def test_distillation_is_zero_for_parallel_and_two_for_opposite_vectors() -> None:
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    assert CosineDistillation()(3 * x, x, SCALE).item() == pytest.approx(0, abs=1e-6)
    assert CosineDistillation()(-x, x, SCALE).item() == pytest.approx(2, abs=1e-6)


def test_multi_label_equals_multi_positive_for_single_words() -> None:
    texts, label, _ = perfect_batch(4, 12)
    image = F.normalize(torch.randn(12, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    member = F.one_hot(label, 4).float()
    scale = torch.tensor(7.0)
    torch.testing.assert_close(
        MultiLabel()(image, several(texts, member), scale), MultiPositive()(image, single(texts, label), scale)
    )


def test_multi_label_has_its_floor_where_each_photo_lies_between_its_words() -> None:
    texts = torch.eye(3, 16)
    member = torch.tensor([[1.0, 1, 0], [0, 1, 1], [1, 0, 1]])
    between = F.normalize(member @ texts, dim=-1)
    assert MultiLabel()(between, several(texts, member), SCALE).item() == pytest.approx(0, abs=1e-4)
    assert MultiLabel()(texts, several(texts, member), SCALE).item() > 1


def test_sigmoid_loss_is_the_sum_of_binary_cross_entropies() -> None:
    generator = torch.Generator().manual_seed(0)
    image = F.normalize(torch.randn(5, 16, generator=generator), dim=-1)
    texts = F.normalize(torch.randn(3, 16, generator=generator), dim=-1)
    member = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 0]])
    scale = torch.tensor(10.0)
    probability = torch.sigmoid(scale * image @ texts.T - 4.0)
    expected = F.binary_cross_entropy(probability, member, reduction="sum") / 5
    torch.testing.assert_close(Sigmoid(-4.0)(image, several(texts, member), scale), expected)


def test_targets_tell_who_belongs_to_what() -> None:
    targets = Targets(torch.eye(3), [[2], [0, 1]])
    assert targets.label.tolist() == [2, 0]
    assert targets.member.tolist() == [[0, 0, 1], [1, 1, 0]]


def test_contrastive_distillation_is_infonce_between_the_embeddings() -> None:
    x = torch.eye(4, 8)
    loss = ContrastiveDistillation()
    assert loss(3 * x, x, SCALE).item() == pytest.approx(0, abs=1e-4)
    assert loss(x, x[:1].expand(4, 8), SCALE).item() > math.log(4)
