"""The dataset builder: what is in the dataset, that nothing is done twice, and that nothing half-done is left."""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
from PIL import Image
from skimage import data

from daclip.data.build import DatasetRecipe, UnreadablePhotosError, build_dataset, push_dataset
from daclip.data.captions import Captioner, SidecarCaptions
from daclip.data.photos import Photo
from daclip.data.sources import CaptionedFolder, PhotoFolder
from daclip.errors import DaclipError


class Namer(Captioner):
    """Calls a photo by its name, and counts."""

    identity = "namer"
    batch_size = 4

    def __init__(self, fail_at: str = "") -> None:
        self.asked: list[str] = []
        self.fail_at = fail_at

    def describe(self, photos: Sequence[Photo]) -> list[str]:
        if self.fail_at in [photo.name for photo in photos]:
            raise KeyboardInterrupt
        self.asked += [photo.name for photo in photos]
        return [f"photo: {photo.name}" for photo in photos]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Sixteen small photos in two levels and several formats, two of them copies, one lying on its side."""
    root = tmp_path / "my photos"
    (root / "deep").mkdir(parents=True)
    picture = data.astronaut()
    for i in range(14):
        crop = Image.fromarray(picture[12 * i : 12 * i + 70, 100 : 180 + i])
        crop.save(root / ("deep" if i % 2 else "") / f"{i:02}{('.png', '.jpg', '.webp')[i % 3]}")
    (root / "00.txt").write_text("an astronaut: close up\n", encoding="utf-8")
    lying = Image.fromarray(picture[:60, :100])
    exif = lying.getexif()
    exif[0x0112] = 6
    lying.save(root / "lying.jpg", exif=exif)
    (root / "deep" / "copy.png").write_bytes((root / "00.png").read_bytes())
    return root


def recipe(root: Path, cache: Path, captioner: Captioner | None = None) -> DatasetRecipe:
    return DatasetRecipe(
        root=root,
        captioner=captioner or SidecarCaptions(),
        cache=cache,
        validation=0.25,
        source_name=None,
        license="CC0-1.0",
        attribution=None,
        skip_unreadable=False,
        num_workers=2,
        shard_megabytes=0.008,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_rows_hold_the_files_and_their_facts(photos: Path, tmp_path: Path) -> None:
    built = build_dataset(recipe(photos, tmp_path / "cache"), tmp_path / "out" / "set", False)
    assert built.fresh
    loaded = datasets.load_from_disk(tmp_path / "out" / "set")
    assert set(loaded) == {"train", "test"}
    names = {split: loaded[split]["name"][:] for split in loaded}
    assert len(names["train"]) + len(names["test"]) == 15
    for split in loaded:
        for row in loaded[split].cast_column("image", datasets.Image(decode=False)):
            content = (photos / row["name"]).read_bytes()
            assert row["image"]["bytes"] == content
            assert row["sha256"] == hashlib.sha256(content).hexdigest()
            assert (row["source"], row["license"]) == ("my photos", "CC0-1.0")
            assert row["caption"] == ("an astronaut: close up" if row["name"] == "00.png" else "")
        for row in loaded[split]:
            assert row["image"].size == (row["width"], row["height"])
    sizes = {row["name"]: (row["width"], row["height"]) for split in loaded for row in loaded[split]}
    assert sizes["lying.jpg"] == (60, 100)
    # Training from the folder and from the dataset hold the same photos out.
    folder = PhotoFolder(photos, 0.25)
    assert set(names["test"]) == {photo.name for photo in folder.validation()} - {"deep/copy.png"}
    # No traces of the work.
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["set"]


def test_the_card_and_the_record_tell_the_counts(photos: Path, tmp_path: Path) -> None:
    table = tmp_path / "attribution.csv"
    table.write_text("name,source,license\n02.webp,a friend,CC-BY-4.0\n04.jpg,,MIT\n", encoding="utf-8")
    plan = replace(recipe(photos, tmp_path / "cache"), attribution=table)
    built = build_dataset(plan, tmp_path / "set", False)
    card = (built.path / "README.md").read_text(encoding="utf-8")
    assert "| all | 15 | 1 |" in card
    assert "`deep/copy.png` equals `00.png`" in card
    for line in ("| a friend | CC-BY-4.0 | 1 |", "| my photos | MIT | 1 |", "| my photos | CC0-1.0 | 13 |"):
        assert line in card
    record = json.loads((built.path / "build.json").read_text(encoding="utf-8"))
    assert sum(record["photos"].values()) == 15
    assert record["duplicates"] == {"deep/copy.png": "00.png"}
    assert Image.open(built.path / "sheet.png").width > 6 * 192
    # Nothing in the dataset tells on which machine it was made.
    assert not [name for name, content in contents(built.path).items() if str(tmp_path).encode() in content]


def test_two_builds_give_the_same_rows_in_several_files(photos: Path, tmp_path: Path) -> None:
    found = []
    for place in ("one", "two"):
        built = build_dataset(recipe(photos, tmp_path / place / "cache", Namer()), tmp_path / place / "set", False)
        rows = datasets.load_from_disk(built.path)
        found.append({split: rows[split].cast_column("image", datasets.Image(decode=False))[:] for split in rows})
        assert len(list(built.path.glob("train/data-*.arrow"))) > 2
    assert found[0] == found[1]


def test_a_stopped_build_goes_on_where_it_stopped(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped, again = Namer(fail_at="deep/09.png"), Namer()
    with pytest.raises(KeyboardInterrupt):
        build_dataset(recipe(photos, tmp_path / "cache", stopped), tmp_path / "set", False)
    assert not (tmp_path / "set").exists()
    assert len(stopped.asked) in (4, 8, 12)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(datasets.DatasetDict, "save_to_disk", full)
        with pytest.raises(DaclipError, match="No space left"):
            build_dataset(recipe(photos, tmp_path / "cache", again), tmp_path / "set", False)
    assert len(stopped.asked) + len(again.asked) == 15
    monkeypatch.setattr("daclip.data.photos.decode_pixels", lambda *_: pytest.fail("a known file was read again"))
    (tmp_path / ".set-1.partial").mkdir()  # of a killed build
    assert build_dataset(recipe(photos, tmp_path / "cache", again), tmp_path / "set", False).fresh
    assert len(stopped.asked) + len(again.asked) == 15
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "my photos", "set"]


def test_nothing_is_done_twice(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    namer = Namer()
    plan = recipe(photos, tmp_path / "cache", namer)
    build_dataset(plan, tmp_path / "set", False)
    before = contents(tmp_path / "set")
    monkeypatch.setattr("daclip.data.photos.decode_pixels", lambda *_: pytest.fail("a known file was read again"))
    assert not build_dataset(plan, tmp_path / "set", False).fresh
    monkeypatch.undo()
    # One more photo costs one more caption.
    Image.fromarray(data.coffee()[:80, :90]).save(photos / "new.png")
    with pytest.raises(DaclipError, match="--overwrite"):
        build_dataset(plan, tmp_path / "set", False)
    assert contents(tmp_path / "set") == before
    assert build_dataset(plan, tmp_path / "set", True).fresh
    assert sum(datasets.load_from_disk(tmp_path / "set").num_rows.values()) == 16
    assert sorted(namer.asked) == sorted({*namer.asked})
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_unreadable_photos_are_named_and_nothing_is_written(photos: Path, tmp_path: Path) -> None:
    whole = (photos / "00.png").read_bytes()
    (photos / "torn.png").write_bytes(whole[: len(whole) // 2])
    (photos / "text.jpg").write_text("no picture", encoding="utf-8")
    plan = recipe(photos, tmp_path / "cache")
    with pytest.raises(UnreadablePhotosError, match="2 of 18 photos") as caught:
        build_dataset(plan, tmp_path / "set", False)
    assert "torn.png" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(caught.value.reasons) == 2
    assert not (tmp_path / "set").exists()
    built = build_dataset(replace(plan, skip_unreadable=True), tmp_path / "set", False)
    assert list(built.plan.unreadable) == ["text.jpg", "torn.png"]
    assert "- `torn.png`" in (tmp_path / "set" / "README.md").read_text(encoding="utf-8")


def test_a_photo_that_changes_meanwhile_is_noticed(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = recipe(photos, tmp_path / "cache").plan()
    Image.fromarray(data.coffee()).save(photos / "02.webp")
    monkeypatch.setattr(DatasetRecipe, "plan", lambda *_: planned)
    with pytest.raises(DaclipError, match=r"02\.webp: changed while"):
        build_dataset(recipe(photos, tmp_path / "cache"), tmp_path / "set", False)
    assert not (tmp_path / "set").exists()


def test_a_folder_in_the_way_is_left_alone(photos: Path, tmp_path: Path) -> None:
    plan = recipe(photos, tmp_path / "cache")
    with pytest.raises(DaclipError, match="lies in the folder of photos"):
        build_dataset(plan, photos / "set", False)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear", encoding="utf-8")
    with pytest.raises(DaclipError, match="no dataset built here"):
        build_dataset(plan, tmp_path / "home", True)
    assert contents(tmp_path / "home") == {"letter.txt": b"dear"}
    (tmp_path / "empty").mkdir()
    assert build_dataset(plan, tmp_path / "empty", False).fresh


def test_bad_options_are_refused(photos: Path, tmp_path: Path) -> None:
    plan = recipe(photos, tmp_path / "cache")
    for change, part in (
        ({"validation": 1.0}, "validation"),
        ({"shard_megabytes": 0.0}, "shard_megabytes"),
        ({"num_workers": 0}, "num_workers"),
        ({"attribution": tmp_path / "none.csv"}, "none.csv"),
        ({"root": tmp_path / "nowhere"}, "no such folder"),
    ):
        with pytest.raises(DaclipError, match=part):
            replace(plan, **change).plan()
    same = tmp_path / "same"
    same.mkdir()
    for name in ("a.png", "b.png"):
        (same / name).write_bytes((photos / "00.png").read_bytes())
    with pytest.raises(DaclipError, match="two different photos"):
        recipe(same, tmp_path / "cache").plan()


def test_the_cache_holds_one_dataset_for_each_content(photos: Path, tmp_path: Path) -> None:
    plan = recipe(photos, tmp_path / "cache")
    first, second = build_dataset(plan, None), build_dataset(plan, None)
    assert (first.fresh, second.fresh) == (True, False)
    assert first.path == second.path
    (photos / "00.txt").write_text("someone", encoding="utf-8")
    changed = build_dataset(plan, None)
    assert changed.path != first.path
    assert "someone" in {row["caption"] for rows in datasets.load_from_disk(changed.path).values() for row in rows}


def test_a_captioned_folder_is_lazy_and_agrees_with_its_dataset(photos: Path, tmp_path: Path) -> None:
    namer = Namer()
    source = CaptionedFolder(
        root=photos,
        captioner=namer,
        cache=tmp_path / "cache",
        validation=0.25,
        source_name=None,
        license="",
        attribution=None,
        skip_unreadable=False,
        num_workers=1,
        shard_megabytes=1.0,
    )
    assert not (tmp_path / "cache").exists()
    source.prepare()
    loaded = datasets.load_from_disk(source.built.path)
    for split, part in (("train", source.train()), ("test", source.validation())):
        assert [photo.name for photo in part] == loaded[split]["name"][:]
        for photo, row in zip(part, loaded[split], strict=True):
            assert photo.caption == row["caption"] == f"photo: {photo.name}"
            assert photo.size() == (row["height"], row["width"])
    assert len(namer.asked) == 15


def test_pushing_sends_card_and_rows_and_fails_in_one_line(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build_dataset(recipe(photos, tmp_path / "cache"), tmp_path / "set", False)
    sent: list[str] = []
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda _, name, **__: f"hub/{name}")
    monkeypatch.setattr("huggingface_hub.HfApi.upload_file", lambda _, **kw: sent.append(kw["path_in_repo"]))
    monkeypatch.setattr(datasets.DatasetDict, "push_to_hub", lambda rows, name, **__: sent.append(str(rows.num_rows)))
    assert push_dataset(built.path, "me/photos", private=True) == "hub/me/photos"
    assert sent == ["README.md", "sheet.png", str(datasets.load_from_disk(built.path).num_rows)]

    def no_network(*_: object, **__: object) -> None:
        raise ConnectionError("the network is unreachable\nand more")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", no_network)
    with pytest.raises(DaclipError, match="unreachable") as caught:
        push_dataset(built.path, "me/photos", private=True)
    assert "\n" not in str(caught.value)


def test_a_reader_without_this_package_sees_pictures(photos: Path, tmp_path: Path) -> None:
    built = build_dataset(recipe(photos, tmp_path / "cache"), tmp_path / "set", False)
    row = datasets.load_from_disk(str(built.path))["train"][0]
    expected = Image.open(io.BytesIO((photos / row["name"]).read_bytes()))
    assert row["image"].convert("RGB").tobytes() == expected.convert("RGB").tobytes()
