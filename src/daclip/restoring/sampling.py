"""Sampling of photos of any size, block by block, on noise that belongs to the photo."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from daclip.arithmetic import autocast
from daclip.diffusion.denoiser import Denoiser, Prediction
from daclip.pixels import Pixels
from daclip.restoring.control import rows
from daclip.restoring.memory import Cost, Pieces, linear_cost
from daclip.restoring.noise import NoiseField
from daclip.restoring.tiling import Pooled, ScoutDenoiser, TiledDenoiser, Window, cover, has_pools, scouts, tile_calls
from daclip.samplers.base import Sampler
from daclip.types import Conditioning

Progress = Callable[[float], None]
"""Told the finished share in [0, 1] after each call of the network; may raise `Stopped` to end the work."""


# Windows that tell the means over a photo: large enough for the network's view, enough of them for an average.
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
    """Restore photos of one size.

    Within a block the estimates of its tiles are blended at each step (`TiledDenoiser`). The results of
    several blocks, which only a photo gets whose sampler states would not fit into memory, are blended at the
    end: they share the noise of the photo and its conditioning, and so agree where they overlap.

    Args:
        sampler: Any sampler.
        denoiser: The trained network.
        photos: The photos.
        conditioning: Their embeddings, `[B, D]`.
        fields: The noise of each photo.
        pieces: Sizes of blocks, tiles and calls.
        overlap: Pixels that neighbouring blocks and tiles share at least.
        precision: `auto`, `bf16` or `fp32`.
        on_progress: Called after each call of the network.

    Returns:
        Restored photos, float32 `[B, 3, H, W]` in [0, 1], on the CPU.
    """
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
    ticker = _Ticker(on_progress, calls * sampler.nfe)
    pooled = None
    if windows:
        pooled = _photo_means(
            sampler, denoiser, photos[0], conditioning, fields[0], windows, pieces.batch_size, precision, ticker.tick
        )
    out = torch.zeros(len(photos), 3, height, width)
    for block in blocks:
        top, left = block.rows.start, block.columns.start
        lq = torch.stack([photo.crop(top, block.rows.stop, left, block.columns.stop) for photo in photos])
        noise = [field.window(top, left) for field in fields]
        tiled = TiledDenoiser(denoiser, pieces.tile, overlap, pieces.batch_size, pooled, ticker.tick)
        with autocast(device, precision):
            piece = sampler.sample(tiled, lq.to(device), conditioning, noise)
        block.add(piece.float().cpu(), out)
    return out.clamp_(0, 1)


def _photo_means(
    sampler: Sampler,
    denoiser: Denoiser,
    photo: Pixels,
    conditioning: Conditioning,
    field: NoiseField,
    windows: Sequence[Window],
    batch_size: int,
    precision: str,
    on_call: Callable[[], None],
) -> list[Pooled]:
    """The means over the photo that the network's pools need in each call, from windows of it."""
    device = next(denoiser.parameters()).device
    lq = torch.stack([photo.crop(*window[:4]) for window in windows])
    noise = [field.window(window.top, window.left) for window in windows]
    scout = ScoutDenoiser(denoiser, batch_size, [window.weight for window in windows], on_call)
    with autocast(device, precision):
        sampler.sample(scout, lq.to(device), rows(conditioning, [0] * len(windows)), noise)
    return scout.record


class _Ticker:
    """Turns the network's calls into a finished share."""

    def __init__(self, on_progress: Progress | None, calls: int):
        self.on_progress = on_progress
        self.calls = calls
        self.done = 0

    def tick(self) -> None:
        """One call more is done."""
        self.done += 1
        if self.on_progress is not None:
            self.on_progress(min(self.done / self.calls, 1.0))


class _Still(Denoiser):
    """Takes the degraded photo for the clean one: what is left of sampling's cost is the sampler's own."""

    def __init__(self, denoiser: Denoiser):
        super().__init__(denoiser.backbone, denoiser.process)

    def forward(self, x_t: Tensor, lq: Tensor, t: Tensor, conditioning: Conditioning) -> Prediction:
        """x̂_0 = μ."""
        return Prediction(lq.clone(), self.process.epsilon_from_data(x_t, lq, lq, t))


@torch.inference_mode()
def measured_costs(
    sampler: Sampler, denoiser: Denoiser, conditioning: Conditioning, precision: str
) -> tuple[Cost, Cost]:
    """Memory of one call of the network for one tile, and of the sampler's images around it.

    Args:
        sampler: The sampler that will be used.
        denoiser: The trained network.
        conditioning: Embeddings of any photo, `[1, D]`.
        precision: `auto`, `bf16` or `fp32`.
    """
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
