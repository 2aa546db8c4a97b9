"""The package that docs/own-backbone.md writes: both stages are trained with its parts, scored, and restore a photo."""

import os
import re
from pathlib import Path

import pytest
from documented import BLOCK, ROOT
from PIL import Image
from running import TINY, assert_one_line, invoke, read
from skimage import data

from daclip import Restorer
from daclip.trust import TRUSTED


def write_package(folder: Path) -> None:
    """The files that both guides show, with the targets of the package."""
    for page, module, group in (("own-backbone", "plain", "backbone"), ("degradations", "fade", "degradation")):
        blocks = dict(BLOCK.findall((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")))
        settings, changes = re.subn(r"daclip\.\w+\.(plain|fade)\.", r"mine.\1.", blocks["yaml"])
        assert changes == 1
        name = "faded" if module == "fade" else module
        for path, text in ((f"{module}.py", blocks["python"]), (f"conf/{group}/{name}.yaml", settings)):
            (folder / "mine" / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / "mine" / path).write_text(text, encoding="utf-8")
    (folder / "mine" / "__init__.py").touch()


def test_parts_of_ones_own_train_score_and_restore(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_package(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(TRUSTED, "")
    own = [*TINY[:2], "data.validation_size=32", "degradation=[noisy,faded]", "hydra.searchpath=[file://mine/conf]"]
    assert invoke("daclip.commands.train_daclip", "experiment=smoke_daclip", *own) is None
    network = ["backbone=plain", "~backbone.multipliers", "backbone.width=8"]
    assert invoke("daclip.commands.train_restorer", "experiment=smoke_restorer", *network, *own) is None
    assert "--trust-package mine" in capsys.readouterr().out

    Image.fromarray(data.coffee()[:40, :48]).save("photo.png")
    restore = ["daclip.commands.restore", "photo.png", "-o", "clean", "--artifact", "outputs/restorer/latest"]
    for command in (["daclip.commands.evaluate"], restore):
        assert_one_line(invoke(*command), "mine.plain.PlainNet", "--trust-package mine")
    # An artifact cannot vouch for itself: neither its configuration nor a file in it is asked.
    assert os.environ[TRUSTED] == ""
    assert invoke("daclip.commands.evaluate", "--trust-package", "mine") is None
    assert set(read(tmp_path / "outputs" / "evaluation" / "metrics.json")["per_degradation"]) == {"noisy", "faded"}
    assert os.environ[TRUSTED] == "mine"
    monkeypatch.setenv(TRUSTED, "")
    assert invoke(*restore, "--trust-package=mine") is None
    assert Image.open("clean/photo.png").size == (48, 40)
    monkeypatch.setenv(TRUSTED, "other, mine")
    assert Restorer.from_pretrained("outputs/restorer/latest", device="cpu").vocabulary == ["noisy", "faded"]
