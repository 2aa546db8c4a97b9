"""What tests of several folders share."""

import functools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hydra
import pytest
import torch
import yaml
from hydra.utils import instantiate
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader
from small_clip import CLIP

from daclip.artifacts import save_artifact
from daclip.commands.options import make
from daclip.config import config_dir

SMALL = [
    "experiment=embedded_restorer",
    "backbone.width=16",
    "backbone.encoder_blocks=[1,1]",
    "backbone.middle_blocks=1",
    "backbone.decoder_blocks=[1,1]",
    "sampler.steps=3",
]


@pytest.fixture(scope="session", autouse=True)
def each_yaml_is_parsed_once() -> Iterator[None]:
    """OmegaConf parses in plain Python, which is a quarter of the time of a composition, and there are a thousand."""
    parse = functools.cache(lambda text, loader: yaml.load(text, loader))

    def load(source: Any, Loader: Any) -> Any:  # noqa: N803
        return parse(source if isinstance(source, str) else source.read(), Loader)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("omegaconf._utils.get_yaml_loader", functools.cache(get_yaml_loader))
        patch.setattr("omegaconf.omegaconf.yaml", SimpleNamespace(**{**vars(yaml), "load": load}))
        yield


@pytest.fixture(scope="session")
def restorer_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage-2 artifact with random weights that visibly change a photo: made in a second, without training."""
    folder = tmp_path_factory.mktemp("artifacts")
    with hydra.initialize_config_dir(config_dir(), version_base="1.3"):
        cfg = hydra.compose("train_restorer", SMALL)

    def node(name: str) -> Any:
        return OmegaConf.to_container(cfg[name], resolve=True)

    clip = {**CLIP, "view": "multi_crop"}
    daclip = make(clip)
    degradation = node("degradation")
    record = {"seed": 0}
    stage_1 = save_artifact(
        folder / "daclip", "daclip", {"clip": clip, "degradation": degradation}, daclip.state_dict(), {}, record
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = instantiate(node("backbone"), _convert_="object")(context_dim=16)
        torch.nn.init.normal_(backbone.head.weight, std=0.02)
    config = {name: node(name) for name in ("backbone", "process", "sampler")}
    config["stage"] = {"parameterization": "data", "correct_epsilon_shift": False}
    config["degradation"] = degradation
    return save_artifact(
        folder / "restorer", "restorer", config, backbone.state_dict(), {}, record, {"daclip": stage_1}
    )
