"""Texts from outside change no terminal and no page, wherever they are shown."""

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
from jinja2 import Environment, PackageLoader

from daclip.commands.convert import info
from daclip.commands.options import markdown_table, say, text_table
from daclip.data.build import Plan, Row, data_card
from daclip.errors import DaclipError, markdown, printable

ESCAPE, MARKUP = "\x1b]0;title\x07\x1b[2J", "[red]rainy[/red] [rainy,hazy] [/]"
HTML = "<script>alert(1)</script> ![x](http://a/b.png) [y](javascript:z) a|b `c`"


def test_other_writing_systems_stay() -> None:
    for text in ("Füße 雨　写真.jpg", "naïve\u00a0café", "دمشق", "a\nb"):
        assert printable(text) == text
    assert printable("\u202egpj.exe\x9b\x00") == "\\u202egpj.exe\\x9b\\x00"


def in_a_table() -> None:
    from rich.console import Console

    Console(width=200).print(text_table(ESCAPE + MARKUP, [ESCAPE + MARKUP, "b"], [[ESCAPE + MARKUP, "1"]]))


def in_a_line() -> None:
    say(ESCAPE + MARKUP)


@pytest.mark.parametrize("show", [in_a_table, in_a_line])
def test_terminals_get_text(show: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> None:
    show()
    out = capsys.readouterr().out
    assert "\x1b]" not in out
    assert "\x07" not in out
    assert "\\x1b[2J" in out
    assert MARKUP in out


def test_metadata_of_an_artifact_is_text(
    restorer_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    for path in ("config.yaml", "weights.safetensors"):
        (folder / path).write_bytes((restorer_artifact / path).read_bytes())
    (folder / "metrics.json").write_text(json.dumps({"[bold]x": ESCAPE}))
    (folder / "record.json").write_text(json.dumps({"command": MARKUP}))
    info(Namespace(artifact=str(folder)))
    out = capsys.readouterr().out
    assert "\x1b]" not in out
    assert "\\x1b]0;title\\x07" in out
    assert "[bold]x" in out
    assert "[rainy,hazy]" in out


def test_errors_are_text() -> None:
    assert str(DaclipError(f"{ESCAPE}: no such file\nnext")) == "\\x1b]0;title\\x07\\x1b[2J: no such file\nnext"


def harmless(text: str) -> None:
    assert "<script" not in text
    assert "](" not in text
    assert "a|b" not in text


def test_markdown_gets_text() -> None:
    harmless("\n".join(markdown_table([HTML, "b"], [[HTML, "1"]])))
    row = Row("a.png", HTML, "0" * 64, 8, 8, 9, HTML, HTML, "train")
    card = data_card(Plan(Path(), [row], {HTML: HTML}, [HTML], [], "", 1), HTML)
    header, _, body = card.removeprefix("---\n").partition("\n---\n")
    code = [line for line in body.splitlines() if not line.startswith("- `")]
    harmless("\n".join(code).replace("![sample photos](sheet.png)", ""))
    assert HTML in json.loads(header.splitlines()[0].partition(": ")[2])
    # Inside a code span all is text, as long as the span does not end.
    assert all(line.count("`") in (2, 4) for line in body.splitlines() if line.startswith("- `"))


def test_a_reports_markdown_is_text() -> None:
    templates = Environment(loader=PackageLoader("daclip.reporting"), trim_blocks=True, lstrip_blocks=True)
    templates.filters["md"] = markdown
    table = {"title": HTML, "heading": [HTML], "rows": [[HTML]], "note": HTML}
    photo = {"rank": "worst", "name": HTML, "degradation": HTML, "recognised": HTML, "values": "PSNR 20.0"}
    matrix = {"title": HTML, "classes": [HTML], "rows": [[HTML, "1"]]}
    page = {"title": HTML, "tables": [table], "photos": [(HTML, [photo])], "matrices": [matrix]}
    harmless(templates.get_template("report.md.j2").render(page))
