"""Stage 1's losses over the batch of all ranks: matching of images and texts, distillation, their weighted sum."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from daclip.arithmetic import gather_objects, is_distributed
from daclip.clip.frozen_clip import FrozenClip
from daclip.degradations import split_classes
from daclip.errors import DaclipError


class _GatherRows(torch.autograd.Function):
    """Rows of all ranks in order; gradients are summed over ranks, as DistributedDataParallel averages them later."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.size = len(rows)
        parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        first = distributed.get_rank() * ctx.size
        return total[first : first + ctx.size]


def gather_rows(rows: Tensor) -> Tensor:
    """Rows of all ranks with gradients, `[B, D]` to `[ranks * B, D]`; all ranks have the same number."""
    if not is_distributed():
        return rows
    gathered: Tensor = _GatherRows.apply(rows)
    return gathered


def encode_texts(
    texts: Sequence[Sequence[str]], encode: Callable[[Sequence[str]], Tensor], like: Tensor
) -> tuple[list[str], Tensor]:
    """The K unique texts of all ranks in alphabetical order with their embeddings `[K, D]`; each rank encodes its own.
    `texts` comes from `gather_objects`; `like` `[…, D]` lies on the embeddings' device.
    """
    lists = [sorted(set(part)) for part in texts]
    if len(lists) == 1:
        unique = lists[0]
        return unique, encode(unique) if unique else like.new_zeros(0, like.shape[-1], dtype=torch.float32)
    own = lists[distributed.get_rank()]
    longest = max(len(part) for part in lists)
    rows = like.new_zeros(longest, like.shape[-1], dtype=torch.float32)
    if own:
        rows[: len(own)] = encode(own)
    place: dict[str, int] = {}
    for rank, part in enumerate(lists):
        for row, text in enumerate(part):
            place.setdefault(text, rank * longest + row)
    unique = sorted(place)
    with torch.no_grad():
        everything = gather_rows(rows) if longest else rows
    return unique, everything[[place[text] for text in unique]]


@dataclass(frozen=True)
class Targets:
    """The K unique texts of a batch, unit vectors `[K, D]`, and for each image the `rows` of its texts, one or more."""

    text: Tensor
    rows: Sequence[Sequence[int]]

    @property
    def label(self) -> Tensor:
        """The first row of each image, int64 `[B]`."""
        return torch.tensor([rows[0] for rows in self.rows], device=self.text.device)

    @property
    def member(self) -> Tensor:
        """1 where a text belongs to an image, `[B, K]` of the texts' type."""
        member = torch.zeros(len(self.rows), len(self.text))
        for image, rows in enumerate(self.rows):
            member[image, list(rows)] = 1
        return member.to(self.text)


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE (CLIP, Radford et al. 2021), DA-CLIP's official loss, of unit vectors `[B, D]` paired by row.
    Equal texts are negatives of each other: with K texts the loss cannot fall below about ln(B/K).
    """
    logits = scale * image @ text.T
    target = torch.arange(len(image), device=image.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def _divergence(logits: Tensor, member: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence from the uniform distributions over members to those of the logits."""
    count = member.sum(1)
    return (-(member * logits.log_softmax(-1)).sum(1) / count - count.log()).mean()


def _divergence_of_texts(logits: Tensor, member: Tensor) -> Tensor:
    """The same over the images `[B]` of each text that has any, of logits and members `[B, K]`."""
    present = member.sum(0) > 0
    return _divergence(logits.T[present], member.T[present])


class Matching(nn.Module, ABC):
    """A loss between images and texts; with `splits_labels` a label of several classes counts as several texts."""

    splits_labels = False

    @abstractmethod
    def forward(self, image: Tensor, targets: Targets, scale: Tensor) -> Tensor:
        """Scalar loss of unit vectors `[B, D]`; `scale` is the factor of the cosine similarities."""


class Official(Matching):
    """`contrastive_loss` over all samples of the batch."""

    def forward(self, image: Tensor, targets: Targets, scale: Tensor) -> Tensor:
        """See `Matching`."""
        return contrastive_loss(image, targets.text[targets.label], scale)


class MultiPositive(Matching):
    """Contrastive loss with all samples of equal text as positives (SupCon, Khosla et al. 2020); the floor is 0. A
    text's target is uniform over its images, less its entropy; a label of several classes is one text of its own."""

    def forward(self, image: Tensor, targets: Targets, scale: Tensor) -> Tensor:
        """See `Matching`."""
        logits, label = scale * image @ targets.text.T, targets.label
        member = F.one_hot(label, len(targets.text)).to(logits.dtype)
        return (F.cross_entropy(logits, label) + _divergence_of_texts(logits, member)) / 2


class MultiLabel(Matching):
    """Contrastive loss with several texts to an image, as a label of several classes has, and several images to a text;
    the floor is 0. Targets are uniform distributions, less their entropy."""

    splits_labels = True

    def forward(self, image: Tensor, targets: Targets, scale: Tensor) -> Tensor:
        """See `Matching`."""
        logits, member = scale * image @ targets.text.T, targets.member
        return (_divergence(logits, member) + _divergence_of_texts(logits, member)) / 2


