"""Graphs as files, each run once more from its file and compared."""

import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from daclip.errors import DaclipError
from daclip.exporting.graphs import SIDE, Graph
from daclip.pipeline import Restorer
from daclip.records import write_json

__all__ = ["FORMATS", "write_export"]


def write_export(
    graphs: Sequence[Graph], restorer: Restorer, kind: str, folder: Path, tolerance: float
) -> dict[str, float]:
    """Write graphs and `export.json`; the folder appears when everything has been compared.

    Args:
        graphs: What to write.
        restorer: What they were made of.
        kind: One of `FORMATS`.
        folder: The new folder; one that exists is replaced.
        tolerance: Largest absolute difference allowed.

    Returns:
        The largest difference by file name.

    Raises:
        DaclipError: A package is missing, or a graph differs from its network.
    """
    suffix, write, run = FORMATS[kind]
    folder.parent.mkdir(parents=True, exist_ok=True)
    differences = {}
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder.parent) as made:
        temporary = Path(made) / "export"
        temporary.mkdir()
        for graph in graphs:
            path = temporary / f"{graph.name}{suffix}"
            write(graph, path)
            difference = _difference(graph, run(graph, path))
            if not difference <= tolerance:
                raise DaclipError(
                    f"{path.name} differs from the network by {difference:.1e}, more than tolerance={tolerance:.1e}; "
                    "report this with your versions of torch and onnxruntime"
                )
            differences[path.name] = difference
        write_json(temporary / "export.json", _description(graphs, restorer, suffix, differences))
        if folder.exists():
            shutil.rmtree(folder)
        temporary.replace(folder)
    return differences


def _difference(graph: Graph, found: Sequence[Tensor]) -> float:
    with torch.inference_mode():
        expected = graph.module(*graph.example)
    expected = [expected] if isinstance(expected, Tensor) else list(expected)
    return max(float((a - b).abs().max()) for a, b in zip(expected, found, strict=True))


def _write_torch(graph: Graph, path: Path) -> None:
    torch.export.save(graph.program, path)


def _run_torch(graph: Graph, path: Path) -> list[Tensor]:
    with torch.inference_mode():
        found = torch.export.load(path).module()(*graph.example)
    return [found] if isinstance(found, Tensor) else list(found)


def _write_onnx(graph: Graph, path: Path) -> None:
    try:
        import onnxscript  # noqa: F401  what torch's exporter needs
    except ModuleNotFoundError:
        raise DaclipError("format=onnx needs onnx; install it with pip install 'daclip[export]'") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph.program, input_names=graph.inputs, output_names=graph.outputs, dynamo=True, verbose=False
        )
    assert program is not None
    program.save(path, external_data=False)


def _run_onnx(graph: Graph, path: Path) -> list[Tensor]:
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise DaclipError("format=onnx needs onnxruntime; install it with pip install 'daclip[export]'") from None
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = {name: value.numpy() for name, value in zip(graph.inputs, graph.example, strict=True)}
    return [torch.from_numpy(np.asarray(value)) for value in session.run(list(graph.outputs), given)]


FORMATS: dict[str, tuple[str, Callable[[Graph, Path], None], Callable[[Graph, Path], list[Tensor]]]] = {
    "torch": (".pt2", _write_torch, _run_torch),
    "onnx": (".onnx", _write_onnx, _run_onnx),
}
"""Name of the format → suffix, and how a graph is written and run from its file."""


def _description(
    graphs: Sequence[Graph], restorer: Restorer, suffix: str, differences: dict[str, float]
) -> dict[str, Any]:
    """What a runtime must know beside the graphs: names, the sampler and the coefficients of the process."""
    process = restorer.denoiser.process
    t = torch.arange(process.horizon + 1)
    return {
        "graphs": {
            f"{graph.name}{suffix}": {
                "inputs": {name: list(value.shape) for name, value in zip(graph.inputs, graph.example, strict=True)},
                "outputs": list(graph.outputs),
                "largest_difference": differences[f"{graph.name}{suffix}"],
            }
            for graph in graphs
        },
        "sides_are_multiples_of": SIDE,
        "view_side": restorer.daclip.clip.image_size,
        "words": restorer.vocabulary,
        "sampler": restorer.artifact.config["sampler"],
        "times": restorer.sampler.times(process),
        "lambda": process.lambda_,
        "alpha": process.alpha(t).flatten().tolist(),
        "relative_std": process.relative_std(t).flatten().tolist(),
    }
