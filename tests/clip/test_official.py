"""Official checkpoints in and out, by the commands that users run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from running import invoke
from small_clip import CLIP, OVERRIDE
from torch import Tensor

from daclip.artifacts import Artifact, load_daclip, save_artifact
from daclip.clip.controller import DaClip
from daclip.clip.official import official_state, read_weights, to_official, write_official
from daclip.commands.options import make
from daclip.errors import DaclipError


def random_model(**changes: Any) -> DaClip:
    model: DaClip = make({**CLIP, **changes})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    return model


@pytest.fixture(scope="module")
def official() -> dict[str, Tensor]:
    return {name: value.clone() for name, value in to_official(random_model().state_dict()).items()}


def convert(*arguments: object) -> str | None:
    """Run the command; its error line, None if all went well."""
    return invoke("daclip.commands.convert", *map(str, arguments))


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapped", [False, True])
def test_import_and_export_give_back_every_bit(
    official: dict[str, Tensor], prefix: str, wrapped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    state: dict[str, Any] = {prefix + name: value for name, value in official.items()}
    torch.save({"epoch": 3, "name": "a", "state_dict": state, "optimizer": {}} if wrapped else state, "their.pt")
    assert convert("their.pt", "--set", OVERRIDE) is None
    artifact = tmp_path / "outputs/daclip/their/artifact"
    assert (tmp_path / "outputs/daclip/latest").resolve() == artifact
    assert Artifact(artifact).config["clip"]["pretrained"] is None
    assert "noisy" in Artifact(artifact).build("degradation")
    assert torch.equal(load_daclip(artifact).logit_scale, official["logit_scale"])
    assert convert("outputs/daclip/latest", "-o", "ours.pt") is None
    again = torch.load("ours.pt", weights_only=True)
    assert list(again) == list(official)
    assert all(torch.equal(again[name], value) for name, value in official.items())
    # Neither command writes over what is there unless asked.
    assert "exists" in str(convert("their.pt", "--set", OVERRIDE))
    assert "exists" in str(convert("outputs/daclip/latest", "-o", "ours.pt"))
    assert convert("outputs/daclip/latest", "-o", "ours.pt", "--overwrite") is None


def test_what_does_not_fit_is_listed_by_name(
    official: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    changed = {**official, "clip.visual.extra": torch.zeros(1), "clip.ln_final.bias": torch.zeros(3)}
    del changed["visual_control.transformer.zero_modules.1.bias"]
    torch.save(changed, "their.pt")
    error = str(convert("their.pt", "--set", OVERRIDE))
    assert "\n" not in error
    for part in (
        "visual_control.transformer.zero_modules.1.bias is missing",
        "clip.visual.extra is unknown",
        "clip.ln_final.bias [3] for [16] is of another shape",
    ):
        assert part in error
    assert not (tmp_path / "outputs").exists()


def test_another_size_is_named_with_the_option_to_change(official: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(official, tmp_path / "a.pt")
    other = OVERRIDE.replace("width: 32, layers", "width: 64, layers").replace("patch_size: 16", "patch_size: 8")
    error = str(convert(tmp_path / "a.pt", "--set", other, "-o", tmp_path / "out"))
    assert "width 32 and patches of 16 px" in error
    assert "--clip vit_l_14" in error


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return print, ("executed",)


def test_files_that_are_no_checkpoint_are_refused_in_one_line(
    official: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil, text, other, double = (tmp_path / f"{name}.pt" for name in ("evil", "text", "other", "double"))
    torch.save({"state_dict": Evil()}, evil)
    text.write_text("weights")
    torch.save({"conv.weight": torch.zeros(1)}, other)
    torch.save({**official, "visual.proj": official["visual.proj"] + 1}, double)
    for path, reason in (
        (evil, "more than tensors"),
        (text, "text.pt"),
        (other, "visual_control"),
        (double, "visual.proj differs from clip.visual.proj"),
        (tmp_path / "gone.pt", "no such checkpoint"),
    ):
        with pytest.raises(DaclipError, match=reason) as caught:
            official_state(read_weights(path), path)
        assert "\n" not in str(caught.value)
    assert "executed" not in capsys.readouterr().out


def test_models_that_the_original_cannot_compute_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(DaclipError, match="aligned"):
        write_official(random_model(injection="aligned"), tmp_path / "a.pt")
    assert list(tmp_path.iterdir()) == []
    clip, weights = {**CLIP, "injection": "aligned"}, random_model(injection="aligned").state_dict()
    folder = save_artifact(tmp_path / "run" / "artifact", "daclip", {"clip": clip}, weights, {}, {})
    assert "reversed order" in str(convert(folder, "-o", tmp_path / "b.pt"))
