"""Artifact folders: saving, loading, the model hub; `daclip.trust` says what a stranger's configuration may name."""

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from hydra.utils import instantiate
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from daclip.clip.controller import DaClip
from daclip.clip.sources import TOKENIZER, refuse_outside
from daclip.degradations import vocabulary
from daclip.diffusion.denoiser import Denoiser
from daclip.errors import DaclipError
from daclip.files import atomic_folder, cannot_be_written, one_line, read_json, write_json, write_text
from daclip.trust import read_yaml, refuse_foreign_parts

HUB_FILES = ["*.yaml", "*.json", "*.safetensors"]
UNSCORED = "not_scored"  # the key of the scores that says why there are none
# The restorer inside the package, which the name PRETRAINED stands for, and its model card.
PRETRAINED, PACKAGED = "pretrained", Path(__file__).parent / "pretrained"
CONFIG, WEIGHTS, METRICS, RECORD = "config.yaml", "weights.safetensors", "metrics.json", "record.json"
EMBEDDED_PHOTOS = "daclip.data.sources.EmbeddedPhotos"

# What artifacts of earlier commits name. The modules of a room by their present name, and what they were called in it:
EARLIER = {
    "data.captions": "blip",
    "data.datamodule": "module",
    "data.pairs": "crops mix",
    "data.sources": "captioned paired photos",
    "degradations.blur": "world.motion",
    "degradations.clean": "world.clean",
    "degradations.compose": "wild",
    "degradations.digital": "jpeg resize world.codec",
    "degradations.haze": "world.fog",
    "degradations.light": "world.night world.shadows",
    "degradations.mask": "world.holes",
    "degradations.noise": "world.sensor",
    "degradations.rain": "world.rainfall",
    "degradations.raindrops": "world.drops",
    "degradations.snow": "world.snowfall",
    "diffusion.denoiser": "preconditioning",
    "diffusion.objectives": "weightings",
    "diffusion.sde": "direct process schedules",
    "samplers.base": "grids",
    "samplers.solvers": "ddim dpm_solver exponential flow_ode heun ode posterior reverse_sde single_step unipc",
    "training.loggers": "wandb",
}
# Module, or one of its names, to its present name; and key to present key.
MOVED = {
    "daclip.data.mix.MixedPhotos": "daclip.data.sources.MixedPhotos",
    "daclip.degradations.weather.Haze": "daclip.degradations.haze.Haze",
    "daclip.degradations.weather.Rain": "daclip.degradations.rain.Rain",
    "daclip.degradations.weather.Raindrops": "daclip.degradations.raindrops.Raindrops",
    "daclip.degradations.weather.Snow": "daclip.degradations.snow.Snow",
    "daclip.training.optimizers.FloatMuon": "daclip.training.optimizers.Muon",
    "timm.optim.Muon": "daclip.training.optimizers.Muon",
    **{
        f"daclip.{present.partition('.')[0]}.{old}": f"daclip.{present}"
        for present, names in EARLIER.items()
        for old in names.split()
    },
}
RENAMED = {
    "damaged_limit": "max_damaged",
    "held_out": "validation",
    "held_out_batch_size": "validation_batch_size",
    "held_out_crops": "validation_crops",
    "held_out_rows": "validation_rows",
    "held_out_size": "validation_size",
    "remembered_photos": "embedding_cache_size",
    "score": "monitor",
    "told_share": "true_class_share",
    "words": "classes",
    "workers": "num_workers",
}


def present_names(node: Any) -> Any:
    """A configuration with what has moved or been renamed since it was written under its present name."""
    if isinstance(node, list):
        return [present_names(value) for value in node]
    if not isinstance(node, Mapping):
        return node
    present = {RENAMED.get(key, key): present_names(value) for key, value in node.items()}
    if isinstance(target := present.get("_target_"), str):
        module, _, name = target.rpartition(".")
        present["_target_"] = MOVED.get(target, f"{MOVED.get(module, module)}.{name}")
    if isinstance(certainty := present.get("certainty"), (int, float)) and certainty > 0:
        # The probabilities' power c, normalised, is the softmax of the logits at temperature 1 / c.
        present["temperature"] = 1 / certainty
    return present


