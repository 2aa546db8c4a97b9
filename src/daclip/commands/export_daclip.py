"""A stage-1 artifact to an official checkpoint: `python -m daclip.commands.export_daclip artifact=FOLDER output=FILE`."""

from pathlib import Path

from omegaconf import DictConfig
from open_clip.transformer import QuickGELU
from rich.console import Console

from daclip.artifacts import find_artifact, load_daclip
from daclip.clip.official import write_official
from daclip.commands.schemas import ExportDaclipConfig
from daclip.config import run_entry, validated
from daclip.errors import DaclipError


def export_daclip(cfg: DictConfig) -> Path:
    """Write the checkpoint that the original code reads.

    Raises:
        DaclipError: No output, one that exists, or a model that the original code cannot compute.
    """
    if cfg.output is None:
        raise DaclipError("give the file to write, as in `make export-daclip OUTPUT=daclip_ViT-B-32.pt`")
    output = Path(cfg.output)
    if output.is_dir():
        raise DaclipError(f"{output} is a folder; give the name of a file")
    if output.exists() and not cfg.overwrite:
        raise DaclipError(f"{output} exists; add overwrite=true to replace it")
    daclip = load_daclip(find_artifact(cfg.artifact, "outputs/daclip", "make train-daclip"))
    write_official(daclip, output)
    Console().print(f"written: {output}", soft_wrap=True)
    if any(isinstance(part, QuickGELU) for part in daclip.modules()):
        note = 'note: the towers use QuickGELU; the original needs "quick_gelu": true in its model configuration'
        Console().print(note, soft_wrap=True, highlight=False)
    return output


def main() -> None:
    """Entry point."""
    run_entry(lambda cfg: export_daclip(validated(cfg, ExportDaclipConfig)), "export_daclip")


if __name__ == "__main__":
    main()
