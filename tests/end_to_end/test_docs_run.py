"""Each command of the README and the guides runs once, in a folder that has what its reader has, at the smallest size.

What is documented stands behind the options that make it small, so it overrules them.
"""

import csv
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from documented import ALL, ROOT, from_shell
from PIL import Image
from running import TOOLS, invoke, parser_of
from skimage import data
from small_clip import OVERRIDE

from daclip.backbones.unet import to_official
from daclip.clip.official import write_official
from daclip.commands.options import make
from daclip.config import composed
from daclip.trust import TRUSTED

NETWORK, SERVES = "needs a network", "serves until it is stopped; tests/app asks it"
WANDB, GUIDE = "needs an account; test_loggers runs it offline", "needs the reader's own part; test_own_package runs it"
LONG, EXPORT = "takes minutes at any size", "test_export writes and runs both formats"
OTHERS = "needs another network's file; test_networks makes one"
NOT_RUN = {
    "make test": "runs this",
    'make test ARGS="tests/contracts/test_degradations.py"': "the same, of one file",
    "make app": SERVES,
    "daclip app": SERVES,
    "daclip app --artifact outputs/restorer/latest --port 8000 --max-memory 4": SERVES,
    "pip install 'daclip[app]'": NETWORK,
    'make sampler-report ARGS="metric=[lpips]"': NETWORK,
    'make train-daclip ARGS="logger=wandb"': WANDB,
    'make train-restorer ARGS="logger=wandb logger.wandb.project=my-project logger.wandb.tags=[night]"': WANDB,
    'make train-daclip ARGS="-m sweep=smoke hydra/launcher=submitit_local hydra.launcher.timeout_min=60"': (
        "starts processes; test_sweep runs it"
    ),
    'make train-restorer ARGS="-m sweep=cluster_seeds data.root=PHOTOS daclip=ARTIFACT"': "needs SLURM",
    'make degradations ARGS="degradation=[faded]"': GUIDE,
    'make train-daclip ARGS="degradation=[noisy,rainy,faded]"': GUIDE,
    'make train-restorer ARGS="degradation=[noisy,rainy,faded]"': GUIDE,
    'make train-restorer ARGS="data.root=PHOTOS backbone=plain"': GUIDE,
    "daclip train-daclip hydra.searchpath=[file://mine/conf] degradation=[noisy,faded] data.root=PHOTOS": GUIDE,
    "daclip train-restorer hydra.searchpath=[file://mine/conf] degradation=[noisy,faded] backbone=plain "
    "data.root=PHOTOS": GUIDE,
    "daclip evaluate --trust-package mine": GUIDE,
    "daclip restore photo.jpg --artifact outputs/restorer/latest --trust-package mine": GUIDE,
    "daclip restore photo.jpg --network nafnet.pth": OTHERS,
    "daclip restore photos --network nafnet.pth": OTHERS,
    "daclip restore photos --network rainy=derain.pth --network noisy=scunet.pth": OTHERS,
    "daclip app --network nafnet.pth": OTHERS,
    "daclip evaluate network=nafnet.pth output=outputs/theirs": OTHERS,
    "daclip restore clip.mp4 -o clean.mp4": "needs a video; test_video makes one",
    'make train-restorer EXPERIMENT=world_restorer ARGS="init=pretrained data.root=PHOTOS"': (
        "its network is the package's, which has no smoke size"
    ),
    "python experiments/soak.py 60": LONG,
    "python experiments/ablation_context.py --daclip ARTIFACT --steps 300 --seeds 0,1,2": LONG,
    "python experiments/time_to_quality.py --daclip ARTIFACT --minutes 30": LONG,
    "daclip export outputs/restorer/latest --format torch -o exported_torch": EXPORT,
    "daclip export outputs/restorer/latest --format onnx -o exported_onnx": EXPORT,
}
RUN = [command for command in ALL if command not in NOT_RUN]
OFFICIAL = re.compile(r"daclip convert|sampler[ =]original")  # with the original's weights