class Artifact:
    """An artifact folder with `config.yaml` (resolved, as `config`) and `weights.safetensors`; else a `DaclipError`."""

    def __init__(self, folder: str | Path):
        self.folder = PACKAGED if str(folder) == PRETRAINED else Path(folder)
        if not self.folder.is_dir():
            raise DaclipError(f"{folder}: no such artifact folder; check the path")
        for name in (CONFIG, WEIGHTS):
            if not (self.folder / name).is_file():
                raise DaclipError(
                    f"{folder}: not an artifact, {name} is missing; give the folder a training run ended with"
                )
        _refuse_links(self.folder)
        self.where = str(self.folder / CONFIG)  # for errors
        config = read_yaml(self.folder / CONFIG)
        if not isinstance(config, dict) or config.get("kind") not in ("daclip", "restorer"):
            raise DaclipError(f"{self.where}: not the configuration of a daclip artifact")
        self.config: dict[str, Any] = present_names(config)

    def require(self, kind: str) -> None:
        """Refuse an artifact of the other stage."""
        if self.config["kind"] != kind:
            raise DaclipError(
                f"{self.folder}: an artifact of kind '{self.config['kind']}', but a '{kind}' one is needed "
                f"(make train-{kind})"
            )

    def section(self, name: str) -> dict[str, Any]:
        """A section of the configuration such as `stage.parameterization`; it may only name parts of this framework."""
        node: Any = self.config
        for key in name.split("."):
            node = node.get(key) if isinstance(node, dict) else None
        if not isinstance(node, dict):
            raise DaclipError(
                f"{self.where}: the section {name} is missing or damaged; train or copy the artifact again"
            )
        refuse_foreign_parts(node, name, self.where)
        return node

    def data_section(self, roots: Iterable[str]) -> dict[str, Any]:
        """The section `data` of an artifact below one of the user's output folders, or with photos of the package: from
        elsewhere it chooses no folders of this machine, no caches and no data sets of the hub."""
        data = self.section("data")
        photos = data.get("photos")
        embedded = isinstance(photos, dict) and photos.get("_target_") == EMBEDDED_PHOTOS
        if not embedded and not any(self.folder.resolve().is_relative_to(Path(root).resolve()) for root in roots):
            raise DaclipError(
                f"{self.folder} lies outside your output folders, so the photos that it names are not read: name "
                "yours, as in data=folder data.root=PHOTOS, or paths.root=FOLDER above the artifact if it is your own"
            )
        return data

    def build(self, section: str, node: Any = None) -> Any:
        """Make the object that a section such as `stage.parameterization`, or a `node` in its place, describes."""
        if node is None:
            node = self.section(section)
        else:
            refuse_foreign_parts(node, section, self.where)
        try:
            return instantiate(node, _convert_="object")
        except Exception as error:  # a part's own, in an InstantiationException, or OmegaConf's about the node
            if isinstance(error.__cause__, DaclipError):
                raise error.__cause__ from None
            message = f"{self.where}: nothing can be made of the section {section} ({one_line(error)})"
            raise DaclipError(message) from error

    @property
    def classes(self) -> list[str]:
        """The single classes, synthetic and real, that the artifact was trained on, in their order."""
        found = self.config.get("classes")
        if found is None:  # an artifact of an earlier commit, which knew synthetic ones only
            found = vocabulary(self.build("degradation"))
        if not isinstance(found, list) or not found or not all(isinstance(name, str) and name for name in found):
            raise DaclipError(f"{self.where}: classes must be a list of words; copy the artifact again")
        return found

    @property
    def fill(self) -> float | None:
        """Value in [0, 1] that missing pixels had in training; None if they had several."""
        trained = (self.config.get("degradation") or {}).get("uncompleted") or {"fill": self.config.get("fill", 1.0)}
        return trained.get("fill")

    def load_into(self, module: nn.Module) -> None:
        """Read the weights into a module of the same layout."""
        try:
            state = load_file(self.folder / WEIGHTS)
        except (SafetensorError, OSError) as error:
            raise DaclipError(f"{self.folder / WEIGHTS}: damaged ({error}); train or copy it again") from None
        own, found = ({(name, value.shape) for name, value in part.items()} for part in (module.state_dict(), state))
        if wrong := sorted({name for name, _ in own ^ found}):
            raise DaclipError(f"{self.folder / WEIGHTS}: does not fit its configuration at {', '.join(wrong[:5])}")
        module.load_state_dict(state)


def _refuse_links(folder: Path) -> None:
    """Refuse links, through which a copy of the artifact would take other files along; those of the hub's cache lead
    to its own store of contents."""
    own = [parent.parent / "blobs" for parent in folder.resolve().parents if parent.name == "snapshots"]
    for path in folder.rglob("*"):
        if path.is_symlink() and not any(path.resolve().is_relative_to(store) for store in own):
            raise DaclipError(f"{path}: refused, an artifact holds no links; copy it with the files themselves")


