"""Speed of this package against the plain way, same networks, same run: `python -m benchmarks.benchmark [--quick]`."""

import argparse
import contextlib
import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.benchmark_daclip import measure_step
from benchmarks.benchmark_restorer import folder_row, restorer_rows, section, step_rate
from benchmarks.timing import median_seconds, row
from daclip.arithmetic import autocast
from daclip.clip.controller import DaClip
from daclip.commands.assembly import build_data
from daclip.commands.options import make
from daclip.config import config_dir
from daclip.data.datamodule import MixedDegradationData
from daclip.data.pairs import collate
from daclip.degradations import Degradation
from daclip.files import write_json
from daclip.images import load_image
from daclip.rng import generator_for
from daclip.training.provenance import provenance
from daclip.types import RestorationBatch

# What is measured → overrides of its primary.
FULL = {
    # The full-size step of stage 1; the values of its weights do not matter.
    "vit": ["experiment=universal_daclip", "clip.pretrained=null", "data=embedded", "data.batch_size=32"],
    "stage_1": ["experiment=embedded_daclip"],
    "restorer": ["experiment=embedded_restorer"],
    # The full network of stage 2, one photo of 256² a step.
    "stage_2": ["data=embedded", "data.batch_size=1", "data.samples_per_epoch=50", "data.num_workers=2"],
}
QUICK = {
    "vit": ["experiment=smoke_daclip"],
    "stage_1": ["experiment=smoke_daclip"],
    "restorer": ["experiment=smoke_restorer"],
    "stage_2": ["experiment=smoke_restorer", "data.batch_size=1"],
}
SIDE, QUICK_SIDE = 256, 64  # px, of the photos that are degraded and restored
CPU = torch.device("cpu")


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """As in a loader process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _stage_1_step(cfg: DictConfig, daclip: DaClip, batch: RestorationBatch, repeats: int) -> dict[str, Any]:
    """The embedded recipe's step: float32 and texts encoded every step, against its precision and cached texts."""
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
        terms["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    size = len(batch)
    baseline = size / median_seconds(lambda: step("fp32", cached=False), repeats)
    ours = size / median_seconds(lambda: step("auto", cached=True), repeats)
    note = "embedded model: fp32, texts encoded every step → auto, cached"
    return row("daclip_embedded_step", "images/s", baseline, ours, True, note)


def _vit_step(cfg: DictConfig, repeats: int) -> list[dict[str, Any]]:
    """Images per second and memory of a full-size training step, each way in a process of its own."""
    data = build_data(cfg)
    pairs = data.training_pairs()
    batch = collate([pairs[i] for i in range(data.batch_size)])
    sections = {name: section(cfg, name) for name in ("clip", "stage")}
    plain = measure_step("plain", sections, batch, repeats)
    ours = measure_step("ours", sections, batch, repeats)
    size = f"{cfg.clip.architecture if isinstance(cfg.clip.architecture, str) else 'small ViT'}, batch {len(batch)}"
    note = f"{size}: fp32 eager, all texts encoded every step → the recipe's step, auto precision"
    rows = [
        row("daclip_train_step", "images/s", plain[0], ours[0], True, note),
        row("daclip_train_memory", "MiB", plain[1], ours[1], False, f"{size}: peak of the process"),
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
            rows.append(row(name, "images/s", plain[0], ours[0], True, "fp32 eager → auto precision"))
            rows.append(row(f"{name}_memory", "MiB", plain[1], ours[1], False, "peak allocated"))
    return rows


def _loader(name: str, data: MixedDegradationData, rate: float, count: int) -> dict[str, Any]:
    """Samples one loader process makes, against the images a second that training takes."""
    pairs = data.training_pairs()
    with _one_thread():
        seconds = median_seconds(lambda: [pairs[i] for i in range(count)], 1)
    note = "images a training step takes → images one loader process makes; above 1 training never waits"
    return row(name, "images/s", rate, count / seconds, True, note)


def _loader_processes(cfg: DictConfig, step: dict[str, Any], count: int) -> dict[str, Any]:
    """The whole mix from two loader processes, against what a stage-1 step consumes."""
    data = build_data(cfg)
    batches = itertools.islice(iter(data.train_dataloader()), 1 + -(-count // data.batch_size))
    next(batches)  # the processes have started
    started = time.perf_counter()
    seen = sum(len(batch) for batch in batches)
    rate = seen / (time.perf_counter() - started)
    return row("loader_2_workers", "images/s", step["ours"], rate, True, "as loader, with data.num_workers=2")


def _degradations(cfg: DictConfig, repeats: int, count: int, side: int) -> list[dict[str, Any]]:
    """Each degradation on square photos in one thread: a call a photo, against one call."""
    crops = [photo[:, :side, :side] for photo in _validation_photos(cfg)]
    photos = torch.stack([crops[i % len(crops)] for i in range(count)])
    with _one_thread():
        return [_degradation(name, degradation, photos, repeats) for name, degradation in make(cfg.degradation).items()]


def _validation_photos(cfg: DictConfig) -> list[Tensor]:
    return [load_image(photo.path) for photo in make(cfg.photos).validation()]


def _degradation(class_name: str, degradation: Degradation, photos: Tensor, repeats: int) -> dict[str, Any]:
    def rate(size: int) -> float:
        def degrade() -> None:
            for numbers in torch.arange(len(photos)).split(size):
                degradation(photos[numbers], [generator_for(int(i)) for i in numbers])

        return len(photos) / median_seconds(degrade, repeats)

    singly, together = rate(1), rate(len(photos))
    note = f"{photos.shape[-1]}², one thread: a call a photo → one call for {len(photos)}"
    return row(f"degrade_{class_name}", "images/s", singly, together, True, note)


def benchmark(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows, measured on the CPU (stage 1's full-size step on a GPU too, where there is one)."""
    overrides, side = (QUICK, QUICK_SIDE) if options.quick else (FULL, SIDE)

    def composed(name: str, *more: str) -> DictConfig:
        primary = "train_daclip" if name in ("vit", "stage_1") else "train_restorer"
        return hydra.compose(primary, [*overrides[name], *more])

    with hydra.initialize_config_dir(config_dir(), version_base="1.3"):
        vit, stage_1, restorer, stage_2 = (composed(name) for name in overrides)
        two_workers = composed("stage_1", "data.num_workers=2")
        sheet = hydra.compose("degradations")
    data = build_data(stage_1)
    pairs = data.training_pairs()
    daclip: DaClip = make(stage_1.clip)
    batch = collate([pairs[i] for i in range(data.batch_size)])
    first = _stage_1_step(stage_1, daclip, batch, options.repeats)
    return [
        *_vit_step(vit, options.repeats),
        first,
        _loader("loader", data, first["ours"], options.samples),
        _loader_processes(two_workers, first, options.samples),
        _loader("loader_restorer", build_data(restorer), step_rate(restorer, daclip, options.repeats), options.samples),
        *restorer_rows(stage_2, daclip, options.repeats, options.steps, side, options.sides),
        *_degradations(sheet, options.repeats, options.photos, side),
        folder_row([photo[:, : 3 * side // 2, : 2 * side] for photo in _validation_photos(sheet)], options.folder),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmark.json"), help="JSON file of the rows")
    parser.add_argument("--quick", action="store_true", help="smoke recipes: shows that it runs, measures nothing")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls, of which the median counts")
    parser.add_argument("--samples", type=int, default=2560, help="samples that the loaders make")
    parser.add_argument("--photos", type=int, default=16, help="photos that each degradation corrupts")
    parser.add_argument("--folder", type=int, default=50, help="photos in the folder that is restored")
    parser.add_argument("--steps", type=int, default=50, help="training steps of the restorer, each way")
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 512, 1024], help="px, of evaluated photos")
    options = parser.parse_args(arguments)
    rows = benchmark(options)
    table = Table("name", "unit", "baseline", "ours", "ratio", "note")
    for found in rows:
        figures = [f"{found[key]:.2f}" for key in ("baseline", "ours")]
        table.add_row(found["name"], found["unit"], *figures, f"{found['ratio']:.2f}×", found["note"])
    Console().print(table)
    write_json(options.output, rows)
    record = provenance(0, ["python", "-m", "benchmarks.benchmark"], {})
    write_json(options.output.with_suffix(".record.json"), record)
    Console().print(f"written: {options.output}", soft_wrap=True)


if __name__ == "__main__":
    main()
