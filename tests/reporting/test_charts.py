"""Charts: points lie where they should, looks are shared, what cannot be drawn is refused."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from daclip.errors import DaclipError
from daclip.reporting.charts import Panel, confusion_figure, line_charts, png, radar, reliability_figure, show, svg

CURVES = {"near": [(1.0, 0.5), (2.0, 0.1)], "far": [(1.0, 9.0), (2.0, 8.0)]}


def test_axes_are_logarithmic_and_up_is_better() -> None:
    points = [(1.0, 0.0), (10.0, 1.0), (100.0, 2.0)]
    gain = Panel("a < b", "n", "dB", {"x & y": points})
    distance = Panel("d", "n", "d", CURVES, depth=0.8, lower_is_better=True, logarithmic=False)
    first, second = line_charts([gain, distance]).axes
    x, y = first.transData.transform(points).T
    assert x[1] - x[0] == pytest.approx(x[2] - x[1])
    assert y[1] - y[0] == pytest.approx(y[2] - y[1])
    assert y[1] > y[0]
    (_, at_5), (_, at_1) = second.transData.transform(CURVES["near"])
    assert at_1 > at_5
    low, high = sorted(second.get_ylim())
    assert low < 0.1
    assert 0.9 < high < 8


def test_series_of_one_name_look_alike_and_are_named_once() -> None:
    figure = line_charts([Panel("a", "n", "dB", CURVES), Panel("b", "n", "dB", {"far": [(1.0, 2.0)]})])
    assert figure.axes[0].lines[1].get_color() == figure.axes[1].lines[0].get_color()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["near", "far"]


def test_the_same_chart_is_the_same_file() -> None:
    one, two = (svg(line_charts([Panel("$a_b$ < c", "n", "dB", CURVES)], legend_below=True)) for _ in range(2))
    assert one == two
    assert ElementTree.fromstring(one).tag.endswith("svg")
    assert "nan" not in svg(line_charts([Panel("one", "n", "dB", {"only": [(3.0, 0.5)]})]))


@pytest.mark.parametrize("points", [[], [(1.0, float("inf"))], [(0.0, 1.0)]])
def test_what_cannot_be_drawn_is_refused(points: list[tuple[float, float]]) -> None:
    with pytest.raises(DaclipError, match="the chart 'gain'"):
        line_charts([Panel("gain", "n", "dB", {"a": points})])


def test_a_radar_has_an_outline_for_each_run() -> None:
    runs = {"a": {"rainy": 20.0, "hazy": 25.0, "noisy": 30.0}, "b": {"rainy": 21.0}}
    figure = radar(runs, ["rainy", "hazy", "noisy"], "dB")
    whole, part = (np.asarray(line.get_ydata()).tolist() for line in figure.axes[0].lines)
    assert whole == [20, 25, 30, 20]
    assert part == [21, 21]
    assert svg(figure)


def test_a_confusion_matrix_is_dark_where_the_counts_are() -> None:
    figure = confusion_figure({"rainy": {"rainy": 9, "hazy": 3}, "hazy": {}}, ["rainy", "hazy"])
    assert np.asarray(figure.axes[0].images[0].get_array()).tolist() == [[0.75, 0.25], [0, 0]]
    assert [text.get_text() for text in figure.axes[0].texts] == ["75", "25"]


def test_a_reliability_diagram_has_a_bar_for_each_bin() -> None:
    bins = [
        {"low": 0.2, "confidence": 0.3, "accuracy": 1.0, "count": 1},
        {"low": 0.9, "confidence": 0.95, "accuracy": 0.5, "count": 2},
    ]
    figure = reliability_figure(bins, 0.5, 10)
    assert [bar.get_height() for bar in figure.axes[0].patches if isinstance(bar, Rectangle)] == [1.0, 0.5]
    assert png(figure).startswith(b"\x89PNG")


def test_a_report_takes_no_picture_from_outside_its_run(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "linked.png").symlink_to(tmp_path / "private.png")
    for file in ("../private.png", "/etc/hostname", "linked.png"):
        with pytest.raises(DaclipError, match="outside it"):
            show(tmp_path / "run", {"restored": file, "hq": "a.png"}, 8)
