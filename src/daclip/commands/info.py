"""The content of an artifact."""

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from daclip.commands.options import Parser, entry_point


def parser() -> Parser:
    """The command's options."""
    made = Parser("info", "ARTIFACT", ["daclip info outputs/restorer/latest"])
    made.add_argument("artifact", metavar="ARTIFACT", help="artifact folder of either stage")
    return made


def info(options: Namespace) -> None:
    """Print kind, scores and provenance."""
    from daclip.artifacts import Artifact, read_metrics, read_record

    artifact = Artifact(options.artifact)
    table = Table(title=options.artifact, show_header=False)

    def add(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, item in value.items():
                add(f"{name}.{key}" if name else str(key), item)
        elif value is not None:
            table.add_row(name, f"{value:.4f}" if isinstance(value, float) else str(value))

    add("kind", artifact.config["kind"])
    metrics = read_metrics(options.artifact)
    metrics.pop("confusion", None)
    add("metrics", metrics)
    add("", read_record(options.artifact))
    Console().print(table)


main = entry_point(parser(), info)

if __name__ == "__main__":
    main()
