"""What the scripts of experiments/ compare: every arm composes, and no two arms are the same."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import hydra
import pytest
from omegaconf import OmegaConf

from daclip.commands.train import TrainConfig
from daclip.config import config_dir, validated

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXPERIMENTS / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LOSSES, CONTEXT, TIME = (script(name) for name in ("stage1_losses", "ablation_context", "time_to_quality"))
# Comparison → primary, recipe, and the overrides of each arm.
ALL: dict[str, tuple[str, str, list[list[str]]]] = {
    **{name: ("train_daclip", "ablation_daclip", list(arms.values())) for name, arms in LOSSES.COMPARISONS.items()},
    "context": ("train_restorer", "embedded_restorer", list(CONTEXT.SETTINGS.values())),
    "time": ("train_restorer", "embedded_restorer", list(TIME.ARMS.values())),
}


@pytest.mark.parametrize("name", list(ALL))
def test_arms_compose_and_differ(name: str) -> None:
    primary, recipe, arms = ALL[name]
    found: list[dict[str, Any]] = []
    with hydra.initialize_config_dir(config_dir(), version_base="1.3"):
        for overrides in arms:
            cfg = validated(hydra.compose(primary, [f"experiment={recipe}", *overrides]), TrainConfig)
            found.append({key: OmegaConf.to_container(cfg[key]) for key in ("clip", "backbone", "stage")})
    assert len(found) > 1
    assert all(one != other for number, one in enumerate(found) for other in found[:number])
