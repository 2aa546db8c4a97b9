"""Restoring photos, or only naming their degradations: files, folders and patterns in, results and a summary out."""

import sys
from argparse import BooleanOptionalAction, Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from daclip.commands.options import (
    Parser,
    add_artifact,
    add_machine,
    add_network,
    add_set,
    entry_point,
    make,
    named_network,
    part,
    say,
)
from daclip.errors import DaclipError, printable

if TYPE_CHECKING:
    from daclip.restoring.batch import Outcome
    from daclip.restoring.restorer import Classifier, Restorer

# The shell and its tools give the codes from 126 on a meaning of their own.
MOST_FAILURES = 125


def parser() -> Parser:
    """The command's options."""
    parser = Parser(
        "restore",
        "PHOTO… [options]",
        [
            "daclip restore photo.jpg holiday/ 'scans/**/*.tif' -o clean",
            'daclip restore photo.jpg --instruction "remove the rain but keep the fog"',
            "daclip restore photo.jpg --degradation rainy:0.7,hazy:0.3 --strength 0.8 --samples 4",
            "daclip restore old.png --mask holes.png --sampler unipc --steps 5",
            "daclip restore clip.mp4 -o clean.mp4",
        ],
    )
    add = parser.add_argument
    add("photos", nargs="+", metavar="PHOTO", help="photos, folders, quoted patterns; after -- also -names")
    add("-o", "--output", default="outputs/restored", metavar="FOLDER", help="for the results (default: %(default)s)")
    add_artifact(parser)

    done = parser.add_argument_group("what is done")
    add = done.add_argument
    add("--degradation", metavar="TEXT", help="repair this instead of what is recognised: rainy, rainy:0.7,hazy:0.3, …")
    add("--instruction", metavar="TEXT", help="say in plain English what to repair, what to leave and how strongly")
    add("--strength", type=float, default=1.0, metavar="X", help="share of the change made, 0 to 1 (default: 1)")
    add("--samples", type=int, default=1, metavar="N", help="restorations; several also map where they differ")
    add("--passes", default="1", metavar="N", help="repair up to N faults in turn; auto: as long as one is sure")
    add("--mask", metavar="FILE", help="picture, or folder of pictures named like the photos; white is missing")
    add_network(done)
    add("--sampler", metavar="NAME", help="sampler of conf/sampler/, such as unipc (default: the artifact's own)")
    add("--steps", type=int, metavar="N", help="steps of the sampler (default: its own)")
    add_set(parser, "sampler.start=0.3 with --sampler posterior")
    add("--seed", type=int, default=0, metavar="N", help="seed of the noise (default: 0)")
    add("--dry-run", action="store_true", help="only name what is wrong")

    add = parser.add_argument_group("files").add_argument
    add("--overwrite", action="store_true", help="restore again where the result is there already")
    add("--recursive", action=BooleanOptionalAction, default=True, help="folders with all below them (default: yes)")
    add("--format", metavar="NAME", help="png, jpg, webp, tiff or bmp (default: as the photo)")
    add("--summary", metavar="FILE", help="JSON lines, one a photo (default: summary.jsonl in the output)")

    machine = parser.add_argument_group("machine")
    add_machine(machine)
    add = machine.add_argument
    add("--tile", type=int, metavar="PX", help="side of a piece, a multiple of 64 (default: from --max-memory)")
    add("--overlap", type=int, default=128, metavar="PX", help="what pieces share, a multiple of 64 (default: 128)")
    add("--batch-size", type=int, metavar="N", help="pieces in one call of the network on a GPU (default: 8)")
    return parser


