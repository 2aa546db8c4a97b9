"""Missing parts of a photo: where one colour covers it, and what is drawn there from around."""

import numpy as np
import torch
import torch.nn.functional as F

EVENED = 4  # rounds of evening out at each size

# What covers a photo: so many colours are tried, each on a least share of the pixels, and at most on a share of those
# along the border, where it is rather a background or a frame; levels of 255 up to which a pixel is near a colour, and
# the most such ones around an area that ends sharply; the most pixels of a soft edge, how much nearer than the next one
# each is; a block of JPEG; and how far from its surroundings an area with its traces must be.
COLOURS, LEAST, FRAMED = 4, 0.002, 0.7
NEAR, SHARP, SOFT, MIXED, BLOCK, STANDS_OUT = 24, 0.4, 2, 0.8, 8, 50


def from_around(values: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Values `[H, W]`, float32, with those that are missing drawn from around them: means of what is known, from coarse
    to fine (push-pull, Gortler et al., "The Lumigraph", 1996), at each size evened out towards the solution of
    Laplace's equation (a cascade, Bornemann and Deuflhard, 1996)."""
    known = torch.from_numpy(~missing)[None, None]
    levels = [(torch.from_numpy(values)[None, None] * known, known)]
    while not bool(known.all()) and max(known.shape) > 1:
        shares = F.avg_pool2d(known.float(), 2, ceil_mode=True)
        known = shares > 0
        sums = F.avg_pool2d(levels[-1][0], 2, ceil_mode=True)
        levels.append((sums / shares.clamp(min=1e-6) * known, known))
    found = levels.pop()[0]
    for finer, known in reversed(levels):
        found = F.interpolate(found, size=finer.shape[-2:], mode="bilinear", align_corners=False)
        torch.where(known, finer, found, out=found)
        for _ in range(EVENED):
            wide = F.pad(found, (1, 1, 1, 1), mode="replicate")
            mean = wide[..., :-2, 1:-1] + wide[..., 2:, 1:-1]
            mean.add_(wide[..., 1:-1, :-2]).add_(wide[..., 1:-1, 2:]).mul_(0.25)
            torch.where(known, finer, mean, out=found)
    return found[0, 0].numpy()


def grown(mask: np.ndarray, reach: int) -> np.ndarray:
    """A mask, bool `[H, W]`, and all pixels within `reach` rows and columns of it."""
    for _ in range(reach):
        rows = mask.copy()
        rows[1:] |= mask[:-1]
        rows[:-1] |= mask[1:]
        mask = rows.copy()
        mask[:, 1:] |= rows[:, :-1]
        mask[:, :-1] |= rows[:, 1:]
    return mask


def covered(values: np.ndarray) -> np.ndarray:
    """Where one colour lies over a photo that has holes, uint8 `[H, W, 3]`, as bool `[H, W]`: areas of exactly that
    colour that end sharply, with their antialiased edges; where there are none, the largest area with traces of JPEG
    around it that stands out from its surroundings, as a bright sky that fades does not."""
    packed = values.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    flat = np.zeros(packed.shape, bool)  # upper left pixels of four of one colour
    corner = packed[:-1, :-1]
    flat[:-1, :-1] = (corner == packed[1:, :-1]) & (corner == packed[:-1, 1:]) & (corner == packed[1:, 1:])
    colours, counts = np.unique(packed[flat], return_counts=True)
    largest = [i for i in np.argsort(-counts)[:COLOURS] if counts[i] >= LEAST * packed.size]
    found, faded = np.zeros(packed.shape, bool), None
    for place, colour in enumerate(colours[largest]):
        area = flat & (packed == colour)
        area[1:] |= area[:-1].copy()
        area[:, 1:] |= area[:, :-1].copy()
        area |= grown(area, 1) & (packed == colour)  # its corners
        away = np.zeros(packed.shape, np.int16)
        for i, level in enumerate((colour >> 16, colour >> 8 & 255, colour & 255)):
            np.maximum(away, np.abs(values[..., i] - np.int16(level)), out=away)
        ring, further = _rings(area)
        border = np.concatenate([area[0], area[-1], area[:, 0], area[:, -1]])
        if border.mean() > FRAMED or not ring.any():
            continue
        if (away[ring] <= NEAR).mean() <= SHARP:
            for _ in range(SOFT):
                if not further.any() or away[ring].mean() >= MIXED * away[further].mean():
                    break
                area = area | ring
                ring, further = _rings(area)
            found |= area
        elif place == 0:
            faded = area, away
    return found if faded is None or found.any() else _with_traces(*faded)


def _with_traces(area: np.ndarray, away: np.ndarray) -> np.ndarray:
    """An area with the pixels near its colour that hang together with it by blocks of JPEG, and what lies around them,
    bool `[H, W]`; nothing where it does not stand out. `away` is the distance of each pixel from the colour."""
    near = area | (away <= NEAR)
    padding = [(0, -side % BLOCK) for side in area.shape]

    def blocks(mask: np.ndarray) -> np.ndarray:
        mask = np.pad(mask, padding)
        return np.asarray(mask.reshape(mask.shape[0] // BLOCK, BLOCK, -1, BLOCK).any((1, 3)))

    reached, open_blocks = blocks(area), blocks(near)
    while (wider := grown(reached, 1) & open_blocks).sum() > reached.sum():
        reached = wider
    area = near & reached.repeat(BLOCK, 0).repeat(BLOCK, 1)[: area.shape[0], : area.shape[1]]
    area = grown(area, SOFT)
    ring, _ = _rings(area)
    if not ring.any() or away[ring].mean() < STANDS_OUT:
        area[:] = False
    return area


def _rings(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pixels next to a mask, and those next to them, further away."""
    one = grown(mask, 1)
    return one & ~mask, grown(one, 1) & ~one
