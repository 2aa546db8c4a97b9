"""What is wrong with a data set: `python -m daclip.commands.check_dataset source=FOLDER`."""

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from daclip.commands.schemas import CheckDatasetConfig
from daclip.config import composed, config_dir, run_entry, validated
from daclip.data.check import KINDS, CheckOptions, Report, check_dataset
from daclip.degradations import vocabulary
from daclip.errors import DaclipError
from daclip.files import write_json

SHOWN = 5  # findings of one kind in the table; the report has all


def known_classes() -> list[str]:
    """All words that the configured degradations label photos with."""
    names = sorted(path.stem for path in (Path(config_dir()) / "degradation").glob("*.yaml"))
    # Not the files' names: those of `wild` and `composite` label no photo, and `wild` has words of its own.
    nodes = composed("degradations", [f"degradation=[{','.join(names)}]"])["degradation"]
    return vocabulary(instantiate(nodes, _convert_="object"))


def check(cfg: DictConfig) -> Report:
    """Check the configured data set, show what was found, and write the report.

    Raises:
        DaclipError: The data set has problems, or there is nothing to check.
    """
    if cfg.source is None:
        raise DaclipError("give a folder, as in source=photos (make check-dataset SOURCE=photos)")
    options = CheckOptions(
        smallest_side=cfg.smallest_side,
        validation=cfg.validation,
        captions=cfg.captions,
        captioner=instantiate(cfg.captioner, _convert_="object"),
        classes=[*known_classes(), *cfg.classes],
        cache=Path(cfg.cache),
        num_workers=cfg.num_workers,
    )
    console = Console(soft_wrap=True)
    with Progress(console=console, transient=True) as bars:
        bar = bars.add_task("reading", total=None)
        report = check_dataset(
            cfg.source,
            options,
            lambda stage, done, total: bars.update(bar, description=stage, completed=done, total=total),
        )
    write_json(cfg.report, report.as_json())
    _show(report, console)
    if report.problems:
        raise DaclipError(f"{len(report.problems)} problems in {cfg.source}; all of them are listed in {cfg.report}")
    console.print(f"no problems; report: {cfg.report}", markup=False)
    return report


def _show(report: Report, console: Console) -> None:
    counts = ", ".join(f"{count} {split}" for split, count in report.counts.items())
    table = Table(title=f"{report.source} ({report.layout}): {counts or 'nothing readable'}")
    for name in ("problem", "count", "where"):
        table.add_column(name, justify="right" if name == "count" else "left", overflow="fold")
    for kind, problems in report.by_kind().items():
        lines = [
            f"{problem.name}: {problem.detail}" if problem.detail else problem.name for problem in problems[:SHOWN]
        ]
        if len(problems) > SHOWN:
            lines.append(f"… and {len(problems) - SHOWN} more")
        table.add_row(f"{kind}\n({KINDS[kind]})", str(len(problems)), "\n".join(lines))
    if report.problems:
        console.print(table)
    else:
        console.print(table.title)


def main() -> None:
    """Entry point."""
    run_entry(lambda cfg: check(validated(cfg, CheckDatasetConfig)), "check_dataset")


if __name__ == "__main__":
    main()
