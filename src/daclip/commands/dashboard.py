"""A wandb workspace of both stages."""

import json
from argparse import Namespace
from importlib import import_module
from pathlib import Path
from typing import Any

from daclip.commands.options import Parser, entry_point, say
from daclip.errors import DaclipError
from daclip.files import one_line, read_json, write_json

STEP = "trainer/global_step"
# Section → panels as (title, keys); a text in place of a list is a pattern and takes every metric that it matches.
LINES: dict[str, list[tuple[str, list[str] | str]]] = {
    "Stage 1": [
        ("loss", ["train/loss"]),
        ("terms of the loss", ["train/degradation_loss", "train/caption_loss", "train/distillation_loss"]),
        ("degradation accuracy", ["val/degradation_accuracy"]),
        ("content cosine, steered and plain", ["val/content_cosine", "val/content_cosine_plain"]),
        ("accuracy by degradation", "^val/degradation_accuracy/"),
    ],
    "Stage 2": [
        ("loss", ["train/loss"]),
        ("PSNR", ["val/psnr"]),
        ("gain over the degraded photo", ["val/gain"]),
        ("gain by degradation", "^val/gain/"),
        ("PSNR by degradation", "^val/psnr/"),
    ],
    "System": [
        ("images per second", ["system/images_per_second"]),
        ("seconds per step", ["system/step_seconds"]),
        ("memory in GiB", ["system/memory_gib"]),
        ("gradient norm", ["train/grad_norm"]),
        ("learning rate", "^lr-"),  # named after the optimiser and its groups
    ],
}


def parser() -> Parser:
    """The command's options."""
    parser = Parser("dashboard", "[options]", ["daclip dashboard --project my-project"])
    add = parser.add_argument
    add("--entity", metavar="NAME", help="user or team (default: your account's default)")
    add("--project", default="daclip", metavar="NAME", help="wandb project of the runs (default: %(default)s)")
    add("--name", default="daclip", metavar="NAME", help="name of the workspace (default: %(default)s)")
    text = "remembers the workspace, so that the next call updates it (default: %(default)s)"
    add("-o", "--output", default="outputs/dashboard.json", metavar="FILE", help=text)
    return parser


def build_workspace(entity: str, project: str, name: str) -> Any:
    """The workspace, with the sections Stage 1, Stage 2, Samples and System."""
    try:
        parts: Any = import_module("wandb_workspaces.reports.v2")
        workspaces: Any = import_module("wandb_workspaces.workspaces")
    except ModuleNotFoundError as error:
        raise DaclipError(f"the package {error.name} is missing; install daclip[dashboards]") from error

    def lines(section: str) -> list[Any]:
        return [
            parts.LinePlot(title=title, x=STEP, **{"metric_regex" if isinstance(keys, str) else "y": keys})
            for title, keys in LINES[section]
        ]

    confusion = parts.CustomChart(
        query={"summaryTable": {"tableKey": "val/confusion_table"}},
        chart_name="wandb/confusion_matrix/v1",
        chart_fields={name: name for name in ("Actual", "Predicted", "nPredictions")},
    )
    sections = {
        "Stage 1": [*lines("Stage 1"), confusion],
        "Stage 2": lines("Stage 2"),
        "Samples": [
            parts.MediaBrowser(title="LQ | restored | HQ", media_keys=["samples/grid"], num_columns=2),
            parts.WeavePanelSummaryTable(table_name="samples/table"),
        ],
        "System": lines("System"),
    }
    shown = [workspaces.Section(name=title, panels=panels, is_open=True) for title, panels in sections.items()]
    return workspaces.Workspace(entity=entity, project=project, name=name, sections=shown)


def dashboard(options: Namespace) -> str:
    """Create the workspace in the user's project, or bring the one of an earlier call up to date: its address."""
    import wandb
    from wandb.errors import Error

    try:
        known = read_json(options.output) if Path(options.output).is_file() else {}
    except json.JSONDecodeError:
        raise DaclipError(f"{options.output}: damaged; remove it") from None
    try:
        if not wandb.login(prompt=False):
            raise DaclipError("not logged in to wandb; run `wandb login` first (runs themselves need no account)")
        entity = options.entity or wandb.Api().default_entity
        if not entity:
            raise DaclipError("your wandb account has no default entity; give one, as in --entity TEAM")
        workspace = build_workspace(entity, options.project, options.name)
        key = f"{entity}/{options.project}/{options.name}"
        if key in known:
            saved = type(workspace).from_url(known[key])
            saved.sections = workspace.sections
            workspace = saved
        workspace.save()
    except (Error, ValueError, OSError) as error:
        raise DaclipError(f"wandb refused the workspace: {one_line(error)}") from error
    address = str(workspace.url)
    write_json(options.output, {**known, key: address})
    say(f"dashboard: {address}")
    return address


main = entry_point((parser(), dashboard))

if __name__ == "__main__":
    main()
