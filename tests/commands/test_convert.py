"""Official weights in and out, on recordings of the original's networks and as its files are laid out."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import assert_near, recording, unet_settings
from running import invoke, read
from safetensors.torch import load_file
from small_clip import ARCHITECTURE, CLIP, OVERRIDE
from torch import Tensor

from daclip.artifacts import Artifact, load_daclip, load_denoiser, save_artifact
from daclip.backbones.unet import to_official
from daclip.clip.controller import DaClip, create_daclip
from daclip.commands.convert import convert, parser
from daclip.commands.options import make
from daclip.errors import DaclipError
from daclip.restoring.restorer import Restorer
from daclip.types import Conditioning

WORDS = {"noisy": {"_target_": "daclip.degradations.noise.GaussianNoise", "sigma": [10, 50]}}


def _guide(folder: Path, width: int) -> Path:
    """A stage-1 artifact with random weights."""
    config = {"clip": {**CLIP, "architecture": {**ARCHITECTURE, "embed_dim": width}}, "degradation": WORDS}
    return save_artifact(folder / "guide", "daclip", config, make(config["clip"]).state_dict(), {}, {})


def _shrunk(name: str) -> list[str]:
    """Overrides that give the recording's network."""
    settings = unet_settings(recording(name).facts)
    parts = [f"backbone.{key}={value}" for key, value in settings.items() if key not in ("context_dim", "context")]
    return [
        "--variant",
        "wild" if "wild" in name else "universal",
        *(_set(part.replace("None", "null")) for part in parts),
    ]


def _set(override: str) -> str:
    return f"--set={override}"


def _convert(*arguments: object) -> Path:
    return convert(parser().read([str(argument) for argument in arguments]))


