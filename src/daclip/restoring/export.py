"""Export of a restorer as two graphs of plain tensors, for runtimes without Python."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from daclip.clip.controller import DaClip
from daclip.diffusion.denoiser import Denoiser
from daclip.errors import DaclipError
from daclip.files import atomic_folder, cannot_be_written, write_json
from daclip.restoring.restorer import Restorer
from daclip.types import Conditioning

# Sides of images are multiples of this, so that the graph need not pad; it serves networks of up to six levels.
SIDE = 64


class NetworkStep(nn.Module):
    """One network evaluation of a sampler: state in, estimate of the clean image out, whatever the network predicts."""

    def __init__(self, denoiser: Denoiser):
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x_t: Tensor, lq: Tensor, t: Tensor, content: Tensor, degradation: Tensor) -> Tensor:
        """x̂_0, not clamped, from the state and the photo in [0, 1], all float32 `[B, 3, H, W]`; `t` holds grid indices
        1..T, long `[B]`; the embeddings are `[B, D]`."""
        x0: Tensor = self.denoiser(x_t, lq, t, Conditioning(content, degradation)).x0
        return x0


class Conditioner(nn.Module):
    """DA-CLIP on the views of one photo: the conditioning of the network step; `temperature` as in `DaClip.decided`."""

    texts: Tensor
    scale: Tensor

    def __init__(self, daclip: DaClip, vocabulary: list[str], temperature: float):
        super().__init__()
        self.daclip = daclip
        self.temperature = temperature
        # The learned scale is a number by now, and clamping a parameter is more than ONNX's exporter can do.
        self.register_buffer("scale", daclip.scale().detach())
        self.register_buffer("texts", daclip.clip.encode_text(vocabulary))

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings of content and degradation, `[1, D]`, and probabilities `[1, K]` from views `[V, 3, s, s]`."""
        clip = self.daclip.clip
        content, degradation = self.daclip.encode_views((views - clip.mean) / clip.std)
        content, degradation = content.mean(0, keepdim=True), degradation.mean(0, keepdim=True)
        unit = nn.functional.normalize(degradation, dim=-1)
        logits = self.scale * unit @ self.texts.T
        probabilities = logits.softmax(-1)
        if self.temperature < 1:
            surer = unit + ((logits / self.temperature).softmax(-1) - probabilities) @ self.texts
            degradation = nn.functional.normalize(surer, dim=-1) * degradation.norm(dim=-1, keepdim=True)
        return content, degradation, probabilities


@dataclass(frozen=True)
class Graph:
    """A traced function, with an example of another size than the traced one for the comparison."""

    name: str
    program: ExportedProgram
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    example: tuple[Tensor, ...]


def exported(restorer: Restorer) -> list[Graph]:
    """Both graphs of a restorer on the CPU, in float32; batch, height and width are free."""
    clip = restorer.daclip.clip
    conditioner = Conditioner(restorer.daclip, restorer.vocabulary, restorer.temperature)
    pictures = torch.rand(3, 3, clip.image_size, clip.image_size, generator=torch.Generator().manual_seed(0))
    return [
        step_graph(restorer.denoiser, restorer.daclip.embed_dim),
        _graph(
            "conditioner",
            conditioner.eval(),
            (pictures[:2],),
            (pictures,),
            {"views": {0: Dim("views")}},
            ("content", "degradation", "probabilities"),
        ),
    ]


def step_graph(denoiser: Denoiser, context_dim: int) -> Graph:
    """One network evaluation as a graph."""
    batch = Dim("batch")
    height, width = Dim("height_64", min=1, max=256), Dim("width_64", min=1, max=256)
    image = {0: batch, 2: SIDE * height, 3: SIDE * width}
    return _graph(
        "step",
        NetworkStep(denoiser).eval(),
        _step_inputs(2, 2 * SIDE, 3 * SIDE, denoiser, context_dim),
        _step_inputs(3, 4 * SIDE, 2 * SIDE, denoiser, context_dim),
        {"x_t": image, "lq": image, "t": {0: batch}, "content": {0: batch}, "degradation": {0: batch}},
        ("x0",),
    )


def _step_inputs(batch: int, height: int, width: int, denoiser: Denoiser, context_dim: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(batch)
    lq, noise = (torch.rand(batch, 3, height, width, generator=generator) for _ in range(2))
    t = torch.arange(1, batch + 1) * denoiser.process.horizon // batch
    content, degradation = (torch.randn(batch, context_dim, generator=generator) for _ in range(2))
    return denoiser.process.terminal(lq, noise), lq, t, content, degradation


def _graph(
    name: str,
    module: nn.Module,
    traced: tuple[Tensor, ...],
    example: tuple[Tensor, ...],
    dynamic: dict[str, Any],
    outputs: tuple[str, ...],
) -> Graph:
    with torch.no_grad():
        program = torch.export.export(module, traced, dynamic_shapes=dynamic)
    return Graph(name, program, module, tuple(dynamic), outputs, example)


def write_export(
    graphs: Sequence[Graph], restorer: Restorer, kind: str, folder: Path, tolerance: float
) -> dict[str, float]:
    """Write a restorer's graphs and `export.json`; a folder that exists is replaced once everything has been compared.
    `kind` is one of `FORMATS`; a graph may differ from its network by at most `tolerance` (absolute). Returns the
    differences by file name."""
    suffix, write, run = FORMATS[kind]
    differences = {}
    with atomic_folder(folder) as temporary:
        for graph in graphs:
            path = temporary / f"{graph.name}{suffix}"
            try:
                write(graph, path)
            except RuntimeError as error:  # torch's for a full disk
                raise cannot_be_written(folder, error) from error
            with torch.inference_mode():
                expected = graph.module(*graph.example)
            expected = [expected] if isinstance(expected, Tensor) else list(expected)
            pairs = zip(expected, run(graph, path), strict=True)
            difference = max(float((a - b).abs().max()) for a, b in pairs)
            if not difference <= tolerance:
                raise DaclipError(
                    f"{path.name} differs from the network by {difference:.1e}, more than --tolerance {tolerance:.1e}; "
                    "report this with your versions of torch and onnxruntime"
                )
            differences[path.name] = difference
        write_json(temporary / "export.json", _description(graphs, restorer, suffix, differences))
    return differences


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
        raise DaclipError("--format onnx needs onnx; install it with pip install 'daclip[export]'") from None
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
        raise DaclipError("--format onnx needs onnxruntime; install it with pip install 'daclip[export]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # its own threads spin, and starve whatever runs beside them
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = {name: value.numpy() for name, value in zip(graph.inputs, graph.example, strict=True)}
    return [torch.from_numpy(np.asarray(value)) for value in session.run(list(graph.outputs), given)]


FORMATS: dict[str, tuple[str, Callable[[Graph, Path], None], Callable[[Graph, Path], list[Tensor]]]] = {
    "torch": (".pt2", _write_torch, _run_torch),
    "onnx": (".onnx", _write_onnx, _run_onnx),
}
"""Name of the format → suffix, and functions that write a graph and run it from its file."""


def _description(
    graphs: Sequence[Graph], restorer: Restorer, suffix: str, differences: dict[str, float]
) -> dict[str, Any]:
    """Facts that a runtime needs beside the graphs: names, the sampler and the coefficients of the process."""
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
        "classes": restorer.vocabulary,
        "sampler": restorer.artifact.config["sampler"],
        "times": restorer.sampler.times(process),
        "lambda": process.lambda_,
        "alpha": process.alpha(t).flatten().tolist(),
        "relative_std": process.relative_std(t).flatten().tolist(),
    }