class _Plain(yaml.SafeDumper):
    """Writes the same list twice rather than an alias, which no reader of artifacts takes."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def save_artifact(
    folder: str | Path,
    kind: str,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    metrics: Mapping[str, Any],
    record: Mapping[str, Any],
    parts: Mapping[str, Path] | None = None,
    tokenizer: str | None = None,
) -> Path:
    """Write an artifact folder; it appears under its name, and replaces one that exists, only when complete. `kind` is
    `daclip` or `restorer`, `config` resolved, `record` the provenance; `parts` are folders copied into it, by name;
    `tokenizer` is the text of a tokeniser that is not open_clip's own."""
    folder = Path(folder)
    advice = ", then go on with resume=last"
    document = yaml.dump({"kind": kind, **config}, Dumper=_Plain, sort_keys=False, allow_unicode=True)
    try:
        with atomic_folder(folder, advice) as temporary:
            write_text(temporary / CONFIG, document)
            save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, temporary / WEIGHTS)
            # safetensors writes it for the user alone; it gets the mode of its neighbours.
            (temporary / WEIGHTS).chmod((temporary / CONFIG).stat().st_mode)
            write_json(temporary / METRICS, metrics)
            write_json(temporary / RECORD, record)
            if tokenizer is not None:
                write_text(temporary / TOKENIZER, tokenizer)
            for name, source in (parts or {}).items():
                shutil.copytree(source, temporary / name)
    except SafetensorError as error:  # a full disk, among others
        raise cannot_be_written(folder, error, advice) from None
    return folder


def point_latest(artifact: Path, root: str | Path) -> None:
    """Let `root/latest` point at the artifact; the link is replaced in one step."""
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    link = root / "latest"
    temporary = root / f".latest-{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(artifact, root), target_is_directory=True)
    temporary.replace(link)


def find_artifact(path: str | Path | None, root: str | Path, make: str) -> Path:
    """The artifact the user named, else the newest below `root`; `make` is the command that makes one."""
    if path is not None:
        return Path(path)
    latest = Path(root) / "latest"
    if not latest.is_dir():
        raise DaclipError(f"there is no artifact at {latest} yet; run `{make}` first or give a path")
    return latest.resolve()


def load_daclip(folder: str | Path) -> DaClip:
    """DA-CLIP from a stage-1 artifact, in evaluation mode without gradients."""
    artifact = Artifact(folder)
    artifact.require("daclip")
    # The artifact holds all weights, the frozen ones too, and its tokeniser: nothing is downloaded.
    clip, tokenizer = artifact.section("clip"), artifact.folder / TOKENIZER
    refuse_outside(clip.get("architecture"), tokenizer.is_file(), artifact.where)
    own = {"load_weights": False, "tokenizer": str(tokenizer) if tokenizer.is_file() else None}
    daclip: DaClip = artifact.build("clip", {**clip, **own})
    artifact.load_into(daclip)
    daclip.clip.forget_texts()
    return daclip.eval().requires_grad_(False)


def load_denoiser(artifact: Artifact, context_dim: int) -> Denoiser:
    """The trained network of a stage-2 artifact with the meaning of its output, in evaluation mode."""
    artifact.require("restorer")
    # The stage's other parts are for training, and nothing is made of them here.
    stage = artifact.config.get("stage")
    if not isinstance(stage, dict) or "parameterization" not in stage:
        raise DaclipError(f"{artifact.where}: the section stage is missing or damaged; copy the artifact again")
    named = isinstance(stage["parameterization"], str)
    backbone, process = artifact.build("backbone"), artifact.build("process")
    meaning = stage["parameterization"] if named else artifact.build("stage.parameterization")
    try:
        denoiser = Denoiser(backbone(context_dim=context_dim), process, meaning, stage["correct_epsilon_shift"])
    except DaclipError:
        raise
    except Exception as error:  # values of a wrong type or size fail anywhere in the networks
        raise DaclipError(
            f"{artifact.where}: no network can be made of it ({one_line(error)}); copy the artifact again"
        ) from error
    artifact.load_into(denoiser.backbone)
    # Gradients stay allowed: autocast then keeps its bfloat16 copies of the weights from one evaluation to the next.
    return denoiser.eval()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise DaclipError(f"{path}: missing or damaged; train or copy the artifact again")
    return content


def read_metrics(folder: str | Path) -> dict[str, Any]:
    """The scores in an artifact folder."""
    return _read_json(Path(folder) / METRICS)


def read_record(folder: str | Path) -> dict[str, Any]:
    """Provenance in an artifact folder."""
    return _read_json(Path(folder) / RECORD)


def artifact_folder(source: str | Path, revision: str | None = None) -> Path:
    """The folder that a path, `pretrained`, or a model `owner/name` of the Hugging Face hub at a revision stands for;
    the latter is downloaded, or found in the cache."""
    if str(source) == PRETRAINED:
        return PACKAGED
    if Path(source).is_dir():
        return Path(source)
    name = str(source)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise DaclipError(f"{name}: no such artifact folder; check the path")
    from huggingface_hub import snapshot_download  # slow to import, and most users have a folder

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=HUB_FILES))
    except Exception as error:
        # The hub client raises its own, the HTTP library's and the operating system's errors.
        raise DaclipError(
            f"{name}: no such artifact folder, and the model hub did not give one ({one_line(error)}); check the name"
        ) from None
