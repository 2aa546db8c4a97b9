"""The goldens of the repository against the full recordings that they were copied from."""

import os

import pytest
import torch
from reference import GOLDENS, golden, recording


@pytest.mark.parametrize("name", ["clip_preprocess", "ema", "irsde", "metrics"])
def test_goldens_are_parts_of_the_recordings(name: str) -> None:
    if "DACLIP_REFERENCE" in os.environ:
        pytest.skip("DACLIP_REFERENCE names another set of recordings")
    full, small = recording(name), golden(name)
    assert all(torch.equal(value, full[key]) for key, value in small.tensors.items())


def test_goldens_stay_small_and_hold_numbers_only() -> None:
    files = [file for file in GOLDENS.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".md", ".zip"}
    assert sum(file.stat().st_size for file in files) < 1_000_000