def restorer_of(options: Namespace) -> "Restorer":
    """The restorer that the options describe."""
    from daclip.restoring.restorer import Restorer

    sampler, steps = None, options.steps
    if options.sampler is not None:
        node = part("sampler", options.sampler, options.overrides)
        sampler, steps = make(node if steps is None else {**node, "steps": steps}), None
    elif options.overrides:
        raise DaclipError("--set changes a sampler that is named; add --sampler NAME")
    names = ("device", "precision", "seed", "max_memory", "tile", "overlap", "batch_size")
    machine = {name: getattr(options, name) for name in names}
    restorer = Restorer.from_pretrained(options.artifact, sampler=sampler, steps=steps, **machine)
    for path, class_name in map(named_network, options.network):
        if class_name is None and (sampler is not None or steps is not None):
            raise DaclipError(f"--network {path} restores in one call; leave out --sampler and --steps")
        restorer = restorer.with_network(path, class_name)
    return restorer


def restore(options: Namespace) -> "list[Outcome]":
    """Restore (`--dry-run`: only classify) the photos that have no result yet, or all with `--overwrite`."""
    from daclip.files import is_video
    from daclip.restoring.batch import Request, attempt, plan, video_jobs
    from daclip.restoring.memory import Turns

    output, dry = Path(options.output), options.dry_run
    told = options.instruction
    if told is not None and options.degradation is not None:
        raise DaclipError("give --degradation or --instruction, not both")
    passes = int(options.passes) if options.passes.isdecimal() else options.passes
    request = Request(options.degradation, options.strength, options.samples, dry, options.overwrite, told, passes)
    if any(map(is_video, options.photos)):
        jobs = video_jobs(options.photos, output, request, options.mask)
        output = jobs[0].result.parent
        say("a video that is stopped starts over; those that are finished stay")
    else:
        jobs = plan(
            options.photos,
            output,
            recursive=options.recursive,
            wanted=options.format,
            masks=Path(options.mask) if options.mask else None,
            samples=0 if dry else options.samples,
            tell=say,
        )
    restorer = restorer_of(options)
    if told is not None:
        restorer.understand(told)  # one that cannot be met ends here, before the photos
    record = Path(options.summary) if options.summary else None if dry else output / "summary.jsonl"
    workers = side_by_side(restorer, 1 if any(map(is_video, options.photos)) else len(jobs))
    turns = Turns(int(restorer.budget.left), workers) if workers > 1 else None
    return worked([partial(attempt, restorer, job, request, turns=turns) for job in jobs], record, lines, workers)


Task = Callable[[Callable[[float], None]], "Outcome"]
"""Work on one photo, which tells its finished share."""


def side_by_side(classifier: "Classifier", photos: int) -> int:
    """How many photos are worked on at once: one a core; on a GPU one by one."""
    import torch

    return min(torch.get_num_threads(), photos) if classifier.device.type == "cpu" else 1


def worked(
    tasks: Sequence[Task],
    record: Path | None,
    shown: "Callable[[Outcome], Iterable[tuple[str, str | None]]]",
    workers: int,
) -> "list[Outcome]":
    """Work on so many photos at once under a progress bar; `record` gets a line of JSON a photo, `shown` is printed,
    both in the order of the photos."""
    from concurrent.futures import ThreadPoolExecutor
    from threading import Event

    import torch
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    from daclip.restoring.batch import summary_file
    from daclip.restoring.restorer import Stopped

    outcomes: list[Outcome] = []
    console = Console(soft_wrap=True, emoji=False)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    # Only a person sees the bar: redirected output is the lines alone.
    bars = Progress("restoring", *columns, console=console, transient=True, disable=not console.is_terminal)
    stop = Event()
    # One core a photo: threads of several photos on the same cores wait for one another.
    workshop = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    with summary_file(record) as record_line, bars as bar, workshop as pool:
        row = bar.add_task("photos", total=len(tasks))
        shares = [0.0] * len(tasks)

        def advance(number: int, share: float) -> None:
            if stop.is_set():
                raise Stopped
            shares[number] = share
            bar.update(row, completed=sum(shares))

        def work(number: int) -> "Outcome":
            outcome = tasks[number](partial(advance, number))
            advance(number, 1.0)
            return outcome

        numbers = range(len(tasks))
        try:
            for outcome in map(work, numbers) if workers == 1 else pool.map(work, numbers):
                outcomes.append(outcome)
                record_line(outcome)
                for line, style in shown(outcome):
                    bar.console.print(printable(line), style=style, markup=False, highlight=False)
        except KeyboardInterrupt:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            sys.stderr.write(f"stopped after {len(outcomes)} of {len(tasks)} photos; the same command goes on there\n")
            raise SystemExit(130) from None
    return outcomes


