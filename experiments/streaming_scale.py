"""Stream a simulated set of a million rows over ranks and loader processes: is every row seen once, in flat memory?

Question: does streaming scale to any size?
Command:  python experiments/streaming_scale.py [--rows 1000000] [--ranks 4] [--workers 2]
Expected: every row exactly once, and an anonymous memory per process that does not grow with the rows.

Rows are 8 × 8 photos in parquet files; ranks run one after the other, each with its loader processes, and decode
every photo. One line of JSON a rank, then the total; exit status 1 if a row is lost, repeated, or memory grows.
"""

import argparse
import io
import itertools
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from daclip.data.hub import HubPhotos
from daclip.data.pairs import Augmentation, ClassSchedule, PairMaker, Sample
from daclip.data.photos import CleanPhoto
from daclip.data.stream import StreamedPairs, StreamLoader

SIDE = 8
BATCH = 500


class Undegraded(PairMaker):
    """Decodes the photo and leaves it as it is: what is measured is the streaming."""

    def synthesise(self, photo: CleanPhoto, class_name: str, generator: torch.Generator) -> Sample:
        """The photo as both sides of a pair."""
        hq = photo.pixels().float().div_(255)
        return Sample(hq, hq, photo.caption, class_name, photo.name)


def write_rows(folder: Path, rows: int, files: int) -> None:
    """Parquet files of small photos whose name is their number."""
    content = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(noise).save(content, format="PNG")
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    bounds = [rows * i // files for i in range(files + 1)]
    for number, (first, last) in enumerate(itertools.pairwise(bounds)):
        image = pa.array([{"bytes": content.getvalue(), "path": None}] * (last - first), kind)
        names = pa.array([str(i) for i in range(first, last)])
        # Small row groups: what a reader holds in memory at once.
        path = folder / f"train-{number:05}-of-{files:05}.parquet"
        pq.write_table(pa.table({"image": image, "name": names}), path, row_group_size=2000)


def source(folder: Path) -> HubPhotos:
    """The rows as a stream."""
    return HubPhotos(
        root=str(folder),
        config=None,
        revision=None,
        split="train",
        validation=1e-9,  # nothing is kept back of a set that is only counted
        validation_rows=1,
        image_column="image",
        caption_column=None,
        name_column="name",
        lq_column=None,
        degradation_column="degradation",
        classes=None,
        streaming=True,
        window=256,
    )


def anonymous_megabytes(process: str) -> float:
    """Memory of a process that is its own: not the pages of files, nor of libraries."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")), 0.0)


def largest_megabytes() -> float:
    """The largest of this process and its loader processes."""
    processes = ["self", *(str(child.pid) for child in multiprocessing.active_children())]
    return max(anonymous_megabytes(process) for process in processes)


def read_rank(folder: Path, rank: int, ranks: int, workers: int, seen: np.ndarray) -> dict[str, Any]:
    """Read one rank's share once and count its rows in `seen`."""
    maker = Undegraded({}, SIDE, SIDE, Augmentation((1.0, 1.0), 0.0, flip=False))
    schedule = ClassSchedule(["clean"], None)
    pairs = StreamedPairs(source(folder), maker, [], schedule, BATCH, 0, rank, ranks, workers, rounds=1)
    started = time.monotonic()
    memory: list[float] = []
    count = 0
    for number, batch in enumerate(StreamLoader(pairs, None)):
        np.add.at(seen, np.array(batch.name, dtype=np.int64), 1)
        count += len(batch)
        if number % 20 == 0:
            memory.append(largest_megabytes())
    return {
        "rank": rank,
        "rows": count,
        "loader_processes": pairs.num_workers,
        "seconds": round(time.monotonic() - started, 1),
        "megabytes_early": round(max(memory[: max(len(memory) // 5, 1)]), 1),
        "megabytes_late": round(max(memory[-max(len(memory) // 5, 1) :]), 1),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=64)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    seen = np.zeros(options.rows, dtype=np.int64)
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder), options.rows, options.files)
        ranks = []
        for rank in range(options.ranks):
            ranks.append(read_rank(Path(folder), rank, options.ranks, options.workers, seen))
            sys.stdout.write(json.dumps(ranks[-1]) + "\n")
            sys.stdout.flush()
    total = {
        "rows": int(seen.sum()),
        "missing": int((seen == 0).sum()),
        "repeated": int((seen > 1).sum()),
        "peak_megabytes": max(row["megabytes_late"] for row in ranks),
        "growth_megabytes": round(max(row["megabytes_late"] - row["megabytes_early"] for row in ranks), 1),
    }
    sys.stdout.write(json.dumps(total) + "\n")
    return int(total["missing"] or total["repeated"] or total["growth_megabytes"] > 50)


if __name__ == "__main__":
    sys.exit(main())
