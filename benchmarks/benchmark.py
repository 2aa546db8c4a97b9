"""Speed of what we do against the plain way, same networks, same run: `python -m benchmarks.benchmark`."""

import contextlib
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.benchmark_daclip import measure_step
from benchmarks.benchmark_restorer import restorer_rows, step_rate
from benchmarks.timing import median_seconds as _seconds
from benchmarks.timing import row as _row
from daclip.arithmetic import autocast
from daclip.clip.controller import DaClip
from daclip.commands.assembly import build_data, make
from daclip.commands.schemas import BenchmarkConfig
from daclip.config import run_entry, validated
from daclip.data.datamodule import MixedDegradationData
from daclip.data.pairs import collate
from daclip.degradations import Degradation
from daclip.files import write_json
from daclip.images import load_image
from daclip.rng import generator_for
from daclip.training.provenance import provenance
from daclip.types import RestorationBatch

CPU = torch.device("cpu")


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """As in a loader process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _stage_1_step(cfg: DictConfig, daclip: DaClip, batch: RestorationBatch, repeats: int) -> dict[str, Any]:
    """The embedded recipe's step: fp32 and both texts encoded in every step, against bf16 and cached texts."""
    loss = make(cfg.stage).keywords["loss"]
    parameters = [p for p in daclip.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def step(precision: str, cached: bool) -> None:
        if not cached:
            daclip.clip.forget_texts()
        with autocast(CPU, precision):
            with torch.no_grad():
                clean = daclip.clip.encode_image(batch.hq)
            out = daclip(batch.lq)
            assert out.content is not None
            assert out.degradation is not None
            terms = loss(
                daclip.clip,
                out.content,
                out.degradation,
                daclip.scale(),
                batch.caption,
                batch.degradation,
                clean,
            )
        terms.total.backward()
        optimizer.step()
        optimizer.zero_grad()

    size = len(batch)
    baseline = size / _seconds(lambda: step("fp32", cached=False), repeats)
    ours = size / _seconds(lambda: step("auto", cached=True), repeats)
    note = "embedded model: fp32, texts encoded every step → auto, cached"
    return _row("daclip_embedded_step", "images/s", baseline, ours, True, note)


def _vit_step(cfg: DictConfig, repeats: int) -> list[dict[str, Any]]:
    """Images per second and memory of a full-size training step, each way in a process of its own."""
    data = build_data(cfg)
    pairs = data.training_pairs()
    batch = collate([pairs[i] for i in range(data.batch_size)])
    sections = {name: OmegaConf.to_container(cfg[name], resolve=True) for name in ("clip", "stage")}
    plain = measure_step("plain", sections, batch, repeats)
    ours = measure_step("ours", sections, batch, repeats)
    size = f"{cfg.clip.architecture if isinstance(cfg.clip.architecture, str) else 'small ViT'}, batch {len(batch)}"
    note = f"{size}: fp32 eager, all texts encoded every step → the recipe's step, auto precision"
    rows = [
        _row("daclip_train_step", "images/s", plain[0], ours[0], True, note),
        _row("daclip_train_memory", "MiB", plain[1], ours[1], False, f"{size}: peak of the process"),
    ]
    if torch.cuda.is_available():
        rows += _cuda_steps(sections, batch, repeats)
    return rows


def _cuda_steps(sections: dict[str, Any], batch: RestorationBatch, repeats: int) -> list[dict[str, Any]]:
    """The same on a GPU at the sizes of real runs, without and with `torch.compile`."""
    rows = []
    for size in (256, 784):
        times = -(-size // len(batch))
        large = RestorationBatch(
            batch.lq.repeat(times, 1, 1, 1)[:size],
            batch.hq.repeat(times, 1, 1, 1)[:size],
            *((texts * times)[:size] for texts in (batch.caption, batch.degradation, batch.name)),
        )
        plain = measure_step("plain", sections, large, repeats, "cuda")
        for compiled in (False, True):
            stage = {**sections["stage"], "compile_blocks": compiled}
            ours = measure_step("ours", {**sections, "stage": stage}, large, repeats, "cuda")
            name = f"daclip_cuda_{size}{'_compiled' if compiled else ''}"
            rows.append(_row(name, "images/s", plain[0], ours[0], True, "fp32 eager → auto precision"))
            rows.append(_row(f"{name}_memory", "MiB", plain[1], ours[1], False, "peak allocated"))
    return rows


def _loader(name: str, data: MixedDegradationData, rate: float, count: int) -> dict[str, Any]:
    """Samples one loader process makes, against the images a second that training takes."""
    pairs = data.training_pairs()
    with _one_thread():
        seconds = _seconds(lambda: [pairs[i] for i in range(count)], 1)
    note = "images a training step takes → images one loader process makes; above 1 training never waits"
    return _row(name, "images/s", rate, count / seconds, True, note)


def _loader_processes(cfg: DictConfig, step: dict[str, Any], count: int) -> dict[str, Any]:
    """The whole mix from two loader processes, against what a stage-1 step consumes."""
    data = build_data(cfg)
    batches = itertools.islice(iter(data.train_dataloader()), 1 + -(-count // data.batch_size))
    next(batches)  # the processes have started
    started = time.perf_counter()
    seen = sum(len(batch) for batch in batches)
    rate = seen / (time.perf_counter() - started)
    return _row("loader_2_workers", "images/s", step["ours"], rate, True, "as loader, with data.num_workers=2")


def _degradations(cfg: DictConfig, repeats: int, count: int) -> list[dict[str, Any]]:
    """Each degradation on photos of 256² in one thread: a call a photo, against one call."""
    crops = [load_image(photo.path)[:, :256, :256] for photo in make(cfg.photos).validation()]
    photos = torch.stack([crops[i % len(crops)] for i in range(count)])
    rows = []
    with _one_thread():
        for class_name, degradation in make(cfg.degradation).items():
            rows.append(_degradation(class_name, degradation, photos, repeats))
    return rows


def _degradation(class_name: str, degradation: Degradation, photos: Tensor, repeats: int) -> dict[str, Any]:
    def rate(size: int) -> float:
        def degrade() -> None:
            for numbers in torch.arange(len(photos)).split(size):
                degradation(photos[numbers], [generator_for(int(i)) for i in numbers])

        return len(photos) / _seconds(degrade, repeats)

    singly, together = rate(1), rate(len(photos))
    note = f"256², one thread: a call a photo → one call for {len(photos)}"
    return _row(f"degrade_{class_name}", "images/s", singly, together, True, note)


def benchmark(cfg: DictConfig) -> list[dict[str, Any]]:
    """Measure all rows on the CPU, print them and write them to `cfg.output`."""
    stage_1 = hydra.compose("train_daclip", overrides=list(cfg.stage_1))
    stage_2 = hydra.compose("train_restorer", overrides=list(cfg.stage_2))
    default = hydra.compose("train_restorer", overrides=list(cfg.restorer))
    data = build_data(stage_1)
    pairs = data.training_pairs()
    daclip: DaClip = make(stage_1.clip)
    batch = collate([pairs[i] for i in range(data.batch_size)])
    first = _stage_1_step(stage_1, daclip, batch, cfg.repeats)
    two_workers = hydra.compose("train_daclip", overrides=[*cfg.stage_1, "data.num_workers=2"])
    rows = [
        *_vit_step(hydra.compose("train_daclip", overrides=list(cfg.vit)), cfg.repeats),
        first,
        _loader("loader", data, first["ours"], cfg.samples),
        _loader_processes(two_workers, first, cfg.samples),
        _loader("loader_restorer", build_data(default), step_rate(default, daclip, cfg.repeats), cfg.samples),
        *restorer_rows(stage_2, daclip, cfg.repeats, cfg.steps, cfg.sides),
        *_degradations(hydra.compose("degradations"), cfg.repeats, cfg.photos),
    ]
    table = Table("name", "unit", "baseline", "ours", "ratio", "note")
    for row in rows:
        figures = [f"{row[key]:.2f}" for key in ("baseline", "ours")]
        table.add_row(row["name"], row["unit"], *figures, f"{row['ratio']:.2f}×", row["note"])
    Console().print(table)
    write_json(cfg.output, rows)
    write_json(
        Path(cfg.output).with_suffix(".record.json"), provenance(0, ["python", "-m", "benchmarks.benchmark"], {})
    )
    Console().print(f"written: {cfg.output}", soft_wrap=True)
    return rows


def main() -> None:
    """Entry point."""
    run_entry(lambda cfg: benchmark(validated(cfg, BenchmarkConfig)), "benchmark")


if __name__ == "__main__":
    main()