@pytest.mark.parametrize("name", ["unet_daclip", "unet_wild"])
def test_a_network_of_the_original_is_the_same_after_import_and_export(name: str, tmp_path: Path) -> None:
    known = recording(name)
    official = known.under("weights")
    torch.save({f"module.{key}": value for key, value in official.items()}, tmp_path / "official.pth")
    width = known.facts["setting"]["context_dim"]
    guide = _guide(tmp_path, width)
    artifact = _convert(tmp_path / "official.pth", "-o", tmp_path, "--daclip", guide, *_shrunk(name))

    denoiser = load_denoiser(Artifact(artifact), width)
    assert (denoiser.parameterization, denoiser.correct_epsilon_shift) == ("epsilon", True)
    conditioning = Conditioning(known["in/image_context"], known.tensors.get("in/text_context"))
    times = known.facts["cases"]["32x32_t_tensor_both"]["time"]["tensor"]
    with torch.no_grad():
        out = denoiser.backbone(known["in/xt_32x32"], known["in/cond_32x32"], torch.tensor(times).float(), conditioning)
    assert_near(out.contiguous(), known["out/32x32_t_tensor_both"])

    _convert(artifact, "-o", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert back.keys() == official.keys()
    assert all(torch.equal(back[key], value) for key, value in official.items())
    with pytest.raises(DaclipError, match="exists; --overwrite"):
        _convert(artifact, "-o", tmp_path / "back.pth")
    with pytest.raises(DaclipError, match="exists; --overwrite"):
        _convert(tmp_path / "official.pth", "-o", tmp_path, "--daclip", guide, *_shrunk(name))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An official file of the smallest network, `tiny.pth`, and a guide."""
    folder = tmp_path_factory.mktemp("place")
    _guide(folder, 16)
    torch.save(_tiny_weights(), folder / "tiny.pth")
    return folder


TINY = [_set("backbone.width=32"), _set("backbone.multipliers=[1,1]")]


def _tiny_weights() -> dict[str, Tensor]:
    from daclip.backbones import ConditionalUNet

    torch.manual_seed(0)
    return to_official(ConditionalUNet(16, width=32, multipliers=[1, 1]).state_dict())


def test_every_layout_of_a_file_gives_the_same_weights(place: Path, tmp_path: Path) -> None:
    plain = _tiny_weights()
    noise = {f"online_model.module.{key}": torch.randn_like(value) for key, value in plain.items()}
    average = {f"ema_model.module.{key}": value for key, value in plain.items()}
    layouts: dict[str, Any] = {
        "plain": plain,
        "distributed": {f"module.{key}": value for key, value in plain.items()},
        "training": {"epoch": 3, "state_dict": plain},
        "ema_object": {**noise, **average, "initted": torch.tensor(True), "step": torch.tensor(7)},
    }
    found = []
    for name, content in layouts.items():
        torch.save(content, tmp_path / f"{name}.pth")
        more = ["--daclip", place / "guide", "--variant", "mix"]
        artifact = _convert(tmp_path / f"{name}.pth", "-o", tmp_path / name, *more, *TINY)
        found.append(load_file(artifact / "weights.safetensors"))
    for weights in found:
        assert weights.keys() == found[0].keys()
        assert all(torch.equal(value, found[0][key]) for key, value in weights.items())


def test_an_imported_restorer_evaluates_and_restores(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = [_set("data.validation_size=32"), _set("sampler.steps=2"), _set("degradation=[noisy]")]
    artifact = _convert(place / "tiny.pth", "-o", tmp_path, "--daclip", place / "guide", *TINY, *sizes)
    told = capsys.readouterr().out
    assert "--sampler original --precision fp32" in told
    assert f"--artifact {artifact.parents[1]}/latest" in told
    assert Artifact(artifact).classes == ["noisy"]
    scores = [f"artifact={artifact}", f"output={tmp_path}/scores"]
    assert invoke("daclip.commands.evaluate", *scores) is None
    metrics = read(tmp_path / "scores" / "metrics.json")
    assert metrics["nfe"] == 2
    assert metrics["per_degradation"].keys() == {"noisy"}
    restored = Restorer(artifact).restore(torch.rand(1, 3, 20, 30))
    assert restored.images.shape == (1, 3, 20, 30)


def test_official_guide_weights_are_taken_as_they_are(place: Path, tmp_path: Path) -> None:
    """The original repeats `clip.visual.*` as `visual.*`."""
    theirs = create_daclip(ARCHITECTURE, None, "resize", "reversed", 5)
    with torch.no_grad():
        for parameter in theirs.controller.links.parameters():
            parameter.normal_()
    names = {"controller.links.": "visual_control.transformer.zero_modules.", "clip.model.": "clip."}
    names |= {"controller.tower.transformer.": "visual_control.transformer.transformer."}
    names |= {"controller.tower.": "visual_control."}
    state: dict[str, Tensor] = {}
    for key, value in theirs.state_dict().items():
        ours = next((prefix for prefix in names if key.startswith(prefix)), "")
        name = names.get(ours, "") + key.removeprefix(ours)
        state[f"module.{name}"] = value
        if name.startswith("clip.visual."):
            state[f"module.{name.removeprefix('clip.')}"] = value
    torch.save({"epoch": 1, "state_dict": state}, tmp_path / "daclip.pt")
    artifact = _convert(place / "tiny.pth", "-o", tmp_path, "--daclip", tmp_path / "daclip.pt", _set(OVERRIDE), *TINY)
    loaded: DaClip = load_daclip(artifact / "daclip")
    for key, value in theirs.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


class Evil:
    """A pickle that leaves a file in the working folder if it is run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("executed"),))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {**w, "strange.weight": torch.zeros(1)}, r"unknown strange\.weight"),
        (lambda w: {k: v for k, v in w.items() if k != "mid_attn.fn.norm.g"}, r"missing mid_attn\.fn\.norm\.g"),
        (lambda w: {**w, "prompt": torch.zeros(1, 5)}, r"prompt is \[1, 5\] and not \[1, 128\]"),
        (lambda w: {**w, "prompt": w["prompt"].half()}, r"prompt is torch\.float16"),
        (lambda w: {**w, "downsample.weight": torch.zeros(1)}, "--variant wild"),
        (lambda w: {"epoch": 1, "iter": 2}, "epoch is no tensor"),
        (lambda w: [1, 2], "no state dict"),
        (lambda w: Evil(), "refused, it holds more than tensors"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(
    change: Callable[[dict[str, Tensor]], Any],
    message: str,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(change(_tiny_weights()), tmp_path / "wrong.pth")
    with pytest.raises(DaclipError, match=message) as caught:
        _convert(tmp_path / "wrong.pth", "-o", tmp_path, "--daclip", place / "guide", *TINY)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["wrong.pth"]


def test_mistakes_of_the_command_line(place: Path, tmp_path: Path) -> None:
    weights, guide = place / "tiny.pth", ["--daclip", place / "guide"]
    with pytest.raises(DaclipError, match="no such checkpoint file"):
        _convert("gone.pth", *guide)
    with pytest.raises(DaclipError, match="--daclip ARTIFACT"):
        _convert(weights, "-o", tmp_path, *TINY)
    with pytest.raises(DaclipError, match="no variant 'huge'; choose from mix, universal, wild"):
        _convert(weights, "-o", tmp_path, *guide, "--variant", "huge")
    with pytest.raises(DaclipError, match="give the file to write"):
        _convert(place / "guide")
    (tmp_path / "junk.pth").write_bytes(pickle.dumps([1])[:-3] + b"junk")
    with pytest.raises(DaclipError, match="damaged"):
        _convert(tmp_path / "junk.pth", *guide)
    other = _convert(weights, "-o", tmp_path, *guide, _set("stage.parameterization=data"), *TINY)
    with pytest.raises(DaclipError, match="predicts data"):
        _convert(other, "-o", tmp_path / "x.pth")
