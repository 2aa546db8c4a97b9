"""How fast do both stages train on 1 to 1024 GPUs and up to 100 million photos, and what breaks first?

Question: what does this code do on machines that nobody here has?
Command:  python experiments/scaling_model.py --measure   (about a minute on one CPU core; writes the constants)
          python experiments/scaling_model.py             (docs/scaling.md from the constants, in a second)
Expected: the tables of docs/scaling.md.

Measured: parameters, arithmetic and kept activations of the networks (counted on shapes, no arithmetic is done),
the loader's rate, the cost of listing and drawing photos, of writing states, and of an all-reduce over gloo.
Assumed, and stated in the page: what a GPU and a network reach. Change `HARDWARE` for another machine.
"""

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.utils.flop_counter import FlopCounterMode

from daclip.config import run_config
from daclip.records import write_json, write_text
from daclip.schemas import TrainConfig

CONSTANTS = Path(__file__).with_name("scaling_constants.json")
TEMPLATE = Path(__file__).with_name("scaling_page.md")
PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"
GPUS = (1, 8, 16, 64, 256, 1024)
PHOTOS = (1_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
STAGES = {
    "stage 1 (ViT-B/32, 256 px)": ("daclip", ["clip=vit_b_32", "clip.pretrained=null"]),
    "stage 2 (official U-Net, 256 px)": ("restorer", ["backbone=unet", "backbone.width=64"]),
}


@dataclass(frozen=True)
class Hardware:
    """A cluster of nodes of eight GPUs; what is assumed and not measured.

    Attributes:
        flops: Arithmetic that one GPU reaches on these networks in bfloat16, per second.
        inside: All-reduce bandwidth between GPUs of a node, bytes/s.
        between: The same between nodes, for each GPU.
        latency: Of one step of a ring, s.
        cores: CPU cores for each GPU.
        memory: Of one GPU, bytes.
        overlap: Share of the backward pass that communication can hide behind.
    """

    flops: float = 0.35 * 989e12
    inside: float = 200e9
    between: float = 25e9
    latency: float = 10e-6
    cores: int = 14
    memory: float = 80e9
    overlap: float = 0.8


HARDWARE = Hardware()
BATCH = 16  # samples of one GPU
NODE = 8  # GPUs
PHOTO_BYTES = 500_000  # of an encoded training photo


def _timed(work: Callable[[], Any], seconds: float = 1.0) -> float:
    """Seconds of one core a call, over about so many seconds; other processes on the machine do not count."""
    work()
    count, started = 0, time.process_time()
    while time.process_time() - started < seconds:
        work()
        count += 1
    return (time.process_time() - started) / count


class Kept:
    """Counts the bytes that the backward pass keeps, each tensor once."""

    def __init__(self, weights: nn.Module):
        self.known = {id(weight) for weight in weights.parameters()}
        self.bytes = 0

    def pack(self, tensor: Tensor) -> Tensor:
        """Called for every tensor that is kept."""
        if id(tensor) not in self.known:
            self.known.add(id(tensor))
            self.bytes += tensor.numel() * tensor.element_size()
        return tensor


def networks(stage: str, overrides: list[str]) -> tuple[nn.Module, Callable[[int], Tensor]]:
    """The module that learns, without storage, and its loss on a batch of so many samples."""
    from daclip.build import make
    from daclip.types import Conditioning

    with tempfile.TemporaryDirectory() as folder:
        cfg = run_config(f"train_{stage}", TrainConfig, folder, overrides)
    with torch.device("meta"):
        if stage == "daclip":
            import open_clip

            from daclip.clip.controller import Controller

            frozen = open_clip.create_model(cfg.clip.architecture, device="meta").visual.requires_grad_(False)
            controller = Controller(frozen)
            module = nn.ModuleDict({"frozen": frozen, "controller": controller})

            def loss(count: int) -> Tensor:
                views = torch.zeros(count, 3, 224, 224)
                embedding, hiddens = controller(views)
                tokens = frozen._embeds(views)
                for block, hidden in zip(frozen.transformer.resblocks, hiddens, strict=True):
                    tokens = block(tokens) + hidden
                return embedding.sum() + tokens.sum()

            return module, loss
        backbone = make(cfg.backbone)(context_dim=512)

        def loss_of_backbone(count: int) -> Tensor:
            photos = torch.zeros(count, 3, 256, 256)
            conditioning = Conditioning(torch.zeros(count, 512), torch.zeros(count, 512))
            times = torch.ones(count, dtype=torch.long)
            result: Tensor = backbone(photos, photos, times, conditioning)
            return result.sum()

        return backbone, loss_of_backbone


def count(stage: str, overrides: list[str]) -> dict[str, float]:
    """Parameters, arithmetic a sample and kept bytes a sample of a stage."""
    module, loss = networks(stage, overrides)
    kept = Kept(module)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
            value = loss(1)
        value.backward()
    trained = sum(weight.numel() for weight in module.parameters() if weight.requires_grad)
    frozen = sum(weight.numel() for weight in module.parameters() if not weight.requires_grad)
    return {
        "trained": trained,
        "frozen": frozen,
        "flops": counter.get_total_flops(),
        "kept": kept.bytes / 2,  # float32 was counted, bfloat16 is kept
    }


def _loader() -> float:
    """Pairs of 256 px that one loader process makes in a second."""
    from daclip.build import build_data

    with tempfile.TemporaryDirectory() as folder:
        data = build_data(run_config("train_restorer", TrainConfig, folder, ["data.crop_size=256"]))
    pairs = data.training_pairs()
    number = iter(range(10**9))
    for index in range(10):
        pairs[index]
    return 1 / _timed(lambda: pairs[next(number)], 4.0)


def _header() -> float:
    """Seconds to read the size of one photo."""
    from daclip.data.images import _size
    from daclip.data.photos import EmbeddedPhotos

    photo = EmbeddedPhotos([]).train()[0]
    return _timed(lambda: _size(photo.path, photo.path), 0.5)


def _draw(photos: int) -> float:
    """Seconds to draw one of so many photos."""
    from daclip.data.pairs import PhotoLottery

    class Photo:
        def size(self) -> tuple[int, int]:
            return 1, 1

    lottery = PhotoLottery([Photo()] * photos)  # type: ignore[list-item]
    generator = torch.Generator().manual_seed(0)
    return _timed(lambda: lottery.draw(generator), 0.3)


def _listed_bytes() -> float:
    """Memory of one listed photo."""
    import tracemalloc

    from daclip.data.photos import Photo

    tracemalloc.start()
    photos = [
        Photo(f"folder/{number:08d}.jpg", Path(f"/data/folder/{number:08d}.jpg"), "a caption") for number in range(5000)
    ]
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return used / len(photos)


def _write() -> float:
    """Bytes a second at which a state is written, flushed and renamed."""
    from daclip.reliability.checkpoint_io import SafeCheckpointIO

    state = {"state_dict": {str(i): torch.randn(1_000_000) for i in range(25)}}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        started = time.perf_counter()
        SafeCheckpointIO().save_checkpoint(state, Path(folder, "a.ckpt"))
        return 1e8 / (time.perf_counter() - started)


def _all_reduce() -> float:
    """Bytes a second of an all-reduce of 100 MB between two processes here."""
    from torch.multiprocessing import get_context

    with tempfile.TemporaryDirectory() as folder:
        context = get_context("fork")
        queue = context.SimpleQueue()
        ranks = [context.Process(target=_reduce, args=(rank, f"{folder}/meet", queue)) for rank in range(2)]
        for rank in ranks:
            rank.start()
        found = [queue.get() for _ in ranks]
        for rank in ranks:
            rank.join()
    return 1e8 / max(found)


def _reduce(rank: int, meet: str, queue: Any) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=2)
    tensor = torch.ones(25_000_000)
    distributed.all_reduce(tensor)
    distributed.barrier()
    started = time.perf_counter()
    for _ in range(3):
        distributed.all_reduce(tensor)
    queue.put((time.perf_counter() - started) / 3)
    distributed.destroy_process_group()


