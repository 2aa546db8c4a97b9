"""Wrong options of training: each ends in one line that names it, and leaves no run behind that looks finished."""

from pathlib import Path

import pytest
from running import assert_one_line, invoke

ONE = "experiment=smoke_daclip"
TWO = "experiment=smoke_restorer"
WRONG: list[tuple[list[str], list[str]]] = [
    # Values out of range or of another type.
    ([ONE, "seed=-1"], ["seed", "-1"]),
    ([ONE, "seed=4294967296"], ["seed", "4294967295"]),
    ([ONE, "seed=abc"], ["seed", "abc"]),
    ([ONE, "data.batch_size=abc"], ["data.batch_size", "a whole number", "abc"]),
    ([ONE, "data.batch_size=1.5"], ["data.batch_size", "a whole number"]),
    ([ONE, "data.batch_size=0"], ["data.batch_size", "at least 1"]),
    ([ONE, "data.batch_size=1000"], ["data.batch_size=1000", "samples_per_epoch"]),
    ([ONE, "data.num_workers=-1"], ["data.num_workers", "at least 0"]),
    ([ONE, "data.validation_crops=0"], ["data.validation_crops", "at least 1"]),
    ([ONE, "data.validation_batch_size=0"], ["data.validation_batch_size", "at least 1"]),
    ([ONE, "data.validation_size=0"], ["data.validation_size", "at least 1"]),
    ([ONE, "data.crop_size=0"], ["data.crop_size", "at least 1"]),
    ([ONE, "data.context_size=8"], ["data.context_size=8", "data.crop_size"]),
    ([ONE, "data.max_damaged=-1"], ["data.max_damaged", "-1"]),
    ([ONE, "data.augmentation.zoom=[2]"], ["data.augmentation.zoom", "a list of 2"]),
    ([ONE, "data.augmentation.zoom=[2,1]"], ["data.augmentation.zoom", "LOW <= HIGH"]),
    ([ONE, "data.augmentation.flip=maybe"], ["data.augmentation.flip", "true or false"]),
    ([ONE, "data.photos.validation=[nowhere.png]"], ["nowhere.png"]),
    ([ONE, "degradation=[]"], ["degradation=[noisy]"]),
    ([ONE, "degradation.noisy.sigma=abc"], ["sigma"]),
    ([ONE, "stage.warmup_steps=-1"], ["stage.warmup_steps", "at least 0"]),
    ([ONE, "stage.final_lr=-1"], ["stage.final_lr", "at least 0"]),
    ([ONE, "stage.content_share=0"], ["stage.content_share", "(0, 1]"]),
    ([ONE, "stage.optimizer.lr=-1"], ["stage.optimizer", "-1"]),
    ([ONE, "stage.optimizer.lr=fast"], ["stage.optimizer.lr", "fast"]),
    ([ONE, "trainer.max_steps=0"], ["trainer.max_steps", "at least 1"]),
    ([ONE, "trainer.max_steps=abc"], ["trainer.max_steps", "abc"]),
    ([ONE, "trainer.max_steps=-1"], ["no end", "trainer.max_epochs"]),
    ([ONE, "trainer.precision=bf17"], ["trainer.precision", "bf16-mixed"]),
    ([ONE, "trainer.accelerator=warp"], ["trainer", "warp"]),
    ([ONE, "trainer.accelerator=cpu", "trainer.devices=[1]"], ["trainer", "devices"]),
    ([ONE, "+trainer.strategy=foo"], ["trainer", "foo"]),
    ([ONE, "trainer.limit_val_batches=-1"], ["trainer", "limit_val_batches"]),
    ([ONE, "trainer.accumulate_grad_batches=0"], ["trainer", "accumulate_grad_batches"]),
    ([ONE, "+trainer.gradient_clip_algorithm=foo"], ["trainer", "gradient_clip_algorithm"]),
    ([ONE, "callbacks.checkpoint.every_n_steps=0"], ["callbacks.checkpoint", "every_n_steps"]),
    # Options and parts that do not exist.
    ([ONE, "foo=1"], ["foo"]),
    ([ONE, "+foo=1"], ["foo"]),
    ([ONE, "+data.foo=1"], ["data.foo"]),
    ([ONE, "data.workers=2"], ["data.workers", "data.num_workers"]),
    ([ONE, "+trainer.max_step=1"], ["trainer.max_step", "max_steps"]),
    ([ONE, "+stage.optimizer.foo=1"], ["stage.optimizer.foo", "AdamW"]),
    ([ONE, "stage.optimizer._target_=torch.optim.Nope"], ["stage.optimizer", "torch.optim.Nope"]),
    ([ONE, "degradation.rainy.foo=1"], ["degradation.rainy.foo"]),
    ([ONE, "experiments=null"], ["experiments"]),
    (["experiment=nosuch"], ["nosuch", "embedded_daclip", "wild_restorer"]),
    ([ONE, "degradation=[noisey]"], ["noisey", "hazy", "uncompleted"]),
    ([ONE, "clip=nosuch"], ["nosuch", "tiny", "vit_l_14"]),
    ([ONE, "optimizer=adam"], ["adam", "adamw", "muon"]),
    ([ONE, "scheduler=cosine"], ["cosine", "multi_step"]),
    ([ONE, "trainer=gpu"], ["gpu", "ddp", "torchrun"]),
    ([ONE, "logger=neptune"], ["neptune", "csv", "mlflow", "tensorboard", "wandb"]),
    ([ONE, "callbacks=[nosuch]"], ["nosuch", "progress"]),
    ([ONE, "hydra/sweeper=optuna"], ["optuna", "basic", "docs/loggers.md"]),
    ([ONE, "hydra/launcher=slurm"], ["slurm", "basic"]),
    ([ONE, "clip=vit_b_32"], ["clip.architecture", "embed_dim", "recipe"]),
    ([ONE, "sampler=unipc"], ["sampler", "train_restorer"]),
    ([TWO], ["recipe of stage 2", "train-restorer"]),
    # The command line itself.
    (["--sampler", "foo"], ["--sampler", "KEY=VALUE"]),
    (["experiment"], ["'experiment'", "KEY=VALUE"]),
    (["data.root=/photos/a=b"], ["data.root", "'data.root=\"/photos/a=b\"'"]),
    (["data.root=it's"], ["data.root", "'data.root="]),
    (["data.root=[photos]"], ["text", "['photos']"]),
    (["data.root=a,b"], ["data.root=a,b"]),
    (["data.root=nowhere"], ["nowhere"]),
    ([], ["data.root"]),
    ([ONE, "output="], ["output", "folder"]),
    ([ONE, "output=null"], ["output", "folder"]),
    # Files.
    ([ONE, "resume=nowhere.ckpt"], ["nowhere.ckpt", "no such"]),
    ([ONE, "resume=last"], ["resume=last", "no run"]),
    ([ONE, "daclip=nowhere"], ["nowhere", "no such artifact"]),
]


