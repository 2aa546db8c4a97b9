"""The report of real photos: what it says, that it needs nothing but itself, and how it looks in a browser."""

import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
from PIL import Image
from running import TINY, assert_one_line, invoke, read

PIECE = 64
WORDS = ("noisy", "rainy", "hazy", "low-light")


def _systems(folder: Path) -> None:
    """Pieces of photographs, degraded, and two systems: B removes more of the damage than A on every photo."""
    draw = np.random.default_rng(0)
    photos = [
        np.array(Image.open(Path(skimage.__file__).parent / "data" / name)) for name in ("coffee.png", "chelsea.png")
    ]
    for number in range(6):
        top, left = draw.integers(0, 200, 2)
        clean = photos[number % 2][top : top + PIECE, left : left + PIECE].astype(float)
        for class_name in WORDS:
            damage = draw.normal(0, 30, clean.shape)
            for system, left_over in (("lq", 1.0), ("A", 0.5), ("B", 0.4 + 0.02 * (number % 3)), ("gt", 0.0)):
                path = folder / system / class_name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((clean + left_over * damage).clip(0, 255).round().astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    _systems(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for system in "AB":
            command = [
                "daclip.commands.evaluate",
                f"pred={system}",
                "gt=gt",
                "lq=lq",
                f"output=runs/{system}",
                "pictures=2",
            ]
            assert invoke(*command, "metric=[psnr,ssim,ms_ssim]") is None
        assert (
            invoke("daclip.commands.evaluate", "pred=B", "gt=gt", "lq=lq", "output=runs/y", "protocol=y_channel")
            is None
        )
        assert invoke("daclip.commands.report", "runs/A", "runs/B", "-o", "page") is None
    return folder


def test_the_page_is_one_file(place: Path) -> None:
    html = (place / "page" / "report.html").read_text(encoding="utf-8")
    assert {path.name for path in (place / "page").iterdir()} == {"report.html", "report.md"}
    addresses = re.findall(r'(?:src|href)="([^"]*)"', html)
    kinds = Counter(address.partition(";")[0] for address in addresses)
    assert kinds["data:image/png"] + kinds["data:image/jpeg"] == 2 * 4 * 6
    assert kinds["data:image/svg+xml"] == 1  # PSNR by degradation
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert "<script" not in html


def test_it_says_what_was_measured(place: Path) -> None:
    text = (place / "page" / "report.md").read_text(encoding="utf-8")
    html = (place / "page" / "report.html").read_text(encoding="utf-8")
    metrics = read(place / "runs" / "B" / "metrics.json")
    for class_name in WORDS:
        assert f"{metrics['per_degradation'][class_name]['psnr']:.2f}" in text
        assert class_name in html
    low, high = metrics["intervals"]["mean"]["psnr_gain"]
    assert f"[{low:+.2f}, {high:+.2f}]" in text
    assert "176 pixels" in text  # why a metric is missing
    assert metrics["record"]["commit"][:9] in html
    # Every row of a Markdown table has as many cells as its heading.
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({row.count("|") for row in table.splitlines()}) == 1, table


def test_a_real_difference_is_called_and_none_where_there_is_none(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    text = (place / "page" / "report.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| B ") and "| 24 |" in line]
    assert len(rows) == 2
    assert all("better" in row for row in rows)
    shutil.copytree(place / "runs" / "A", place / "runs" / "again", dirs_exist_ok=True)
    assert invoke("daclip.commands.report", "runs/A", "runs/again", "runs/y", "-o", "same") is None
    text = (place / "same" / "report.md").read_text(encoding="utf-8")
    assert "no clear difference" in text
    assert "| y | – | 0 | – | – | another protocol: not comparable |" in text


def test_stage_1_is_shown_from_its_run_and_from_its_evaluation(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    run = ["experiment=smoke_daclip", *TINY, "output=stage_1", "hydra.run.dir=stage_1/run"]
    assert invoke("daclip.commands.train_daclip", *run) is None
    assert invoke("daclip.commands.evaluate", "artifact=stage_1/latest", "output=runs/classes") is None
    assert invoke("daclip.commands.report", "stage_1/run", "runs/classes", "-o", "stage_1/page") is None
    text = (place / "stage_1" / "page" / "report.md").read_text(encoding="utf-8")
    trained, scored = (
        read(place / "stage_1" / "run" / "artifact" / "metrics.json"),
        read(place / "runs/classes/metrics.json"),
    )
    assert f"| run | daclip | 1 | accuracy {trained['degradation_accuracy']:.3f} |" in text
    assert f"| calibration error | {scored['calibration_error']:.3f} |" in text
    for class_name, share in scored["per_degradation_accuracy"].items():
        assert f"| {class_name} recognised | {share:.1%} |" in text
    # Both saw the same photos with the same network, and share the matrix.
    assert trained["confusion"] == scored["confusion"]
    assert "## Recognised degradations: classes, run" in text
    matrix = text.partition("## Recognised degradations")[2].partition("\n## ")[0]
    counts = [cell.strip() for line in matrix.splitlines() for cell in line.split("|")[2:-1]]
    assert sum(int(count) for count in counts if count.isdigit()) == scored["count"]


@pytest.mark.parametrize(
    ("runs", "parts"),
    [
        ([], ["required: RUN"]),
        (["nowhere"], ["nowhere", "no such folder"]),
        (["gt"], ["neither an evaluation"]),
        (["runs/A", "runs/A"], ["given twice"]),
        (["broken"], ["broken", "run it again"]),
        (["runs/A", "--draws", "0"], ["draws"]),
    ],
)
def test_a_mistake_ends_in_one_line(
    place: Path, runs: list[str], parts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    shutil.copytree(place / "runs" / "A", place / "broken", dirs_exist_ok=True)
    (place / "broken" / "photos.csv").write_text("name,crop\nx,y\n", encoding="utf-8")
    assert_one_line(invoke("daclip.commands.report", *runs, "-o", "wrong"), *parts)
    assert not (place / "wrong").exists()


@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_it_without_a_network(place: Path, browser: Any, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, offline=True)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("requestfailed", lambda request: complaints.append(request.url))
    page.goto((place / "page" / "report.html").as_uri())
    broken = page.evaluate("[...document.images].filter(i => !i.complete || i.naturalWidth === 0).length")
    assert broken == 0
    assert complaints == []
    # The page itself never scrolls sideways; wide tables do so inside their own frame.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.get_by_alt_text("Chart: PSNR by degradation").is_visible()
    sizes = page.evaluate(
        "[...document.querySelectorAll('td, p, figcaption')].map(e => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(sizes) >= 13
    context.close()
