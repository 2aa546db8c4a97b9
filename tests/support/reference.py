"""Recorded numbers of the reference implementation: small ones beside the tests, large ones in a folder outside."""

import json
import math
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from daclip.backbones.unet import ConditionalUNet, from_official, to_official
from daclip.diffusion import MeanRevertingSDE, ThetaSchedule


@dataclass(frozen=True)
class Recording:
    """One recording: tensors by name and facts that are no tensors."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def under(self, prefix: str) -> dict[str, Tensor]:
        """Tensors below `prefix/`, the prefix removed."""
        return {k.removeprefix(f"{prefix}/"): v for k, v in self.tensors.items() if k.startswith(f"{prefix}/")}


GOLDENS = Path(__file__).parents[1] / "goldens"


@cache
def golden(name: str) -> Recording:
    """The recording `name` that is part of the repository."""
    return Recording(load_file(GOLDENS / f"{name}.safetensors"), json.loads((GOLDENS / f"{name}.json").read_text()))


def forward_step(process: MeanRevertingSDE, x: Tensor, mu: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Euler–Maruyama on dx = θ_t (μ − x) dt + σ_t dw from t − 1 to t, with σ_t = λ √(2 θ_t)."""
    theta, dt = process.schedule.thetas[t].view(-1, 1, 1, 1), process.schedule.dt
    return x + theta * (mu - x) * dt + process.lambda_ * (2 * theta).sqrt() * dt.sqrt() * noise


def reference_folder() -> Path:
    """`$DACLIP_REFERENCE`, or `../shared/reference` seen from the repository."""
    default = Path(__file__).parents[2].parent / "shared" / "reference"
    return Path(os.environ.get("DACLIP_REFERENCE", default))


@cache
def facts(name: str) -> dict[str, Any]:
    """The json `name`; the test is skipped where it is absent."""
    path = reference_folder() / f"{name}.json"
    if not path.exists():
        pytest.skip(f"no reference recording {path} (set DACLIP_REFERENCE)")
    return json.loads(path.read_text())


@cache
def recording(name: str) -> Recording:
    """The recording `name` of the folder outside; the test is skipped where it is absent."""
    known = facts(name)
    return Recording(load_file(reference_folder() / f"{name}.safetensors"), known)


def irsde_settings(trajectories: bool) -> list[str]:
    """Names of the SDE's recorded settings, of trajectories or of the process: the repository's and those outside."""
    outside = reference_folder() / "irsde.json"
    files = [GOLDENS / "irsde.json", *([outside] if outside.exists() else [])]
    names = {name for file in files for name in json.loads(file.read_text())["settings"]}
    return sorted(name for name in names if name.startswith("traj/") == trajectories)


def irsde(setting: str) -> Recording:
    """The SDE's recording with this setting: the one outside where there is one that has it, else the repository's."""
    outside = reference_folder() / "irsde.json"
    if outside.exists() and setting in facts("irsde")["settings"]:
        return recording("irsde")
    return golden("irsde")


def recorded_process(setting: dict[str, Any]) -> MeanRevertingSDE:
    """The process of a recorded setting; with `sample_T` the reference makes new tables of that length."""
    horizon = setting.get("sample_T", setting["T"])
    schedule = ThetaSchedule(setting["schedule"], horizon=horizon, delta=setting["eps"])
    return MeanRevertingSDE(schedule, setting["max_sigma"])


def unet_settings(known: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `ConditionalUNet` for a recording's network."""
    setting = known["setting"]
    wild = known["variant"] == "wild-ir"
    return {
        "context_dim": setting["context_dim"],
        "width": setting["nf"],
        "multipliers": setting["ch_mult"],
        "degradation_context": setting["use_degra_context"],
        "context": "token" if setting["use_image_context"] else "none",
        "transformer_levels": [-1] if wild else None,
        "scale": setting.get("scale", 1.0),
    }


def recorded_unet(name: str) -> ConditionalUNet:
    """The network of a recording with its weights, behaving as the reference does without a content."""
    known = recording(name)
    unet = ConditionalUNet(**unet_settings(known.facts), self_attend_without_content=True)
    unet.load_state_dict(from_official(known.under("weights")))
    return unet


def formula_weight(name: str, shape: torch.Size) -> Tensor:
    """Reproducible values for a weight of that name: what a golden need not store."""
    place = torch.arange(math.prod(shape), dtype=torch.float64)
    values = (43758.5453 * torch.sin(12.9898 * (place + 1) + sum(name.encode()))).frac()
    return (values / math.sqrt(math.prod(shape[1:]))).view(shape).float()


def formula_unet(known: dict[str, Any]) -> ConditionalUNet:
    """The network of a golden with the weights of `formula_weight` by their official names."""
    unet = ConditionalUNet(**unet_settings(known))
    shapes = {name: value.shape for name, value in to_official(unet.state_dict()).items()}
    unet.load_state_dict(from_official({name: formula_weight(name, shape) for name, shape in shapes.items()}))
    return unet


def assert_near(actual: Tensor, expected: Tensor, rtol: float = 1e-4, atol: float = 1e-5, what: str = "") -> None:
    """Equal up to the order of summation, for which the notes of the recordings give the default room."""
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol, msg=lambda m: f"{what}: {m}")