def measure() -> dict[str, Any]:
    """All constants."""
    from daclip.records import provenance

    torch.set_num_threads(1)
    return {
        "stages": {name: count(*recipe) for name, recipe in STAGES.items()},
        "loader": _loader(),
        "header": _header(),
        "draw": {str(photos): _draw(photos) for photos in (1_000, 100_000, 1_000_000)},
        "listed_bytes": _listed_bytes(),
        "write": _write(),
        "gloo": _all_reduce(),
        "where": {**provenance(0, [], {})["hardware"], "load": os.getloadavg()[0]},
    }


def step(stage: Mapping[str, float], gpus: int, loader: float) -> dict[str, float]:
    """Seconds of the parts of one training step of `BATCH` samples a GPU under DDP, in the model's terms."""
    compute = stage["flops"] * BATCH / HARDWARE.flops
    inside = gpus <= NODE
    # A ring inside a node, trees between nodes; either way each GPU passes on 2 (n-1)/n of the gradients.
    hops = 2 * (gpus - 1) if inside else 2 * (NODE - 1) + 2 * math.ceil(math.log2(gpus / NODE))
    bandwidth = HARDWARE.inside if inside else HARDWARE.between
    reduce = 2 * (gpus - 1) / gpus * 4 * stage["trained"] / bandwidth + hops * HARDWARE.latency
    exposed = max(0.0, reduce - HARDWARE.overlap * compute * 2 / 3)
    load = BATCH / (loader * (HARDWARE.cores - 1))
    return {"compute": compute, "exposed": exposed, "load": load, "total": max(compute + exposed, load)}


