"""Several processes together compute what one computes with the whole batch."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import start_processes
from torch.nn import functional as F

from daclip.clip import losses
from daclip.clip.losses import ContrastiveDistillation, CosineDistillation, DaClipLoss, Matching

WORDS = ["rainy", "hazy", "noisy", "hazy, rainy", "rainy", "noisy", "snowy", "hazy, noisy"]
CAPTIONS = ["a cat", "", "a dog", "a cat", "", "", "a house, a tree", "a dog"]
SIZE, DIM = 8, 6
MATCHINGS: dict[str, Callable[[], Matching]] = {
    "official": losses.Official,
    "multi_positive": losses.MultiPositive,
    "multi_label": losses.MultiLabel,
    "sigmoid": lambda: losses.Sigmoid(-2.0),
}


class Texts:
    """Stands for the frozen text tower: a text's embedding depends on the text alone."""

    def encode_text(self, texts: list[str]) -> Tensor:
        rows = [torch.randn(DIM, generator=torch.Generator().manual_seed(sum(text.encode()))) for text in texts]
        return F.normalize(torch.stack(rows), dim=-1)


class Network(nn.Module):
    """Two embeddings of an input, and the scale."""

    def __init__(self, matching: Matching, contrastive: bool, distilled: bool):
        super().__init__()
        torch.manual_seed(0)
        self.content, self.degradation = nn.Linear(4, DIM), nn.Linear(4, DIM)
        self.scale = nn.Parameter(torch.tensor(5.0))
        distillation = ContrastiveDistillation() if contrastive else CosineDistillation()
        self.loss = DaClipLoss(matching, distillation, 1.0, 0.7, 0.3 if distilled else 0.0)

    def forward(self, x: Tensor, captions: list[str], classes: list[str], clean: Tensor) -> Tensor:
        clip: Any = Texts()
        terms = self.loss(clip, self.content(x), self.degradation(x), self.scale, captions, classes, clean)
        total: Tensor = terms["loss"]
        return total


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(SIZE, 4, generator=generator), torch.randn(SIZE, DIM, generator=generator)


def step(rank: int, world: int, folder: str) -> None:
    """One rank's part of the batch, for every loss."""
    os.environ.update(MASTER_ADDR="127.0.0.1", GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=world)
    x, clean = inputs()
    part = slice(rank * SIZE // world, (rank + 1) * SIZE // world)
    found = {}
    for name, make in MATCHINGS.items():
        for captions in (CAPTIONS, [""] * SIZE):
            # Without captions there is no distillation either: no term is left that looks at the content.
            network = Network(make(), contrastive=name == "official", distilled=bool(captions[0]))
            ddp = nn.parallel.DistributedDataParallel(network)
            loss = ddp(x[part], captions[part], WORDS[part], clean[part])
            loss.backward()
            found[name, bool(captions[0])] = loss.detach(), gradients(network)
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def gradients(network: nn.Module) -> dict[str, Tensor]:
    """What the optimiser gets; a weight that nothing depends on counts as one with a gradient of zero."""
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in network.named_parameters()}


@pytest.mark.parametrize("world", [2, 4])
def test_loss_and_gradients_are_those_of_one_process(world: int, tmp_path: Path) -> None:
    start_processes(step, (world, str(tmp_path)), nprocs=world, start_method="fork")
    x, clean = inputs()
    for name, make in MATCHINGS.items():
        for captions in (CAPTIONS, [""] * SIZE):
            network = Network(make(), contrastive=name == "official", distilled=bool(captions[0]))
            loss = network(x, captions, WORDS, clean)
            loss.backward()
            expected = gradients(network)
            for rank in range(world):
                theirs, found = torch.load(tmp_path / f"{rank}.pt")[name, bool(captions[0])]
                torch.testing.assert_close(theirs, loss.detach())
                torch.testing.assert_close(found, expected)
