"""Restore photos: `python -m daclip.restore PHOTOS… --output FOLDER`."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from daclip.build import make
from daclip.checkpoints import find_artifact
from daclip.config import run_entry, validated
from daclip.errors import DaclipError
from daclip.pipeline import Restorer
from daclip.restoring.arguments import overrides
from daclip.restoring.jobs import Outcome, Summary, plan
from daclip.restoring.work import Request, attempt
from daclip.schemas import RestoreConfig

__all__ = ["main", "restore", "restorer_of"]

# The shell and its tools give the codes from 126 on a meaning of their own.
MOST_FAILURES = 125


def restorer_of(cfg: DictConfig) -> Restorer:
    """The restorer that a configuration of `restore.yaml` describes."""
    folder = find_artifact(cfg.artifact, "outputs/restorer", "make train-restorer")
    sampler = cfg.sampler
    if sampler and cfg.steps is not None:
        sampler = OmegaConf.merge(sampler, {"steps": cfg.steps})
    return Restorer.from_pretrained(
        folder,
        sampler=make(sampler) if sampler else None,
        steps=cfg.steps,
        **{name: cfg[name] for name in ("device", "precision", "seed", "max_memory", "tile", "overlap", "batch_size")},
    )


def restore(cfg: DictConfig) -> list[Outcome]:
    """Restore every photo of the input, or only name what is wrong (`dry_run`).

    A photo that cannot be restored is reported, and the others are restored all the same. A photo whose result
    is there already is left alone, so an interrupted run goes on where it stopped.

    Returns:
        What came of each photo.

    Raises:
        DaclipError: Nothing to do, or a plan that would overwrite photos.
    """
    if cfg.input is None:
        raise DaclipError("give photos or a folder, as in `daclip restore photo.png` (make restore INPUT=photo.png)")
    words = OmegaConf.to_container(cfg.words) if OmegaConf.is_config(cfg.words) else cfg.words
    request = Request(words, cfg.strength, cfg.samples, cfg.dry_run, cfg.overwrite)
    sources = list(cfg.input) if isinstance(cfg.input, ListConfig) else [cfg.input]
    jobs = plan(
        [str(source) for source in sources],
        Path(cfg.output),
        recursive=cfg.recursive,
        wanted=cfg.format,
        masks=Path(cfg.mask) if cfg.mask else None,
        samples=0 if cfg.dry_run else cfg.samples,
    )
    restorer = restorer_of(cfg)
    record = Path(cfg.summary) if cfg.summary else None if cfg.dry_run else Path(cfg.output) / "summary.jsonl"
    console = Console(soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    outcomes: list[Outcome] = []
    with Summary(record) as summary, Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task("restoring", total=len(jobs))
        try:
            for done, job in enumerate(jobs):
                outcome = attempt(restorer, job, request, _told_to(bar, task, done))
                outcomes.append(outcome)
                summary.add(outcome)
                for line, style in _told(outcome):
                    bar.console.print(line, style=style, markup=False, highlight=False)
                bar.update(task, completed=done + 1)
        except KeyboardInterrupt:
            sys.stderr.write(f"stopped after {len(outcomes)} of {len(jobs)} photos; the same command goes on there\n")
            raise SystemExit(130) from None
    return outcomes


def _told_to(bar: Progress, task: TaskID, done: int) -> Callable[[float], None]:
    def tell(share: float) -> None:
        bar.update(task, completed=done + share)

    return tell


def _told(outcome: Outcome) -> Iterator[tuple[str, str | None]]:
    """Lines of text about a photo, each with its style."""
    likely = ", ".join(f"{word} ({share:.0%})" for word, share in list(outcome.probabilities.items())[:3])
    if outcome.status == "failed":
        yield outcome.error or "failed", "red"
    elif outcome.status == "kept":
        yield (
            f"{outcome.photo}: {outcome.results[0]} is there already and was kept; overwrite=true replaces it",
            "yellow",
        )
    elif outcome.status == "classified":
        yield f"{outcome.photo}  {likely}", None
    else:
        yield f"{outcome.photo} → {outcome.results[-1]}  {likely.split(', ')[0]}", None
    for note in outcome.notes:
        yield f"  {note}", "yellow"


def _finish(outcomes: list[Outcome]) -> None:
    """End with the number of failures as exit status, 125 for more.

    Raises:
        DaclipError: One photo failed.
    """
    failed = [outcome.error or "" for outcome in outcomes if outcome.status == "failed"]
    if not failed:
        return
    hint = failed[0] if len(outcomes) == 1 else "see the lines above"
    message = f"{len(failed)} of {len(outcomes)} photos could not be restored: {hint}"
    if len(failed) == 1:
        raise DaclipError(message)
    sys.stderr.write(f"error: {message}\n")
    raise SystemExit(min(len(failed), MOST_FAILURES))


def main() -> None:
    """Entry point."""
    try:
        sys.argv[1:] = overrides(sys.argv[1:])
    except DaclipError as error:
        sys.exit(f"error: {error}")
    run_entry(lambda cfg: _finish(restore(validated(cfg, RestoreConfig))), "restore")


if __name__ == "__main__":
    main()
