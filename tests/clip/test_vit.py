"""Which image towers can be steered, and where their weights come from."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from daclip.clip.controller import DaClip
from daclip.clip.frozen_clip import FrozenClip
from daclip.clip.losses import CosineDistillation, DaClipLoss, MultiPositive
from daclip.clip.sources import refuse_outside
from daclip.commands.options import make, part
from daclip.errors import DaclipError

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
PLAIN = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 2, "head_width": 32}


def timm_tower(name: str, **more: Any) -> dict[str, Any]:
    return {"timm_model_name": name, "timm_model_pretrained": False, "image_size": 224, **more}


def folder_with(path: Path, vision: dict[str, Any], weights: bool = False, **more: Any) -> str:
    """A `local-dir:` name of a model with this vision tower."""
    config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": TEXT, **more}
    preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    path.mkdir(exist_ok=True)
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    if weights:
        save_file(open_clip.CLIP(**config).state_dict(), path / "open_clip_model.safetensors")
    return f"local-dir:{path}"


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("vit_tiny_patch16_224", {"timm_pool": "token", "timm_proj": "linear"}),
        ("test_vit", {"timm_pool": "avg", "timm_proj": None}),
        # SigLIP's: attention pooling and no projection.
        ("vit_base_patch32_siglip_256", {"timm_pool": "map", "timm_proj": "none"}),
    ],
)
def test_a_plain_vit_of_timm_is_steered(name: str, more: dict[str, Any], tmp_path: Path) -> None:
    if "siglip" in name:
        # The whole tower has 95 M weights: without them its structure is the same.
        with torch.device("meta"):
            clip = FrozenClip(folder_with(tmp_path, timm_tower(name, **more)), None, "resize", 0)
            model = DaClip(clip, "reversed")
        assert model.embed_dim == 768
        views = torch.zeros(2, 3, 256, 256, device="meta")
        content, degradation = model.encode_views(views)
        assert content is not None
        assert content.shape == degradation.shape == clip.tower(views).shape == (2, 768)
        return
    clip = FrozenClip(folder_with(tmp_path, timm_tower(name, **more)), None, "resize", 0)
    model = DaClip(clip, "reversed")
    views = torch.rand(2, 3, clip.image_size, clip.image_size)
    with torch.no_grad():
        content, degradation = model.encode_views(views)
        plain = clip.tower(views)
    assert content is not None
    # At step 0 nothing is steered yet; and the controller, a copy, says the same.
    torch.testing.assert_close(content, plain, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(degradation, plain, rtol=1e-4, atol=1e-5)
    assert clip.mean.flatten().tolist() == [0.5, 0.5, 0.5]


def test_every_trained_weight_of_a_timm_tower_gets_a_gradient(tmp_path: Path) -> None:
    name = folder_with(tmp_path, timm_tower("test_vit", timm_pool="avg", timm_proj="linear"))
    model = DaClip(FrozenClip(name, None, "resize", 0), "reversed")
    images = torch.rand(2, 3, 160, 160)
    out = model(images)
    loss = DaClipLoss(MultiPositive(), CosineDistillation(), 1.0, 0.0, 1.0)
    clean = model.clip.encode_image(images.flip(0))
    loss(model.clip, out.content, out.degradation, model.scale(), ["", ""], ["rainy", "hazy"], clean)["loss"].backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize(
    ("vision", "reason"),
    [
        ({"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32}, "ModifiedResNet, no ViT"),
        (timm_tower("test_convnext", timm_pool="", timm_proj="linear"), "ConvNeXt, no plain ViT"),
        (timm_tower("test_resnet", timm_pool="avg", timm_proj="linear"), "ResNet, no plain ViT"),
        (timm_tower("vit_base_mci_224", timm_pool="token", timm_proj=None), "hybrid: convolutions"),
        ({**PLAIN, "attentional_pool": True, "attn_pooler_heads": 2}, "attention pooler"),
    ],
)
def test_other_towers_are_refused_with_the_reason(vision: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with torch.device("meta"), pytest.raises(DaclipError, match=reason) as caught:
        FrozenClip(folder_with(tmp_path, vision), None, "resize", 0)
    assert "\n" not in str(caught.value)


def test_weights_come_from_a_folder_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = folder_with(tmp_path / "a", PLAIN, weights=True)
    from_folder = FrozenClip(name, None, "resize", 0).model.state_dict()
    assert torch.equal(from_folder["visual.proj"], FrozenClip(name, None, "resize", 1).model.visual.proj)
    without = FrozenClip(name, None, "resize", 1, load_weights=False)
    assert without.mean.flatten().tolist() == [0.5, 0.5, 0.5]
    # A file stands for the weights of a named model.
    small = {"embed_dim": 32, "vision_cfg": PLAIN, "text_cfg": TEXT}
    monkeypatch.setattr("open_clip.factory.get_model_config", lambda name: dict(small))
    torch.save({"module." + key: value for key, value in from_folder.items()}, tmp_path / "file.pt")
    from_file = FrozenClip("ViT-B-32", str(tmp_path / "file.pt"), "resize", 1).model.state_dict()
    assert all(torch.equal(from_file[key], value) for key, value in from_folder.items())
    (tmp_path / "bad.pt").write_bytes(b"nothing")
    with pytest.raises(DaclipError, match="could not be loaded") as caught:
        FrozenClip("ViT-B-32", str(tmp_path / "bad.pt"), "resize", 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("architecture", "pretrained", "reason"),
    [
        ("ViT-B-32", "laion3b", "laion2b_s34b_b79k"),
        ("ViT-B-32", "gone.pt", "neither a weight tag"),
        ("ViT-L-14", "openai", "ViT-L-14-quickgelu"),
        ("ViT-B-32-quickgelu", "laion2b_s34b_b79k", "ViT-B-32"),
        ("local-dir:nowhere", None, "local-dir:nowhere"),
    ],
)
def test_wrong_names_of_weights_are_told_before_anything_is_loaded(
    architecture: str, pretrained: str | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("open_clip.factory.download_pretrained", lambda *_, **__: pytest.fail("downloads"))
    with pytest.raises(DaclipError, match=reason) as caught:
        FrozenClip(architecture, pretrained, "resize", 0)
    assert "\n" not in str(caught.value)


def test_a_failed_download_is_one_line_and_logs_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no route to host\nand more")

    monkeypatch.setattr("open_clip.factory.download_pretrained", fail)
    monkeypatch.setattr("open_clip.factory._get_hf_config", fail)
    for architecture, pretrained in (("ViT-B-32", "laion2b_s34b_b79k"), ("hf-hub:someone/model", None)):
        with pytest.raises(DaclipError, match="no route to host") as caught:
            FrozenClip(architecture, pretrained, "resize", 0)
        assert "\n" not in str(caught.value)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("name", "width", "side"), [("vit_b_32", 512, 224), ("vit_l_14", 768, 224), ("siglip_b_16", 768, 224)]
)
def test_every_clip_of_the_configuration_is_built(
    name: str, width: int, side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At full size, without weights and without the tokeniser that SigLIP fetches."""
    monkeypatch.setattr("daclip.clip.frozen_clip.tokenizer_of", lambda *_: None)
    with torch.device("meta"):
        model: DaClip = make({**part("clip", name), "load_weights": False, "tokenizer": str(tmp_path / "its_own.json")})
        content, degradation = model.encode_views(torch.zeros(2, 3, side, side))
    assert model.clip.image_size == side
    assert content is not None
    assert content.shape == degradation.shape == (2, width)


