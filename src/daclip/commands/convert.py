"""Artifacts after training. `convert` makes them from official weights and back, and from checkpoints of runs, for both
stages: the source decides direction and stage. `export` writes graphs for other runtimes; `info` shows what one holds.
"""

import shlex
import sys
import tempfile
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from rich.console import Console
from rich.table import Table

from daclip.commands.options import Parser, add_set, add_trust, entry_point, known, make, say, shown
from daclip.errors import DaclipError
from daclip.files import atomic_file

if TYPE_CHECKING:
    from torch import Tensor, nn

    from daclip.artifacts import Artifact
    from daclip.clip.controller import DaClip

UNET = "daclip.backbones.unet.ConditionalUNet"
# What an imported artifact keeps of conf/convert.yaml.
SECTIONS = {
    "daclip": ("seed", "clip", "data", "degradation"),
    "restorer": ("seed", "stage", "backbone", "process", "sampler", "data", "degradation"),
}

# How the names of an artifact's weights begin in a checkpoint of a run.
PREFIXES = {"daclip": "daclip.", "restorer": "denoiser.backbone."}


def parser() -> Parser:
    """The command's options."""
    parser = Parser(
        "convert",
        "SOURCE [options]",
        [
            "daclip convert daclip_ViT-B-32.pt                                    # stage 1: outputs/daclip",
            "daclip convert universal-ir.pth --daclip daclip_ViT-B-32.pt          # stage 2: outputs/restorer",
            "daclip convert wild-ir.pth --variant wild --daclip wild-daclip_ViT-L-14.pt",
            "daclip convert outputs/restorer/latest -o mine.pth                   # an artifact's own stage",
            "daclip convert outputs/restorer/latest/daclip -o mine.pt",
            "daclip convert RUN/checkpoints/best_00008000.ckpt                    # a run's best, or one in progress",
        ],
    )
    add = parser.add_argument
    add("source", metavar="SOURCE", help="official weights or a run's checkpoint to import; artifact folder to export")
    text = (
        "import: folder of artifacts (default: outputs/daclip or outputs/restorer); checkpoint: the new artifact "
        "(default: in the run's folder); export: the new file"
    )
    add("-o", "--output", metavar="PATH", help=text)
    add("--daclip", metavar="PATH", help="stage 1 of a restorer's weights: an artifact, or its official file")
    add("--variant", metavar="NAME", help="universal, mix or wild (default: universal)")
    add("--clip", metavar="NAME", help="of official stage-1 weights: vit_b_32 or vit_l_14 (default: the variant's)")
    add("--name", metavar="NAME", help="of the imported artifact's folder")
    add("--seed", type=int, default=0, metavar="N", help="of the validation data that the artifact is scored on (0)")
    add_set(parser, "degradation=[noisy,rainy]")
    add("--overwrite", action="store_true", help="replace what an earlier conversion wrote")
    return parser


def convert(options: Namespace) -> Path:
    """Import a file or export a folder; returns the artifact's folder or the written file."""
    from daclip.artifacts import point_latest
    from daclip.clip.official import is_daclip, read_weights

    source = Path(options.source)
    if source.is_dir():
        return export_official(options)
    content = read_weights(source)
    if isinstance(content, dict) and any(str(name).startswith(tuple(PREFIXES.values())) for name in content):
        del content
        folder = import_checkpoint(options)
        say(f"artifact: {folder}")
        return folder
    stage_1 = is_daclip(content)
    folder = import_daclip(options, content) if stage_1 else import_restorer(options, content)
    root = folder.parents[1]
    point_latest(folder, root)
    say(f"artifact: {folder} (also {root}/latest)")
    if not stage_1:
        own = f"--artifact {shlex.quote(str(root / 'latest'))}"
        say(f"to restore as the original does: daclip restore PHOTO {own} --sampler original --precision fp32")
        say("to score as it does: daclip evaluate sampler=original precision=fp32 protocol=daclip metric=paper")
        say("faster, and never measured on these weights: --steps 10, or --sampler unipc --steps 10")
    return folder


