"""Artifact folders: saving, loading, the model hub, and what a stranger's configuration may name.

A configuration that came with an artifact is data: it may name parts of this framework and nothing through them.
"""

import importlib
import inspect
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from daclip.clip.controller import DaClip
from daclip.degradations import vocabulary
from daclip.diffusion.denoiser import Denoiser
from daclip.errors import DaclipError
from daclip.files import atomic_folder, cannot_be_written, one_line, write_json, write_text

HUB_FILES = ["*.yaml", "*.json", "*.safetensors"]
CONFIG, WEIGHTS, METRICS, RECORD = "config.yaml", "weights.safetensors", "metrics.json", "record.json"

# What artifacts of earlier commits name: old module (or one of its names) to new, and old key to new.
MOVED = {
    "daclip.data.blip": "daclip.data.captions",
    "daclip.data.captioned": "daclip.data.sources",
    "daclip.data.crops": "daclip.data.pairs",
    "daclip.data.mix": "daclip.data.pairs",
    "daclip.data.mix.MixedPhotos": "daclip.data.sources.MixedPhotos",
    "daclip.data.module": "daclip.data.datamodule",
    "daclip.data.paired": "daclip.data.sources",
    "daclip.data.photos": "daclip.data.sources",
    "daclip.degradations.jpeg": "daclip.degradations.digital",
    "daclip.degradations.raindrops": "daclip.degradations.weather",
    "daclip.degradations.resize": "daclip.degradations.digital",
    "daclip.diffusion.direct": "daclip.diffusion.sde",
    "daclip.diffusion.preconditioning": "daclip.diffusion.denoiser",
    "daclip.diffusion.process": "daclip.diffusion.sde",
    "daclip.diffusion.schedules": "daclip.diffusion.sde",
    "daclip.diffusion.weightings": "daclip.diffusion.objectives",
    "daclip.samplers.ddim": "daclip.samplers.exponential",
    "daclip.samplers.dpm_solver": "daclip.samplers.exponential",
    "daclip.samplers.flow_ode": "daclip.samplers.single_step",
    "daclip.samplers.grids": "daclip.samplers.base",
    "daclip.samplers.heun": "daclip.samplers.single_step",
    "daclip.samplers.ode": "daclip.samplers.single_step",
    "daclip.samplers.posterior": "daclip.samplers.single_step",
    "daclip.samplers.reverse_sde": "daclip.samplers.single_step",
    "daclip.samplers.unipc": "daclip.samplers.exponential",
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

# Classes defined in these packages build networks, samplers, data and degradations; none runs what it is given.
PACKAGES = tuple(
    f"daclip.{room}." for room in ("backbones", "clip", "data", "degradations", "diffusion", "metrics", "samplers")
)
# Functions are named one by one: others of the same modules write files or reach the network.
FUNCTION_MODULES = ("daclip.samplers.base", "daclip.diffusion.objectives")
FUNCTIONS = (
    "daclip.clip.controller.create_daclip",
    "daclip.metrics.perceptual.efficientnet_lite",
    "daclip.metrics.perceptual.vgg16",
)


def _present_names(node: Any) -> Any:
    """A configuration with what has moved or been renamed since it was written under its present name."""
    if isinstance(node, list):
        return [_present_names(value) for value in node]
    if not isinstance(node, Mapping):
        return node
    present = {RENAMED.get(key, key): _present_names(value) for key, value in node.items()}
    if isinstance(target := present.get("_target_"), str):
        module, _, name = target.rpartition(".")
        present["_target_"] = MOVED.get(target, f"{MOVED.get(module, module)}.{name}")
    if isinstance(certainty := present.get("certainty"), (int, float)) and certainty > 0:
        # The probabilities' power c, normalised, is the softmax of the logits at temperature 1 / c.
        present["temperature"] = 1 / certainty
    return present


def _is_part(target: Any) -> bool:
    """Whether a dotted name is that of a class or function defined in one of the packages, not of one that they import,
    such as `daclip.commands.train.subprocess.run`."""
    module_name, _, name = str(target).rpartition(".")
    if not isinstance(target, str) or not target.startswith(PACKAGES) or not name.isidentifier():
        return False
    try:
        # The part itself is imported here, by its full name, which runs no code but the framework's own.
        part = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError):
        return False
    home = getattr(part, "__module__", "")
    if not f"{home}.".startswith(PACKAGES):
        return False
    if inspect.isclass(part):
        return True
    return inspect.isfunction(part) and (home in FUNCTION_MODULES or f"{home}.{part.__name__}" in FUNCTIONS)


