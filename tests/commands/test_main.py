"""One name for each command, and command lines that reach it exactly as they were typed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from running import TOOLS, invoke, parser_of

from daclip.commands.main import COMMANDS, MODULES

ROOT = Path(__file__).parents[2]


def test_table_modules_and_makefile_agree() -> None:
    modules = {path.stem.replace("_", "-") for path in (ROOT / "src" / "daclip" / "commands").glob("*.py")}
    assert {MODULES.get(name, name) for name in COMMANDS} <= modules
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipes = dict(re.findall(r"^([a-z-]+):.*\n((?:\t.*\n)+)", makefile, re.MULTILINE))
    for name in COMMANDS:
        assert f"-m daclip {name} " in recipes[name] + " ", name
    for name in TOOLS:
        assert parser_of(name).prog == f"daclip {name}"


def test_help_is_instant_and_complete() -> None:
    code = (
        "import sys\nfrom daclip.commands.main import main\n"
        "for words in [['--help'], *([name, '-h'] for name in sys.argv[1:])]:\n"
        "    sys.argv = ['daclip', *words]\n"
        "    try:\n        main()\n    except SystemExit:\n        pass\n    print('\\0', end='')\n"
        "assert not {'torch', 'hydra'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *TOOLS],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "80"},
    )
    whole, *pages = done.stdout.split("\0")[:-1]
    assert all(f"  {name} " in whole and sentence in whole for name, sentence in COMMANDS.items())
    for name, page in zip(TOOLS, pages, strict=True):
        assert page.startswith(f"usage: daclip {name} ")
        # Every option has a sentence, and all of them fit a screen or two.
        assert len(page.splitlines()) <= 70
        assert all(action.help for action in parser_of(name)._actions)


def test_the_package_runs_as_the_console_script() -> None:
    text = [
        subprocess.run([sys.executable, "-m", module], capture_output=True, text=True, check=True).stdout
        for module in ("daclip", "daclip.commands.main")
    ]
    assert text[0] == text[1]
    assert text[0].startswith("usage: daclip COMMAND")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["restor"], "error: there is no command 'restor'; did you mean 'restore'?"),
        (["paint"], "error: there is no command 'paint'; `daclip --help` lists them"),
        (["train"], "error: there is no command 'train'"),
    ],
)
def test_an_unknown_command_is_one_line(arguments: list[str], line: str) -> None:
    error = invoke("daclip.commands.main", *arguments)
    assert error is not None
    assert error.startswith(line)


def made(folder: Path, *arguments: str) -> list[str]:
    """What a make target gives to Python: module, options and names."""
    folder.mkdir(exist_ok=True)
    fake = folder / "python"
    fake.write_text('#!/bin/sh\nprintf "%s\\0" "$@"\n', encoding="utf-8")
    fake.chmod(0o755)
    done = subprocess.run(
        [
            "make",
            "--no-print-directory",
            "-s",
            "-f",
            str(ROOT / "Makefile"),
            "-o",
            ".venv/ready",
            f"BIN={folder}",
            *arguments,
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split("\0")[:-1]


@pytest.mark.parametrize(
    "name", ["it's a.jpg", "x$(touch F).jpg", "`touch F`", "${HOME} $$ $x", 'a "b"; touch F', "-rf"]
)
def test_make_passes_names_as_they_are(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "bin"
    given = made(folder, "restore", f"INPUT={name}", f"OUTPUT={name}", f"ARTIFACT={name}", "ARGS=--steps 2")
    assert given == [
        "-m",
        "daclip",
        "restore",
        f"--output={name}",
        f"--artifact={name}",
        "--steps",
        "2",
        "--",
        name,
    ]
    given = made(folder, "convert", f"SOURCE={name}", f"DACLIP={name}", "VARIANT=mix")
    assert given == ["-m", "daclip", "convert", f"--daclip={name}", "--variant=mix", "--", name]
    assert [path.name for path in folder.iterdir()] == ["python"]


def test_make_takes_several_runs(tmp_path: Path) -> None:
    given = made(tmp_path, "report", "RUNS=outputs/a outputs/b", "OUTPUT=page")
    assert given == ["-m", "daclip", "report", "--output=page", "--", "outputs/a", "outputs/b"]
    assert made(tmp_path, "report") == ["-m", "daclip", "report"]
