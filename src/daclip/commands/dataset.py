"""Build a captioned dataset: `python -m daclip.commands.dataset source=FOLDER output=FOLDER`."""

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from daclip.commands.schemas import DatasetConfig
from daclip.config import run_entry, validated
from daclip.data.build import BuiltDataset, DatasetRecipe, UnreadablePhotosError, build_dataset, push_dataset
from daclip.errors import DaclipError


def build(cfg: DictConfig) -> BuiltDataset:
    """Build the configured dataset, show its counts, and push it to the hub if asked.

    Raises:
        DaclipError: Nothing to build from, photos that cannot be read, or no way to write or push.
    """
    if cfg.source is None:
        raise DaclipError("give a folder of photos, as in source=photos (make dataset SOURCE=photos OUTPUT=folder)")
    recipe = DatasetRecipe(
        root=Path(cfg.source),
        captioner=instantiate(cfg.captioner, _convert_="object"),
        cache=Path(cfg.cache),
        validation=cfg.validation,
        source_name=cfg.source_name,
        license=cfg.license,
        attribution=Path(cfg.attribution) if cfg.attribution else None,
        skip_unreadable=cfg.skip_unreadable,
        num_workers=cfg.num_workers,
        shard_megabytes=cfg.shard_megabytes,
    )
    console = Console(soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console, transient=True) as bars:
            bar = bars.add_task("reading", total=None)
            built = build_dataset(
                recipe,
                cfg.output,
                cfg.overwrite,
                lambda stage, done, total: bars.update(bar, description=stage, completed=done, total=total),
            )
    except UnreadablePhotosError as error:
        for reason in error.reasons:
            console.print(reason, style="red", markup=False)
        raise
    except KeyboardInterrupt:
        raise DaclipError("interrupted; the same command goes on where it stopped") from None
    _show(built, console)
    if cfg.push_to_hub:
        url = push_dataset(built.path, cfg.push_to_hub, cfg.private)
        console.print(f"pushed: {url}", markup=False)
    return built


def _show(built: BuiltDataset, console: Console) -> None:
    plan = built.plan
    table = Table(title=str(built.path))
    for name in ("split", "photos", "with caption", "MB"):
        table.add_column(name, justify="left" if name == "split" else "right")
    for split in ("train", "test"):
        rows = plan.split(split)
        captioned, size = sum(bool(row.caption) for row in rows), sum(row.bytes for row in rows) / 1e6
        table.add_row(split, str(len(rows)), str(captioned), f"{size:.1f}")
    console.print(table)
    for name, kept in plan.duplicates.items():
        console.print(f"left out: {name}, a copy of {kept}", markup=False)
    for reason in plan.reasons:
        console.print(f"left out: {reason}", style="yellow", markup=False)
    console.print(f"{'written' if built.fresh else 'up to date'}: {built.path}", markup=False)


def main() -> None:
    """Entry point."""
    run_entry(lambda cfg: build(validated(cfg, DatasetConfig)), "dataset")


if __name__ == "__main__":
    main()