ONE_STEP = [
    *("trainer.accelerator=cpu", "trainer.max_steps=1", "trainer.limit_val_batches=1"),
    *("data.crop_size=32", "data.context_size=32", "data.batch_size=4", "data.samples_per_epoch=4"),
    *("data.validation_size=48", "data.validation_crops=1", "data.validation_batch_size=4", "data.num_workers=0"),
]
IMPORT = [f"--set={OVERRIDE}"]
UNET = ["backbone.width=32", "backbone.multipliers=[1,1]"]
SMALL = {
    "daclip.commands.train_daclip": [
        *ONE_STEP,
        "trainer.max_epochs=-1",
        "clip=tiny",
        OVERRIDE,
    ],
    "daclip.commands.train_restorer": [*ONE_STEP, "backbone.width=16", "sampler.steps=2"],
    "daclip.commands.evaluate": ["degradation=[noisy,rainy]", "sampler.steps=2", "bootstrap.draws=20"],
    "daclip.commands.degradations": ["size=48", "severities=[0.5]"],
    "daclip.commands.sampler_report": ["nfe=[1]", "reference.nfe=2", "photos=1", "degradation=[noisy]"],
    "restore": ["--steps=2"],
}
TRAINING = ("daclip.commands.train_daclip", "daclip.commands.train_restorer")
SIZES = ["data.validation_size=48", "data.validation_crops=1"]
MORE = {  # part of a command → what makes it small only there, whatever the command says
    "_restorer ARGS": UNET,
    "backbone=unet": UNET,
    "own_photos_restorer": ["~backbone.multipliers"],
    "accumulate_grad_batches=2": ["data.batch_size=2"],
    "resume=": ["trainer.max_steps=2"],
    "seed=0,1,2": ["loss=official", "seed=0"],
    "sweep=losses": ["loss=official", "stage.loss.distillation_weight=0", "seed=0"],
    "sweep=smoke": ["loss=official", "seed=0", "hydra.launcher.n_jobs=1"],
    "validation=0.02": ["data.photos.validation=0.5"],
    "data=folder data.root=PHOTOS": SIZES,
    "metric=paper": ["metric=[psnr,ssim]"],  # without downloads
    "sampler=original": ["data=embedded", *SIZES, "sampler.steps=2"],
}
NEEDS = {  # place → the documented command that makes it
    "datasets/mine": "daclip dataset photos -o datasets/mine --license CC0-1.0",
    "outputs/dataset": "daclip dataset photos -o datasets/mine --license CC0-1.0",
    "somebody/photos": "daclip dataset photos -o datasets/mine --license CC0-1.0",
    "outputs/evaluation": "make evaluate",
    "outputs/theirs": 'make evaluate ARGS="pred=RESTORED gt=CLEAN output=outputs/theirs"',
    "outputs/sampler_report": "make sampler-report",
    "outputs/nfe_2": 'make evaluate ARGS="sampler=unipc sampler.steps=2 output=outputs/nfe_2"',
    "outputs/nfe_8": 'make evaluate ARGS="sampler=unipc sampler.steps=8 output=outputs/nfe_8"',
    "convert outputs/daclip/latest": "daclip convert daclip_ViT-B-32.pt",
    "convert outputs/restorer/latest": "daclip convert universal-ir.pth --daclip daclip_ViT-B-32.pt",
    "original": "daclip convert universal-ir.pth --daclip daclip_ViT-B-32.pt",
}


class Reader:
    """Somebody who types commands in a folder, each once."""

    def __init__(self, folder: Path, done: Iterable[str] = ()):
        self.folder = folder
        self.done = set(done)

    def types(self, command: str) -> None:
        """Run a command, and before it those that make what it needs."""
        if command in self.done:
            return
        self.done.add(command)
        for place, before in NEEDS.items():
            if place in command:
                self.types(before)
        module, *words = from_shell(command)
        for part, options in MORE.items():
            if part in command:
                words += options
        output = None
        if module in TRAINING and not re.search(r"resume=|-m ", command):
            output = Path("runs", str(len(self.done)))
            words.append(f"output={output}")  # so that no other command goes on from it
        words = [*SMALL.get(module, []), *words]
        if module == "convert" and not words[0].startswith("outputs"):
            words += [*IMPORT, *(f"--set={option}" for option in UNET)]
        if module in TOOLS:
            assert invoke("daclip.commands.main", module, *words) is None, command
        else:
            assert invoke(module, *words) is None, command
        assert output is None or (output / "latest" / "metrics.json").is_file()


