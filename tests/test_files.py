"""Writing files, and finding photos: links, what is hidden, names that are no UTF-8."""

import math
import os
from pathlib import Path

import pytest
from PIL import Image
from running import read
from skimage import data

from daclip.data.build import DatasetRecipe
from daclip.data.captions import NoCaptions
from daclip.data.check import CheckOptions, check_dataset
from daclip.data.sources import PhotoFolder
from daclip.errors import DaclipError
from daclip.files import account, find_photos, name_of, read_json, write_json
from daclip.metrics.scorer import match_folders


def test_json_has_null_and_a_reason_where_python_has_infinity(tmp_path: Path) -> None:
    scores = {"mean": {"psnr": math.inf, "ssim": 1.0}, "rows": [1, -math.inf], "count": 2}
    write_json(tmp_path / "a.json", scores)
    assert read(tmp_path / "a.json") == {
        "mean": {"psnr": None, "ssim": 1.0},
        "rows": [1, None],
        "count": 2,
        "null": {"mean.psnr": "inf", "rows.1": "-inf"},
    }
    assert read_json(tmp_path / "a.json") == scores


def touch(*paths: Path) -> None:
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.astronaut()[8 * number : 8 * number + 64, 100:180]).save(path, format="PNG")


def found(root: Path) -> list[str]:
    return [name_of(path, root) for path in find_photos(root).photos]


def test_links_to_folders_are_followed_once_and_circles_end(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    touch(root / "own/0.png", *(elsewhere / f"deep/{i}.png" for i in range(3)))
    (root / "set").symlink_to(elsewhere)
    (root / "the same set").symlink_to(elsewhere / "deep")
    (root / "own/up").symlink_to(root)
    (elsewhere / "deep/around").symlink_to(elsewhere)
    (root / "above").symlink_to(tmp_path)
    (root / "file.png").symlink_to(root / "own/0.png")
    (root / "gone.png").symlink_to(tmp_path / "nothing.png")
    (root / "self.png").symlink_to(root / "self.png")
    assert found(root) == ["file.png", "own/0.png", "set/deep/0.png", "set/deep/1.png", "set/deep/2.png"]
    line = account([find_photos(root)])
    for part in ("5 photos found, 3 of them through linked folders", "2 links to nothing (gone.png, self.png)"):
        assert part in line
    assert "4 links to folders that are read already" in line


def test_what_is_hidden_or_litter_is_left_out_and_counted(tmp_path: Path) -> None:
    litter = (".ipynb_checkpoints/0-checkpoint.png", "a/@eaDir/0.png", "__MACOSX/0.png", ".thumbnails/0.png", "._0.png")
    touch(tmp_path / "0.png", *(tmp_path / name for name in litter))
    for name in ("clip.mp4", "clip2.MP4", "0.txt", "captions.csv", "LICENSE"):
        (tmp_path / name).write_text("no photo", encoding="utf-8")
    assert found(tmp_path) == ["0.png"]
    line = account([find_photos(tmp_path)])
    assert "5 hidden (" in line
    assert "2 of another kind (clip.mp4, clip2.MP4)" in line
    (tmp_path / "0.png").unlink()
    with pytest.raises(DaclipError, match=r"holds no images .*5 hidden"):
        find_photos(tmp_path)


def test_names_that_are_no_utf_8_work(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    paths = [root / os.fsdecode(b"caf\xe9 %d.png" % i) for i in range(6)]
    try:
        touch(*paths)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    source = PhotoFolder(root, 0.3)
    photos = [*source.train(), *source.validation()]
    assert {photo.path for photo in photos} == set(paths)
    assert all(photo.name.encode() and photo.size() == (64, 80) for photo in photos)
    options = CheckOptions(64, 0.3, "auto", NoCaptions(), [], tmp_path / "cache", 1)
    for _ in range(2):  # the second time from the cache
        report = check_dataset(root, options)
        assert not report.problems
        assert sum(report.counts.values()) == 6
    pairs, _ = match_folders(root, root)
    assert all(pair.name.encode() and pair.pred == pair.gt for pair in pairs)
    # Rows of a built dataset hold paths, which must be text: there such a photo is left out by its name.
    touch(*(root / f"{i}.png" for i in range(3)))
    plan = DatasetRecipe(root, NoCaptions(), tmp_path / "cache", 0.3, None, "", None, True, 1, 1.0).plan()
    assert [row.name for row in plan.rows] == ["0.png", "1.png", "2.png"]
    assert len(plan.unreadable) == 6
    assert all("no UTF-8" in reason for reason in plan.reasons)
    paths[0].write_bytes(b"torn")
    problem = next(problem for problem in check_dataset(root, options).problems if problem.kind == "unreadable")
    assert problem.name.encode()
    assert problem.detail.encode()