@pytest.mark.parametrize(("options", "parts"), WRONG, ids=[" ".join(options) or "nothing" for options, _ in WRONG])
def test_a_wrong_option_is_one_line(
    options: list[str], parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_one_line(invoke("daclip.commands.train_daclip", *options), *parts)
    assert not list(tmp_path.rglob("artifact"))
    assert not list(tmp_path.rglob("latest"))


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["sampler.steps=abc"], ["sampler.steps", "a whole number"]),
        (["sampler.steps=0"], ["steps"]),
        (["+sampler.foo=1"], ["sampler.foo"]),
        (["backbone.width=abc"], ["backbone.width", "a whole number"]),
        (["backbone=nafnet"], ["backbone.multipliers", "NAFNet"]),
        (["backbone=resnet"], ["resnet", "nafnet", "unet"]),
        (["clip=tiny"], ["clip", "train_daclip"]),
        (["stage.temperature=0"], ["stage.temperature", "above 0"]),
        (["stage.conditioning_dropout=2"], ["stage.conditioning_dropout", "[0, 1]"]),
        (["process.schedule=nosuch"], ["schedule"]),
        (["init=nowhere"], ["nowhere"]),
    ],
    ids=" ".join,
)
def test_a_wrong_option_of_stage_2_is_one_line(
    options: list[str], parts: list[str], tmp_path: Path, restorer_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    guide = f"daclip={restorer_artifact / 'daclip'}"
    assert_one_line(invoke("daclip.commands.train_restorer", TWO, guide, *options), *parts)
    assert not list(tmp_path.rglob("latest"))
