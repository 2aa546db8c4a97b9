"""Official DA-CLIP weights to a stage-1 artifact: `python -m daclip.commands.import_daclip checkpoint=FILE`."""

import sys
import time
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from daclip.artifacts import point_latest, save_artifact
from daclip.clip.official import load_official, read_official
from daclip.commands.assembly import make, resolved
from daclip.commands.schemas import ImportDaclipConfig
from daclip.config import run_entry, validated
from daclip.errors import DaclipError
from daclip.training.provenance import provenance


def import_daclip(cfg: DictConfig) -> Path:
    """Write the artifact of an official checkpoint, loadable by stage 2 and by the restorer.

    Raises:
        DaclipError: No file, a file that is no DA-CLIP checkpoint, or one of another architecture.
    """
    started = time.monotonic()
    if cfg.checkpoint is None:
        raise DaclipError("give the official checkpoint, as in `make import-daclip CKPT=daclip_ViT-B-32.pt`")
    source = Path(cfg.checkpoint)
    folder = Path(cfg.output) / source.stem / "artifact"
    if folder.exists() and not cfg.overwrite:
        raise DaclipError(f"{folder} exists; add overwrite=true to replace it")
    state = read_official(source)
    config = resolved(cfg)
    settings = config["clip"]
    settings["pretrained"] = None
    if isinstance(settings["architecture"], str):
        # The original builds every tower with the exact GELU, whatever CLIP weights it starts from.
        settings["architecture"] = settings["architecture"].removesuffix("-quickgelu")
    daclip = make(settings)
    load_official(daclip, state, source)
    record = provenance(
        cfg.seed,
        ["python", "-m", "daclip.commands.import_daclip", *sys.argv[1:]],
        {"total": time.monotonic() - started},
    )
    save_artifact(folder, "daclip", config, daclip.state_dict(), {}, record)
    point_latest(folder, cfg.output)
    Console().print(f"artifact: {folder} (also {cfg.output}/latest)", soft_wrap=True)
    return folder


def main() -> None:
    """Entry point."""
    run_entry(lambda cfg: import_daclip(validated(cfg, ImportDaclipConfig)), "import_daclip")


if __name__ == "__main__":
    main()