def memory(stage: Mapping[str, float], gpus: int, sharded: bool) -> float:
    """GB on one GPU: weights, gradients, two moments, their average (float32), frozen weights, activations.

    Sharded, there is no weight average, and one block at a time is whole; the blocks are small beside the rest.
    """
    copies = 4 * stage["trained"] * (4 / gpus if sharded else 5)
    return (copies + 2 * stage["frozen"] + BATCH * stage["kept"]) / 1e9


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _table(head: Sequence[str], rows: Iterable[str]) -> str:
    return "\n".join([_row(*head), "|" + "---|" * len(head), *rows])


def _measured(stages: Mapping[str, Mapping[str, float]]) -> str:
    facts: list[tuple[str, Callable[[Mapping[str, float]], str]]] = [
        ("trained parameters", lambda stage: f"{stage['trained'] / 1e6:.1f} M"),
        ("frozen parameters in a step", lambda stage: f"{stage['frozen'] / 1e6:.1f} M"),
        ("arithmetic of a training step, a sample", lambda stage: f"{stage['flops'] / 1e9:.0f} GFLOP"),
        ("activations kept, a sample, bf16", lambda stage: f"{stage['kept'] / 1e6:.0f} MB"),
        ("gradients to reduce, fp32", lambda stage: f"{4 * stage['trained'] / 1e6:.0f} MB"),
        ("saved state: weights, average, moments", lambda stage: f"{16 * stage['trained'] / 1e6:.0f} MB"),
    ]
    return _table(["", *stages], (_row(name, *map(text, stages.values())) for name, text in facts))


