"""The commands of README.md and docs/*.md, and what each runs."""

import os
import re
import shlex
import subprocess
from pathlib import Path

from running import TOOLS

from daclip.commands.main import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Blocks that need a server of their own: test_app sends the same requests to one.
SERVED = re.compile(r"\bcurl\b")


def commands(page: Path) -> list[str]:
    """Lines of the page's `sh` blocks, without comments."""
    blocks = [text for language, text in BLOCK.findall(page.read_text(encoding="utf-8")) if language == "sh"]
    whole = [re.sub(r"\\\n\s*", " ", block) for block in blocks if not SERVED.search(block)]
    lines = [re.sub(r"\s+#.*", "", line).strip() for block in whole for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


# Each once, in the order of reading, with the first page that has it.
ALL = {command: page.name for page in reversed(PAGES) for command in reversed(commands(page))}
ALL = dict(reversed(ALL.items()))


def from_make(classes: list[str]) -> list[str]:
    """What a make command runs, as `from_console`."""
    printed = subprocess.run(
        ["make", "-n", "--no-print-directory", "-o", ".venv/ready", *classes],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (line,) = [line for line in printed.splitlines() if "-m daclip " in line]
    # The shell puts names of files in.
    given = {"INPUT": "", "OUTPUT": "", "SOURCE": "", "ARTIFACT": "", "RUNS": "", "DACLIP": "", "VARIANT": ""}
    given |= dict(word.split("=", 1) for word in classes[1:] if "=" in word)
    shown = subprocess.run(
        ["bash", "-c", "printf '%s\\0' " + line.removeprefix("@")],
        env={**os.environ, **given},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return from_console(shown.split("\0")[3:-1])


def from_console(classes: list[str]) -> list[str]:
    """Arguments of what the console script runs, behind the name of a tool or the module of another command."""
    name, *rest = classes
    assert name in COMMANDS
    return classes if name in TOOLS else [f"daclip.commands.{name.replace('-', '_')}", *rest]


def from_shell(command: str) -> list[str]:
    """The same for a documented command of either."""
    head, *classes = shlex.split(command)
    return from_make(classes) if head == "make" else from_console(classes)
