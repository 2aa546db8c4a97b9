"""What is exported: two functions of plain tensors."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from daclip.clip.controller import DaClip
from daclip.diffusion.denoiser import Denoiser
from daclip.pipeline import Restorer
from daclip.types import Conditioning

__all__ = ["SIDE", "Conditioner", "Graph", "NetworkStep", "exported"]

# Sides of images are multiples of this, so that the graph need not pad; it serves networks of up to six levels.
SIDE = 64


class NetworkStep(nn.Module):
    """One network evaluation of a sampler: state in, estimate of the clean image out.

    What the network's output means (data, ε or v) is resolved inside.
    """

    def __init__(self, denoiser: Denoiser):
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x_t: Tensor, lq: Tensor, t: Tensor, content: Tensor, degradation: Tensor) -> Tensor:
        """x̂_0, not clamped, float32 `[B, 3, H, W]`.

        Args:
            x_t: State, float32 `[B, 3, H, W]`.
            lq: Degraded photo in [0, 1], same shape.
            t: Grid indices, long `[B]`, in 1..T.
            content: Content embedding, `[B, D]`.
            degradation: Degradation embedding, `[B, D]`.
        """
        x0: Tensor = self.denoiser(x_t, lq, t, Conditioning(content, degradation)).x0
        return x0


class Conditioner(nn.Module):
    """DA-CLIP on the views of one photo: what the network step is conditioned on.

    Args:
        daclip: The trained network.
        vocabulary: Words whose probabilities are given.
        certainty: See `DaClip.decided`.
    """

    texts: Tensor
    scale: Tensor

    def __init__(self, daclip: DaClip, vocabulary: list[str], certainty: float):
        super().__init__()
        self.daclip = daclip
        self.certainty = certainty
        # The learned scale is a number by now, and clamping a parameter is more than ONNX's exporter can do.
        self.register_buffer("scale", daclip.scale().detach())
        self.register_buffer("texts", daclip.clip.encode_text(vocabulary))

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Content embedding `[1, D]`, degradation embedding `[1, D]` and probabilities `[1, K]`.

        Args:
            views: Square pieces of the photo, `[V, 3, s, s]` in [0, 1].
        """
        clip = self.daclip.clip
        content, degradation = self.daclip.encode_views((views - clip.mean) / clip.std)
        content, degradation = content.mean(0, keepdim=True), degradation.mean(0, keepdim=True)
        unit = nn.functional.normalize(degradation, dim=-1)
        logits = self.scale * unit @ self.texts.T
        probabilities = logits.softmax(-1)
        if self.certainty > 1:
            surer = unit + ((self.certainty * logits).softmax(-1) - probabilities) @ self.texts
            degradation = nn.functional.normalize(surer, dim=-1) * degradation.norm(dim=-1, keepdim=True)
        return content, degradation, probabilities


@dataclass(frozen=True)
class Graph:
    """A traced function.

    Attributes:
        name: Of the file, without suffix.
        program: What `torch.export` made.
        module: The function itself.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
        example: Inputs of another size than the traced ones, for the comparison.
    """

    name: str
    program: ExportedProgram
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    example: tuple[Tensor, ...]


def exported(restorer: Restorer) -> list[Graph]:
    """Both graphs of a restorer in float32 on the CPU; batch, height and width are free.

    Args:
        restorer: On the CPU.
    """
    clip = restorer.daclip.clip
    batch, views = Dim("batch"), Dim("views")
    height, width = Dim("height_64", min=1, max=256), Dim("width_64", min=1, max=256)
    image = {0: batch, 2: SIDE * height, 3: SIDE * width}
    step, conditioner = (
        NetworkStep(restorer.denoiser),
        Conditioner(restorer.daclip, restorer.vocabulary, restorer.certainty),
    )
    pictures = torch.rand(3, 3, clip.image_size, clip.image_size, generator=torch.Generator().manual_seed(0))
    return [
        _graph(
            "step",
            step.eval(),
            _step_inputs(2, 2 * SIDE, 3 * SIDE, restorer),
            _step_inputs(3, 4 * SIDE, 2 * SIDE, restorer),
            {"x_t": image, "lq": image, "t": {0: batch}, "content": {0: batch}, "degradation": {0: batch}},
            ("x0",),
        ),
        _graph(
            "conditioner",
            conditioner.eval(),
            (pictures[:2],),
            (pictures,),
            {"views": {0: views}},
            ("content", "degradation", "probabilities"),
        ),
    ]


def _step_inputs(batch: int, height: int, width: int, restorer: Restorer) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(batch)
    lq, noise = (torch.rand(batch, 3, height, width, generator=generator) for _ in range(2))
    t = torch.arange(1, batch + 1) * restorer.denoiser.process.horizon // batch
    content, degradation = (torch.randn(batch, restorer.daclip.embed_dim, generator=generator) for _ in range(2))
    return restorer.denoiser.process.terminal(lq, noise), lq, t, content, degradation


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