def test_what_a_text_side_needs_is_said_before_weights_are_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("open_clip.create_model", lambda *_, **__: pytest.fail("makes the model"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DaclipError, match=r"needs transformers; install it with pip install 'daclip\[siglip\]'"):
        FrozenClip("ViT-B-16-SigLIP", "webli", "resize", 0)
    with pytest.raises(DaclipError, match="roberta"):
        FrozenClip("roberta-ViT-B-32", None, "resize", 0)


def test_a_folders_model_comes_back_from_its_description_alone(tmp_path: Path) -> None:
    """What an artifact holds in place of the folder's name."""
    tower = timm_tower("test_vit", timm_pool="avg", timm_proj=None)
    for vision, more in ((PLAIN, {}), ({**tower, "timm_model_pretrained": True}, {"custom_text": True})):
        made = FrozenClip(folder_with(tmp_path, vision, **more), None, "resize", 0)
        refuse_outside(made.architecture, has_tokenizer=False, where="config.yaml")
        again = FrozenClip(made.architecture, None, "resize", 1, load_weights=False)
        again.model.load_state_dict(made.model.state_dict())
        assert again.mean.flatten().tolist() == [0.5, 0.5, 0.5]
        photos = torch.rand(1, 3, 40, 40)
        assert torch.equal(again.encode_image(photos), made.encode_image(photos))
        assert torch.equal(again.encode_text(["rainy"]), made.encode_text(["rainy"]))


def test_a_tokeniser_of_the_hub_travels_as_a_file(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    fast = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<pad>": 0, "rain": 1, "<unk>": 2}, unk_token="<unk>"))
    fast.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=fast, pad_token="<pad>", unk_token="<unk>").save_pretrained(
        tmp_path
    )
    text = {**TEXT, "hf_tokenizer_name": "ours", "tokenizer_kwargs": {"clean": "canonicalize"}}
    clip = FrozenClip(folder_with(tmp_path, PLAIN, text_cfg=text), None, "resize", 0)
    expected = clip.tokenizer(["Rain, rain!", "snow"])
    assert expected[:, :3].tolist() == [[1, 1, 0], [2, 0, 0]]
    assert expected.shape == (2, 77)
    (tmp_path / "tokenizer.json").write_text(clip.tokenizer.text, encoding="utf-8")
    file = str(tmp_path / "tokenizer.json")
    again = FrozenClip(clip.architecture, None, "resize", 0, load_weights=False, tokenizer=file)
    assert torch.equal(again.tokenizer(["Rain, rain!", "snow"]), expected)


def test_a_tag_brings_its_normalisation_also_without_its_weights() -> None:
    with torch.device("meta"):
        ours = FrozenClip("ViT-L-14", "laion2b_s32b_b82k", "resize", 0, load_weights=False)
    # Under the meta device the buffer has no values; ask for the numbers themselves.
    from daclip.clip.frozen_clip import _statistics

    assert _statistics("ViT-L-14", "laion2b_s32b_b82k", nn.Identity())[0] == (0.5, 0.5, 0.5)
    assert _statistics("ViT-B-16-SigLIP", None, nn.Identity())[0] == (0.5, 0.5, 0.5)
    assert _statistics("ViT-L-14", None, nn.Identity())[0] == open_clip.OPENAI_DATASET_MEAN
    assert ours.embed_dim == 768
