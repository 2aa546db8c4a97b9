"""Stage 2 against the plain way: a training step, a restored photo, memory."""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from benchmarks.textbook import textbook
from benchmarks.timing import in_new_process, median_seconds, row
from daclip import Restorer
from daclip.arithmetic import autocast
from daclip.clip.controller import DaClip
from daclip.commands.assembly import build_data
from daclip.commands.options import make
from daclip.commands.restore import side_by_side, worked
from daclip.data.pairs import collate
from daclip.diffusion.denoiser import Denoiser
from daclip.diffusion.module import FrozenGuide
from daclip.diffusion.objectives import draw_training_state
from daclip.images import save_image
from daclip.restoring.batch import Request, attempt, plan
from daclip.restoring.memory import Turns
from daclip.rng import generator_for
from daclip.training.callbacks import peak_memory
from daclip.types import Conditioning, RestorationBatch

CPU = torch.device("cpu")

Guide = Callable[[Tensor], Conditioning]
"""Degraded photos to their embeddings."""


def section(cfg: DictConfig, name: str) -> dict[str, Any]:
    """A section of a configuration as plain containers, which go to other processes."""
    plain: Any = OmegaConf.to_container(cfg[name], resolve=True)
    return dict(plain)


def restorer_rows(
    cfg: DictConfig, daclip: DaClip, repeats: int, steps: int, side: int, sides: list[int]
) -> list[dict[str, Any]]:
    """All rows of stage 2.

    Args:
        cfg: Composed `train_restorer`; its network is measured.
        daclip: The guide.
        repeats: Measurements of a restored photo.
        steps: Training steps, each way.
        side: Side of the square photo that is restored.
        sides: Sides of square photos for the memory of one evaluation.
    """
    denoiser = _denoiser(cfg, daclip.embed_dim)
    network = section(cfg, "backbone")
    return [
        *_training(cfg, daclip.embed_dim, steps),
        _restoring(cfg, denoiser, daclip.eval(), repeats, side),
        *_evaluations(network, daclip.embed_dim, sides, repeats),
    ]


def step_rate(cfg: DictConfig, daclip: DaClip, steps: int) -> float:
    """Images a second that training takes, our way.

    Args:
        cfg: Composed `train_restorer`.
        daclip: The guide.
        steps: Training steps.
    """
    denoiser = _denoiser(cfg, daclip.embed_dim)
    batches = _batches(cfg, steps)
    return len(batches[0]) / _train(cfg, denoiser, FrozenGuide(daclip), batches, fast=True)[0]


def _denoiser(cfg: DictConfig, width: int) -> Denoiser:
    return Denoiser(
        make(cfg.backbone)(context_dim=width),
        make(cfg.process),
        make(cfg.stage).keywords["parameterization"],
        cfg.stage.correct_epsilon_shift,
    )


def _batches(cfg: DictConfig, count: int) -> list[RestorationBatch]:
    data = build_data(cfg)
    pairs, size = data.training_pairs(), data.batch_size
    return [collate([pairs[k * size + i] for i in range(size)]) for k in range(count)]


def _training(cfg: DictConfig, width: int, steps: int) -> list[dict[str, Any]]:
    """The same steps from the same weights in both ways: speed, memory, and whether they learn the same."""
    sections = {name: section(cfg, name) for name in ("backbone", "process", "stage")}
    batches = _batches(cfg, steps)
    size = len(batches[0])
    (slow, plain, much), (quick, ours, little) = (
        in_new_process(_training_run, sections, width, batches, fast, plain=not fast) for fast in (False, True)
    )
    # Single losses go apart in bfloat16 as they would with another seed; the curve that one plots is smoothed.
    window = min(10, steps)
    means = [
        [statistics.mean(losses[i : i + window]) for i in range(len(losses) - window + 1)] for losses in (plain, ours)
    ]
    # A loss in the logarithm passes through zero; its differences are the relative ones of what is inside.
    relative = cfg.stage.objective.relative
    apart = max(abs(a - b) / (1 if relative else abs(a)) for a, b in zip(*means, strict=True))
    note = (
        "fp32, contiguous, eager, formulas as written, plain AdamW, plain allocator → "
        "auto precision, channels-last, ours, fused AdamW, make's"
    )
    return [
        row("restorer_train_step", "images/s", size / slow, size / quick, True, note),
        row("restorer_train_memory", "MiB", much, little, False, "peak of the process that takes these steps"),
        row(
            "restorer_loss_curve",
            "loss",
            statistics.mean(plain),
            statistics.mean(ours),
            False,
            f"mean of {steps} steps each way; means of {window} steps in a row are at most {apart:.1%} apart",
        ),
    ]


def _training_run(
    sections: dict[str, Any], width: int, batches: list[RestorationBatch], fast: bool
) -> tuple[float, list[float], float]:
    """Median seconds of a step, losses and peak memory in MiB, without stage 1; meant for a new process."""
    cfg = OmegaConf.create(sections)
    torch.manual_seed(0)
    embedding = torch.zeros(len(batches[0]), width)
    denoiser = _denoiser(cfg, width)
    with nullcontext() if fast else textbook(denoiser):
        seconds, losses = _train(cfg, denoiser, lambda _: Conditioning(embedding, embedding), batches, fast)
    return seconds, losses, peak_memory()


