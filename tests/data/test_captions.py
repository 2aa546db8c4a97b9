"""Captioners, caption files and the cache of captions."""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from skimage import data

from daclip.data.captions import (
    BlipCaptioner,
    Captioner,
    CaptionFile,
    NoCaptions,
    SidecarCaptions,
    cached_captions,
)
from daclip.data.photos import Photo
from daclip.errors import DaclipError


class Counting(Captioner):
    """Answers with the photo's name and remembers what it was asked."""

    batch_size = 2

    def __init__(self, identity: str | None = "counting", fail_at: str = "") -> None:
        self.identity = identity
        self.fail_at = fail_at
        self.asked: list[str] = []

    def describe(self, photos: Sequence[Photo]) -> list[str]:
        for photo in photos:
            if photo.name == self.fail_at:
                raise KeyboardInterrupt
        self.asked += [photo.name for photo in photos]
        return [f"a photo: {photo.name}" for photo in photos]


def some(*names: str) -> list[Photo]:
    return [Photo(name, Path(name)) for name in names]


def test_a_photo_is_captioned_once(tmp_path: Path) -> None:
    first, second = Counting(), Counting()
    photos = some("a", "b", "c")
    texts = cached_captions(first, photos, ["1", "2", "3"], tmp_path)
    assert texts == ["a photo: a", "a photo: b", "a photo: c"]
    # Renamed photos are known by their content; only the new one is described.
    renamed = some("x", "y", "new", "z")
    texts = cached_captions(second, renamed, ["1", "2", "4", "3"], tmp_path)
    assert texts == ["a photo: a", "a photo: b", "a photo: new", "a photo: c"]
    assert second.asked == ["new"]
    # Another captioner says something else.
    other = Counting("other")
    cached_captions(other, photos, ["1", "2", "3"], tmp_path)
    assert other.asked == ["a", "b", "c"]


def test_an_interruption_costs_one_batch(tmp_path: Path) -> None:
    photos, hashes = some("a", "b", "c", "d", "e"), list("12345")
    with pytest.raises(KeyboardInterrupt):
        cached_captions(Counting(fail_at="d"), photos, hashes, tmp_path)
    again = Counting()
    done: list[tuple[str, int, int]] = []
    texts = cached_captions(again, photos, hashes, tmp_path, lambda *step: done.append(step))
    assert texts == [f"a photo: {photo.name}" for photo in photos]
    assert again.asked == ["c", "d", "e"]
    assert done == [("captioning", 4, 5), ("captioning", 5, 5)]


def test_texts_that_are_only_looked_up_are_looked_up_anew(tmp_path: Path) -> None:
    photos = some("a", "copy of a")
    for _ in range(2):
        captioner = Counting(None)
        assert cached_captions(captioner, photos, ["1", "1"], tmp_path) == ["a photo: a", "a photo: copy of a"]
        assert captioner.asked == ["a", "copy of a"]
    assert not list(tmp_path.iterdir())


def test_caption_files_may_hold_any_text(tmp_path: Path) -> None:
    table = tmp_path / "captions.csv"
    table.write_text('name,caption\na.png,"a: b, ""c""\nnext line"\nb.png,\n', encoding="utf-8-sig")
    assert CaptionFile(table).describe(some("a.png", "b.png", "c.png")) == ['a: b, "c"\nnext line', "", ""]
    lines = tmp_path / "captions.jsonl"
    lines.write_text('{"name": "a.png", "caption": "x\u2028y: z"}\n\n{"name": "b.png", "caption": null}\n', "utf-8")
    assert CaptionFile(lines).describe(some("a.png", "b.png")) == ["x\u2028y: z", ""]


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"name,text\na.png,x\n", "name and caption"),
        (b"name,caption\na.png,x\na.png,y\n", "a.png twice"),
        (b"name,caption\na.png,\xff\n", "UTF-8"),
    ],
)
def test_a_bad_caption_file_is_refused_in_one_line(tmp_path: Path, content: bytes, part: str) -> None:
    path = tmp_path / "captions.csv"
    path.write_bytes(content)
    with pytest.raises(DaclipError, match=part) as caught:
        CaptionFile(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_caption_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DaclipError, match="no such file"):
        CaptionFile(tmp_path / "nothing.csv")
    with pytest.raises(DaclipError, match="no caption file is given"):
        CaptionFile(None)


