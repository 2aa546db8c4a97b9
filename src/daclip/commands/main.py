"""The console script `daclip COMMAND`: finds the command and runs its module as `python -m` would.

`daclip COMMAND`, `python -m daclip COMMAND` and `make COMMAND` are the same. Nothing here imports the networks, so the
help is instant.
"""

import difflib
import importlib
import runpy
import sys

from daclip import __version__

# Every command with what it does.
COMMANDS = {
    "train-daclip": "Train stage 1, the controller that recognises degradations",
    "train-restorer": "Train stage 2, the restorer, on top of stage 1",
    "evaluate": "Score an artifact, or the photos of any system, on validation photos",
    "restore": "Restore photos, folders and patterns of files",
    "classify": "Name the degradations of photos, with probabilities, by an artifact of either stage",
    "app": "Restore photos in a browser",
    "dataset": "Build a captioned dataset from a folder of photos",
    "check-dataset": "Find what is wrong with photos, pairs or a built dataset",
    "degradations": "Draw a contact sheet of the degradations",
    "sampler-report": "Measure quality and seconds of every sampler over network evaluations",
    "convert": "Turn official weights into an artifact, or an artifact into official weights",
    "export": "Write a restorer's networks as graphs for other runtimes (torch.export, ONNX)",
    "report": "Write one page from the records of evaluations and training runs",
    "dashboard": "Create or update the wandb workspace of both stages",
    "info": "Show what an artifact holds: scores, versions, seed",
}
# The modules of commands that share one with another; the others have modules of their own names.
MODULES = {"check-dataset": "dataset", "classify": "restore", "export": "convert", "info": "convert"}


def usage() -> str:
    """The help of `daclip` itself."""
    width = max(map(len, COMMANDS)) + 2
    lines = "\n".join(f"  {name:<{width}}{sentence}" for name, sentence in COMMANDS.items())
    return (
        f"usage: daclip COMMAND [options]\n\n{lines}\n\n`daclip COMMAND --help` explains one. "
        "Training and evaluation take Hydra's overrides (KEY=VALUE), all others --options."
    )


def main() -> None:
    """Entry point of the console script."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help", "help"):
        sys.stdout.write(usage() + "\n")
    elif name == "--version":
        sys.stdout.write(f"daclip {__version__}\n")
    elif name in COMMANDS:
        sys.argv = [f"daclip {name}", *rest]
        if name in MODULES:
            importlib.import_module(f"daclip.commands.{MODULES[name]}").main(name)
        else:
            # The form that Lightning starts the other ranks of a distributed run in.
            runpy.run_module(f"daclip.commands.{name.replace('-', '_')}", run_name="__main__", alter_sys=True)
    else:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else "`daclip --help` lists them"
        sys.stderr.write(f"error: there is no command '{name}'; {hint}\n")
        raise SystemExit(2)


if __name__ == "__main__":
    main()
