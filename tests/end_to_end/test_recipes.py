"""Every recipe of conf/experiment composes and trains a step: here, or in test_docs_run where a guide names it."""

import functools
import re
from pathlib import Path

import hydra
import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from PIL import Image
from skimage import data
from test_docs_run import RUN

from daclip.commands.train import TrainConfig, train
from daclip.config import config_dir, validated

RECIPES = sorted((Path(config_dir()) / "experiment").glob("*.yaml"))
DOCUMENTED = {"embedded_daclip", "embedded_restorer", *re.findall(r"EXPERIMENT=(\w+)", "\n".join(RUN))}

# What makes a recipe of any size fit into a second; the rest is as the recipe says.
SMALL = [
    "trainer=smoke",
    "trainer.max_steps=1",
    "data.crop_size=32",
    "data.context_size=32",
    "data.batch_size=4",
    "data.samples_per_epoch=4",
    "data.validation_size=48",
    "data.validation_crops=1",
    "data.validation_batch_size=10",
    "data.num_workers=0",
    "logger=csv",
]
SMALL_CLIP = [
    "clip=tiny",
    "clip.architecture.vision_cfg={image_size: 32, patch_size: 8, width: 64, layers: 2, head_width: 32}",
]
SMALL_SAMPLER = ["sampler.steps=2"]
SHALLOW = {"multipliers": [1, 1], "encoder_blocks": [1, 1], "decoder_blocks": [1, 1], "middle_blocks": 1}


def run_one_step(recipe: str, folder: Path, *overrides: str) -> Path:
    """Train a recipe, shrunk, in this process; returns the artifact."""
    stage_1 = recipe.endswith("daclip")
    photos = folder / "photos"
    photos.mkdir(exist_ok=True)
    for i in range(3):
        Image.fromarray(data.astronaut()[60 * i : 60 * i + 64, 150:250]).save(photos / f"{i}.png")
        (photos / f"{i}.txt").write_text("an astronaut", encoding="utf-8")
    chosen = [*SMALL, *(SMALL_CLIP if stage_1 else SMALL_SAMPLER), *overrides]
    with hydra.initialize_config_dir(config_dir(), version_base="1.3"):
        cfg = hydra.compose(
            "train_daclip" if stage_1 else "train_restorer",
            overrides=[
                f"experiment={recipe}",
                *chosen,
                f"+data.root={photos}",
                f"output={folder}",
                f"hydra.runtime.output_dir={folder}/run",
            ],
            return_hydra_config=True,
        )
    if not stage_1:
        cfg.backbone.update({"width": 32, **{key: SHALLOW[key] for key in SHALLOW.keys() & cfg.backbone.keys()}})
    HydraConfig.instance().set_config(cfg)
    own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    _, objects = train(validated(own, TrainConfig), folder / "run")
    assert objects["trainer"].global_step == 1
    return Path(objects["artifact"])


@pytest.fixture(scope="module")
def guide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_one_step("smoke_daclip", tmp_path_factory.mktemp("guide"))


@pytest.mark.parametrize("recipe", [path.stem for path in RECIPES if path.stem not in DOCUMENTED])
def test_recipe_trains_a_step(recipe: str, tmp_path: Path, guide: Path) -> None:
    overrides = [] if recipe.endswith("daclip") else [f"daclip={guide}"]
    if recipe == "direct_restorer":
        overrides.append("sampler.steps=1")  # regression has no more
    artifact = run_one_step(recipe, tmp_path, *overrides)
    assert (artifact / "metrics.json").is_file()


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe_says_what_it_is_for(recipe: Path) -> None:
    header = recipe.read_text(encoding="utf-8").partition("defaults:")[0]
    for part in ("Question", "Command", "Hardware"):
        assert f"\n# {part}: " in header, part
    # What to expect, or that nobody knows yet.
    assert "\n# Expected: " in header or "Not run here yet." in header


@functools.cache
def callbacks(primary: str, *overrides: str) -> set[str]:
    with hydra.initialize_config_dir(config_dir(), version_base="1.3"):
        return set(hydra.compose(primary, [*overrides]).callbacks)


@pytest.mark.parametrize("recipe", [path.stem for path in RECIPES])
def test_a_recipe_gives_up_no_safeguard(recipe: str) -> None:
    """A list of callbacks of its own takes the place of the default's, and may forget some of them."""
    primary = "train_daclip" if recipe.endswith("daclip") else "train_restorer"
    assert callbacks(primary, f"experiment={recipe}") == callbacks(primary)
