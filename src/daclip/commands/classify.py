"""Naming the degradations of photos, without restoring them."""

from argparse import BooleanOptionalAction, Namespace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from daclip.commands.options import Parser, add_artifact, add_machine, entry_point
from daclip.commands.restore import finish, lines, worked

if TYPE_CHECKING:
    from daclip.restoring.batch import Outcome


def parser() -> Parser:
    """The command's options."""
    parser = Parser(
        "classify",
        "PHOTO… [options]",
        ["daclip classify photo.jpg", "daclip classify photos --artifact outputs/daclip/latest --json"],
    )
    add = parser.add_argument
    add("photos", nargs="+", metavar="PHOTO", help="photos, folders, quoted patterns; after -- also -names")
    add_artifact(parser, "outputs/restorer/latest, else outputs/daclip/latest")
    add("--json", action="store_true", help="print a line of JSON a photo, with all probabilities")
    add("--summary", metavar="FILE", help="write these lines of JSON to a file")
    add("--recursive", action=BooleanOptionalAction, default=True, help="folders with all below them (default: yes)")
    add_machine(parser, memory=False)
    return parser


def classify(options: Namespace) -> "list[Outcome]":
    """Name what is wrong with each photo; one that cannot be read does not cost the others."""
    from daclip.artifacts import find_artifact
    from daclip.restoring.batch import Request, attempt, plan
    from daclip.restoring.classifier import Classifier

    jobs = plan(options.photos, Path(), recursive=options.recursive, samples=0)
    root = "outputs/restorer" if Path("outputs/restorer/latest").is_dir() else "outputs/daclip"
    folder = find_artifact(options.artifact, root, "make train-daclip")
    classifier = Classifier.from_pretrained(folder, device=options.device, precision=options.precision)
    record = Path(options.summary) if options.summary else None
    request = Request(None, strength=1.0, samples=1, dry_run=True, overwrite=False)
    tasks = [partial(attempt, classifier, job, request) for job in jobs]
    return worked(tasks, record, (lambda outcome: [(outcome.line(), None)]) if options.json else lines)


main = entry_point(parser(), lambda options: finish(classify(options), "read"))

if __name__ == "__main__":
    main()
