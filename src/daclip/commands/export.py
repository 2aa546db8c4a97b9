"""A restorer's networks for other runtimes: `python -m daclip.commands.export ARTIFACT --format torch|onnx`."""

import sys
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from daclip.artifacts import find_artifact
from daclip.commands.restore import overrides
from daclip.commands.schemas import ExportConfig
from daclip.config import run_entry, validated
from daclip.errors import DaclipError
from daclip.restoring.export import FORMATS, exported, write_export
from daclip.restoring.restorer import Restorer


def export(cfg: DictConfig) -> dict[str, float]:
    """Write the graphs, each compared with the network that it was made of.

    Returns:
        The largest difference of each graph's outputs.

    Raises:
        DaclipError: An unknown format, a missing package, a folder in the way, or a graph that differs.
    """
    if cfg.format not in FORMATS:
        raise DaclipError(f"format={cfg.format} is not known; choose from {', '.join(FORMATS)}")
    folder = Path(cfg.output)
    if folder.exists() and not cfg.overwrite:
        raise DaclipError(f"output={folder} is there already; overwrite=true replaces it")
    artifact = find_artifact(cfg.artifact, "outputs/restorer", "make train-restorer")
    # Float32 on the CPU: a runtime chooses its own arithmetic later.
    restorer = Restorer.from_pretrained(artifact, device="cpu", precision="fp32")
    differences = write_export(exported(restorer), restorer, cfg.format, folder, cfg.tolerance)
    console = Console(soft_wrap=True)
    for name, difference in differences.items():
        console.print(f"{folder / name}  differs by at most {difference:.1e}", highlight=False)
    return differences


def main() -> None:
    """Entry point."""
    try:
        sys.argv[1:] = overrides(sys.argv[1:], ExportConfig, "artifact")
    except DaclipError as error:
        sys.exit(f"error: {error}")
    run_entry(lambda cfg: export(validated(cfg, ExportConfig)), "export")


if __name__ == "__main__":
    main()
