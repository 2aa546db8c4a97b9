"""Running the commands inside the test's own process."""

import contextlib
import importlib
import io
import json
import multiprocessing
import os
import runpy
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra

from daclip.commands.main import COMMANDS, MODULES
from daclip.commands.options import Parser

# The classes of `conf/degradation/all.yaml`.
TEN = {
    "motion-blurry",
    "hazy",
    "jpeg-compressed",
    "low-light",
    "noisy",
    "raindrop",
    "rainy",
    "shadowed",
    "snowy",
    "uncompleted",
}

# Commands with options of their own; the others take Hydra's overrides.
TOOLS = set(COMMANDS) - {"train-daclip", "train-restorer", "evaluate", "degradations", "sampler-report"}

# What makes a training run of either stage a matter of a second.
TINY = ["data.samples_per_epoch=10", "trainer.max_steps=1", "degradation=[noisy,rainy,hazy]", "data.validation_size=32"]


def invoke(*command: str) -> str | None:
    """`python -m …`: the error line, None if all went well."""
    module, *arguments = command
    before = sys.argv
    sys.argv = [module, *arguments]
    written = io.StringIO()
    try:
        with contextlib.redirect_stderr(written), pytest.MonkeyPatch.context() as patch:
            # Hydra composes once more to see whether the configuration itself asks for a sweep: none of ours does.
            patch.setattr("hydra._internal.hydra.Hydra.get_mode", lambda *_, **__: None)
            importlib.import_module(module).main()
    except SystemExit as stop:
        if stop.code in (None, 0):
            return None
        # argparse writes its line itself and ends with a number.
        return stop.code if isinstance(stop.code, str) else written.getvalue().rstrip("\n").rpartition("\n")[2]
    finally:
        sys.argv = before
        sys.stderr.write(written.getvalue())
    return None


def forked(module: str, *arguments: str, cwd: Path) -> tuple[int | None, str]:
    """`python -m …` in a process of its own, which is forked because imports take seconds: exit status and output.

    Args:
        module: What is run.
        arguments: Its command line.
        cwd: Its working folder.
    """
    with tempfile.TemporaryFile("w+") as written:

        def run() -> None:
            os.chdir(cwd)
            os.dup2(written.fileno(), 1)
            os.dup2(written.fileno(), 2)
            sys.stdout = sys.stderr = os.fdopen(1, "w")
            sys.argv = [module, *arguments]
            GlobalHydra.instance().clear()
            runpy.run_module(module, run_name="__main__", alter_sys=True)

        process = multiprocessing.get_context("fork").Process(target=run)
        process.start()
        process.join(600)  # a rank that never joins would be waited for half an hour
        process.kill()
        written.seek(0)
        return process.exitcode, written.read()


def parser_of(tool: str) -> Parser:
    module = importlib.import_module(f"daclip.commands.{MODULES.get(tool, tool)}")
    made: Parser = getattr(module, f"{tool.replace('-', '_')}_parser" if tool in MODULES else "parser")()
    return made


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def assert_one_line(error: str | None, *parts: str) -> None:
    assert error is not None
    assert error.startswith("error: ")
    assert "\n" not in error
    for part in parts:
        assert part in error