def composed_parts(options: Namespace) -> dict[str, Any]:
    """The parts of `conf/convert.yaml` as the options choose them."""
    from daclip.config import composed

    overrides = [f"seed={options.seed}", *options.overrides]
    for group, name in (("variant", options.variant), ("clip", options.clip)):
        overrides += [f"{group}={known(group, name)}"] if name is not None else []
    return composed("convert", overrides)


def free(path: Path, options: Namespace) -> Path:
    """The path of what is to be written; one that exists is refused unless the options say otherwise."""
    if path.exists() and not options.overwrite:
        raise DaclipError(f"{path} exists; --overwrite replaces it")
    return path


def save(folder: Path, kind: str, config: Mapping[str, Any], weights: Mapping[str, "Tensor"], **more: Any) -> Path:
    """Write the artifact of official weights; `more` are its `metrics` and `parts`."""
    from daclip.artifacts import save_artifact
    from daclip.degradations import vocabulary
    from daclip.training.provenance import provenance

    kept = {"classes": vocabulary(make(config["degradation"]))} | {name: config[name] for name in SECTIONS[kind]}
    record = provenance(config["seed"], ["python", "-m", "daclip.commands.convert", *sys.argv[1:]], {})
    return save_artifact(folder, kind, kept, weights, more.get("metrics", {}), record, more.get("parts"))


def save_daclip(folder: Path, config: Mapping[str, Any], content: Any, source: Path) -> Path:
    """Write the artifact of official stage-1 weights, the `content` of a file."""
    from daclip.clip.official import load_official, official_state

    settings = {**config["clip"], "pretrained": None}
    if isinstance(settings["architecture"], str):
        # The original builds every tower with the exact GELU, whatever CLIP weights it starts from.
        settings["architecture"] = settings["architecture"].removesuffix("-quickgelu")
    state = official_state(content, source)
    daclip: DaClip = make(settings)
    load_official(daclip, state, source)
    settings["architecture"] = daclip.clip.architecture
    return save(folder, "daclip", {**config, "clip": settings}, daclip.state_dict())


def import_daclip(options: Namespace, content: Any) -> Path:
    """The artifact of official stage-1 weights, for stage 2 and `classify`."""
    if options.daclip is not None:
        raise DaclipError(f"{options.source} holds stage 1 itself; --daclip goes with a restorer's weights")
    source = Path(options.source)
    folder = free(Path(options.output or "outputs/daclip") / (options.name or source.stem) / "artifact", options)
    return save_daclip(folder, composed_parts(options), content, source)


def import_restorer(options: Namespace, content: Any) -> Path:
    """The artifact of official restoration weights, with the stage 1 that it was trained with inside."""
    import torch

    from daclip.artifacts import Artifact
    from daclip.backbones.unet import network_state
    from daclip.clip.official import read_weights

    if options.daclip is None:
        raise DaclipError("say which stage 1 it was trained with: --daclip ARTIFACT, or its official weight file")
    source, variant = Path(options.source), options.variant or "universal"
    name = options.name or f"imported_{variant}"
    target = free(Path(options.output or "outputs/restorer") / name / "artifact", options)
    official = network_state(content, source)
    config = composed_parts(options)
    with tempfile.TemporaryDirectory(prefix="daclip-") as temporary:
        stage_1 = Path(options.daclip)
        if stage_1.is_dir():
            Artifact(stage_1).require("daclip")
        else:
            stage_1 = save_daclip(Path(temporary) / "daclip", config, read_weights(stage_1), stage_1)
        guide = Artifact(stage_1)
        guide.section("clip")["load_weights"] = False
        with torch.device("meta"):
            network: nn.Module = make(config["backbone"])(context_dim=guide.build("clip").embed_dim)
        weights = fit_weights(source, official, network)
        metrics = {"imported": {"file": source.name, "variant": variant}}
        return save(target, "restorer", config, weights, metrics=metrics, parts={"daclip": stage_1})


