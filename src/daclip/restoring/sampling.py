"""Sampling of photos of any size, block by block, on noise that belongs to the photo."""

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import torch
import yaml
from torch import Tensor

from daclip.arithmetic import autocast
from daclip.diffusion.denoiser import Denoiser, Prediction
from daclip.errors import DaclipError
from daclip.files import choices, config_folder
from daclip.pixels import Pixels
from daclip.restoring.memory import Cost, Pieces, linear_cost
from daclip.restoring.tiling import ScoutDenoiser, TiledDenoiser, Window, cover, has_pools, scouts, tile_calls
from daclip.rng import NoiseField
from daclip.samplers.base import Sampler
from daclip.types import Conditioning

Progress = Callable[[float], None]
"""Called with the finished share in [0, 1] after each call of the network; may raise `Stopped` to end the work."""

# Windows for the means over a photo: large enough for the network's view, enough of them for an average.
SCOUT, MOST_SCOUTS = 256, 25


@torch.inference_mode()
def sample_photos(
    sampler: Sampler,
    denoiser: Denoiser,
    photos: Sequence[Pixels],
    conditioning: Conditioning,
    fields: Sequence[NoiseField],
    pieces: Pieces,
    overlap: int,
    precision: str,
    on_progress: Progress | None = None,
) -> Tensor:
    """Restore photos of one size: float32 `[B, 3, H, W]` in [0, 1], on the CPU. Within a block the estimates of its
    tiles are blended at each step (`TiledDenoiser`). Only a photo whose sampler states exceed memory gets several
    blocks; they share its noise and conditioning, and so agree where they are blended at the end."""
    device = next(denoiser.parameters()).device
    height, width = photos[0].height, photos[0].width
    blocks = cover(height, width, pieces.block, overlap)
    windows: list[Window] = []
    if max(height, width) > pieces.tile and has_pools(denoiser.backbone):
        if len(photos) != 1:
            raise ValueError(f"photos that are cut are restored one by one, got {len(photos)}")
        side = min(pieces.tile, SCOUT)
        # Together no larger than a block, for which there is memory.
        windows = scouts(height, width, side, min(pieces.block**2 // side**2, MOST_SCOUTS))
    calls = sum(len(tile_calls(len(photos), *block.shape, pieces.tile, overlap, pieces.batch_size)) for block in blocks)
    calls += ScoutDenoiser.passes * -(-len(windows) // pieces.batch_size)
    done = count(1)

    def tick() -> None:
        if on_progress is not None:
            on_progress(min(next(done) / (calls * sampler.nfe), 1.0))

    pooled = None
    if windows:
        # The means over the photo that the network's pools need in each call, from windows of it.
        lq = torch.stack([photos[0].crop(*window[:4]) for window in windows])
        noise = [fields[0].window(window.top, window.left) for window in windows]
        scout = ScoutDenoiser(denoiser, pieces.batch_size, [window.weight for window in windows], tick)
        with autocast(device, precision):
            sampler.sample(scout, lq.to(device), conditioning.rows([0] * len(windows)), noise)
        pooled = scout.record
    out = torch.zeros(len(photos), 3, height, width)
    for block in blocks:
        top, left = block.rows.start, block.columns.start
        lq = torch.stack([photo.crop(top, block.rows.stop, left, block.columns.stop) for photo in photos])
        noise = [field.window(top, left) for field in fields]
        tiled = TiledDenoiser(denoiser, pieces.tile, overlap, pieces.batch_size, pooled, tick)
        with autocast(device, precision):
            piece = sampler.sample(tiled, lq.to(device), conditioning, noise)
        block.add(piece.float().cpu(), out)
    return out.clamp_(0, 1)


class _Still(Denoiser):
    """A denoiser without a network: x̂_0 = μ, so that the cost of sampling is the sampler's own."""

    def __init__(self, denoiser: Denoiser):
        super().__init__(denoiser.backbone, denoiser.process)

    def forward(self, x_t: Tensor, lq: Tensor, t: Tensor, conditioning: Conditioning) -> Prediction:
        """x̂_0 = μ."""
        return Prediction(lq.clone(), self.process.epsilon_from_data(x_t, lq, lq, t))


@torch.inference_mode()
def measured_costs(
    sampler: Sampler, denoiser: Denoiser, conditioning: Conditioning, precision: str
) -> tuple[Cost, Cost]:
    """Memory of one call of the network for one tile, and of the sampler's images around it; embeddings `[1, D]`."""
    device = next(denoiser.parameters()).device

    def images(side: int) -> Tensor:
        return torch.full((1, 3, side, side), 0.5, device=device)

    def network(side: int) -> None:
        with autocast(device, precision):
            denoiser(images(side), images(side), torch.ones(1, dtype=torch.long, device=device), conditioning)

    def sampling(side: int) -> None:
        noise = NoiseField((0,), side, side).window(0, 0)
        sampler.sample(_Still(denoiser), images(side), conditioning, [noise])

    return linear_cost(network), linear_cost(sampling)


def sampler_options(name: str, folder: str = "sampler") -> dict[str, Any]:
    """The options of a sampler of `conf/sampler/`, as Hydra composes them, for Python users."""
    path = config_folder() / folder / f"{name}.yaml"
    if not path.is_file():
        raise DaclipError(f"there is no {folder} '{name}'; choose from {', '.join(choices(folder))}")
    own = yaml.safe_load(path.read_text(encoding="utf-8"))
    options: dict[str, Any] = {}
    for default in own.pop("defaults", []):
        if isinstance(default, dict):  # such as `grid: trailing`
            options |= {group: sampler_options(chosen, f"{folder}/{group}") for group, chosen in default.items()}
        elif default != "_self_":
            options |= sampler_options(default.removesuffix("@_here_"), folder)
    return options | own
