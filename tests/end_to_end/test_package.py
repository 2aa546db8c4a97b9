"""The wheel works outside the checkout, and the README's promises about files hold."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=ROOT, check=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


# One process for all, since each imports for seconds.
SCRIPT = """
import contextlib, sys
import daclip
from daclip.commands.main import main
print(daclip.__file__)
for command in ("train-daclip --cfg job experiment=smoke_daclip", "train-daclip --help", "restore photo.png -o clean"):
    sys.argv = ["daclip", *command.split()]
    with contextlib.suppress(SystemExit):
        main()
"""


def test_the_wheel_brings_its_configuration_recipes_and_restorer(site: Path) -> None:
    Image.new("RGB", (40, 32), "teal").save(site.parent / "photo.png")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=site.parent,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    where, _, printed = done.stdout.partition("\n")
    assert Path(where).is_relative_to(site)
    assert "daclip.clip.module.ControllerPretraining" in printed
    assert "batch_size: 10" in printed
    assert "Examples:" in printed
    assert Image.open(site.parent / "clean" / "photo.png").size == (40, 32)


def test_the_lock_names_no_registry_and_no_machine() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert not re.search(r"https?://|file:|--index-url|--find-links", lock)
    pins = re.findall(r"^([a-z0-9_.-]+)==", lock, re.MULTILINE)
    assert {"torch", "torchvision", "lightning", "hydra-core", "open-clip-torch", "uv", "ruff"} <= set(pins)
    assert lock.count("--hash=sha256:") >= len(pins)


def test_every_make_target_is_in_the_help() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    done = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert targets == {line.split()[0] for line in done.stdout.splitlines()}
