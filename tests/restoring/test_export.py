"""Exported graphs give what the networks give."""

import functools
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from daclip import Restorer
from daclip.commands.convert import export, export_parser
from daclip.commands.options import make, part
from daclip.diffusion.denoiser import Denoiser
from daclip.errors import DaclipError
from daclip.restoring.export import Graph, exported, step_graph, write_export
from daclip.rng import generator_for


@pytest.fixture(scope="module", autouse=True)
def traced_once(restorer_artifact: Path) -> Iterator[None]:
    """The graphs of the one restorer, which take longer to trace than to write and run."""
    graphs = exported(Restorer.from_pretrained(restorer_artifact, device="cpu", precision="fp32"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("daclip.restoring.export.exported", lambda restorer: graphs)
        yield


def written(*arguments: object) -> dict[str, float]:
    return export(export_parser().read([str(argument) for argument in arguments]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, restorer_artifact: Path) -> Path:
    """The graphs in torch's own format, written and compared."""
    out = tmp_path_factory.mktemp("exported") / "out"
    differences = written(restorer_artifact, "-o", out)
    assert differences.keys() == {"step.pt2", "conditioner.pt2"}
    assert max(differences.values()) < 1e-4
    return out


def test_graphs_are_written_and_kept(folder: Path, restorer_artifact: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"step.pt2", "conditioner.pt2", "export.json"}
    with pytest.raises(DaclipError, match="exists; --overwrite"):
        written(restorer_artifact, "--format", "torch", "-o", folder)


def test_graphs_run_as_onnx(tmp_path: Path, restorer_artifact: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    differences = written(restorer_artifact, "--format", "onnx", "-o", tmp_path / "out")
    assert max(differences.values()) < 1e-4
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"step.onnx", "conditioner.onnx", "export.json"}


def test_a_photo_can_be_restored_from_the_graphs_alone(folder: Path, restorer_artifact: Path) -> None:
    """The recipe of docs/export: posterior sampling from `export.json`'s coefficients."""
    facts = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    step = torch.export.load(folder / "step.pt2").module()
    restorer = Restorer.from_pretrained(restorer_artifact, device="cpu", precision="fp32")
    lq = torch.rand(1, 3, 64, 128, generator=generator_for(1))
    with torch.inference_mode():
        given = restorer.daclip(lq)
        assert given.content is not None
        assert given.degradation is not None
        expected = restorer.sampler.sample(restorer.denoiser, lq, given, [generator_for(5)])
        noise = generator_for(5)
        x = lq + facts["lambda"] * torch.randn(lq.shape[1:], generator=noise)
        alpha, std, times = facts["alpha"], facts["relative_std"], facts["times"]
        for t, s in itertools.pairwise(times):
            fresh = torch.randn(lq.shape[1:], generator=noise)
            x0 = step(x, lq, torch.tensor([t]), given.content, given.degradation).clamp(0, 1)
            ratio = alpha[t] / alpha[s]
            mean = lq + (
                (x - lq) * ratio * std[s] ** 2 / std[t] ** 2 + (x0 - lq) * alpha[s] * (1 - ratio**2) / std[t] ** 2
            )
            spread = facts["lambda"] * std[s] / std[t] * (1 - ratio**2) ** 0.5
            x = mean + spread * fresh
    assert torch.allclose(x.clamp(0, 1), expected, atol=1e-4)


FEW_BLOCKS: dict[str, Any] = {
    "unet": {"multipliers": [1, 8], "transformer_levels": [-1]},
    "nafnet": {"encoder_blocks": [1], "middle_blocks": 1, "decoder_blocks": [1]},
}


@functools.cache
def traced(name: str) -> Graph:
    """A network of true width, traced with two photos of another size than that of its example, the smallest."""
    torch.manual_seed(0)
    network = make({**part("backbone", name), **FEW_BLOCKS[name]})(context_dim=512)
    process = make(part("process", "ir_sde"))
    denoiser = (
        Denoiser(network, process, "epsilon", True) if name == "unet" else Denoiser(network, process, "data", False)
    )
    image, context = torch.rand(1, 3, 64, 64), torch.randn(1, 512)
    example = (image, image.flip(-1), torch.tensor([50]), context, context.flip(-1))
    return replace(step_graph(denoiser.eval(), context_dim=512), example=example)


@pytest.mark.parametrize("name", FEW_BLOCKS)
def test_a_network_of_true_width_exports_for_any_batch_and_size(name: str) -> None:
    graph = traced(name)
    with torch.inference_mode():
        found, expected = graph.program.module()(*graph.example), graph.module(*graph.example)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_unet_runs_as_onnx(tmp_path: Path, restorer_artifact: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    restorer = Restorer.from_pretrained(restorer_artifact, device="cpu", precision="fp32")
    differences = write_export([traced("unet")], restorer, "onnx", tmp_path / "out", tolerance=1e-3)
    assert max(differences.values()) < 1e-4


def test_mistakes_are_one_line(tmp_path: Path, restorer_artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        written("--format", "tflite", "-o", tmp_path / "a")
    assert "'tflite' (choose from 'torch', 'onnx')" in capsys.readouterr().err
    with pytest.raises(DaclipError, match="differs from the network"):
        written(restorer_artifact, "-o", tmp_path / "b", "--tolerance", "-1")
    assert not (tmp_path / "b").exists()