def import_checkpoint(options: Namespace) -> Path:
    """The artifact of a checkpoint of a run: the averaged weights where the run averages them, as it scores them."""
    from daclip.artifacts import UNSCORED, Artifact, save_artifact
    from daclip.commands.run_folders import recorded_config
    from daclip.training.checkpointing import read_checkpoint
    from daclip.training.provenance import provenance

    given = {"variant": options.variant, "clip": options.clip, "name": options.name, "set": options.overrides}
    if unused := [f"--{name}" for name, value in given.items() if value]:
        raise DaclipError(f"{options.source} is a checkpoint and has its own configuration: leave out {unused[0]}")
    source = Path(options.source).absolute()
    run_folder = source.parents[1]
    folder = free(Path(options.output or run_folder / f"artifact_{source.stem}"), options)
    checkpoint = read_checkpoint(source)
    config = recorded_config(source, checkpoint)
    if config is None:
        raise DaclipError(f"{source}: its run's configuration is unknown; convert it in its run's folder checkpoints/")
    kind = "daclip" if config.get("clip") else "restorer"
    prefix, parts = PREFIXES[kind], {}
    if kind == "restorer":
        stage_1 = options.daclip or config.get("daclip")
        if stage_1 is None:
            raise DaclipError(f"{source}: its run did not note its stage 1; name it with --daclip ARTIFACT")
        Artifact(stage_1).require("daclip")
        parts["daclip"] = Path(stage_1)
    elif options.daclip is not None:
        raise DaclipError(f"{source} holds stage 1 itself; --daclip goes with a restorer's weights")
    weights = {
        name.removeprefix(prefix): value for name, value in checkpoint["state_dict"].items() if name.startswith(prefix)
    }
    if broken := [name for name, value in weights.items() if not value.isfinite().all()]:
        raise DaclipError(f"{source}: not finite at {broken[0]}; convert an earlier checkpoint")
    record = provenance(
        config["seed"], ["python", "-m", "daclip.commands.convert", *sys.argv[1:]], {}, run_folder=run_folder
    )
    metrics = {"steps": checkpoint["global_step"], UNSCORED: f"made of the checkpoint {source.name}"}
    return save_artifact(folder, kind, config, weights, metrics, record, parts)


def fit_weights(path: Path, official: Mapping[str, "Tensor"], network: "nn.Module") -> "dict[str, Tensor]":
    """The weights under our names, after comparing them with the network's, by the file's own names."""
    import torch

    from daclip.backbones.unet import from_official, to_official

    own = to_official(network.state_dict())
    problems = {
        "unknown": sorted(official.keys() - own.keys()),
        "missing": sorted(own.keys() - official.keys()),
        "shapes:": [
            f"{name} is {list(official[name].shape)} and not {list(value.shape)}"
            for name, value in own.items()
            if name in official and official[name].shape != value.shape
        ],
        "numbers:": [f"{name} is {value.dtype}" for name, value in official.items() if value.dtype != torch.float32],
    }
    told = [
        f"{what} {', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"
        for what, names in problems.items()
        if names
    ]
    if told:
        if "downsample.weight" in problems["unknown"]:
            told[-1] += "; this is a wild-ir file: --variant wild"
        elif "downsample.weight" in problems["missing"]:
            told[-1] += "; this is no wild-ir file: --variant universal"
        raise DaclipError(f"{path}: does not fit the network of this variant: {'; '.join(told)}")
    return from_official(official)


def export_official(options: Namespace) -> Path:
    """Write an artifact's own stage as the state dict that the original's loader reads."""
    from daclip.artifacts import Artifact

    if options.output is None:
        raise DaclipError("give the file to write, as in `daclip convert ARTIFACT -o mine.pth`")
    target = Path(options.output)
    if target.is_dir():
        raise DaclipError(f"{target} is a folder; give the name of a file")
    artifact = Artifact(options.source)
    write = _export_daclip if artifact.config["kind"] == "daclip" else _export_unet
    note = write(artifact, free(target, options))
    say(f"written: {target}")
    if note:
        say(note)
    return target