def _train(
    cfg: DictConfig, denoiser: Denoiser, guide: Guide, batches: list[RestorationBatch], fast: bool
) -> tuple[float, list[float]]:
    """Median seconds of a step, and the losses."""
    layout = torch.channels_last if fast else torch.contiguous_format
    denoiser.to(memory_format=layout)
    objective = make(cfg.stage).keywords["objective"]
    parameters = [p for p in denoiser.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=2e-4, weight_decay=0.0, fused=fast, foreach=False)
    seconds, losses = [], []
    for number, batch in enumerate(batches):
        lq, hq = (x.contiguous(memory_format=layout) for x in (batch.lq, batch.hq))
        t, noise = draw_training_state(denoiser.process, lq.shape, generator_for(number))
        started = time.perf_counter()
        with autocast(CPU, "auto" if fast else "fp32"):
            loss: Tensor = objective(denoiser, lq, hq, guide(lq), t, noise.contiguous(memory_format=layout))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - started)
        losses.append(loss.item())
    return statistics.median(seconds), losses


def _restoring(cfg: DictConfig, denoiser: Denoiser, daclip: DaClip, repeats: int, side: int) -> dict[str, Any]:
    """One square photo with the configured sampler, against a hundred plain evaluations."""
    photo = torch.rand(1, 3, side, side, generator=generator_for(1))
    denoiser.eval().to(memory_format=torch.channels_last)
    sampler = make(cfg.sampler)

    @torch.inference_mode()
    def restore() -> None:
        with autocast(CPU, "auto"):
            sampler.sample(denoiser, photo, daclip(photo), [generator_for(2)])

    # One evaluation is measured and multiplied: a hundred of them all cost the same.
    network = section(cfg, "backbone")
    _, slow = in_new_process(_evaluation, network, daclip.embed_dim, side, False, repeats, plain=True)
    note = (
        "100 fp32 evaluations, formulas as written (one measured, times 100) → "
        f"{sampler.nfe} and stage 1 at auto precision"
    )
    return row(f"restore_{side}", "s/photo", 100 * slow, median_seconds(restore, repeats), False, note)


def _evaluations(network: dict[str, Any], width: int, sides: list[int], repeats: int) -> list[dict[str, Any]]:
    """Peak memory of one evaluation at several sizes; at the largest, where the plain way may not fit, of ours only."""
    rows = []
    for side in sides:
        ours, seconds = in_new_process(_evaluation, network, width, side, True, repeats)
        note = f"one evaluation at {side}², {seconds:.1f} s, beside the weights"
        if side < 1024:
            plain, slow = in_new_process(_evaluation, network, width, side, False, repeats, plain=True)
            note = f"fp32, formulas as written, {slow:.1f} s → {note}"
        else:
            heads, tokens = 16, (side // 8) ** 2
            plain = heads * tokens**2 * 4 / 2**20
            note = f"the middle's attention matrix in fp32, if it were formed → {note}"
        rows.append(row(f"evaluation_memory_{side}", "MiB", plain, ours, False, note))
    return rows


def _evaluation(network: dict[str, Any], width: int, side: int, fast: bool, repeats: int) -> tuple[float, float]:
    """MiB that one evaluation takes beside the weights, and its median seconds; meant for a new process."""
    layout = torch.channels_last if fast else torch.contiguous_format
    backbone: nn.Module = make(network)(context_dim=width).eval().to(memory_format=layout)
    embedding = torch.zeros(1, width)

    @torch.inference_mode()
    def evaluate(pixels: int) -> None:
        image = torch.rand(1, 3, pixels, pixels).contiguous(memory_format=layout)
        with autocast(CPU, "auto" if fast else "fp32"), nullcontext() if fast else textbook(backbone):
            backbone(image, image, torch.ones(1), Conditioning(embedding, embedding))

    # Libraries set themselves up in the first call.
    evaluate(32)
    before = peak_memory()
    seconds = median_seconds(lambda: evaluate(side), repeats)
    # Nothing at all would make no ratio.
    return max(peak_memory() - before, 1.0), seconds


def folder_row(photos: Sequence[Tensor], count: int) -> dict[str, Any]:
    """Photos a minute of a folder, as `daclip restore` works on it, against one by one; with reading and writing."""
    restorer = Restorer.from_pretrained(device="cpu")
    workers = side_by_side(restorer, count)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(count):
            photo = photos[number % len(photos)]
            noisy = photo + 0.1 * torch.randn(photo.shape, generator=generator_for(number))
            save_image(noisy.clamp(0, 1), folder / f"{number}.png")

        def rate(at_once: int) -> float:
            request = Request(None, strength=1.0, samples=1, dry_run=False, overwrite=True)
            jobs = plan([name], folder / "restored", recursive=False)
            turns = Turns(int(restorer.budget.left), at_once) if at_once > 1 else None
            tasks = [partial(attempt, restorer, job, request, turns=turns) for job in jobs]
            started = time.perf_counter()
            outcomes = worked(tasks, None, lambda outcome: (), at_once)
            assert all(outcome.status == "restored" for outcome in outcomes)
            return 60 * count / (time.perf_counter() - started)

        rate(1)  # what is made once is made
        singly, together = rate(1), rate(workers)
    size = " x ".join(str(length) for length in reversed(photos[0].shape[1:]))
    note = f"{count} photos of {size}, one by one on all cores → {workers} at once"
    return row("restore_folder", "photos/min", singly, together, True, note)