class Sigmoid(Matching):
    """Sum over texts and mean over images of −log sigmoid(±(scale · cosine + b)) (SigLIP, Zhai et al. 2023), b learned;
    a label of several classes counts for each of them. The first `bias` should cancel the scale times the usual cosine
    of a photo and any text, or every pair begins as a match."""

    splits_labels = True

    def __init__(self, bias: float):
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(float(bias)))

    def forward(self, image: Tensor, targets: Targets, scale: Tensor) -> Tensor:
        """See `Matching`."""
        logits = scale * image @ targets.text.T + self.bias
        return -F.logsigmoid((2 * targets.member - 1) * logits).sum(1).mean()


class Distillation(nn.Module, ABC):
    """A distance of steered embeddings to those of the clean photos."""

    @abstractmethod
    def forward(self, content: Tensor, clean: Tensor, scale: Tensor) -> Tensor:
        """Scalar loss of steered embeddings and frozen CLIP's of the clean photos, both `[B, D]`, not normalised."""


class CosineDistillation(Distillation):
    """One minus the cosine, each photo by itself."""

    def forward(self, content: Tensor, clean: Tensor, scale: Tensor) -> Tensor:
        """See `Distillation`."""
        return (1 - F.cosine_similarity(content, clean, dim=-1)).mean()


class ContrastiveDistillation(Distillation):
    """InfoNCE: each steered embedding is to find its clean photo among those of the batch, and the reverse."""

    def forward(self, content: Tensor, clean: Tensor, scale: Tensor) -> Tensor:
        """See `Distillation`."""
        return contrastive_loss(F.normalize(content, dim=-1), F.normalize(clean, dim=-1), scale)


class DaClipLoss(nn.Module):
    """Weighted sum of the degradation and the content losses; a weight of 0 leaves a loss out. `matching` compares
    embeddings with class names and captions, `distillation` with the clean photos' embeddings. The samples of all ranks
    form one batch: every rank returns the whole loss, and the gradients' mean over ranks is that of a single process.
    """

    def __init__(
        self,
        matching: Matching,
        distillation: Distillation,
        degradation_weight: float,
        caption_weight: float,
        distillation_weight: float,
    ):
        super().__init__()
        if not isinstance(matching, Matching):
            raise DaclipError(f"stage.loss.matching={matching}: choose a loss as in loss=official, see conf/loss")
        if not isinstance(distillation, Distillation):
            raise DaclipError(f"stage.loss.distillation={distillation}: choose one as in distillation=cosine")
        self.matching = matching
        self.distillation = distillation
        self.degradation_weight = degradation_weight
        self.caption_weight = caption_weight
        self.distillation_weight = distillation_weight

    @property
    def uses_content(self) -> bool:
        """Whether any term looks at content embeddings."""
        return bool(self.caption_weight or self.distillation_weight)

    def _match(self, image: Tensor, texts: Sequence[list[str]], clip: FrozenClip, scale: Tensor) -> Tensor | None:
        """The matching loss of all ranks' samples that have a text; None where no sample has one."""
        ranks = gather_objects(list(texts))
        flat = [[text for sample in rank for text in sample] for rank in ranks]
        unique, rows = encode_texts(flat, clip.encode_text, image)
        samples = [sample for rank in ranks for sample in rank]
        named = [index for index, sample in enumerate(samples) if sample]
        if not named:
            return None
        image = gather_rows(F.normalize(image.float(), dim=-1))[named]
        place = {text: row for row, text in enumerate(unique)}
        targets = Targets(rows, [[place[text] for text in samples[index]] for index in named])
        loss: Tensor = self.matching(image, targets, scale)
        return loss

    def forward(
        self,
        clip: FrozenClip,
        content: Tensor | None,
        degradation: Tensor,
        scale: Tensor,
        captions: Sequence[str],
        classes: Sequence[str],
        clean: Tensor | None,
    ) -> dict[str, Tensor]:
        """`loss`, the total, and those of its parts that there are, `degradation_loss`, `caption_loss` and
        `distillation_loss`, for degradation embeddings `[B, D]` with B labels `classes`, and content embeddings
        `[N, D]` or None of the first N samples with N captions, empty where unknown, and for distillation `clean`
        `[N, D]`."""
        # Float32: a scale of up to 100 would blow bfloat16's rounding of cosines up to noise in the loss.
        with torch.autocast(degradation.device.type, enabled=False):
            split = self.matching.splits_labels
            labels = [split_classes(label) if split else [label] for label in classes]
            by_class = self._match(degradation, labels, clip, scale)
            assert by_class is not None
            parts = {"degradation_loss": by_class}
            total = self.degradation_weight * by_class
            if self.caption_weight and content is not None:
                texts = [[caption] if caption else [] for caption in captions]
                by_caption = self._match(content, texts, clip, scale)
                if by_caption is not None:
                    parts["caption_loss"] = by_caption
                    total = total + self.caption_weight * by_caption
            if self.distillation_weight and content is not None and clean is not None:
                distilled = self.distillation(gather_rows(content.float()), gather_rows(clean.float()), scale)
                parts["distillation_loss"] = distilled
                total = total + self.distillation_weight * distilled
            if content is not None and len(parts) == 1 and is_distributed():
                # DistributedDataParallel waits for the gradient of every weight, also in a batch without captions.
                total = total + 0 * content.sum()
        return {"loss": total, **parts}
