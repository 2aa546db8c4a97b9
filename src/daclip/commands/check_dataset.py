"""A check of photos, pairs or a built dataset."""

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from daclip.commands.dataset import add_captioner, captioner_of, reading_bar
from daclip.commands.options import Parser, entry_point, make
from daclip.errors import DaclipError
from daclip.files import choices, write_json

if TYPE_CHECKING:
    from daclip.data.check import Report

SHOWN = 5  # findings of one kind in the table; the report has all


def parser() -> Parser:
    """The command's options."""
    parser = Parser("check-dataset", "SOURCE [options]", ["daclip check-dataset photos", "daclip check-dataset pairs"])
    add = parser.add_argument
    add("source", metavar="SOURCE", help="folder of photos, of pairs (CLASS/LQ, CLASS/GT), or a built dataset")
    add("--report", default="outputs/dataset_check.json", metavar="FILE", help="all findings (default: %(default)s)")
    add("--smallest-side", type=int, default=64, metavar="PX", help="photos with a shorter side are tiny (64)")
    add("--validation", type=float, default=0.1, metavar="X", help="share that training will hold out (0.1)")
    text = "auto: required as soon as one photo has a caption (default: auto)"
    add("--expect-captions", default="auto", choices=("required", "ignored", "auto"), help=text)
    add_captioner(parser)
    add("--classes", nargs="+", default=[], metavar="NAME", help="known classes besides those of conf/degradation/")
    add("--cache", default="outputs/dataset_cache", metavar="FOLDER", help="hashes (default: %(default)s)")
    add("--num-workers", type=int, default=2, metavar="N", help="threads that read photos (default: 2)")
    return parser


def check(options: Namespace) -> "Report":
    """Check the data set, show what was found, and write the report."""
    from daclip.config import composed
    from daclip.data.check import CheckOptions, check_dataset
    from daclip.degradations import vocabulary

    # Not the files' names: those of `wild` and `composite` label no photo, and `wild` has classes of its own.
    # `world` is composed apart: its classes are those of `all` again.
    groups = ",".join(name for name in choices("degradation") if not name.startswith("world")), "world"
    parts = [make(composed(None, [f"+degradation=[{group}]"])["degradation"]) for group in groups]
    how = CheckOptions(
        smallest_side=options.smallest_side,
        validation=options.validation,
        captions=options.expect_captions,
        captioner=captioner_of(options),
        classes=[*dict.fromkeys(name for part in parts for name in vocabulary(part)), *options.classes],
        cache=Path(options.cache),
        num_workers=options.num_workers,
    )
    console = Console(soft_wrap=True)
    with reading_bar(console) as tell:
        report = check_dataset(options.source, how, tell)
    write_json(options.report, report.as_json())
    if _show(report, console):
        count = len(report.problems)
        raise DaclipError(f"{count} problems in {options.source}; all of them are listed in {options.report}")
    console.print(f"no problems; report: {options.report}", markup=False)
    return report


def _show(report: "Report", console: Console) -> bool:
    """Print what was found; whether it was anything."""
    from daclip.data.check import KINDS

    counts = ", ".join(f"{count} {split}" for split, count in report.counts.items())
    table = Table(title=f"{report.source} ({report.layout}): {counts or 'nothing readable'}")
    for name in ("problem", "count", "where"):
        table.add_column(name, justify="right" if name == "count" else "left", overflow="fold")
    for kind, problems in report.by_kind().items():
        lines = [": ".join(filter(None, (problem.name, problem.detail))) for problem in problems[:SHOWN]]
        if len(problems) > SHOWN:
            lines.append(f"… and {len(problems) - SHOWN} more")
        table.add_row(f"{kind}\n({KINDS[kind]})", str(len(problems)), "\n".join(lines))
    console.print(table if report.problems else table.title)
    return bool(report.problems)


main = entry_point(parser(), check)

if __name__ == "__main__":
    main()
