"""Streams over ranks and loader processes, resumed streams, and training from every kind of source."""

import importlib.util
import io
import itertools
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import lightning as L
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from running import assert_one_line, invoke, read
from skimage import data
from torch import Tensor

from daclip.data.datamodule import MixedDegradationData
from daclip.data.hub import HubPhotos
from daclip.data.pairs import Augmentation, ClassSchedule, Mix, PairMaker
from daclip.data.sources import EmbeddedPhotos
from daclip.data.stream import Position, RowStream, StreamedPairs, StreamLoader
from daclip.degradations.noise import GaussianNoise
from daclip.errors import DaclipError
from daclip.types import RestorationBatch

PICTURE = data.coffee()
NOISE = {"noisy": GaussianNoise(sigma=[10, 50]), "grainy": GaussianNoise(sigma=[5, 10])}
MAKER = PairMaker(NOISE, 32, 32, Augmentation((1.0, 1.0), 0.0, flip=True))


def encoded(i: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PICTURE[i : i + 40, i : i + 40]).save(file, format="PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def rows() -> datasets.Dataset:
    images = [{"bytes": encoded(i), "path": None} for i in range(60)]
    names = [f"{i:03}" for i in range(60)]
    features = datasets.Features({"image": datasets.Image(), "name": datasets.Value("string")})
    return datasets.Dataset.from_dict({"image": images, "name": names}, features=features)


@pytest.fixture(scope="module")
def root(rows: datasets.Dataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Parquet files, six for training."""
    folder = tmp_path_factory.mktemp("parquet")
    for number in range(6):
        rows.shard(6, number).to_parquet(folder / f"train-{number:05}-of-00006.parquet")
    held_back = rows.select(range(4)).map(lambda row: {"name": f"held back {row['name']}"})
    held_back.to_parquet(folder / "test-00000-of-00001.parquet")
    return str(folder)


def photos(root: str, **changes: Any) -> HubPhotos:
    options = {
        "root": root,
        "config": None,
        "revision": None,
        "split": "train",
        "validation": "test",
        "validation_rows": 4,
        "image_column": "image",
        "caption_column": None,
        "name_column": None,
        "lq_column": None,
        "degradation_column": "degradation",
        "classes": None,
        "streaming": True,
        "window": 7,
    }
    return HubPhotos(**{**options, **changes})


def loader(
    root: str,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    rounds: int | None = None,
    steps: int | None = None,
    batch_size: int = 4,
    **changes: Any,
) -> StreamLoader:
    schedule = ClassSchedule(list(NOISE), None)
    pairs = StreamedPairs(
        photos(root, **changes), MAKER, [], schedule, batch_size, 0, rank, world_size, num_workers, rounds
    )
    return StreamLoader(pairs, steps)


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_ranks_and_processes_share_the_rows_without_overlap_or_loss(
    root: str, world_size: int, num_workers: int
) -> None:
    # Two and one rank share the six files, four ranks cannot and take every fourth row.
    shares = [
        [name for batch in loader(root, num_workers, rank, world_size, rounds=1) for name in batch.name]
        for rank in range(world_size)
    ]
    assert sorted(itertools.chain(*shares)) == [f"{i:03}" for i in range(60)]
    assert min(map(len, shares)) >= 60 // world_size - 6


def test_every_round_shows_every_row_in_another_order(root: str) -> None:
    found = [name for batch in loader(root, rounds=3) for name in batch.name]
    rounds = [found[:60], found[60:120], found[120:]]
    assert all(sorted(part) == [f"{i:03}" for i in range(60)] for part in rounds)
    assert rounds[0] != rounds[1] != rounds[2]
    assert rounds[0] != sorted(rounds[0])
    assert found == [name for batch in loader(root, rounds=3) for name in batch.name]


def test_classes_take_turns_in_every_batch(root: str) -> None:
    for batch in loader(root, steps=20):
        assert batch.degradation.count("noisy") == batch.degradation.count("grainy") == 2
        assert batch.lq.shape == (4, 3, 32, 32)


def same(a: RestorationBatch, b: RestorationBatch) -> bool:
    return a.name == b.name and a.degradation == b.degradation and torch.equal(a.lq, b.lq)


@settings(max_examples=15, deadline=None)
@given(taken=st.integers(0, 40), window=st.integers(1, 70), share=st.sampled_from(["test", 0.2]))
def test_a_resumed_stream_goes_on_as_if_nothing_had_happened(
    root: str, taken: int, window: int, share: str | float
) -> None:
    whole = loader(root, steps=taken + 8, window=window, validation=share, batch_size=2)
    expected = list(whole)[taken:]
    first = loader(root, steps=taken, window=window, validation=share, batch_size=2)
    list(first)
    # As a checkpoint holds it.
    state = json.loads(json.dumps(first.position()))
    second = loader(root, steps=8, window=window, validation=share, batch_size=2)
    second.resume(state)
    assert all(same(a, b) for a, b in zip(expected, second, strict=True))


@pytest.mark.parametrize("taken", [0, 1, 6, 31])
def test_loader_processes_resume_in_their_turn(root: str, taken: int) -> None:
    expected = list(loader(root, num_workers=2, steps=taken + 5))[taken:]
    first = loader(root, num_workers=2, steps=taken)
    list(first)
    second = loader(root, num_workers=2, steps=5)
    second.resume(first.position())
    assert all(same(a, b) for a, b in zip(expected, second, strict=True))
    with pytest.raises(DaclipError, match="3 loader processes"):
        loader(root, num_workers=2).resume({"turn": 0, "positions": [{}, {}, {}]})


def test_epochs_are_cut_from_one_stream(root: str) -> None:
    cut = loader(root, num_workers=2, steps=4)
    parts = [batch for _ in range(3) for batch in cut]
    assert all(same(a, b) for a, b in zip(parts, loader(root, num_workers=2, steps=12), strict=True))


def test_a_dataset_in_memory_streams_too(rows: datasets.Dataset) -> None:
    stream = RowStream(rows.to_iterable_dataset(num_shards=4), 0, 1, 16, 0, None, 1)
    assert sorted(row["name"] for row, _ in stream.read(Position())) == [f"{i:03}" for i in range(60)]


def test_a_process_without_rows_is_an_error_and_no_endless_wait(rows: datasets.Dataset) -> None:
    stream = RowStream(rows.to_iterable_dataset(num_shards=4), 0, 1, 16, 0, lambda row: False, None)
    with pytest.raises(DaclipError, match=r"lower data\.num_workers"):
        next(stream.read(Position()))


def scale_script() -> ModuleType:
    path = Path(__file__).parents[2] / "experiments" / "streaming_scale.py"
    spec = importlib.util.spec_from_file_location("streaming_scale", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_scale_in_small(capsys: pytest.CaptureFixture[str]) -> None:
    assert scale_script().main(["--rows", "12000", "--files", "16", "--ranks", "4", "--workers", "2"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["loader_processes"] for line in lines[:-1]] == [2, 2, 2, 2]
    assert (lines[-1]["rows"], lines[-1]["missing"], lines[-1]["repeated"]) == (12000, 0, 0)


class Names(L.LightningModule):
    """Learns nothing, remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.shown: list[str] = []

    def training_step(self, batch: RestorationBatch, batch_index: int) -> Tensor:
        self.shown += batch.name
        return self.weight * batch.lq.mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(root: str | None, folder: Path, steps: int, checkpoint: Path | None = None, num_workers: int = 2) -> Names:
    source = MixedDegradationData(
        photos=photos(root) if root else EmbeddedPhotos(["chelsea.png"]),
        degradations=NOISE,
        crop_size=32,
        context_size=32,
        augmentation=MAKER.augmentation,
        batch_size=4,
        samples_per_epoch=20,
        validation_size=32,
        validation_crops=1,
        validation_batch_size=4,
        num_workers=num_workers,
        seed=0,
        mix=Mix(None, 0.5),
    )
    module = Names()
    trainer = L.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        use_distributed_sampler=False,
    )
    trainer.fit(module, source, ckpt_path=checkpoint, weights_only=True)
    trainer.save_checkpoint(folder / f"{steps}.ckpt")
    return module


# In the middle of an epoch of five steps, at its end, and in the next.
@pytest.mark.parametrize("stop", [3, 5, 7])
@pytest.mark.parametrize("streaming", [True, False], ids=["streamed", "listed"])
def test_a_checkpoint_holds_the_position(root: str, tmp_path: Path, stop: int, streaming: bool) -> None:
    where = root if streaming else None
    whole = fit(where, tmp_path, 14).shown
    first = fit(where, tmp_path, stop).shown
    second = fit(where, tmp_path, 14, tmp_path / f"{stop}.ckpt").shown
    assert [*first, *second] == whole


def test_a_stream_resumes_with_the_same_number_of_processes_only(root: str, tmp_path: Path) -> None:
    fit(root, tmp_path, 3)
    with pytest.raises(DaclipError, match=r"same data\.num_workers"):
        fit(root, tmp_path, 14, tmp_path / "3.ckpt", num_workers=3)


# -- training from every kind of source, by the command ---------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, rows: datasets.Dataset) -> Path:
    """A working folder with photos, real pairs and a saved dataset."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "photos").mkdir()
    for i in range(4):
        crop = PICTURE[60 * i : 60 * i + 80, 100:200]
        Image.fromarray(crop).save(folder / "photos" / f"{i}.png")
        for part, picture in (("LQ", crop // 3), ("GT", crop)):
            (folder / "pairs" / "low-light" / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / "pairs" / "low-light" / part / f"{i}.png")
    datasets.DatasetDict({"train": rows.select(range(3, 60)), "test": rows.select(range(3))}).save_to_disk(
        folder / "saved"
    )
    return folder


@pytest.mark.parametrize(
    ("overrides", "classes"),
    [
        (["data=paired", "data.root=pairs"], {"low-light"}),
        (["data=mixed", "data.root=pairs", "data.photos_root=photos", "degradation=[noisy]"], {"low-light", "noisy"}),
        (["data=hub", "data.root=saved", "degradation=[noisy,hazy]"], {"noisy", "hazy"}),
        (["data=stream", "data.root=saved", "degradation=[noisy,hazy]", "data.num_workers=2"], {"noisy", "hazy"}),
    ],
    ids=["paired", "mixed", "hub", "stream"],
)
def test_stage_1_trains_from_each_source(
    place: Path, overrides: list[str], classes: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    output = f"outputs/{overrides[0].removeprefix('data=')}"
    small = ["experiment=smoke_daclip", "data.validation_batch_size=40", f"output={output}"]
    assert invoke("daclip.commands.train_daclip", *small, *overrides) is None
    metrics = read(place / output / "latest" / "metrics.json")
    assert metrics["steps"] == 2
    assert set(metrics["per_degradation_accuracy"]) == classes


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["data=paired"], ["data.root"]),
        (["data=paired", "data.root=photos"], ["TYPE/LQ"]),
        (["data=hub", "data.root=saved", "data.photos.image_column=picture"], ["no column 'picture'", "image, name"]),
        (["data=stream", "data.root=saved", "data.photos.validation=val"], ["no split 'val'", "train, test"]),
        (["data=mixed", "data.root=pairs", "data.photos_root=photos", "data.mix.weights={rainy: 1}"], ["every class"]),
        (["data=folder", "data.root=broken", "data.num_workers=1"], ["damaged"]),
    ],
    ids=["no_root", "no_pairs", "no_column", "no_split", "wrong_weights", "damaged_in_a_process"],
)
def test_a_mistake_ends_in_one_line(
    place: Path, overrides: list[str], parts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    broken = place / "broken"
    if not broken.exists():
        broken.mkdir()
        for name, picture in {"a": PICTURE, "b": PICTURE[::-1]}.items():
            file = io.BytesIO()
            Image.fromarray(picture).save(file, format="PNG")
            (broken / f"{name}.png").write_bytes(file.getvalue()[:90000])
    assert_one_line(invoke("daclip.commands.train_daclip", "experiment=smoke_daclip", *overrides), *parts)
