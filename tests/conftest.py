"""What tests of several folders share.

Fixtures import what they need: the process that hands out the tests reads this file too, before the others start.
"""

import gc
import pickle
import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

SMALL = [
    "experiment=embedded_restorer",
    "backbone.width=16",
    "backbone.encoder_blocks=[1,1]",
    "backbone.middle_blocks=1",
    "backbone.decoder_blocks=[1,1]",
    "sampler.steps=3",
]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """What is imported stays, so that garbage need not be looked for there, again and again and in every fork."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def hydra_remembers() -> Iterator[None]:
    """Hydra reads each file once and chooses from its groups once for the same choices: half of the time of a
    composition, of which there are a thousand."""
    from hydra._internal import config_repository, defaults_list

    load, choose = config_repository.ConfigRepository.load_config, defaults_list._create_defaults_list
    known: dict[str, bytes] = {}  # pickled, because what is given out is changed

    def recalled(repo: Any, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        places = [Path(one.path).absolute() if one.scheme() == "file" else one.path for one in repo.get_sources()]
        name = repr((places, key))
        if name not in known:
            known[name] = pickle.dumps(make())
        return pickle.loads(known[name])

    def load_once(repo: Any, config_path: str) -> Any:
        return recalled(repo, (config_path,), lambda: load(repo, config_path))

    def choose_once(repo: Any, config_name: str | None, overrides: Any, **flags: bool) -> Any:
        chosen = {name: value for name, value in vars(overrides).items() if name != "config_overrides"}
        key = (config_name, chosen, flags)
        found, state = recalled(repo, key, lambda: (choose(repo, config_name, overrides, **flags), chosen))
        vars(overrides).update(state)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config_repository.ConfigRepository, "load_config", load_once)
        patch.setattr(defaults_list, "_create_defaults_list", choose_once)
        yield


@pytest.fixture(scope="session")
def restorer_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage-2 artifact with random weights that visibly change a photo: made in a second, without training."""
    import hydra
    import torch
    from omegaconf import OmegaConf
    from small_clip import CLIP

    from daclip.artifacts import save_artifact
    from daclip.commands.options import make
    from daclip.config import config_dir

    folder = tmp_path_factory.mktemp("artifacts")
    with hydra.initialize_config_dir(config_dir(), version_base="1.3"):
        cfg = hydra.compose("train_restorer", SMALL)
    parts = ("degradation", "backbone", "process", "sampler")
    config: dict[str, Any] = {name: OmegaConf.to_container(cfg[name], resolve=True) for name in parts}
    clip = {**CLIP, "view": "multi_crop"}
    daclip = make(clip)
    record = {"seed": 0}
    own = {"clip": clip, "degradation": config["degradation"]}
    stage_1 = save_artifact(folder / "daclip", "daclip", own, daclip.state_dict(), {}, record)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = make(config["backbone"])(context_dim=16)
        torch.nn.init.normal_(backbone.head.weight, std=0.02)
    config["stage"] = {"parameterization": "data", "correct_epsilon_shift": False}
    return save_artifact(
        folder / "restorer", "restorer", config, backbone.state_dict(), {}, record, {"daclip": stage_1}
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as player:
        opened = player.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()
