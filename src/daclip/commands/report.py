"""One page from the records of runs, as `report.html` and `report.md`."""

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from daclip.commands.options import Parser, entry_point, say
from daclip.errors import DaclipError, markdown
from daclip.files import write_text

if TYPE_CHECKING:
    from daclip.reporting.runs import Run


def parser() -> Parser:
    """The command's options."""
    parser = Parser(
        "report",
        "RUN… [options]",
        ["daclip report outputs/evaluation", "daclip report outputs/ours outputs/theirs -o outputs/page"],
    )
    add = parser.add_argument
    text = "folders of evaluations (compared with the first), training runs, artifacts, sampler reports"
    add("runs", nargs="+", metavar="RUN", help=text)
    add("-o", "--output", default="outputs/report", metavar="FOLDER", help="gets the page (default: %(default)s)")
    add("--title", default="Image restoration report", metavar="TEXT", help="heading of the page")
    add("--pictures", type=int, default=3, metavar="N", help="worst and best photos of each evaluation (%(default)s)")
    add("--zoom", type=int, default=64, metavar="PX", help="side of the enlarged crop (default: %(default)s)")
    add("--draws", type=int, default=4000, metavar="N", help="draws of the paired bootstrap (default: %(default)s)")
    add("--confidence", type=float, default=0.95, metavar="X", help="of the intervals (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="of the bootstrap (default: %(default)s)")
    return parser


def _photos(evaluation: "Run", count: int, side: int) -> list[dict[str, Any]]:
    """The worst and the best photos of an evaluation."""
    from daclip.reporting import charts
    from daclip.reporting.tables import metric_label, score_text

    shown = []
    for rank in ("worst", "best"):
        for entry in [entry for entry in evaluation.metrics["pictures"] if entry["rank"] == rank][:count]:
            values = ", ".join(
                f"{metric_label(name)} "
                + (f"{score_text(name, entry['scores'][f'{name}_lq'])} → " if f"{name}_lq" in entry["scores"] else "")
                + score_text(name, value)
                for name, value in entry["scores"].items()
                if not name.endswith("_lq")
            )
            pictures = charts.show(evaluation.folder / "pictures", entry["files"], side)
            shown.append({**entry, "values": values, **pictures})
    return shown


def report(options: Namespace) -> Path:
    """Write the page and its Markdown form."""
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    from daclip.reporting import charts, tables
    from daclip.reporting.runs import compare, read_runs

    if options.pictures < 0 or options.zoom < 8 or options.draws < 1 or not 0 < options.confidence < 1:
        raise DaclipError(
            "--pictures must be at least 0, --zoom at least 8, --draws at least 1, --confidence in (0, 1)"
        )
    runs = read_runs(options.runs)
    evaluations = runs.evaluations
    shown: list[tables.TextTable] = []
    if evaluations:
        shown += [tables.facts(evaluations), *tables.scores(evaluations)]
    if len(evaluations) > 1:
        comparisons = compare(evaluations, options.draws, options.confidence, options.seed)
        shown.append(tables.comparison_table(comparisons, evaluations[0].label, options.confidence))
    if absent := tables.missing(evaluations):
        shown.append(absent)
    if runs.recognitions:
        shown.append(tables.recognitions(runs.recognitions))
    if runs.trainings:
        shown.append(tables.trainings(runs.trainings))
    everything = [*evaluations, *runs.recognitions, *runs.trainings]
    page = {
        "title": options.title,
        "tables": shown,
        "charts": charts.run_charts(runs),
        "matrices": charts.matrices(everything),
        "photos": [(one.label, _photos(one, options.pictures, options.zoom)) for one in evaluations],
        "records": [
            {"label": run.label, "text": yaml.safe_dump(run.record, sort_keys=False, allow_unicode=True, width=100)}
            for run in everything
        ],
    }
    templates = Environment(
        loader=PackageLoader("daclip.reporting"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["md"] = markdown
    output = Path(options.output)
    for name in ("report.html", "report.md"):
        write_text(output / name, templates.get_template(f"{name}.j2").render(page))
    say(f"written: {output / 'report.html'}, {output / 'report.md'}")
    return output / "report.html"


main = entry_point((parser(), report))

if __name__ == "__main__":
    main()
