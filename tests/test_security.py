"""Files from strangers: none runs code, none reads the environment, each is refused in one line."""

import itertools
import json
import os
import pickle
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from small_clip import CLIP

from daclip.artifacts import Artifact, load_daclip, load_denoiser, read_metrics, save_artifact
from daclip.clip.controller import create_daclip
from daclip.clip.official import official_state, read_weights
from daclip.commands.assembly import resolved
from daclip.commands.train import TrainConfig
from daclip.config import run_config
from daclip.data.hub import cell_content, open_split
from daclip.errors import DaclipError
from daclip.metrics.perceptual import vgg16
from daclip.training.checkpointing import checkpoint_to_resume, read_checkpoint
from daclip.training.provenance import hide_secrets, provenance, redact, redacted
from daclip.trust import ROOMS, TRUSTED, read_yaml, refuse_foreign_parts, take_trust

MARK = "DACLIP_TEST_MARK"


class Evil:
    """Unpickled, it leaves a mark, which stands for anything."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.mark}'",)


def artifact(folder: Path, **sections: Any) -> Path:
    """An artifact whose configuration a stranger has changed; its weights are an empty file of the right kind."""
    folder.mkdir(parents=True)
    config = {"kind": "daclip", "clip": CLIP, **sections}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    save_file({"w": torch.zeros(1)}, folder / "weights.safetensors")
    return folder


def command(mark: Path) -> list[str]:
    return ["touch", str(mark)]


def checkpoint(folder: Path, mark: Path) -> None:
    path = folder / "evil.ckpt"
    torch.save({"state_dict": {}, "loops": Evil(mark), "optimizer_states": []}, path)
    read_checkpoint(path)


def old_pickle_checkpoint(folder: Path, mark: Path) -> None:
    path = folder / "evil.ckpt"
    path.write_bytes(pickle.dumps(Evil(mark)))
    read_checkpoint(path)


def old_torch_checkpoint(folder: Path, mark: Path) -> None:
    path = folder / "evil.ckpt"
    torch.save({"state_dict": Evil(mark)}, path, _use_new_zipfile_serialization=False)
    read_checkpoint(path)


def resumed_last(folder: Path, mark: Path) -> None:
    path = folder / "run" / "checkpoints" / "step_00000001.ckpt"
    path.parent.mkdir(parents=True)
    torch.save({"callbacks": Evil(mark)}, path)
    found = checkpoint_to_resume("last", folder, folder)
    assert found is not None
    read_checkpoint(found)


def pickle_as_weights(folder: Path, mark: Path) -> None:
    (artifact(folder / "a") / "weights.safetensors").write_bytes(pickle.dumps(Evil(mark)))
    load_daclip(folder / "a")


def torch_file_as_weights(folder: Path, mark: Path) -> None:
    torch.save(Evil(mark), artifact(folder / "a") / "weights.safetensors")
    load_daclip(folder / "a")


def python_object_in_yaml(folder: Path, mark: Path) -> None:
    text = f"kind: daclip\nclip: !!python/object/apply:os.system ['touch {mark}']\n"
    (artifact(folder / "a") / "config.yaml").write_text(text)
    load_daclip(folder / "a")


def foreign_target(folder: Path, mark: Path) -> None:
    load_daclip(artifact(folder / "a", clip={"_target_": "os.system", "command": f"touch {mark}"}))


def target_through_our_modules(folder: Path, mark: Path) -> None:
    load_daclip(
        artifact(folder / "a", clip={"_target_": "daclip.commands.train.subprocess.run", "args": command(mark)})
    )


def target_through_an_allowed_module(folder: Path, mark: Path) -> None:
    target = "daclip.data.build.os.system"
    load_daclip(artifact(folder / "a", clip={"_target_": target, "command": f"touch {mark}"}))


def our_function_that_writes(folder: Path, mark: Path) -> None:
    target = "daclip.images.save_image"
    load_daclip(artifact(folder / "a", clip={"_target_": target, "path": str(mark), "image": 0}))


def nested_target(folder: Path, mark: Path) -> None:
    nested = {**CLIP, "architecture": {"deep": [{"_target_": "subprocess.run", "args": command(mark)}]}}
    load_daclip(artifact(folder / "a", clip=nested))


def target_in_the_data_section(folder: Path, mark: Path) -> None:
    evil = {"_target_": "builtins.exec", "_args_": [f"open('{mark}', 'w')"]}
    Artifact(artifact(folder / "a", data=evil)).section("data")


def target_in_stage_2(folder: Path, mark: Path) -> None:
    evil = {"_target_": "subprocess.run", "args": command(mark)}
    stage = {"parameterization": "data", "correct_epsilon_shift": False}
    load_denoiser(Artifact(artifact(folder / "a", kind="restorer", backbone=evil, stage=stage)), 16)


def reference_to_the_environment(folder: Path, mark: Path) -> None:
    data = {"_target_": "daclip.data.hub.HubPhotos", "root": "${oc.env:HF_TOKEN}"}
    Artifact(artifact(folder / "a", data=data)).section("data")


def hub_with_code(folder: Path, mark: Path) -> None:
    """A model folder whose tokeniser brings code of its own."""
    model = {key: value for key, value in CLIP["architecture"].items() if key != "text_cfg"}
    kwargs = {"hf_tokenizer_name": "evil", "tokenizer_kwargs": {"trust_remote_code": True}}
    settings = {"model_cfg": {**model, "text_cfg": {**CLIP["architecture"]["text_cfg"], **kwargs}}}
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\n")
    load_daclip(artifact(folder / "a", clip={**CLIP, "architecture": f"local-dir:{folder}"}))


def hub_name(folder: Path, mark: Path) -> None:
    load_daclip(artifact(folder / "a", clip={**CLIP, "architecture": "hf-hub:someone/model"}))


def tokeniser_of_the_hub(folder: Path, mark: Path) -> None:
    load_daclip(artifact(folder / "a", clip={**CLIP, "architecture": "ViT-B-16-SigLIP"}))


def text_tower_of_the_hub(folder: Path, mark: Path) -> None:
    load_daclip(artifact(folder / "a", clip={**CLIP, "architecture": "roberta-ViT-B-32"}))


def tower_of_the_hub_inside_a_mapping(folder: Path, mark: Path) -> None:
    tower = {"timm_model_name": "hf-hub:someone/model", "image_size": 224}
    architecture = {**CLIP["architecture"], "vision_cfg": tower}
    load_daclip(artifact(folder / "a", clip={**CLIP, "architecture": {"model_cfg": architecture}}))


def merges_of_another_file(folder: Path, mark: Path) -> None:
    text = {**CLIP["architecture"]["text_cfg"], "tokenizer_kwargs": {"bpe_path": "secrets.gz"}}
    load_daclip(artifact(folder / "a", clip={**CLIP, "architecture": {**CLIP["architecture"], "text_cfg": text}}))


def another_room_of_the_house(folder: Path, mark: Path) -> None:
    """Parts that read or write where they are told to are no network."""
    evil = {"_target_": "daclip.data.sources.CaptionedFolder", "root": str(folder), "cache": str(mark)}
    stage = {"parameterization": "data", "correct_epsilon_shift": False}
    load_denoiser(Artifact(artifact(folder / "a", kind="restorer", backbone=evil, stage=stage)), 16)


def folders_of_this_machine(folder: Path, mark: Path) -> None:
    photos = {"_target_": "daclip.data.sources.CaptionedFolder", "root": str(folder), "cache": str(mark)}
    Artifact(artifact(folder / "a", data={"photos": photos})).data_section([str(folder / "outputs")])


def linked_file(folder: Path, mark: Path) -> None:
    secret = folder / "secret"
    secret.write_text("key")
    (artifact(folder / "a") / "notes.json").symlink_to(secret)
    load_daclip(folder / "a")


def linked_folder(folder: Path, mark: Path) -> None:
    (folder / "private").mkdir()
    (artifact(folder / "a") / "daclip").symlink_to(folder / "private")
    load_daclip(folder / "a")


def yaml_file(text: str) -> Callable[[Path, Path], None]:
    def case(folder: Path, mark: Path) -> None:
        (artifact(folder / "a") / "config.yaml").write_text(text)
        load_daclip(folder / "a")

    return case


def row_with_path(path: str) -> Callable[[Path, Path], None]:
    def case(folder: Path, mark: Path) -> None:
        (folder / "set").mkdir()
        cell_content({"bytes": None, "path": path.format(folder=folder)}, "row 1", str(folder / "set"))

    return case


YAML = {
    "alias_bomb": "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in itertools.pairwise("abcdefghij")),
    "list_inside_itself": "kind: daclip\nclip: &a [*a]\n",
    "a_million_levels": "[" * 900_000,
    "large_file": "kind: daclip\nclip: " + "x" * 2_000_000,
    "key_that_is_a_number": "kind: daclip\nclip: {1: 2}\n",
    "date_for_a_number": "kind: daclip\nclip: {seed: 2020-01-01}\n",
    "list_for_a_kind": "kind: [daclip]\n",
}
ROWS = [
    "http://127.0.0.1:9/photo.png",
    "/etc/hostname",
    "file:///etc/hostname",
    "../secret.png",
    "{folder}/set/../secret.png",
    "zip://a.png::http://127.0.0.1:9/photos.zip",
    "reference://x::{folder}/set/a.json",
    "simplecache::{folder}/set/a.png",
    "hf://datasets/someone/else/a.png",
]


def section_of_another_kind(folder: Path, mark: Path) -> None:
    load_daclip(artifact(folder / "a", clip="os.system"))


def pickle_as_metrics(folder: Path, mark: Path) -> None:
    (artifact(folder / "a") / "metrics.json").write_bytes(pickle.dumps(Evil(mark)))
    read_metrics(folder / "a")


def clip_weight_file(folder: Path, mark: Path) -> None:
    path = folder / "clip.pt"
    torch.save(Evil(mark), path)
    create_daclip("ViT-S-32-alt", str(path), "resize", "reversed", 0)


def official_weights(folder: Path, mark: Path) -> None:
    path = folder / "daclip.pt"
    torch.save({"state_dict": {"visual_control.w": Evil(mark)}}, path)
    official_state(read_weights(path), path)


def perceptual_weights(folder: Path, mark: Path) -> None:
    path = folder / "vgg.pth"
    torch.save(Evil(mark), path)
    vgg16(str(path))


def pandas_rows(folder: Path, mark: Path) -> None:
    path = folder / "rows.pandas"
    path.write_bytes(pickle.dumps(Evil(mark)))
    open_split(str(path), None, None, "train", streaming=False)


def pickled_rows(folder: Path, mark: Path) -> None:
    path = folder / "rows.pkl"
    path.write_bytes(pickle.dumps(Evil(mark)))
    open_split(str(path), None, None, "train", streaming=True)


def loading_script(folder: Path, mark: Path) -> None:
    root = folder / "evil_set"
    root.mkdir()
    (root / "evil_set.py").write_text(f"import os\nos.system('touch {mark}')\n")
    open_split(str(root), None, None, "train", streaming=False)


def parquet_that_is_a_pickle(folder: Path, mark: Path) -> None:
    path = folder / "rows.parquet"
    path.write_bytes(pickle.dumps(Evil(mark)))
    open_split(str(path), None, None, "train", streaming=False)


def zip_that_climbs(folder: Path, mark: Path) -> None:
    path = folder / "rows.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"../{mark.name}", b"outside")
    open_split(str(path), None, None, "train", streaming=False)


def tar_that_climbs(folder: Path, mark: Path) -> None:
    path = folder / "rows.tar"
    content = folder / "content"
    content.write_bytes(b"outside")
    with tarfile.open(path, "w") as archive:
        archive.add(content, f"../{mark.name}")
    open_split(str(path), None, None, "train", streaming=False)


CASES: list[Callable[[Path, Path], None]] = [
    checkpoint,
    old_pickle_checkpoint,
    old_torch_checkpoint,
    resumed_last,
    pickle_as_weights,
    torch_file_as_weights,
    python_object_in_yaml,
    foreign_target,
    target_through_our_modules,
    target_through_an_allowed_module,
    our_function_that_writes,
    nested_target,
    target_in_the_data_section,
    target_in_stage_2,
    reference_to_the_environment,
    section_of_another_kind,
    hub_with_code,
    hub_name,
    tokeniser_of_the_hub,
    text_tower_of_the_hub,
    tower_of_the_hub_inside_a_mapping,
    merges_of_another_file,
    another_room_of_the_house,
    folders_of_this_machine,
    linked_file,
    linked_folder,
    *map(yaml_file, YAML.values()),
    *map(row_with_path, ROWS),
    pickle_as_metrics,
    clip_weight_file,
    official_weights,
    perceptual_weights,
    pandas_rows,
    pickled_rows,
    loading_script,
    parquet_that_is_a_pickle,
    zip_that_climbs,
    tar_that_climbs,
]


NAMES = [case.__name__ for case in CASES if case.__name__ != "case"]
NAMES[NAMES.index("pickle_as_metrics") : NAMES.index("pickle_as_metrics")] = [*YAML, *(f"row:{row}" for row in ROWS)]


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_a_malicious_file_is_refused_in_one_line(
    case: Callable[[Path, Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    mark = tmp_path / MARK
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(DaclipError) as caught:
        case(folder, mark)
    assert not mark.exists()
    assert not list(tmp_path.rglob(MARK))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_the_table_of_the_guide_names_every_case() -> None:
    root = Path(__file__).parents[1]
    rows = [
        line for line in (root / "docs" / "security.md").read_text(encoding="utf-8").splitlines() if line[:1] == "|"
    ]
    named = {name for row in rows[2:] for name in re.findall(r"`([^`]+)`", row.split(" | ")[-1])}
    files = {name for name in named if name.endswith(".py")}
    assert all((root / name).is_file() for name in files)
    assert named - files - {*NAMES} == set()
    assert {name for name in NAMES if not name.startswith("row:")} - named == set()


def test_the_marks_would_be_left(tmp_path: Path) -> None:
    """The files are malicious: read carelessly, they do leave their marks."""
    mark = tmp_path / MARK
    torch.save(Evil(mark), tmp_path / "a.pt")
    torch.load(tmp_path / "a.pt", weights_only=False)
    assert mark.exists()


@pytest.mark.parametrize("stage", ["daclip", "restorer"])
def test_what_training_writes_is_accepted(stage: str, tmp_path: Path) -> None:
    config = resolved(run_config(f"train_{stage}", TrainConfig, tmp_path, ["degradation=[noisy,composite,wild]"]))
    for section in ROOMS.keys() - {"stage"}:
        refuse_foreign_parts(config[section], section, "config.yaml")
    text = Artifact(artifact(tmp_path / "a", **config)).folder / "config.yaml"
    assert len(text.read_text()) < 50_000


def test_every_part_of_the_configuration_is_accepted() -> None:
    groups = {"captioner": "data", "grid": "sampler", "parameterization": "stage", "traces": "data"}
    groups |= {section: section for section in ROOMS.keys() - {"stage"}}
    root = Path(__file__).parents[1] / "conf"
    for path in root.rglob("*.yaml"):
        if section := groups.get(path.relative_to(root).parts[0]):
            node = yaml.safe_load(path.read_text(encoding="utf-8").replace("${", ""))
            refuse_foreign_parts(node, section, str(path))


def test_a_links_store_of_the_hub_is_its_own(tmp_path: Path) -> None:
    snapshot = artifact(tmp_path / "models--me--mine" / "snapshots" / "1")
    blob = tmp_path / "models--me--mine" / "blobs" / "2"
    blob.parent.mkdir()
    (snapshot / "config.yaml").rename(blob)
    (snapshot / "config.yaml").symlink_to(blob)
    assert Artifact(snapshot).config["kind"] == "daclip"


def test_rows_reach_what_is_inside_their_dataset(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"photo")
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.writestr("b.png", b"packed")
    for path in ("photos/a.png", f"{tmp_path}/photos/a.png"):
        assert cell_content({"bytes": None, "path": path}, "row", str(tmp_path)) == b"photo"
    (tmp_path / "rows.csv").write_text("image\nphotos/a.png\n")
    assert cell_content({"path": "photos/a.png"}, "row", str(tmp_path / "rows.csv")) == b"photo"
    assert cell_content({"path": f"zip://b.png::{tmp_path}/more.zip"}, "row", str(tmp_path)) == b"packed"


def test_what_is_written_is_read_without_aliases(tmp_path: Path) -> None:
    words = ["rainy", "hazy"]
    folder = save_artifact(tmp_path / "a", "daclip", {"one": words, "two": words}, {}, {}, {})
    assert read_yaml(folder / "config.yaml") == {"kind": "daclip", "one": words, "two": words}


def test_trust_is_said_on_the_command_line_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRUSTED, "mine")
    given = "photo.jpg --trust-package yours,theirs -o out --trust-package=others -- --trust-package"
    assert take_trust(given.split()) == ["photo.jpg", "-o", "out", "--", "--trust-package"]
    assert os.environ[TRUSTED] == "mine,yours,theirs,others"
    for wrong in ("os", "a b", "", "../x", "torch.nn"):
        with pytest.raises(DaclipError, match="package of your own"):
            take_trust([f"--trust-package={wrong}"])


HF = "hf_" + "aB3dE5gH" * 4


def test_secrets_are_struck_out_of_everything_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123456789abcdef01234567")
    key = os.environ["WANDB_API_KEY"]
    assert redact(f"login {key} and {HF}!") == "login [secret] and [secret]!"
    config = {"logger": {"wandb": {"api_key": "short", "project": "p", "notes": f"as {key}"}}, "list": [HF, 1, None]}
    assert redacted(config) == {
        "logger": {"wandb": {"api_key": "[secret]", "project": "p", "notes": "as [secret]"}},
        "list": ["[secret]", 1, None],
    }
    hydra = tmp_path / ".hydra"
    hydra.mkdir()
    (hydra / "config.yaml").write_text(f"seed: 1\nlogger:\n  api_key: {key}\n  token: hunter2\n  secret: null\n")
    (hydra / "overrides.yaml").write_text(f"- data.root={HF}\n- logger.wandb.api_key=hunter3\n")
    hide_secrets(tmp_path)
    text = (hydra / "config.yaml").read_text() + (hydra / "overrides.yaml").read_text()
    assert key not in text
    assert HF not in text
    assert "hunter2" not in text
    assert "hunter3" not in text
    assert str(provenance(0, ["train", "api_key=hunter4"], {})["command"]) == "['train', 'api_key=[secret]']"
    assert yaml.safe_load((hydra / "config.yaml").read_text()) == {
        "seed": 1,
        "logger": {"api_key": "[secret]", "token": "[secret]", "secret": None},
    }


def test_an_artifact_holds_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", HF)
    cfg = run_config("train_daclip", TrainConfig, tmp_path, ["data=folder", "data.root=${oc.env:HF_TOKEN}"])
    assert HF in str(cfg.data.photos.root)
    assert HF not in yaml.safe_dump(resolved(cfg))
