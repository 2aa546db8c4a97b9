"""The command line of restoring: paths and `--options` as users expect them, turned into Hydra overrides."""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
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

from daclip.artifacts import find_artifact
from daclip.commands.assembly import make
from daclip.commands.schemas import RestoreConfig
from daclip.config import run_entry, validated
from daclip.errors import DaclipError
from daclip.restoring.batch import Outcome, Request, Summary, attempt, plan
from daclip.restoring.restorer import Restorer

# Hydra's own options that are followed by a value.
HYDRA_VALUES = {"-c", "--cfg", "-p", "--package", "-cp", "--config-path", "-cn", "--config-name", "-cd", "--config-dir"}

OVERRIDE = re.compile(r"[+~]{0,2}[\w@./-]+=.*", re.DOTALL)

# `degradation` is a group of the configuration, and Hydra would look for a file of that name.
RENAMED = {"degradation": "classes"}

# Any text may be their value: on the command line it needs no quotes of Hydra's.
TEXTS = {"input", "output", "artifact", "mask", "summary", *RENAMED}


def quoted(text: str) -> str:
    r"""A text as Hydra's grammar and OmegaConf's interpolation take it literally.

    >>> print(quoted('a "b", c'), quoted("x${y}"))
    "a \"b\", c" "x\${y}"
    """
    escaped = re.sub(r'(\\*)("|$)', lambda match: match[1] * 2 + ('\\"' if match[2] else ""), text)
    return '"' + escaped.replace("${", "\\${") + '"'


def overrides(arguments: Sequence[str], schema: type = RestoreConfig, positional: str = "input") -> list[str]:
    """Turn `PATHS… --option value` into Hydra overrides; overrides and Hydra's own options pass unchanged.

    Args:
        arguments: The command line.
        schema: Dataclass of the command's options.
        positional: The option that arguments without a name belong to; only `input` takes several.

    Raises:
        DaclipError: An option without its value, or too many paths.

    >>> overrides(["a b.jpg", "photos", "--dry-run", "--strength", "0.5", "seed=3"])
    ['dry_run=true', 'strength=0.5', 'seed=3', 'input=["a b.jpg","photos"]']
    """
    kinds = {field.name: field.type for field in fields(schema)}
    options = kinds.keys() | RENAMED.keys()
    translated: list[str] = []
    paths: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if argument.startswith("--") and name in options:
            translated.append(
                _option(name, value if equals else "true" if kinds.get(name) is bool else _value(name, rest))
            )
        elif argument in HYDRA_VALUES:
            translated += [argument, *([value] if (value := next(rest, "")) else [])]
        elif argument.startswith("-"):
            translated.append(argument)
        elif OVERRIDE.fullmatch(argument) and not Path(argument).exists():
            translated.append(_option(name, value) if name in RENAMED else argument)
        else:
            paths.append(quoted(argument))
    if positional != "input" and len(paths) > 1:
        raise DaclipError(f"give one {positional}, got {', '.join(paths)}")
    if not paths:
        return translated
    return [*translated, f"input=[{','.join(paths)}]" if positional == "input" else f"{positional}={paths[0]}"]


def _value(name: str, rest: Iterator[str]) -> str:
    value = next(rest, None)
    if value is None:
        raise DaclipError(f"--{name.replace('_', '-')} needs a value")
    return value


def _option(name: str, value: str) -> str:
    # Mappings, lists and what is quoted already are Hydra's to read.
    literal = name in TEXTS and value[:1] not in ("{", "[", '"', "'")
    return f"{RENAMED.get(name, name)}={quoted(value) if literal and value != 'null' else value}"


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
    classes = OmegaConf.to_container(cfg.classes) if OmegaConf.is_config(cfg.classes) else cfg.classes
    request = Request(classes, cfg.strength, cfg.samples, cfg.dry_run, cfg.overwrite)
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
    likely = ", ".join(f"{class_name} ({share:.0%})" for class_name, share in list(outcome.probabilities.items())[:3])
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
