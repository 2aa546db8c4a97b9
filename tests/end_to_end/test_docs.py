"""What README and guides say, without running their commands, which test_docs_run does: the values that a command
composes, code, links, names of commands."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from documented import ALL, BLOCK, PAGES, ROOT, from_make
from hydra.utils import instantiate
from omegaconf import OmegaConf
from running import invoke
from skimage import data

from daclip.commands.main import COMMANDS
from daclip.config import _arranged
from daclip.types import Conditioning

# Make targets that are no commands of the console script.
PLAIN = {"test", "help", "lint", "format", "lock", "wheel"}


def test_there_are_commands_on_every_guide() -> None:
    assert len(ALL) > 60
    guides = {"protocols.md", "reports.md", "cluster.md", "loggers.md", "faq.md"}
    assert guides | {"README.md"} <= set(ALL.values())


ADAMW, MUON = "torch.optim.AdamW", "daclip.training.optimizers.Muon"
PHOTOS, EMBEDDED = "daclip.data.sources.PhotoFolder", "daclip.data.sources.EmbeddedPhotos"
LAION = "laion2b_s34b_b79k"
KEYS = {  # what decides what a run becomes → its place in the configuration
    "crop": "data.crop_size",
    "batch": "data.batch_size",
    "photos": "data.photos._target_",
    "optimizer": "stage.optimizer._target_",
    "lr": "stage.optimizer.lr",
    "steps": "trainer.max_steps",
    "epochs": "trainer.max_epochs",
    "devices": "trainer.devices",
    "clip": "clip.pretrained",
    "loss": "stage.loss.matching._target_",
    "captions": "stage.loss.caption_weight",
    "content": "stage.content_share",
    "backbone": "backbone._target_",
    "width": "backbone.width",
    "predicts": "stage.parameterization",
}
STAGE_1 = {"crop": 224, "photos": PHOTOS, "optimizer": ADAMW, "lr": 3e-5, "clip": LAION, "content": 1.0}
STAGE_2 = {"crop": 256, "photos": PHOTOS, "optimizer": ADAMW, "lr": 2e-4, "width": 64, "predicts": "data"}
OWN = 'ARGS="data=folder data.root=PHOTOS"'
SCENARIOS: dict[str, dict[str, Any]] = {
    # The embedded recipes, which `make` takes by itself.
    "make train-daclip": {"crop": 64, "batch": 64, "photos": EMBEDDED, "optimizer": MUON, "lr": 1e-3, "steps": 900}
    | {"epochs": -1, "clip": None, "content": 0.25},
    "make train-restorer": {"crop": 64, "batch": 16, "photos": EMBEDDED, "optimizer": MUON, "lr": 2e-3, "steps": 2700}
    | {"backbone": "daclip.backbones.nafnet.ConditionalNAFNet", "width": 32},
    # Photos of one's own: nothing of the embedded recipes is left.
    'make train-daclip ARGS="clip=vit_b_32 data=folder data.root=PHOTOS"': STAGE_1
    | {"batch": 64, "epochs": 50, "steps": -1},
    f"make train-daclip {OWN}": STAGE_1 | {"batch": 64, "epochs": 50, "steps": -1, "captions": 0.0},
    f"make train-restorer {OWN}": STAGE_2 | {"batch": 4, "steps": 700000, "devices": 1},
    f"make train-daclip EXPERIMENT=own_photos_daclip {OWN}": STAGE_1 | {"batch": 64, "steps": 10000, "epochs": -1},
    f"make train-restorer EXPERIMENT=own_photos_restorer {OWN}": STAGE_2 | {"batch": 8, "steps": 100000},
    # The paper's runs.
    f"make train-daclip EXPERIMENT=universal_daclip {OWN}": STAGE_1
    | {
        "batch": 784,
        "epochs": 50,
        "steps": -1,
        "devices": "auto",
        "captions": 1.0,
        "loss": "daclip.clip.losses.Official",
    },
    f"make train-restorer EXPERIMENT=universal_restorer {OWN}": STAGE_2
    | {"batch": 4, "steps": 700000, "devices": "auto", "backbone": "daclip.backbones.unet.ConditionalUNet"},
    # The same on one GPU.
    f"make train-daclip EXPERIMENT=single_gpu_daclip {OWN}": STAGE_1 | {"batch": 3136, "epochs": 50, "devices": 1},
    f"make train-restorer EXPERIMENT=single_restorer {OWN}": STAGE_2 | {"batch": 8, "steps": 300000, "devices": 1},
}


@pytest.mark.parametrize("command", SCENARIOS)
def test_a_scenario_has_the_values_that_matter(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, *overrides = from_make(shlex.split(command)[1:])
    assert invoke(module, "--cfg", "job", *overrides) is None
    cfg = OmegaConf.create(capsys.readouterr().out)
    wanted = SCENARIOS[command]
    assert {name: OmegaConf.select(cfg, KEYS[name]) for name in wanted} == wanted


def test_a_recipe_and_a_sweep_go_together() -> None:
    for given in (
        "EXPERIMENT=smoke_daclip ARGS='seed=0,1 -m'",
        "EXPERIMENT=null ARGS='-m seed=0,1'",
        "ARGS='-m sweep=smoke'",
    ):
        module, *words = from_make(["train-daclip", *shlex.split(given)])
        assert module == "daclip.commands.train_daclip"
        assert "experiment=embedded_daclip" not in words
        assert _arranged("train_daclip", words)[0] == "-m"


@pytest.mark.parametrize("page", ["degradations.md", "own-backbone.md"])
def test_the_parts_that_a_guide_writes_work(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = dict(BLOCK.findall((ROOT / "docs" / page).read_text(encoding="utf-8")))  # the last of each language
    code, settings = blocks["python"], blocks["yaml"]
    node = yaml.safe_load(settings)
    node = node if "_target_" in node else next(iter(node.values()))
    name = node["_target_"].split(".")[-2]
    (tmp_path / f"{name}_of_guide.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    node["_target_"] = f"{name}_of_guide.{node['_target_'].split('.')[-1]}"
    made = instantiate(node, _convert_="object")
    photo = torch.rand(2, 3, 40, 36, generator=torch.Generator().manual_seed(0))
    if page == "degradations.md":
        faded = made(photo, [torch.Generator().manual_seed(i) for i in range(2)], 1.0)
        assert faded.shape == photo.shape
        assert float(faded.std()) < float(photo.std())
    else:
        network = made(context_dim=8)
        conditioning = Conditioning(torch.zeros(2, 8), torch.ones(2, 8))
        assert network(photo, photo, torch.tensor([1, 50]), conditioning).shape == photo.shape


@pytest.mark.parametrize("page", ["restoring.md", "degradations.md"])
def test_the_python_of_a_guide_runs(
    page: str, restorer_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outputs" / "restorer").mkdir(parents=True)
    (tmp_path / "outputs" / "restorer" / "latest").symlink_to(restorer_artifact)
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))
    code = next(text for language, text in blocks if language == "python")
    photo = np.ascontiguousarray(data.coffee()[:40, :48])
    given: dict[str, Any] = {"photo": photo, "another": photo[::-1].copy()}
    exec(compile(code, page, "exec"), given)
    if page == "restoring.md":
        assert [sample.shape for sample in given["done"].samples] == [photo.shape] * 4
        assert given["done"].uncertainty.shape == photo.shape[:2]


def test_commands_named_in_a_text_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = []
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for program, rest in re.findall(r"`(make|daclip) ([a-z][^`]*)`", text):
            named.append(rest)
            classes = rest.split()
            if program == "make":
                assert classes[0] in targets, f"{page.name}: make {rest}"
            else:
                assert classes[0] in PLAIN or classes[0] in COMMANDS, f"{page.name}: daclip {rest}"
    assert len(named) > 20


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_leads_to_every_guide() -> None:
    readme = PAGES[0].read_text(encoding="utf-8")
    assert [page.name for page in PAGES[1:] if f"](docs/{page.name})" not in readme] == []
