"""A captioned dataset from a folder of photos, and a check of photos, pairs or a built dataset."""

from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from daclip.commands.options import Parser, add_set, entry_point, make, part, say, shown, text_table
from daclip.errors import DaclipError
from daclip.files import choices, write_json

if TYPE_CHECKING:
    from daclip.data.build import BuiltDataset
    from daclip.data.check import Report

SHOWN = 5  # findings of one kind in the table; the report has all


def add_captioner(parser: Parser) -> None:
    """Add where captions come from."""
    add = parser.add_argument
    add("--captioner", metavar="NAME", help="none, sidecar (photo.txt by photo.jpg), file or blip (default: sidecar)")
    add("--captions", metavar="FILE", help="csv or jsonl with name,caption; implies --captioner file")
    add_set(parser, "captioner.beams=3")


@contextmanager
def reading_bar() -> Iterator[Callable[[str, int, int | None], None]]:
    """A progress bar, and the function that moves it: stage, done, total."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as bars:
        bar = bars.add_task("reading", total=None)
        yield lambda stage, done, total: bars.update(bar, description=stage, completed=done, total=total)


def captioner_of(options: Namespace) -> Any:
    """The captioner that the options describe."""
    name = options.captioner or ("file" if options.captions else "sidecar")
    node = part("captioner", name, options.overrides)
    if options.captions:
        node["path"] = options.captions
    return make(node)


def parser() -> Parser:
    """The command's options."""
    parser = Parser(
        "dataset",
        "PHOTOS [options]",
        [
            "daclip dataset photos -o datasets/mine --license CC0-1.0",
            "daclip dataset photos --captions captions.csv --push-to-hub USER/NAME",
        ],
    )
    add = parser.add_argument
    add("source", metavar="PHOTOS", help="folder of photos, searched with all below it")
    add("-o", "--output", default="outputs/dataset", metavar="FOLDER", help="new dataset (default: %(default)s)")
    add("--overwrite", action="store_true", help="replace a dataset that was built from something else")
    add_captioner(parser)
    add("--validation", type=float, default=0.1, metavar="X", help="share of the split `test` (default: %(default)s)")
    add("--source-name", metavar="TEXT", help="column `source` (default: the folder's name)")
    add("--license", default="", metavar="TEXT", help="column `license`")
    add("--attribution", metavar="FILE", help="csv or jsonl with name,source,license for photos that differ")
    add("--skip-unreadable", action="store_true", help="leave out photos that cannot be read, and say so")
    add("--cache", default="outputs/dataset_cache", metavar="FOLDER", help="hashes and captions (default: %(default)s)")
    add("--num-workers", type=int, default=2, metavar="N", help="threads that read photos (default: %(default)s)")
    add("--shard-megabytes", type=float, default=256, metavar="N", help="size of a file (default: %(default)s)")
    add("--push-to-hub", metavar="USER/NAME", help="upload when built; needs `hf auth login`")
    add("--public", action="store_true", help="let everybody see the uploaded dataset")
    return parser


def build(options: Namespace) -> "BuiltDataset":
    """Build the dataset, show its counts, and push it to the hub if asked."""
    from daclip.data.build import DatasetRecipe, UnreadablePhotosError, build_dataset, push_dataset

    recipe = DatasetRecipe(
        root=Path(options.source),
        captioner=captioner_of(options),
        cache=Path(options.cache),
        validation=options.validation,
        source_name=options.source_name,
        license=options.license,
        attribution=Path(options.attribution) if options.attribution else None,
        skip_unreadable=options.skip_unreadable,
        num_workers=options.num_workers,
        shard_megabytes=options.shard_megabytes,
    )
    try:
        with reading_bar() as tell:
            built = build_dataset(recipe, options.output, options.overwrite, tell)
    except UnreadablePhotosError as error:
        for reason in error.reasons:
            say(reason, "red")
        raise
    except KeyboardInterrupt:
        raise DaclipError("interrupted; the same command goes on where it stopped") from None
    _show_built(built)
    if options.push_to_hub:
        url = push_dataset(built.path, options.push_to_hub, not options.public)
        say(f"pushed: {url}")
    return built


def _show_built(built: "BuiltDataset") -> None:
    plan = built.plan
    say(plan.account)
    counts = []
    for split in ("train", "test"):
        rows = plan.split(split)
        captioned, size = sum(bool(row.caption) for row in rows), sum(row.bytes for row in rows) / 1e6
        counts.append([split, str(len(rows)), str(captioned), f"{size:.1f}"])
    Console().print(text_table(str(built.path), ["split", "photos", "with caption", "MB"], counts))
    for name, kept in plan.duplicates.items():
        say(f"left out: {name}, a copy of {kept}")
    for reason in plan.reasons:
        say(f"left out: {reason}", "yellow")
    say(f"{'written' if built.fresh else 'up to date'}: {built.path}")


def check_dataset_parser() -> Parser:
    """Options of `check-dataset`."""
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
    from daclip.data.check import KINDS, CheckOptions, check_dataset
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
    with reading_bar() as tell:
        report = check_dataset(options.source, how, tell)
    write_json(options.report, report.as_json())
    if report.account:
        say(report.account)
    counts = ", ".join(f"{count} {split}" for split, count in report.counts.items())
    title = f"{report.source} ({report.layout}): {counts or 'nothing readable'}"
    if not report.problems:
        say(title)
        say(f"no problems; report: {options.report}")
        return report
    table = Table(title=shown(title))
    for name in ("problem", "count", "where"):
        table.add_column(name, justify="right" if name == "count" else "left", overflow="fold")
    for kind, problems in report.by_kind().items():
        lines = [": ".join(filter(None, (problem.name, problem.detail))) for problem in problems[:SHOWN]]
        if len(problems) > SHOWN:
            lines.append(f"… and {len(problems) - SHOWN} more")
        table.add_row(f"{kind}\n({KINDS[kind]})", str(len(problems)), "\n".join(map(shown, lines)))
    Console(soft_wrap=True).print(table)
    count = len(report.problems)
    raise DaclipError(f"{count} problems in {options.source}; all of them are listed in {options.report}")


main = entry_point((parser(), build), (check_dataset_parser(), check))

if __name__ == "__main__":
    main()
