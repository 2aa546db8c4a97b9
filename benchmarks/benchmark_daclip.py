"""Stage 1's training step against the plain way, each in a process of its own so that peak memory can be told."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.timing import in_new_process
from daclip.arithmetic import autocast
from daclip.clip.controller import DaClip
from daclip.clip.losses import contrastive_loss
from daclip.clip.towers import tower_of
from daclip.commands.options import make
from daclip.training.callbacks import peak_memory
from daclip.types import RestorationBatch

LEARNING_RATE = 1e-5
Step = Callable[[DaClip, RestorationBatch, Mapping[str, Any]], Callable[[], None]]


def measure_step(
    kind: str, cfg: Mapping[str, Any], batch: RestorationBatch, repeats: int, device: str = "cpu"
) -> tuple[float, float]:
    """Images per second and peak memory in MiB of a training step in a fresh process.

    Args:
        kind: `plain` or `ours`.
        cfg: The sections `clip` and `stage` of `train_daclip`, resolved.
        batch: Pairs that every step trains on.
        repeats: Steps that are timed, after two that are not; the median counts.
        device: Where; the memory is the process's on a CPU and what was allocated on a GPU.
    """
    found: tuple[float, float] = in_new_process(
        _measured, kind, dict(cfg), batch, repeats, device, plain=kind == "plain"
    )
    return found


def _measured(
    kind: str, cfg: Mapping[str, Any], batch: RestorationBatch, repeats: int, device: str
) -> tuple[float, float]:
    daclip: DaClip = make(cfg["clip"]).to(device)
    batch.lq, batch.hq = batch.lq.to(device), batch.hq.to(device)
    step = STEPS[kind](daclip, batch, cfg)
    times = []
    for _ in range(2 + repeats):
        started = time.perf_counter()
        step()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    peak = peak_memory() if device == "cpu" else torch.cuda.max_memory_allocated() / 2**20
    return len(batch) / statistics.median(times[2:]), peak


def _ours(daclip: DaClip, batch: RestorationBatch, cfg: Mapping[str, Any]) -> Callable[[], None]:
    """As the Trainer does it: the recipe's LightningModule, automatic precision, its optimiser."""
    module = make(cfg["stage"])(daclip=daclip, classes=sorted(set(batch.degradation)))
    module.log = lambda *_, **__: None
    optimizer = module.optimizer(module.parameter_groups())

    def step() -> None:
        with autocast(batch.lq.device, "auto"):
            loss = module.training_step(batch, 0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _plain(daclip: DaClip, batch: RestorationBatch, cfg: Mapping[str, Any]) -> Callable[[], None]:
    """The same network eagerly in float32, both texts of every photo encoded in every step."""
    optimizer = torch.optim.AdamW([p for p in daclip.parameters() if p.requires_grad], lr=LEARNING_RATE)
    clip, controller = daclip.clip, tower_of(daclip.controller.tower)
    frozen = tower_of(clip.tower)

    def texts(found: list[str]) -> Tensor:
        with torch.no_grad():
            tokens = clip.tokenizer(found).to(batch.lq.device)
            return F.normalize(clip.model.encode_text(tokens), dim=-1)

    def step() -> None:
        views = clip.views(batch.lq).flatten(0, 1)
        tokens, hiddens = controller.embed(views), []
        for block, link in zip(controller.blocks, daclip.controller.links, strict=True):
            tokens = block(tokens)
            hiddens.append(link(tokens))
        degradation = F.normalize(controller.pool(tokens), dim=-1)
        tokens = frozen.embed(views)
        for block, hidden in zip(frozen.blocks, reversed(hiddens), strict=True):
            tokens = block(tokens) + hidden
        content = F.normalize(frozen.pool(tokens), dim=-1)
        scale = daclip.scale()
        loss = contrastive_loss(content, texts(batch.caption), scale)
        loss = loss + contrastive_loss(degradation, texts(batch.degradation), scale)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


STEPS: dict[str, Step] = {"ours": _ours, "plain": _plain}