def lines(outcome: "Outcome") -> Iterator[tuple[str, str | None]]:
    """The printed lines about a photo, each with its style."""
    likely = [f"{class_name} ({share:.0%})" for class_name, share in list(outcome.probabilities.items())[:3]]
    if outcome.status == "failed":
        yield outcome.error or "failed", "red"
    elif outcome.status == "kept":
        yield f"{outcome.photo}: {outcome.results[0]} is there already and was kept; --overwrite replaces it", "yellow"
    elif outcome.status == "classified":
        yield f"{outcome.photo}  {', '.join(likely)}", None
    else:
        by = f", by {outcome.network}" if outcome.network else ""
        yield f"{outcome.photo} → {outcome.results[-1]}  {likely[0]}{by}", None
    for text in outcome.changes:
        yield f"  {text}", None
    for note in outcome.notes:
        yield f"  {note}", "yellow"


def classify_parser() -> Parser:
    """Options of `classify`."""
    parser = Parser(
        "classify",
        "PHOTO… [options]",
        ["daclip classify photo.jpg", "daclip classify photos --artifact outputs/daclip/latest --json"],
    )
    add = parser.add_argument
    add("photos", nargs="+", metavar="PHOTO", help="photos, folders, quoted patterns; after -- also -names")
    add_artifact(parser)
    add("--json", action="store_true", help="print a line of JSON a photo, with all probabilities")
    add("--summary", metavar="FILE", help="write these lines of JSON to a file")
    add("--recursive", action=BooleanOptionalAction, default=True, help="folders with all below them (default: yes)")
    add_machine(parser, memory=False)
    return parser


def classify(options: Namespace) -> "list[Outcome]":
    """Name what is wrong with each photo; one that cannot be read does not cost the others."""
    from daclip.restoring.batch import Request, attempt, plan
    from daclip.restoring.restorer import Classifier

    # To stderr: lines of JSON stay alone.
    jobs = plan(options.photos, Path(), recursive=options.recursive, samples=0, tell=partial(print, file=sys.stderr))
    classifier = Classifier.from_pretrained(options.artifact, device=options.device, precision=options.precision)
    record = Path(options.summary) if options.summary else None
    request = Request(None, strength=1.0, samples=1, dry_run=True, overwrite=False)
    tasks = [partial(attempt, classifier, job, request) for job in jobs]
    shown = (lambda outcome: [(outcome.line(), None)]) if options.json else lines
    return worked(tasks, record, shown, side_by_side(classifier, len(jobs)))


def finish(outcomes: "Sequence[Outcome]", done: str = "restored") -> None:
    """End with the number of failures as exit status, 125 for more."""
    failed = [outcome.error or "" for outcome in outcomes if outcome.status == "failed"]
    if not failed:
        return
    hint = failed[0] if len(outcomes) == 1 else "see the lines above"
    message = f"{len(failed)} of {len(outcomes)} photos could not be {done}: {hint}"
    if len(failed) == 1:
        raise DaclipError(message)
    sys.stderr.write(f"error: {message}\n")
    raise SystemExit(min(len(failed), MOST_FAILURES))


main = entry_point(
    (parser(), lambda options: finish(restore(options))),
    (classify_parser(), lambda options: finish(classify(options), "read")),
)

if __name__ == "__main__":
    main()
