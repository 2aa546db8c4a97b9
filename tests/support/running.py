"""Running the commands inside the test's own process."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

# What makes a training run of either stage a matter of a second.
TINY = ["data.samples_per_epoch=10", "trainer.max_steps=1", "degradation=[noisy,rainy,hazy]", "data.validation_size=32"]


def invoke(*command: str) -> str | None:
    """`python -m …`: the error line, None if all went well."""
    module, *arguments = command
    before = sys.argv
    sys.argv = [module, *arguments]
    try:
        importlib.import_module(module).main()
    except SystemExit as stop:
        return None if stop.code in (None, 0) else str(stop.code)
    finally:
        sys.argv = before
    return None


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def assert_one_line(error: str | None, *parts: str) -> None:
    assert error is not None
    assert error.startswith("error: ")
    assert "\n" not in error
    for part in parts:
        assert part in error