def test_sidecars_and_no_captions(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("  a cat: asleep\n", encoding="utf-8")
    photos = [Photo(name, tmp_path / name) for name in ("a.png", "b.png")]
    assert SidecarCaptions().describe(photos) == ["a cat: asleep", ""]
    assert NoCaptions().describe(photos) == ["", ""]


def blip(model: str | Path, batch_size: int = 2) -> BlipCaptioner:
    return BlipCaptioner(str(model), "main", beams=1, max_tokens=8, batch_size=batch_size, device="cpu")


@pytest.fixture
def photos(tmp_path: Path) -> list[Photo]:
    pictures = {"cat.png": data.chelsea()[:60, :80], "cup.png": data.coffee()[:50, :70], "man.png": data.astronaut()}
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(tmp_path / name)
    return [Photo(name, tmp_path / name) for name in pictures]


def test_blip_without_transformers_says_what_to_install(photos: list[Photo], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    captioner = blip("some/model")
    assert captioner.identity == "blip:some/model@main:beams=1:max_tokens=8"
    with pytest.raises(DaclipError, match=r"daclip\[captions\]") as caught:
        captioner.describe(photos)
    assert "\n" not in str(caught.value)


class Processor:
    """Counts pictures; text is what the model put out."""

    @staticmethod
    def from_pretrained(model: str, revision: str) -> "Processor":
        if model == "gone":
            raise OSError("gone is not a local folder and is not on the hub\nmore lines")
        return Processor()

    def __call__(self, images: list[Image.Image], return_tensors: str) -> Any:
        class Inputs(dict[str, Any]):
            def to(self, device: torch.device) -> "Inputs":
                return self

        return Inputs(pixel_values=torch.tensor([[picture.width, picture.height] for picture in images]))

    def batch_decode(self, tokens: torch.Tensor, skip_special_tokens: bool) -> list[str]:
        return [f" {width} by {height} " for width, height in tokens.tolist()]


class Model:
    """Says the pictures' sizes."""

    @staticmethod
    def from_pretrained(model: str, revision: str, use_safetensors: bool) -> "Model":
        assert use_safetensors
        return Model()

    def eval(self) -> "Model":
        return self

    def to(self, device: torch.device) -> "Model":
        return self

    def generate(self, pixel_values: torch.Tensor, **options: object) -> torch.Tensor:
        assert options == {"num_beams": 1, "max_new_tokens": 8, "do_sample": False}
        return pixel_values


def test_blip_describes_a_batch_in_order(photos: list[Photo], monkeypatch: pytest.MonkeyPatch) -> None:
    stub: Any = SimpleNamespace(AutoProcessor=Processor, BlipForConditionalGeneration=Model)
    monkeypatch.setitem(sys.modules, "transformers", stub)
    assert blip("some/model").describe(photos) == ["80 by 60", "70 by 50", "512 by 512"]
    with pytest.raises(DaclipError, match="gone is not a local folder") as caught:
        blip("gone").describe(photos)
    assert "\n" not in str(caught.value)


def test_a_local_blip_is_known_by_its_weights(tmp_path: Path) -> None:
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(content)
    identities = [blip(tmp_path / name).identity for name in "abc"]
    assert identities[0] == identities[1] != identities[2]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DaclipError, match=r"no \.safetensors"):
        _ = blip(tmp_path / "empty").identity


def test_blip_of_random_weights_from_a_local_folder(tmp_path: Path, photos: list[Photo]) -> None:
    transformers: ModuleType = pytest.importorskip("transformers")
    classes = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]", "a", "cat", "cup", "man"]
    (tmp_path / "vocab.txt").write_text("\n".join(classes), encoding="utf-8")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BlipConfig(
        text_config={
            **small,
            "vocab_size": len(classes),
            "encoder_hidden_size": 16,
            "max_position_embeddings": 32,
            "bos_token_id": 5,
            "eos_token_id": 3,
            "sep_token_id": 3,
            "pad_token_id": 0,
        },
        vision_config={**small, "image_size": 32, "patch_size": 16},
        projection_dim=16,
    )
    torch.manual_seed(0)
    folder = tmp_path / "tiny-blip"
    transformers.BlipForConditionalGeneration(config).save_pretrained(folder)
    transformers.BlipProcessor(
        transformers.BlipImageProcessor(size={"height": 32, "width": 32}),
        transformers.BertTokenizerFast(str(tmp_path / "vocab.txt")),
    ).save_pretrained(folder)
    texts = blip(folder, 3).describe(photos)
    assert len(texts) == 3
    assert all(set(text.lower().split()) <= {class_name.lower() for class_name in classes} for text in texts)
    assert texts == [text for photo in photos for text in blip(folder, 1).describe([photo])]