def _stage(stage: Mapping[str, float], loader: float) -> str:
    alone = step(stage, 1, loader)["total"]
    rows = []
    for gpus in GPUS:
        parts = step(stage, gpus, loader)
        busy = parts["compute"] + parts["exposed"]
        limit = "loader" if parts["load"] > busy else "network" if parts["exposed"] else "GPU"
        milliseconds = [f"{1e3 * parts[name]:.1f}" for name in ("compute", "exposed", "load")]
        gigabytes = [f"{memory(stage, gpus, sharded):.1f}" for sharded in (False, True)]
        rate, share = f"{gpus * BATCH / parts['total']:,.0f}", f"{alone / parts['total']:.0%}"
        rows.append(_row(gpus, *milliseconds, rate, share, limit, *gigabytes))
    head = ["GPUs", "compute, ms", "all-reduce not hidden, ms", "loader, ms", "samples/s", "efficiency", "limit"]
    return _table([*head, "GB with DDP", "GB with FSDP2"], rows)


def _photos(constants: Mapping[str, Any]) -> str:
    rows = []
    for photos in PHOTOS:
        seconds = photos * constants["header"]
        start = f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
        listed = f"{photos * constants['listed_bytes'] / 1e9:.2f} GB"
        size = f"{photos * PHOTO_BYTES / 1e12:.4g} TB"
        rows.append(_row(f"{photos:,}", start, listed, "seconds", "0.4 GB", size))
    head = ["photos", "listed: start", "memory a process", "streamed: start", "memory a process"]
    return _table([*head, f"size at {PHOTO_BYTES / 1e6:.1f} MB each"], rows)


def page(constants: Mapping[str, Any]) -> str:
    """The text of docs/scaling.md."""
    stages, loader = constants["stages"], constants["loader"]
    vit, unet = stages.values()
    alone = {name: step(stage, 1, loader) for name, stage in stages.items()}
    starved = [name for name, parts in alone.items() if parts["load"] > parts["compute"]]
    need = [f"{math.ceil(BATCH / parts['compute'] / loader)} loader processes in {n}" for n, parts in alone.items()]
    return TEMPLATE.read_text(encoding="utf-8").format(
        cores=constants["where"]["cores"],
        processor=constants["where"]["processor"],
        measured=_measured(stages),
        loader=loader,
        header=1e6 * constants["header"],
        header_million=1e6 * constants["header"] / 60,
        listed=constants["listed_bytes"],
        draw_thousand=1e6 * constants["draw"]["1000"],
        draw_million=1e6 * constants["draw"]["1000000"],
        write=constants["write"] / 1e6,
        gloo=constants["gloo"] / 1e6,
        flops=HARDWARE.flops / 1e12,
        memory=HARDWARE.memory / 1e9,
        inside=HARDWARE.inside / 1e9,
        between=HARDWARE.between / 1e9,
        latency=1e6 * HARDWARE.latency,
        gpu_cores=HARDWARE.cores,
        batch=BATCH,
        batch_largest=max(GPUS) * BATCH,
        overlap=HARDWARE.overlap,
        stages="".join(f"## {name}\n\n{_stage(stage, loader)}\n\n" for name, stage in stages.items()),
        photos=_photos(constants),
        starved=f"on one GPU already in {' and '.join(starved)}"
        if starved
        else "as networks shrink or GPUs grow faster",
        need=" and ".join(need),
        vit_bytes=4e-6 * vit["trained"],
        vit_flops=1e-9 * vit["flops"],
        unet_bytes=4e-6 * unet["trained"],
        unet_flops=1e-9 * unet["flops"],
        unet_copies=20e-9 * unet["trained"],
        unet_state=16e-6 * unet["trained"],
        unet_write=16 * unet["trained"] / constants["write"],
        failure=365 * 24 / max(GPUS),
    )


def main() -> None:
    """Measure if asked, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", action="store_true", help="measure the constants anew")
    parser.add_argument("--output", type=Path, default=PAGE)
    arguments = parser.parse_args()
    if arguments.measure:
        write_json(CONSTANTS, measure())
    write_text(arguments.output, page(json.loads(CONSTANTS.read_text(encoding="utf-8"))))
    sys.stdout.write(f"written: {arguments.output}\n")


if __name__ == "__main__":
    main()