def _photos(folder: Path, names: list[str], shift: int = 0) -> None:
    folder.mkdir(parents=True)
    for i, name in enumerate(names):
        Image.fromarray(data.astronaut()[40 * i : 40 * i + 64, 150 + shift : 214 + shift]).save(folder / name)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """One with photos, pairs and tables of them, who has trained both stages as the README begins."""
    folder = tmp_path_factory.mktemp("reader")
    names = [f"{i}.png" for i in range(6)]
    for name in ("PHOTOS", "photos", "RESTORED", "CLEAN", "DEGRADED", "holiday"):  # restored without any difference
        _photos(folder / name, names)
    for name in names:
        (folder / "photos" / name).with_suffix(".txt").write_text("an astronaut", encoding="utf-8")
    _photos(folder / "scans" / "old", ["a.tif"])
    for root in ("datasets/universal", "PAIRS", "TESTSET"):
        for class_name in ("noisy", "rainy"):
            for part in ("LQ", "GT"):
                _photos(folder / root / class_name / part, names)
    with (folder / "FILE").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("name", "caption"), *((name, "an astronaut") for name in names)])
    Image.fromarray(data.coffee()[:40, :48]).save(folder / "photo.jpg")
    for place in ("outputs/dataset", "somebody/photos"):
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).symlink_to(folder / "datasets" / "mine")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in (begin := ("make train-daclip", "make train-restorer")):
            module, *words = from_shell(command)
            assert invoke(module, *SMALL[module], *words) is None
    shutil.copy(next((folder / "outputs" / "restorer").glob("*/checkpoints/step_*.ckpt")), folder / "PATH.ckpt")
    yield Reader(folder, begin)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def official(reader: Reader, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """One with files in the original's layout, of networks that are as small as can be."""
    folder = tmp_path_factory.mktemp("official")
    shutil.copy(reader.folder / "photo.jpg", folder)
    for variant, stage_1, stage_2 in (
        ("universal", "daclip_ViT-B-32.pt", "universal-ir.pth"),
        ("mix", "daclip_ViT-B-32_mix.pt", "universal-ir-mix.pth"),
        ("wild", "wild-daclip_ViT-L-14.pt", "wild-ir.pth"),
    ):
        parts = composed("convert", [f"variant={variant}", OVERRIDE, *UNET])
        write_official(make({**parts["clip"], "pretrained": None}), folder / stage_1)
        torch.save(to_official(make(parts["backbone"])(context_dim=16).state_dict()), folder / stage_2)
    return Reader(folder)


@pytest.mark.parametrize("command", RUN)
def test_a_documented_command_runs(
    command: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if command == "make help":
        shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert "train-daclip" in shown
        return
    reader: Reader = request.getfixturevalue("official" if OFFICIAL.search(command) else "reader")
    monkeypatch.chdir(reader.folder)
    monkeypatch.setenv(TRUSTED, "")
    for stage, artifact in (("init", "restorer"), ("daclip", "daclip")):
        command = command.replace(f"{stage}=ARTIFACT", f"{stage}=outputs/{artifact}/latest")
    reader.types(command)


def test_what_is_not_run_is_documented_and_composes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [command for command in NOT_RUN if command not in ALL] == []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(TRUSTED, "")
    for command, reason in NOT_RUN.items():
        head, *words = shlex.split(command)
        if head == "pip":
            assert f"\n{words[-1][7:-1]} = [" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        elif head == "python":
            text = (ROOT / words[0]).read_text(encoding="utf-8")
            assert [word for word in words if word.startswith("--") and f'"{word}"' not in text] == []
        elif reason != GUIDE and words[0] != "test":
            module, *options = from_shell(command)
            if module in TOOLS:
                parser_of(module).read(options)
                continue
            assert invoke(module, "--cfg", "job", *(option for option in options if option != "-m")) is None, command
            assert yaml.safe_load(capsys.readouterr().out)
