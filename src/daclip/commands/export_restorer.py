"""An artifact's U-Net as official weights: `python -m daclip.commands.export_restorer artifact=FOLDER output=FILE`."""

import os
from pathlib import Path

import torch
from omegaconf import DictConfig
from rich.console import Console
from safetensors.torch import load_file

from daclip.artifacts import Artifact, find_artifact
from daclip.backbones.official import from_official, to_official
from daclip.commands.schemas import ExportRestorerConfig
from daclip.config import run_entry, validated
from daclip.errors import DaclipError

UNET = "daclip.backbones.unet.ConditionalUNet"


def export_restorer(cfg: DictConfig) -> Path:
    """Write the state dict that the original's loader reads; the file appears when it is complete.

    Raises:
        DaclipError: The artifact's network is not the official one, or the file exists.
    """
    if cfg.output is None:
        raise DaclipError("say where to, as in output=restorer.pth (make export-restorer OUTPUT=…)")
    target = Path(cfg.output)
    if target.exists() and not cfg.overwrite:
        raise DaclipError(f"{target} exists; give overwrite=true or another output")
    artifact = Artifact(find_artifact(cfg.artifact, "outputs/restorer", "make train-restorer"))
    artifact.require("restorer")
    network, stage = artifact.config["backbone"], artifact.config["stage"]
    if network["_target_"] != UNET or network.get("context", "token") == "patches":
        raise DaclipError(
            f"{artifact.folder}: its network is not the original's (backbone=unet, context token or none)"
        )
    if stage["parameterization"] != "epsilon":
        meaning = stage["parameterization"]
        raise DaclipError(f"{artifact.folder}: its network predicts {meaning}, which the original takes for noise")
    weights = load_file(artifact.folder / "weights.safetensors")
    official = to_official(weights)
    assert from_official(official).keys() == weights.keys()
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}-{os.getpid()}")
    try:
        torch.save(official, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    Console().print(f"{len(official)} tensors → {target}", soft_wrap=True)
    return target


def main() -> None:
    """Entry point."""
    run_entry(lambda cfg: export_restorer(validated(cfg, ExportRestorerConfig)), "export_restorer")


if __name__ == "__main__":
    main()
