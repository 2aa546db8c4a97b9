"""The web page."""

import argparse
import tempfile
from pathlib import Path

from daclip.commands.options import (
    Parser,
    add_artifact,
    add_machine,
    add_network,
    entry_point,
    make,
    named_network,
    say,
)
from daclip.errors import DaclipError
from daclip.files import choices


def parser() -> Parser:
    """The command's options."""
    made = Parser("app", "[options]", ["daclip app", "daclip app --host 0.0.0.0 --port 8000 --max-memory 4"])
    add_artifact(made)
    add_network(made)
    add = made.add_argument
    add("--host", default="127.0.0.1", help="0.0.0.0 lets other machines of the network in (default: %(default)s)")
    add("--port", type=int, default=7860, help="port of the page (default: %(default)s)")
    limits = made.add_argument_group("limits of what a visitor may ask for")
    for name, kind, default, text in (
        ("upload-mb", int, 40, "megabytes of one file"),
        ("megapixels", float, 30.0, "megapixels of one photo"),
        ("files", int, 50, "photos in one batch"),
        ("samples", int, 8, "restorations of one photo"),
        ("steps", int, 100, "steps of a sampler"),
        ("words", int, 200, "characters of a text that names degradations"),
    ):
        limits.add_argument(f"--max-{name}", type=kind, default=default, metavar="N", help=f"{text} ({default:g})")
    limits.add_argument("--queue", type=int, default=32, metavar="N", help="requests that wait (%(default)s)")
    machine = made.add_argument_group("machine")
    add_machine(machine)
    machine.add_argument("--seed", type=int, default=0, metavar="N", help="seed that the page starts with (0)")
    return made


def app(options: argparse.Namespace) -> None:
    """Serve until interrupted."""
    try:
        from daclip.app.server import launch, make_examples, page_of
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("gradio", "gradio_client"):
            raise
        raise DaclipError("the web app needs Gradio; install it with pip install 'daclip[app]'") from None
    from daclip.app.service import Limits
    from daclip.config import composed

    limits = Limits(
        options.max_megapixels,
        options.max_files,
        options.max_samples,
        options.max_steps,
        options.max_words,
        tuple(choices("sampler")),
    )
    machine = {name: getattr(options, name) for name in ("device", "precision", "max_memory")}
    networks = map(named_network, options.network)
    degradations = make(composed(None, ["+degradation=world"])["degradation"])
    with tempfile.TemporaryDirectory(prefix="daclip-") as folder:
        examples = make_examples(degradations, Path(folder))
        page = page_of(options.artifact, limits, options.queue, options.seed, networks, examples, **machine)
        address = launch(page, options.host, options.port, options.max_upload_mb)
        say(f"the page is at {address}  (Ctrl+C ends it)")
        page.block_thread()


main = entry_point((parser(), app))

if __name__ == "__main__":
    main()