def refuse_foreign_targets(node: Any, where: str) -> None:
    """Refuse a section (plain containers) of an artifact's configuration, from the file `where`, that names foreign
    code: a `_target_` outside this framework, or a reference that reads the environment or calls a resolver."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            refuse_foreign_targets(key, where)
            refuse_foreign_targets(value, where)
            if key == "_target_" and not _is_part(value):
                raise DaclipError(f"{where}: refuses to make {value!r}; only parts of daclip may be named")
    elif isinstance(node, (list, tuple)):
        for value in node:
            refuse_foreign_targets(value, where)
    elif isinstance(node, str) and "${" in node:
        raise DaclipError(f"{where}: refuses the reference {node!r}; an artifact's configuration holds plain values")


class Artifact:
    """An artifact folder with `config.yaml` (resolved, as `config`) and `weights.safetensors`; else a `DaclipError`."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise DaclipError(f"{folder}: no such artifact folder; check the path")
        for name in (CONFIG, WEIGHTS):
            if not (self.folder / name).is_file():
                raise DaclipError(
                    f"{folder}: not an artifact, {name} is missing; give the folder a training run ended with"
                )
        try:
            config = yaml.safe_load((self.folder / CONFIG).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            raise DaclipError(f"{self.folder / CONFIG}: damaged; train or copy the artifact again") from None
        if not isinstance(config, dict) or config.get("kind") not in ("daclip", "restorer"):
            raise DaclipError(f"{self.folder / CONFIG}: not the configuration of a daclip artifact")
        self.config: dict[str, Any] = _present_names(config)

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
                f"{self.folder / CONFIG}: the section {name} is missing or damaged; train or copy the artifact again"
            )
        refuse_foreign_targets(node, str(self.folder / CONFIG))
        return node

    def build(self, section: str, node: Any = None) -> Any:
        """Make the object that a section such as `stage.parameterization`, or a `node` in its place, describes."""
        if node is None:
            node = self.section(section)
        else:
            refuse_foreign_targets(node, str(self.folder / CONFIG))
        try:
            return instantiate(node, _convert_="object")
        except InstantiationException as error:
            if isinstance(error.__cause__, DaclipError):
                raise error.__cause__ from None
            raise DaclipError(
                f"{self.folder / CONFIG}: nothing can be made of the section {section} ({one_line(error)})"
            ) from error

    @property
    def classes(self) -> list[str]:
        """The single classes, synthetic and real, that the artifact was trained on, in their order."""
        found = self.config.get("classes")
        if found is None:  # an artifact of an earlier commit, which knew synthetic ones only
            found = vocabulary(self.build("degradation"))
        if not isinstance(found, list) or not found or not all(isinstance(name, str) and name for name in found):
            raise DaclipError(f"{self.folder / CONFIG}: classes must be a list of words; copy the artifact again")
        return found

    def load_into(self, module: nn.Module) -> None:
        """Read the weights into a module of the same layout."""
        try:
            state = load_file(self.folder / WEIGHTS)
        except (SafetensorError, OSError) as error:
            raise DaclipError(f"{self.folder / WEIGHTS}: damaged ({error}); train or copy it again") from None
        present = module.state_dict()
        wrong = sorted(
            {name for name in present.keys() | state.keys() if name not in present or name not in state}
            | {name for name in present.keys() & state.keys() if present[name].shape != state[name].shape}
        )
        if wrong:
            raise DaclipError(f"{self.folder / WEIGHTS}: does not fit its configuration at {', '.join(wrong[:5])}")
        module.load_state_dict(state)


def save_artifact(
    folder: str | Path,
    kind: str,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    metrics: Mapping[str, Any],
    record: Mapping[str, Any],
    parts: Mapping[str, Path] | None = None,
) -> Path:
    """Write an artifact folder; it appears under its name, and replaces one that exists, only when complete. `kind` is
    `daclip` or `restorer`, `config` resolved, `record` the provenance; `parts` are folders copied into it, by name."""
    folder = Path(folder)
    advice = ", then go on with resume=last"
    document = yaml.safe_dump({"kind": kind, **config}, sort_keys=False, allow_unicode=True)
    try:
        with atomic_folder(folder, advice) as temporary:
            write_text(temporary / CONFIG, document)
            save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, temporary / WEIGHTS)
            # safetensors writes it for the user alone; it gets the mode of its neighbours.
            (temporary / WEIGHTS).chmod((temporary / CONFIG).stat().st_mode)
            write_json(temporary / METRICS, metrics)
            write_json(temporary / RECORD, record)
            for name, source in (parts or {}).items():
                shutil.copytree(source, temporary / name)
    except SafetensorError as error:  # a full disk, among others
        raise cannot_be_written(folder, error, advice) from None
    return folder


def point_latest(artifact: Path, root: str | Path) -> None:
    """Let `root/latest` point at the artifact; the link is replaced in one step."""
    root = Path(root)
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
    # The artifact holds all weights, the frozen ones too: nothing is downloaded.
    artifact.section("clip")["load_weights"] = False
    daclip: DaClip = artifact.build("clip")
    artifact.load_into(daclip)
    daclip.clip.forget_texts()
    return daclip.eval().requires_grad_(False)


def load_denoiser(artifact: Artifact, context_dim: int) -> Denoiser:
    """The trained network of a stage-2 artifact with the meaning of its output, in evaluation mode."""
    artifact.require("restorer")
    # The stage's other parts are for training, and nothing is made of them here.
    stage = artifact.config.get("stage")
    if not isinstance(stage, dict) or "parameterization" not in stage:
        raise DaclipError(
            f"{artifact.folder / CONFIG}: the section stage is missing or damaged; copy the artifact again"
        )
    named = isinstance(stage["parameterization"], str)
    denoiser = Denoiser(
        artifact.build("backbone")(context_dim=context_dim),
        artifact.build("process"),
        stage["parameterization"] if named else artifact.build("stage.parameterization"),
        stage["correct_epsilon_shift"],
    )
    artifact.load_into(denoiser.backbone)
    # Gradients stay allowed: autocast then keeps its bfloat16 copies of the weights from one evaluation to the next.
    return denoiser.eval()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DaclipError(f"{path}: missing or damaged; train or copy the artifact again") from None
    return content


def read_metrics(folder: str | Path) -> dict[str, Any]:
    """The scores in an artifact folder."""
    return _read_json(Path(folder) / METRICS)


def read_record(folder: str | Path) -> dict[str, Any]:
    """Provenance in an artifact folder."""
    return _read_json(Path(folder) / RECORD)


def from_hub(name: str, revision: str | None = None) -> Path:
    """Download the model `owner/name` from the Hugging Face hub, or find it in the cache."""
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
