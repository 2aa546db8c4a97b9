"""The parts of experiments/ that judge or write a page: without the hour that their measurements take."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).parents[1]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "experiments" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    return module


soak = script("soak")
STEADY = [soak.Sample(i / 10, 900.0 + i % 3, 60 + i % 2, 4, 0, 20 * i) for i in range(40)]


def test_a_steady_run_passes_the_soak(tmp_path: Path) -> None:
    figures, wrong = soak.verdict("daclip", STEADY)
    assert wrong == []
    assert figures["steps a second, second half"] == pytest.approx(20 / 6)
    soak.plot({"daclip": STEADY, "restorer": STEADY[:3]}, tmp_path / "soak.svg")
    assert (tmp_path / "soak.svg").read_bytes().count(b"<svg ") == 1


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda i, sample: replace(sample, megabytes=900.0 + 10 * i), "memory grows"),
        (lambda i, sample: replace(sample, files=60 + i), "open files grow"),
        (lambda i, sample: replace(sample, processes=4 + i // 8), "up to 8 processes"),
        (lambda i, sample: replace(sample, zombies=int(i in (20, 21, 22))), "zombies stay"),
        (lambda i, sample: replace(sample, steps=20 * i if i < 25 else 500 + 5 * (i - 25)), "slows down"),
    ],
)
def test_whatever_grows_piles_up_or_slows_down_is_named(change: object, part: str) -> None:
    samples = [change(i, sample) for i, sample in enumerate(STEADY)]  # type: ignore[operator]
    _, wrong = soak.verdict("daclip", samples)
    assert len(wrong) == 1
    assert wrong[0].startswith(f"daclip: {part}")


def test_flicker_is_what_changes_in_the_same_place() -> None:
    study = script("video_flicker")
    clean = study.panned(3, 40, 4)
    assert study.flicker(clean, 4) == 0
    assert study.flicker(clean, 0) > 1
    assert study.flicker(clean + torch.tensor([0.0, 0.1, 0.0]).view(3, 1, 1, 1), 4) == pytest.approx(25.5, rel=1e-4)
