"""Which photos take part in training and in validation, and what is said of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data

from daclip.data.datamodule import MixedDegradationData
from daclip.data.pairs import Augmentation
from daclip.data.photos import PhotoSource, name_fraction
from daclip.data.sources import PairedFolder, PhotoFolder
from daclip.degradations.noise import GaussianNoise
from daclip.errors import DaclipError

PICTURE = data.astronaut()


def save(path: Path, number: int, side: int = 64, shade: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PICTURE[9 * number : 9 * number + side, 9 * number : 9 * number + side] // shade).save(path)


def module(source: PhotoSource, **changes: Any) -> MixedDegradationData:
    settings: dict[str, Any] = {
        "crop_size": 32,
        "context_size": 32,
        "batch_size": 2,
        "samples_per_epoch": 4,
        "validation_size": 48,
        "validation_crops": 1,
        "validation_batch_size": 2,
        "num_workers": 0,
        "seed": 0,
        **changes,
    }
    noise = {"noisy": GaussianNoise(sigma=[10, 50])}
    return MixedDegradationData(source, noise, augmentation=Augmentation((1, 1), 0, False), **settings)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(20):
        save(tmp_path / "photos" / f"{number:02}.png", number)
    return tmp_path / "photos"


def test_a_photo_that_is_too_small_is_left_out_and_changes_no_crop(photos: Path) -> None:
    source = PhotoFolder(photos, 0.3)
    small_validation, small_training = source.validation()[0].path, source.train()[0].path
    save(small_validation, 0, side=40)
    save(small_training, 1, side=24)
    found = module(PhotoFolder(photos, 0.3))
    pairs = found.validation_pairs()
    assert {tuple(pairs[i].hq.shape) for i in range(len(pairs))} == {(3, 48, 48)}
    assert small_validation.name not in {photo.name for photo in pairs.photos}
    assert small_training.name not in {photo.name for photo in found.training_pairs().plain}
    _, training, validation = found.account()
    assert training.endswith(f"left out: 1 smaller than data.crop_size ({small_training.name})")
    assert validation.endswith(f"left out: 1 smaller than data.validation_size ({small_validation.name})")
    with pytest.raises(DaclipError, match=r"data\.validation_size=99: every photo is smaller"):
        module(PhotoFolder(photos, 0.3), validation_size=99).validation_pairs()
    with pytest.raises(DaclipError, match=r"data\.crop_size=99: every photo is smaller"):
        module(PhotoFolder(photos, 0.3), crop_size=99, context_size=99).training_pairs()


def test_where_all_validation_photos_are_too_small_another_takes_their_place(photos: Path) -> None:
    held_back = [photo.path for photo in PhotoFolder(photos, 0.1).validation()]
    for path in held_back:
        save(path, 0, side=40)
    source = PhotoFolder(photos, 0.1)
    found = module(source)
    (moved,) = found.validation_pairs().photos
    assert moved.name not in {path.name for path in held_back}
    assert moved.name not in {photo.name for photo in found.training_pairs().plain}
    assert len(found.training_pairs().plain) == len(source.train()) - 1
    assert all(path.name in found.account()[-1] for path in held_back[:3])


def test_many_validation_photos_are_sampled_the_same_way_each_time(photos: Path) -> None:
    whole = module(PhotoFolder(photos, 0.5)).validation_pairs().photos
    some, again = (module(PhotoFolder(photos, 0.5), validation_photos=4) for _ in range(2))
    chosen = some.validation_pairs().photos
    assert len(chosen) == 4
    assert [photo.name for photo in chosen] == [photo.name for photo in again.validation_pairs().photos]
    assert [photo for photo in whole if photo in chosen] == chosen
    assert f"validation: 4 photos of {len(whole)}" in some.account()[-1]
    for number in range(20):  # photos that come later displace few
        save(photos / f"new{number}.png", number, side=65)
    grown = module(PhotoFolder(photos, 0.5), validation_photos=4).validation_pairs().photos
    highest = [max(name_fraction(photo.name) for photo in side) for side in (grown, chosen)]
    assert highest[0] <= highest[1]
    with pytest.raises(DaclipError, match=r"validation_photos must be at least 1"):
        module(PhotoFolder(photos, 0.5), validation_photos=0).validation_pairs()


def pairs(root: Path, *classes: str) -> Path:
    for class_name in classes:
        for number in range(8):
            save(root / class_name / "GT" / f"{number}.png", number)
            save(root / class_name / "LQ" / f"{number}.png", number, shade=3)
    return root


def test_the_sample_of_real_pairs_is_by_class(tmp_path: Path) -> None:
    source = PairedFolder(pairs(tmp_path, "hazy", "rainy"), 0.5, None)
    found = module(source, validation_photos=2)
    assert sorted(photo.class_name for photo in found.validation_pairs().photos) == ["hazy", "hazy", "rainy", "rainy"]
    # Published scores are of all of them.
    assert len(found.validation_pairs(whole=True).photos) == len(source.validation())


def test_copies_of_validation_photos_are_not_trained_on(photos: Path) -> None:
    held_back = PhotoFolder(photos, 0.3).validation()[0].path
    train = {photo.name for photo in PhotoFolder(photos, 0.3).train()}
    copied = None
    for number in range(30):  # a name that falls on the side of training
        (photos / f"copy{number}.png").write_bytes(held_back.read_bytes())
        source = PhotoFolder(photos, 0.3)
        copied = next((photo.name for photo in source.train() if photo.name.startswith("copy")), None)
        if copied and held_back.name in {photo.name for photo in source.validation()}:
            break
    assert copied
    found = module(source)
    shown = {photo.name for photo in found.training_pairs().plain}
    assert not {name for name in shown if name.startswith("copy")}
    assert shown == train & shown
    assert "copies of validation photos (copy" in found.account()[1]


def test_splits_of_the_data_s_maker_may_not_overlap(tmp_path: Path) -> None:
    pairs(tmp_path / "train", "hazy")
    pairs(tmp_path / "val", "hazy")
    with pytest.raises(
        DaclipError, match=r"8 photos belong to training and to validation, such as train/hazy/GT/0\.png"
    ):
        module(PairedFolder(tmp_path, 0.1, None)).training_pairs()


def test_a_damaged_validation_photo_is_named_as_one(photos: Path) -> None:
    found = module(PhotoFolder(photos, 0.3), max_damaged=5)
    path = PhotoFolder(photos, 0.3).validation()[0].path
    path.write_bytes(path.read_bytes()[:900])
    pairs = found.validation_pairs()
    with pytest.raises(DaclipError, match=rf"{path.name}: .*scores are measured on it"):
        _ = [pairs[i] for i in range(len(pairs))]


def test_pairs_of_other_pictures_are_refused_unless_asked_for(tmp_path: Path) -> None:
    true, wrong = pairs(tmp_path / "true", "hazy"), pairs(tmp_path / "wrong", "hazy")
    for path in (wrong / "hazy" / "GT").iterdir():
        Image.fromarray(255 - np.asarray(Image.open(path))).save(wrong / "hazy" / "LQ" / path.name)
    module(PairedFolder(true, 0.3, None)).prepare_data()
    with pytest.raises(DaclipError, match=r"hazy: LQ and GT show different pictures in \d of \d pairs .*allow_unlike"):
        module(PairedFolder(wrong, 0.3, None)).prepare_data()
    module(PairedFolder(wrong, 0.3, None), allow_unlike=True).prepare_data()


def test_hardly_any_captions_are_refused_where_they_count(photos: Path) -> None:
    with pytest.raises(DaclipError, match=r"caption_weight needs captions, and 0 of \d+ photos have one"):
        module(PhotoFolder(photos, 0.3)).require_captions()
    for path in photos.glob("*.png"):
        path.with_suffix(".txt").write_text("an astronaut", encoding="utf-8")
    module(PhotoFolder(photos, 0.3)).require_captions()


@pytest.mark.parametrize("name", ["photos/{stem}.png", "{stem}", "{stem}.jpg", "a/b/{stem}.tif", "{stem}.png"])
def test_caption_files_match_by_path_name_or_stem(photos: Path, tmp_path: Path, name: str) -> None:
    table = tmp_path / "captions.csv"
    rows = [f"{name.format(stem=f'{number:02}')},photo {number}" for number in range(20)]
    table.write_text("\n".join(["name,caption", *rows]), encoding="utf-8")
    source = PhotoFolder(photos, 0.3, table)
    assert all(photo.caption == f"photo {int(photo.path.stem)}" for photo in source.train())
    assert "20 of 20 captioned (20 by" in source.account


def test_a_caption_that_fits_several_photos_is_given_to_none(photos: Path, tmp_path: Path) -> None:
    save(photos / "deep/00.png", 30)
    table = tmp_path / "captions.csv"
    table.write_text("name,caption\nelsewhere/00.png,which one?\nelsewhere/01.png,this one\n", encoding="utf-8")
    source = PhotoFolder(photos, 0.3, table)
    captions = {photo.name: photo.caption for photo in [*source.train(), *source.validation()]}
    assert (captions["00.png"], captions["deep/00.png"], captions["01.png"]) == ("", "", "this one")
    table.write_text("name,caption\nother/x.png,none of these\n", encoding="utf-8")
    with pytest.raises(DaclipError, match=r"its 1 rows name none of the photos \(the first row is other/x\.png"):
        PhotoFolder(photos, 0.3, table)
