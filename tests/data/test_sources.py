"""Real pairs, datasets of the hub's library, and several sources mixed."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data

from daclip.data.captions import official_captions
from daclip.data.datamodule import MixedDegradationData
from daclip.data.hub import HubPhotos
from daclip.data.pairs import Augmentation, ClassSchedule, Mix, PairMaker, TrainingPairs, ValidationPairs
from daclip.data.photos import CleanPhoto
from daclip.data.sources import EmbeddedPhotos, MixedPhotos, PairedFolder
from daclip.data.stream import StreamedPairs
from daclip.degradations import Degradation
from daclip.degradations.noise import GaussianNoise
from daclip.errors import DaclipError
from daclip.metrics.classification import ConfusionMatrix

PICTURE = data.astronaut()
DEGRADATIONS: dict[str, Degradation] = {"noisy": GaussianNoise(sigma=[10, 50]), "rainy": GaussianNoise(sigma=[5, 6])}
MAKER = PairMaker(DEGRADATIONS, 32, 48, Augmentation((1.0, 1.0), 0.0, flip=True))


def clean(i: int) -> np.ndarray:
    return PICTURE[16 * i : 16 * i + 64, 100:180]


def save_pair(folder: Path, i: int, lq_name: str, gt_name: str) -> None:
    """A crop, and its dark version."""
    for part, name, picture in (("LQ", lq_name, clean(i) // 2), ("GT", gt_name, clean(i))):
        (folder / part).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / part / name)


@pytest.fixture
def pairs_root(tmp_path: Path) -> Path:
    root = tmp_path / "pairs"
    for i in range(10):
        save_pair(root / "low-light", i, f"{i}.png", f"{i}.png")
        save_pair(root / "raindrop", i, f"{i}_rain.png", f"{i}_clean.png")
    return root


def paired(root: Path, **changes: Any) -> PairedFolder:
    return PairedFolder(**{"root": root, "validation": 0.2, "captions": None, **changes})


def names(photos: Any) -> set[str]:
    return {photo.name for photo in photos}


def test_a_test_set_is_scored_in_full_and_never_trained_on(pairs_root: Path) -> None:
    whole = paired(pairs_root, validation=1)
    assert (len(whole.train()), len(whole.validation())) == (0, 20)
    with pytest.raises(DaclipError, match="or 1 for a test set"):
        paired(pairs_root, validation=1.5)
    (pairs_root / "val").mkdir()
    for name in ("low-light", "raindrop"):
        (pairs_root / name).rename(pairs_root / "val" / name)
    only = paired(pairs_root)
    assert (len(only.train()), len(only.validation())) == (0, 20)
    assert only.classes == whole.classes
    for source in (whole, only):
        module = MixedDegradationData(source, DEGRADATIONS, 32, 32, MAKER.augmentation, 4, 8, 32, 1, 4, 0, 0)
        with pytest.raises(DaclipError, match="no photo to train on"):
            module.training_pairs()


def test_official_layout_gives_pairs_with_the_folder_as_class(pairs_root: Path) -> None:
    source = paired(pairs_root)
    assert source.classes == ["low-light", "raindrop"]
    assert not source.has_plain
    photos = [*source.train(), *source.validation()]
    assert len(photos) == 20
    assert not names(source.train()) & names(source.validation())
    for photo in photos:
        assert torch.equal(photo.degraded_pixels(), photo.pixels() // 2)
        assert photo.name.startswith(photo.class_name + "/GT/")
        assert photo.size() == (64, 80)


def test_a_val_folder_is_the_validation_part(pairs_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "split"
    for split, i in (("train", 0), ("train", 1), ("val", 2)):
        save_pair(root / split / "hazy", i, f"{i}.png", f"{i}.png")
    source = paired(root)
    assert names(source.train()) == {"train/hazy/GT/0.png", "train/hazy/GT/1.png"}
    assert names(source.validation()) == {"val/hazy/GT/2.png"}


def test_one_photo_under_several_types_stays_on_one_side(tmp_path: Path) -> None:
    for class_name in ("noisy", "hazy", "rainy"):
        for i in range(12):
            save_pair(tmp_path / class_name, i, f"{i}.png", f"{i}.png")
    source = paired(tmp_path)
    train, validation = ({photo.path.stem for photo in part} for part in (source.train(), source.validation()))
    assert validation
    assert not train & validation


@pytest.mark.parametrize("separator", ["\t", ","])
def test_captions_are_split_at_the_last_colon(pairs_root: Path, separator: str) -> None:
    title = "a poster: moon, stars: by night: low-light"
    quoted = f'"{title}"' if separator == "," else title
    rows = [f"filepath{separator}title", f"datasets/universal/train/low-light/LQ/3.png{separator}{quoted}"]
    (pairs_root / "daclip_train.csv").write_text("\n".join(rows), encoding="utf-8")
    source = paired(pairs_root)
    captions = {photo.name: photo.caption for photo in [*source.train(), *source.validation()]}
    assert captions["low-light/GT/3.png"] == "a poster: moon, stars: by night"
    assert captions["low-light/GT/4.png"] == ""


@settings(max_examples=30, deadline=None)
@given(st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters='"'), min_size=1))
def test_any_caption_survives_the_table(tmp_path_factory: pytest.TempPathFactory, caption: str) -> None:
    table = tmp_path_factory.mktemp("table") / "daclip_train.csv"
    table.write_text(f"filepath\ttitle\nx/hazy/LQ/1.png\t{caption}: hazy\n", encoding="utf-8", newline="")
    assert official_captions(table) == {"hazy": {"x/hazy/LQ/1.png": caption}}


def test_bad_tables_are_refused(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    for text, message in (("name\ttitle\na\tb: c\n", "filepath"), ("filepath\ttitle\na/b.png\tno type\n", "row 2")):
        table.write_text(text, encoding="utf-8")
        with pytest.raises(DaclipError, match=message):
            official_captions(table)
    with pytest.raises(DaclipError, match="cannot be read"):
        official_captions(tmp_path / "none.csv")


def test_wrong_layouts_are_refused(pairs_root: Path, tmp_path: Path) -> None:
    with pytest.raises(DaclipError, match=r"data\.root"):
        PairedFolder(None, 0.1, None)
    with pytest.raises(DaclipError, match="no such folder"):
        paired(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DaclipError, match="TYPE/LQ"):
        paired(tmp_path / "empty")
    extra = pairs_root / "low-light" / "LQ" / "alone.png"
    Image.fromarray(clean(0)).save(extra)
    with pytest.raises(DaclipError, match=r"1 in \S+low-light/LQ have none in \S+GT: alone\.png"):
        paired(pairs_root)
    extra.unlink()
    other = pairs_root / "low-light" / "GT" / "3.png"
    Image.fromarray(clean(0)[:40]).save(other)
    with pytest.raises(DaclipError) as caught:
        PairedFolder(pairs_root, 0.2, None)
    for part in (str(other), str(pairs_root / "low-light" / "LQ" / "3.png"), "80×64", "80×40"):
        assert part in str(caught.value)


def test_a_real_pair_is_cut_and_turned_as_one(pairs_root: Path) -> None:
    photo = paired(pairs_root).train()[0]
    for seed in range(20):
        sample = MAKER.cut(photo, torch.Generator().manual_seed(seed))
        assert sample.lq.shape == sample.hq.shape == (3, 32, 32)
        # LQ is GT // 2 in whole levels, wherever the crop lies and however it is turned.
        assert torch.equal((sample.lq * 255).round(), (sample.hq * 255).round().div(2).floor())
        assert (sample.degradation, sample.name) == (photo.class_name, photo.name)
    small = PairMaker(DEGRADATIONS, 96, 96, MAKER.augmentation)
    assert small.cut(photo, torch.Generator().manual_seed(0)).lq.shape == (3, 96, 96)


def mixed(pairs_root: Path) -> MixedPhotos:
    return MixedPhotos({"pairs": paired(pairs_root), "photos": EmbeddedPhotos(["chelsea.png"])})


def stream(source: MixedPhotos, seed: int = 0, weights: Any = None, real_share: float = 0.5) -> TrainingPairs:
    return TrainingPairs(source.train(), MAKER, Mix(weights, real_share), 100, seed)


def test_mixing_is_balanced_by_class_and_fixed_by_seed_and_index(pairs_root: Path) -> None:
    source = mixed(pairs_root)
    assert source.has_plain
    assert source.classes == ["low-light", "raindrop"]
    pairs, again, other = stream(source), stream(source), stream(source, seed=1)
    samples = [pairs[i] for i in range(40)]
    found = [sample.degradation for sample in samples]
    assert {class_name: found.count(class_name) for class_name in found} == dict.fromkeys(
        ("noisy", "rainy", "low-light", "raindrop"), 10
    )
    for i in (39, 3, 18):
        assert torch.equal(again[i].lq, samples[i].lq)
        assert not torch.equal(other[i].hq, samples[i].hq)
    # Real pairs are shown as they are; the rest is synthesised from the photos.
    for sample in samples:
        real = sample.degradation in ("low-light", "raindrop")
        assert real == sample.name.startswith(sample.degradation)


def test_real_share_divides_a_class_that_has_both(pairs_root: Path, tmp_path: Path) -> None:
    for i in range(4):
        save_pair(tmp_path / "more" / "rainy", i, f"{i}.png", f"{i}.png")
    source = MixedPhotos({"pairs": paired(tmp_path / "more"), "photos": EmbeddedPhotos(["chelsea.png"])})

    def real(share: float) -> float:
        pairs = stream(source, real_share=share)
        rainy = [sample for sample in (pairs[i] for i in range(1, 160, 2)) if sample.degradation == "rainy"]
        assert len(rainy) == 80
        return sum(sample.name.startswith("rainy/") for sample in rainy) / len(rainy)

    assert real(0.0) == 0
    assert real(1.0) == 1
    assert 0.1 < real(0.25) < 0.4
    with pytest.raises(DaclipError, match="real_share"):
        Mix(None, 1.5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.05, 10), min_size=1, max_size=12), st.integers(0, 10**9))
def test_weights_hold_in_every_stretch_of_the_stream(weights: list[float], start: int) -> None:
    classes = [f"w{i}" for i in range(len(weights))]
    schedule = ClassSchedule(classes, dict(zip(classes, weights, strict=True)))
    count = 256
    found = [schedule.class_name(start + i) for i in range(count)]
    for class_name, weight in zip(classes, weights, strict=True):
        # The discrepancy of the sequence grows with the logarithm only: a few samples in 256.
        assert abs(found.count(class_name) - count * weight / sum(weights)) < 6


def test_wrong_weights_are_refused() -> None:
    for weights, message in (
        ({"a": 1}, "every class once"),
        ({"a": 1, "b": 1, "c": 1}, "every class once"),
        ({"a": 0, "b": 0}, "not all 0"),
        ({"a": -1, "b": 2}, "at least 0"),
    ):
        with pytest.raises(DaclipError, match=message):
            ClassSchedule(["a", "b"], weights)


def test_validation_set_shows_real_pairs_once_and_photos_under_every_class(pairs_root: Path) -> None:
    source = mixed(pairs_root)
    photos = source.validation()
    real = sum(bool(photo.class_name) for photo in photos)
    fixed = ValidationPairs(photos, DEGRADATIONS, 64, 2, 0)
    assert len(fixed) == real * 2 + (len(photos) - real) * 2 * len(DEGRADATIONS)
    assert fixed.classes == ["noisy", "rainy", "low-light", "raindrop"]
    samples = [fixed[i] for i in range(len(fixed))]
    assert {sample.lq.shape for sample in samples} == {(3, 64, 64)}
    assert {sample.degradation for sample in samples} == set(fixed.classes)
    assert torch.equal((samples[0].lq * 255).round(), (samples[0].hq * 255).round().div(2).floor())


def test_real_pairs_are_scored_whole_and_those_of_one_size_together(pairs_root: Path) -> None:
    photos = mixed(pairs_root).validation()
    pairs = ValidationPairs(photos, DEGRADATIONS, 48, 2, 0, whole=True)
    real = [photo for photo in photos if photo.class_name]
    assert len(pairs) == len(real) + (len(photos) - len(real)) * 2 * len(DEGRADATIONS)
    sizes = [tuple(sample.lq.shape[1:]) for sample in (pairs[i] for i in range(len(pairs)))]
    assert sorted(size for size in sizes if size != (48, 48)) == sorted(photo.size() for photo in real)
    batches = pairs.batches(3)
    assert [i for batch in batches for i in batch] == list(range(len(pairs)))
    assert all(len(batch) <= 3 and len({sizes[i] for i in batch}) == 1 for batch in batches)
    assert len(batches) < len(pairs)


# -- datasets of the hub's library ------------------------------------------------------------------------------------


def encoded(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    return file.getvalue()


def table(count: int, first: int = 0) -> datasets.Dataset:
    """Rows as `make dataset` writes them; every other row has a degraded version."""
    rows = range(first, first + count)
    image = {"path": None}
    return datasets.Dataset.from_dict(
        {
            "image": [{**image, "bytes": encoded(clean(i))} for i in rows],
            "lq": [{**image, "bytes": encoded(clean(i) // 2)} if i % 2 else None for i in rows],
            "name": [f"{i:03}" for i in rows],
            "caption": [f"no: {i}" for i in rows],
            "degradation": ["low-light" if i % 2 else "" for i in rows],
        },
        features=datasets.Features(
            {
                "image": datasets.Image(),
                "lq": datasets.Image(),
                **{name: datasets.Value("string") for name in ("name", "caption", "degradation")},
            }
        ),
    )


def as_saved(folder: Path) -> str:
    datasets.DatasetDict({"train": table(14), "test": table(6, 14)}).save_to_disk(folder / "saved")
    return str(folder / "saved")


def as_parquet(folder: Path) -> str:
    (folder / "parquet").mkdir()
    table(14).to_parquet(folder / "parquet" / "train-00000-of-00001.parquet")
    table(6, 14).to_parquet(folder / "parquet" / "test-00000-of-00001.parquet")
    return str(folder / "parquet")


def as_images(folder: Path) -> str:
    for split, rows in (("train", range(14)), ("test", range(14, 20))):
        (folder / "images" / split).mkdir(parents=True)
        for i in rows:
            (folder / "images" / split / f"{i:03}.png").write_bytes(encoded(clean(i)))
    return str(folder / "images")


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def hub(root: str | None, **changes: Any) -> HubPhotos:
    options = {
        "root": root,
        "config": None,
        "revision": None,
        "split": "train",
        "validation": "test",
        "validation_rows": 100,
        "image_column": "image",
        "caption_column": None,
        "name_column": None,
        "lq_column": None,
        "degradation_column": "degradation",
        "classes": None,
        "streaming": False,
        "window": 4,
    }
    return HubPhotos(**{**options, **changes})


def renamed(rows: datasets.Dataset) -> datasets.Dataset:
    return rows.map(lambda row: {"name": f"other {row['name']}"})


def streamed(source: HubPhotos) -> list[CleanPhoto]:
    rows, columns = source.stream()
    return [photo for row in rows if not source.is_validation((photo := source.photo(row, columns)).name)]


@pytest.mark.parametrize("write", [as_saved, as_parquet, as_images])
def test_listed_and_streamed_rows_are_the_same_photos(tmp_path: Path, write: Callable[[Path], str]) -> None:
    root = write(tmp_path)
    listed, passing = hub(root), hub(root, streaming=True)
    assert len(listed.train()) == 14
    assert len(listed.validation()) == 6
    for ours, theirs in ((listed.train(), streamed(passing)), (listed.validation(), passing.validation())):
        assert names(ours) == names(theirs)
        by_name = {photo.name: photo for photo in theirs}
        for photo in ours:
            other = by_name[photo.name]
            assert torch.equal(photo.pixels(), other.pixels())
            assert photo.size() == other.size() == (64, 80)
            assert photo.caption == other.caption
    if write is not as_images:
        assert {photo.caption for photo in listed.train()} == {f"no: {i}" for i in range(14)}


@pytest.mark.parametrize("name_column", ["name", None])
def test_the_validation_share_is_the_same_whether_listed_or_streamed(tmp_path: Path, name_column: str | None) -> None:
    root = as_saved(tmp_path)
    listed, passing = (hub(root, validation=0.3, name_column=name_column, streaming=on) for on in (False, True))
    assert names(listed.validation()) == names(passing.validation())
    assert names(listed.train()) == names(streamed(passing))
    assert not names(listed.train()) & names(listed.validation())
    assert len(hub(root, validation=0.3, validation_rows=1).validation()) == 1


def test_rows_with_a_degraded_version_are_real_pairs(tmp_path: Path) -> None:
    source = hub(as_saved(tmp_path), lq_column="lq")
    assert source.classes == ["low-light"]
    assert source.has_plain
    real = [photo for photo in source.train() if photo.class_name]
    assert len(real) == 7
    assert all(torch.equal(photo.degraded_pixels(), photo.pixels() // 2) for photo in real)
    found = [TrainingPairs(source.train(), MAKER, Mix(None, 0.5), 9, 0)[i].degradation for i in range(9)]
    assert {class_name: found.count(class_name) for class_name in found} == {"noisy": 3, "rainy": 3, "low-light": 3}


@pytest.mark.parametrize("streaming", [False, True])
def test_lists_of_captions_and_classes_are_understood(tmp_path: Path, streaming: bool) -> None:
    rows = table(4).remove_columns(["caption", "degradation"])
    rows = rows.add_column("caption", [["a: cat", "one cat"], [], None, ["a dog"]])
    rows = rows.add_column("degradation", [[], ["hazy", "rainy"], None, ["hazy"]])
    datasets.DatasetDict({"train": rows, "test": renamed(rows)}).save_to_disk(tmp_path / "lists")
    source = hub(str(tmp_path / "lists"), lq_column="lq", streaming=streaming, classes=["hazy", "rainy"])
    photos = {photo.name: photo for photo in (streamed(source) if streaming else source.train())}
    assert [photos[name].caption for name in sorted(photos)] == ["a: cat", "", "", "a dog"]
    assert [photos[name].class_name for name in sorted(photos)] == ["", "hazy, rainy", "", "hazy"]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_real_pair_of_several_classes_belongs_to_each_of_them(tmp_path: Path, streaming: bool) -> None:
    rows = table(8).map(lambda row: {"degradation": "hazy, rainy" if row["degradation"] else ""})
    datasets.DatasetDict({"train": rows, "test": renamed(rows)}).save_to_disk(tmp_path / "several")
    classes = ["hazy", "rainy"] if streaming else None
    source = hub(str(tmp_path / "several"), lq_column="lq", streaming=streaming, classes=classes)
    degradations = {"noisy": MAKER.degradations["noisy"]}
    module = MixedDegradationData(source, degradations, 32, 32, MAKER.augmentation, 4, 8, 32, 1, 4, 0, 0)
    assert module.classes == ["noisy", "hazy", "rainy"]
    assert module.validation_pairs().classes == module.classes
    labels = {label for batch in module.train_dataloader() for label in batch.degradation}
    assert labels == {"noisy", "hazy, rainy"}
    confusion = ConfusionMatrix(module.classes)
    confusion.update(torch.tensor([2, 0]), ["hazy, rainy", "hazy, rainy"])
    assert confusion.per_class() == {"hazy": 0.0, "rainy": 1.0}


@pytest.mark.parametrize("streaming", [False, True])
def test_no_validation_row_is_a_training_row(tmp_path: Path, streaming: bool) -> None:
    """What has one split asks for a share; a row in both splits is refused by its name."""
    table(6).save_to_disk(tmp_path / "single")
    table(6).to_parquet(tmp_path / "single.parquet")
    for root in ("single", "single.parquet"):
        with pytest.raises(DaclipError, match=r"no split 'test'; the dataset has train; .*validation=0\.1"):
            hub(str(tmp_path / root), streaming=streaming).validation()
        held_back = hub(str(tmp_path / root), validation=0.3, streaming=streaming)
        train = names(streamed(held_back) if streaming else held_back.train())
        assert len(train) + len(held_back.validation()) == 6
        assert not train & names(held_back.validation())
    both = {"train": table(8), "test": table(3, first=6)}
    datasets.DatasetDict(both).save_to_disk(tmp_path / "both")
    source = hub(str(tmp_path / "both"), streaming=streaming)
    schedule = ClassSchedule(list(DEGRADATIONS), None)
    with pytest.raises(DaclipError, match=r"00[67] belongs to the split 'train' and to 'test'"):
        list(StreamedPairs(source, MAKER, [], schedule, 8, 0, 0, 1, 0, rounds=1) if streaming else source.train())
    # Equal names alone, as in splits that are numbered each from the beginning, are no fault.
    both["test"] = both["test"].map(lambda row, i: {"name": f"{i:03}"}, with_indices=True)
    datasets.DatasetDict(both).save_to_disk(tmp_path / "numbered")
    assert len(hub(str(tmp_path / "numbered")).train()) == 8


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = as_saved(tmp_path)
    with pytest.raises(DaclipError, match=r"no column 'picture'; the dataset has image, lq, name"):
        hub(root, image_column="picture").train()
    with pytest.raises(DaclipError, match="no column 'text'"):
        hub(root, caption_column="text", streaming=True).stream()
    with pytest.raises(DaclipError, match=r"no split 'val'; the dataset has train, test"):
        hub(root, validation="val").validation()
    with pytest.raises(DaclipError, match=r"data\.root"):
        hub(None)
    with pytest.raises(DaclipError, match="share"):
        hub(root, validation=1.5)
    with pytest.raises(DaclipError, match="is the split that training reads"):
        hub(root, validation="train")
    with pytest.raises(DaclipError, match=r"data\.photos\.classes"):
        _ = hub(root, lq_column="lq", streaming=True).classes
    with pytest.raises(DaclipError, match="streaming=false"):
        hub(root, streaming=True).train()
    with pytest.raises(DaclipError, match=r"sources\.a streams"):
        MixedPhotos({"a": hub(root, streaming=True)})

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("cannot reach the hub\nand a long story")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(DaclipError, match="cannot reach the hub") as caught:
        hub("somebody/photos").train()
    assert "\n" not in str(caught.value)
    assert "somebody/photos" in str(caught.value)


def test_a_damaged_row_is_named_when_it_is_drawn(tmp_path: Path) -> None:
    whole = encoded(clean(0))
    bad = table(2).map(
        lambda row, i: {
            "image": {"bytes": whole if i else whole[: len(whole) // 2], "path": None},
            "lq": None,
            "degradation": "hazy",
        },
        with_indices=True,
        features=table(2).features,
    )
    datasets.DatasetDict({"train": bad, "test": renamed(bad)}).save_to_disk(tmp_path / "bad")
    first, second = hub(str(tmp_path / "bad"), lq_column="lq").train()
    assert first.size() == second.size() == (64, 80)
    with pytest.raises(DaclipError, match="000: the image is damaged"):
        first.pixels()
    with pytest.raises(DaclipError, match=r"001.*: the row holds no image"):
        second.degraded_pixels()


def test_real_pairs_need_no_synthetic_degradation(pairs_root: Path) -> None:
    sizes: dict[str, Any] = {"crop_size": 16, "context_size": 16, "batch_size": 4, "samples_per_epoch": 8}
    sizes |= {"validation_size": 32, "validation_crops": 1, "validation_batch_size": 4, "num_workers": 0, "seed": 0}
    augmentation = Augmentation((1.0, 1.0), 0.0, flip=False)
    data = MixedDegradationData(paired(pairs_root), {}, augmentation=augmentation, **sizes)
    assert data.classes == ["low-light", "raindrop"]
    assert {word for batch in data.train_dataloader() for word in batch.degradation} == {"low-light", "raindrop"}
    assert {pair.degradation for pair in data.validation_pairs()} == {"low-light", "raindrop"}  # type: ignore[attr-defined]
    with pytest.raises(DaclipError, match="no degradation is chosen"):
        MixedDegradationData(EmbeddedPhotos(["coffee.png"]), {}, augmentation=augmentation, **sizes)
