"""Each kind of problem is found where it is, and nowhere else."""

from dataclasses import replace
from pathlib import Path

import datasets
import pytest
from PIL import Image
from skimage import data

from daclip.data.build import DatasetRecipe, build_dataset
from daclip.data.captions import NoCaptions, SidecarCaptions
from daclip.data.check import KINDS, CheckOptions, Item, check_dataset, judge
from daclip.errors import DaclipError

PICTURE = data.astronaut()


def save(path: Path, number: int, width: int = 80, height: int = 70, shade: int = 1) -> Path:
    """A small photo, another one for each number; `shade` divides its light."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PICTURE[7 * number : 7 * number + height, 5 * number : 5 * number + width] // shade).save(path)
    return path


@pytest.fixture
def options(tmp_path: Path) -> CheckOptions:
    return CheckOptions(
        smallest_side=64,
        validation=0.3,
        captions="auto",
        captioner=SidecarCaptions(),
        classes=["rainy", "hazy"],
        cache=tmp_path / "cache",
        num_workers=1,
    )


def findings(source: Path, options: CheckOptions) -> dict[str, list[str]]:
    """Names of the photos by kind of problem."""
    report = check_dataset(source, options)
    assert report.as_json()["clean"] is (not report.problems)
    assert all("\n" not in problem.detail for problem in report.problems)
    return {kind: sorted(problem.name for problem in problems) for kind, problems in report.by_kind().items()}


def test_a_plain_folder(tmp_path: Path, options: CheckOptions) -> None:
    root = tmp_path / "photos"
    for number in range(8):
        save(root / f"{number}.png", number)
    assert findings(root, options) == {}
    (root / "0.txt").write_text("an astronaut", encoding="utf-8")
    assert findings(root, options) == {"missing caption": [f"{number}.png" for number in range(1, 8)]}
    assert findings(root, replace(options, captions="ignored")) == {}
    (root / "0.txt").unlink()
    assert len(findings(root, replace(options, captions="required"))["missing caption"]) == 8
    save(root / "small.png", 9, width=63)
    (root / "torn.png").write_bytes((root / "1.png").read_bytes()[:900])
    assert findings(root, options) == {"tiny": ["small.png"], "unreadable": ["torn.png"]}


def test_copies_in_one_split_and_across(tmp_path: Path, options: CheckOptions) -> None:
    root = tmp_path / "photos"
    for number in range(6):
        save(root / ("train" if number % 2 else "test") / f"{number}.png", number)
    assert check_dataset(root, options).counts == {"test": 3, "train": 3}
    (root / "train" / "again.png").write_bytes((root / "train" / "1.png").read_bytes())
    (root / "train" / "leak.png").write_bytes((root / "test" / "0.png").read_bytes())
    assert findings(root, options) == {"duplicate": ["train/again.png"], "leak": ["test/0.png"]}


def pairs(root: Path) -> Path:
    for number in range(4):
        for class_name in ("rainy", "hazy"):
            save(root / class_name / "GT" / f"{number}.png", number)
            save(root / class_name / "LQ" / f"{number}.png", number, shade=2 if class_name == "rainy" else 3)
    return root


def test_official_pairs(tmp_path: Path, options: CheckOptions) -> None:
    root = pairs(tmp_path / "pairs")
    # One clean photo under several classes is how these sets are made.
    assert findings(root, options) == {}
    assert check_dataset(root, options).layout == "pairs"
    (root / "hazy" / "LQ" / "1.png").unlink()
    save(root / "rainy" / "LQ" / "2.png", 2, width=81, shade=2)
    (root / "rainy" / "LQ" / "3.png").write_bytes((root / "rainy" / "GT" / "3.png").read_bytes())
    save(root / "foggy" / "LQ" / "9.png", 40)
    save(root / "foggy" / "GT" / "9.png", 41)
    (root / "foggy" / "LQ" / "0.png").write_bytes((root / "hazy" / "LQ" / "0.png").read_bytes())
    save(root / "foggy" / "GT" / "0.png", 0)
    assert findings(root, options) == {
        "missing partner": ["hazy/GT/1.png"],
        "size mismatch": ["rainy/LQ/2.png"],
        "not degraded": ["rainy/LQ/3.png"],
        "unknown class": ["foggy"],
        "duplicate": ["hazy/LQ/0.png"],
    }


def test_an_unreadable_half_of_a_pair_is_one_problem(tmp_path: Path, options: CheckOptions) -> None:
    root = pairs(tmp_path / "pairs")
    (root / "hazy" / "LQ" / "1.png").write_bytes(b"no picture")
    assert findings(root, options) == {"unreadable": ["hazy/LQ/1.png"]}


def test_official_splits_and_captions(tmp_path: Path, options: CheckOptions) -> None:
    root = tmp_path / "pairs"
    pairs(root / "train")
    for number in range(2):
        save(root / "val" / "rainy" / "GT" / f"{50 + number}.png", 50 + number)
        save(root / "val" / "rainy" / "LQ" / f"{50 + number}.png", 50 + number, shade=2)
    assert findings(root, options) == {}
    assert check_dataset(root, options).counts == {"train": 16, "val": 4}
    (root / "val" / "rainy" / "GT" / "50.png").write_bytes((root / "train" / "hazy" / "GT" / "2.png").read_bytes())
    assert findings(root, options) == {"leak": ["train/hazy/GT/2.png"], "another picture": ["val/rainy/LQ/50.png"]}
    rows = [f"train/rainy/LQ/{number}.png\tan astronaut: smiling: rainy" for number in range(4)]
    rows += [f"train/hazy/LQ/{number}.png\tan astronaut: hazy" for number in range(3)] + ["x.png\tsomeone: blury"]
    (root / "daclip_train.csv").write_text("\n".join(["filepath\ttitle", *rows, ""]), encoding="utf-8")
    found = findings(root, options)
    assert found["missing caption"] == ["train/hazy/GT/3.png", "val/rainy/GT/50.png", "val/rainy/GT/51.png"]
    assert found["unknown class"] == ["daclip_train.csv"]


def test_a_built_dataset(tmp_path: Path, options: CheckOptions) -> None:
    root = tmp_path / "photos"
    for number in range(9):
        save(root / f"{number}.png", number)
    recipe = DatasetRecipe(root, NoCaptions(), tmp_path / "cache", 0.3, None, "", None, False, 1, 1.0)
    built = build_dataset(recipe, tmp_path / "set", False).path
    assert findings(built, options) == {}
    report = check_dataset(built, options)
    assert report.layout == "built"
    assert sum(report.counts.values()) == 9
    # The same rows, spoilt: a photo of the test split in both, a wrong width, a broken picture, one caption only.
    loaded = datasets.load_from_disk(built)
    train = [dict(row) for row in loaded["train"].cast_column("image", datasets.Image(decode=False))]
    test = [dict(row) for row in loaded["test"].cast_column("image", datasets.Image(decode=False))]
    train.append(dict(test[0]))
    train[0]["width"] += 1
    train[1]["image"] = {"bytes": b"no picture", "path": "a.png"}
    train[2]["caption"] = "an astronaut"
    train[3]["sha256"] = "0" * 64
    spoilt = datasets.DatasetDict(
        {
            name: datasets.Dataset.from_list(rows, features=loaded["train"].features)
            for name, rows in (("train", train), ("test", test))
        }
    )
    spoilt.save_to_disk(tmp_path / "spoilt")
    found = findings(tmp_path / "spoilt", options)
    assert found["wrong record"] == sorted(f"{train[i]['name']} (train)" for i in (0, 3))
    assert found["unreadable"] == [f"{train[1]['name']} (train)"]
    assert len(found["missing caption"]) == 10 - 2
    assert len(found["leak"]) == 1
    assert set(found) == {"wrong record", "unreadable", "missing caption", "leak"}


def test_stored_pairs_of_a_dataset(tmp_path: Path, options: CheckOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    def cell(number: int, width: int = 80) -> dict[str, object]:
        path = save(tmp_path / "cells" / f"{number}-{width}.png", number, width)
        return {"bytes": path.read_bytes(), "path": path.name}

    image = datasets.Image()
    text = datasets.Value("string")
    rows = [
        {"image": cell(0), "lq": cell(1), "degradation": "rainy"},
        {"image": cell(0), "lq": cell(2), "degradation": "rainy, hazy"},
        {"image": cell(3), "lq": cell(4, 82), "degradation": "blury, hazy"},
    ]
    features = datasets.Features({"image": image, "lq": image, "degradation": text})
    built = datasets.DatasetDict({"test": datasets.Dataset.from_list(rows, features=features)})
    built.save_to_disk(tmp_path / "set")
    assert findings(tmp_path / "set", options) == {"size mismatch": ["2 (test)"], "unknown class": ["2 (test)"]}
    # One split saved by itself, and parquet files, as `data=hub` takes them.
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    built["test"].save_to_disk(tmp_path / "one split")
    (tmp_path / "parquet").mkdir()
    built["test"].to_parquet(tmp_path / "parquet" / "train.parquet")
    for place in ("one split", "parquet"):
        assert findings(tmp_path / place, options) == {"size mismatch": ["2 (train)"], "unknown class": ["2 (train)"]}
    built.remove_columns("image").save_to_disk(tmp_path / "no image")
    with pytest.raises(DaclipError, match="no column image"):
        check_dataset(tmp_path / "no image", options)


def test_bad_questions_are_refused(tmp_path: Path, options: CheckOptions) -> None:
    with pytest.raises(DaclipError, match="no such folder"):
        check_dataset(tmp_path / "nowhere", options)
    with pytest.raises(DaclipError, match="auto, required or ignored"):
        judge([Item("a", "train", "0", 99, 99)], 64, "sometimes")
    assert judge([Item("a", "train", "0", 99, 99)], 64, "required") == []
    assert all(KINDS.values())
