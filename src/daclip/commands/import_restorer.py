"""Official restoration weights to an artifact: `python -m daclip.commands.import_restorer ckpt=FILE daclip=ARTIFACT`."""

import pickle
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console
from torch import Tensor, nn

from daclip.artifacts import Artifact, load_daclip, point_latest, save_artifact
from daclip.backbones.official import from_official, to_official
from daclip.clip.official import load_official, read_official
from daclip.commands.assembly import make, resolved
from daclip.commands.schemas import ImportRestorerConfig
from daclip.config import run_entry, validated
from daclip.errors import DaclipError
from daclip.training.provenance import provenance

# What a run of the original needs for itself and an artifact does not.
OWN_SECTIONS = ("ckpt", "daclip", "variant", "output", "name", "overwrite", "clip")


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file, by the names of the network itself.

    Understands a bare state dict (what the original saves, plain and EMA alike), the same with the `module.` of
    distributed training, one inside a training checkpoint (`state_dict`), and a whole `ema_pytorch` object, of
    which the average is taken. Nothing in the file is executed.

    Raises:
        DaclipError: The file is missing, damaged or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise DaclipError(f"ckpt={path}: no such file; check the path")
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DaclipError(f"{path}: not a checkpoint of plain tensors, or damaged ({reason[:120]})") from None
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not found:
        raise DaclipError(f"{path}: holds no state dict")
    if any(str(name).startswith("ema_model.") for name in found):
        average = {name: value for name, value in found.items() if str(name).startswith("ema_model.")}
        found = {name.removeprefix("ema_model."): value for name, value in average.items()}
    wrong = [str(name) for name, value in found.items() if not isinstance(value, Tensor)]
    if wrong:
        raise DaclipError(
            f"{path}: holds no state dict, {wrong[0]} is no tensor; give the network's own file (N_G.pth)"
        )
    return {str(name).removeprefix("module."): value for name, value in found.items()}


def fit_weights(path: str | Path, official: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The weights under our names, after comparing them with the network's, by the file's own names.

    Raises:
        DaclipError: Unknown or missing names, other shapes, or numbers that are not float32.
    """
    expected = {name: value.shape for name, value in to_official(network.state_dict()).items()}
    unknown, missing = sorted(official.keys() - expected.keys()), sorted(expected.keys() - official.keys())
    reshaped = [
        f"{name} is {list(official[name].shape)} and not {list(shape)}"
        for name, shape in expected.items()
        if name in official and official[name].shape != shape
    ]
    other = [f"{name} is {value.dtype}" for name, value in official.items() if value.dtype != torch.float32]
    problems = [
        f"{what} {', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"
        for what, names in (("unknown", unknown), ("missing", missing), ("shapes:", reshaped), ("numbers:", other))
        if names
    ]
    if problems:
        hint = ""
        if "downsample.weight" in unknown:
            hint = "; this is a wild-ir file: VARIANT=wild"
        elif "downsample.weight" in missing:
            hint = "; this is no wild-ir file: VARIANT=universal"
        raise DaclipError(f"{path}: does not fit the network of this variant: {'; '.join(problems)}{hint}")
    return from_official(official)


def _stage_1(cfg: DictConfig, folder: Path) -> Path:
    """The stage-1 artifact to copy: the one named, or one made in `folder` from official weights."""
    if cfg.daclip is None:
        raise DaclipError("say which guide it was trained with: DACLIP=stage-1 artifact or DA-CLIP weight file")
    path = Path(cfg.daclip)
    if path.is_dir():
        artifact = Artifact(path)
        artifact.require("daclip")
        return path
    settings = {**resolved(cfg)["clip"], "pretrained": None}
    if isinstance(settings["architecture"], str):
        # The original builds every tower with the exact GELU, whatever CLIP weights it starts from.
        settings["architecture"] = settings["architecture"].removesuffix("-quickgelu")
    daclip = make(settings)
    load_official(daclip, read_official(path), path)
    config = {"seed": cfg.seed, "clip": settings, "degradation": resolved(cfg)["degradation"]}
    record = provenance(cfg.seed, ["python", "-m", "daclip.commands.import_restorer", *sys.argv[1:]], {})
    return save_artifact(folder / "daclip", "daclip", config, daclip.state_dict(), {}, record)


def import_restorer(cfg: DictConfig) -> Path:
    """Make the artifact; returns its folder."""
    started = time.monotonic()
    if cfg.ckpt is None:
        raise DaclipError("give a weight file, as in ckpt=universal-ir.pth (make import-restorer CKPT=…)")
    target = Path(cfg.output) / cfg.name / "artifact"
    if target.exists() and not cfg.overwrite:
        raise DaclipError(f"{target} exists; give overwrite=true or another name=")
    official = read_weights(cfg.ckpt)
    with tempfile.TemporaryDirectory(prefix="daclip-") as temporary:
        stage_1 = _stage_1(cfg, Path(temporary))
        width = load_daclip(stage_1).embed_dim
        with torch.device("meta"):
            network: nn.Module = make(cfg.backbone)(context_dim=width)
        weights = fit_weights(cfg.ckpt, official, network)
        config = {key: value for key, value in resolved(cfg).items() if key not in OWN_SECTIONS}
        record = provenance(
            cfg.seed,
            ["python", "-m", "daclip.commands.import_restorer", *sys.argv[1:]],
            {"total": time.monotonic() - started},
        )
        metrics = {"imported": {"file": Path(cfg.ckpt).name, "variant": cfg.variant}}
        save_artifact(target, "restorer", config, weights, metrics, record, {"daclip": stage_1})
    point_latest(target, cfg.output)
    Console().print(f"{len(weights)} tensors → {target} (also {cfg.output}/latest)", soft_wrap=True)
    return target


def main() -> None:
    """Entry point."""
    run_entry(lambda cfg: import_restorer(validated(cfg, ImportRestorerConfig)), "import_restorer")


if __name__ == "__main__":
    main()
