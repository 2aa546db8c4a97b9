"""The console script `daclip`: the same commands as the Makefile, with Hydra overrides after them."""

import runpy
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from daclip.artifacts import Artifact, read_metrics, read_record
from daclip.errors import DaclipError

# Command → module and leading arguments. Modules run as `python -m` would run them, which is the form that
# Lightning starts its other ranks in.
COMMANDS: dict[str, tuple[str, list[str]]] = {
    "train daclip": ("daclip.commands.train", []),
    "train restorer": ("daclip.commands.train", ["--config-name", "train_restorer"]),
    "evaluate": ("daclip.commands.evaluate", []),
    "restore": ("daclip.commands.restore", []),
    "classify": ("daclip.commands.restore", ["dry_run=true"]),
    "app": ("daclip.app", []),
    "export": ("daclip.commands.export", []),
    "dataset build": ("daclip.commands.dataset", []),
    "dataset check": ("daclip.commands.check_dataset", []),
    "degradations": ("daclip.commands.degradations", []),
    "sampler-report": ("daclip.commands.sampler_report", []),
    "import daclip": ("daclip.commands.import_daclip", []),
    "export daclip": ("daclip.commands.export_daclip", []),
    "evaluate daclip": ("daclip.commands.evaluate_daclip", []),
    "import restorer": ("daclip.commands.import_restorer", []),
    "export restorer": ("daclip.commands.export_restorer", []),
    "report": ("daclip.commands.report", []),
    "sweep": ("daclip.commands.sweep", []),
    "dashboard": ("daclip.commands.dashboard", []),
}

USAGE = """usage: daclip COMMAND [hydra overrides]

  daclip train daclip        stage 1: the controller
  daclip train restorer      stage 2: the restorer
  daclip evaluate            score a restorer on held-out photos
  daclip restore PATHS… --output FOLDER [--degradation rainy] [--strength 0.5] …
                             restore photos, folders, patterns
  daclip classify PATHS…     only name what is wrong with them
  daclip app                 restore photos in a browser
  daclip export ARTIFACT --format torch|onnx
                             the networks for other runtimes
  daclip evaluate pred=FOLDER gt=FOLDER
                             score the photos of any system
  daclip info ARTIFACT       what an artifact folder holds
  daclip dataset build source=FOLDER output=FOLDER
                             captioned dataset from photos
  daclip dataset check source=FOLDER
                             what is wrong with photos, pairs or a dataset
  daclip degradations        contact sheet of the corruptions
  daclip benchmark           speed ratios against a plain baseline
  daclip sampler-report      quality and seconds of the samplers over network evaluations
  daclip import daclip checkpoint=FILE
                             official DA-CLIP weights to a stage-1 artifact
  daclip export daclip output=FILE
                             a stage-1 artifact to official DA-CLIP weights
  daclip evaluate daclip     score stage 1 on held-out photos
  daclip import restorer ckpt=FILE daclip=ARTIFACT
                             official restoration weights to an artifact
  daclip export restorer artifact=FOLDER output=FILE
                             an artifact's U-Net as official weights
  daclip report runs=[FOLDER,…]
                             one page from the records of runs
  daclip sweep sweep=NAME    many runs and the table of what came out
  daclip dashboard           wandb workspace of both stages

COMMAND --help lists a command's options."""


def info(folder: str) -> None:
    """Print what an artifact holds: kind, scores, provenance."""
    artifact = Artifact(folder)
    table = Table(title=folder, show_header=False)

    def add(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, item in value.items():
                add(f"{name}.{key}" if name else str(key), item)
        elif value is not None:
            table.add_row(name, f"{value:.4f}" if isinstance(value, float) else str(value))

    add("kind", artifact.config["kind"])
    metrics = read_metrics(folder)
    metrics.pop("confusion", None)
    add("metrics", metrics)
    add("", read_record(folder))
    Console().print(table)


def main() -> None:
    """Entry point of the console script."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        Console().print(USAGE, markup=False, highlight=False)
        return
    if arguments[0] == "info":
        if len(arguments) != 2:
            sys.exit("error: give one artifact folder, as in `daclip info outputs/restorer/latest`")
        try:
            info(arguments[1])
        except DaclipError as error:
            sys.exit(f"error: {error}")
        return
    for length in (2, 1):
        command = " ".join(arguments[:length])
        if command in COMMANDS:
            module, leading = COMMANDS[command]
            sys.argv = [command, *leading, *arguments[length:]]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
            return
    if arguments[0] == "train":
        sys.exit("error: say which stage: `daclip train daclip` or `daclip train restorer`")
    if arguments[0] == "dataset":
        sys.exit("error: say what to do: `daclip dataset build` or `daclip dataset check`")
    sys.exit(f"error: there is no command '{arguments[0]}'; `daclip --help` lists them")


if __name__ == "__main__":
    main()