def _export_daclip(artifact: "Artifact", target: Path) -> str:
    from open_clip.transformer import QuickGELU

    from daclip.artifacts import load_daclip
    from daclip.clip.official import write_official

    daclip = load_daclip(artifact.folder)
    write_official(daclip, target)
    if not any(isinstance(module, QuickGELU) for module in daclip.modules()):
        return ""
    return 'note: the towers use QuickGELU; the original needs "quick_gelu": true in its model configuration'


def _export_unet(artifact: "Artifact", target: Path) -> str:
    import torch
    from safetensors.torch import load_file

    from daclip.backbones.unet import to_official

    # Nothing is made of these sections, which may name parts of PyTorch.
    network, meaning = artifact.config["backbone"], artifact.config["stage"]["parameterization"]
    if network["_target_"] != UNET or network.get("context", "token") == "patches":
        raise DaclipError(f"{artifact.folder}: its network is not the original's (backbone=unet without patch tokens)")
    if meaning != "epsilon":
        raise DaclipError(f"{artifact.folder}: its network predicts {meaning}, which the original takes for noise")
    with atomic_file(target) as file:
        torch.save(to_official(load_file(artifact.folder / "weights.safetensors")), cast(IO[bytes], file))
    return ""


def export_parser() -> Parser:
    """Options of `export`."""
    made = Parser(
        "export",
        "[ARTIFACT] [options]",
        ["daclip export outputs/restorer/latest --format onnx -o exported   # needs pip install 'daclip[export]'"],
    )
    add = made.add_argument
    add("artifact", nargs="?", metavar="ARTIFACT", help="restorer's folder (default: outputs/restorer/latest)")
    add_trust(made)
    add("--format", default="torch", choices=("torch", "onnx"), help="torch.export (.pt2) or ONNX (default: torch)")
    add("-o", "--output", default="outputs/export", metavar="FOLDER", help="new folder (default: %(default)s)")
    add("--overwrite", action="store_true", help="replace the folder if it is there")
    text = "largest difference to the networks themselves, of images in [0, 1] (default: %(default)g)"
    add("--tolerance", type=float, default=1e-3, metavar="X", help=text)
    return made


def export(options: Namespace) -> dict[str, float]:
    """Write the graphs, each compared with its network; returns the largest difference of each one's outputs."""
    from daclip.artifacts import find_artifact
    from daclip.restoring.export import exported, write_export
    from daclip.restoring.restorer import Restorer

    folder = free(Path(options.output), options)
    artifact = find_artifact(options.artifact, "outputs/restorer", "make train-restorer")
    # Float32 on the CPU: a runtime chooses its own arithmetic later.
    restorer = Restorer.from_pretrained(artifact, device="cpu", precision="fp32")
    differences = write_export(exported(restorer), restorer, options.format, folder, options.tolerance)
    for name, difference in differences.items():
        say(f"{folder / name}  differs by at most {difference:.1e}")
    return differences


def info_parser() -> Parser:
    """Options of `info`."""
    made = Parser("info", "ARTIFACT", ["daclip info outputs/restorer/latest"])
    made.add_argument("artifact", metavar="ARTIFACT", help="artifact folder of either stage")
    return made


def info(options: Namespace) -> None:
    """Print kind, scores and provenance."""
    from daclip.artifacts import Artifact, read_metrics, read_record

    artifact = Artifact(options.artifact)
    table = Table(title=shown(options.artifact), show_header=False)

    def add(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, item in value.items():
                add(f"{name}.{key}" if name else str(key), item)
        elif value is not None:
            table.add_row(shown(name), f"{value:.4f}" if isinstance(value, float) else shown(str(value)))

    add("kind", artifact.config["kind"])
    metrics = read_metrics(options.artifact)
    metrics.pop("confusion", None)
    add("metrics", metrics)
    add("", read_record(options.artifact))
    Console().print(table)


main = entry_point((parser(), convert), (export_parser(), export), (info_parser(), info))

if __name__ == "__main__":
    main()
