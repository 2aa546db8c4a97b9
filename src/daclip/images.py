"""Photo files as tensors, for training and scoring."""

from collections import OrderedDict
from functools import lru_cache
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from daclip.decoding import PhotoFile, decode_photo, photo_header, read_photo
from daclip.encoding import write_photo
from daclip.pixels import Pixels


@lru_cache(maxsize=2**17)
def image_size(path: Path) -> tuple[int, int]:
    """Height and width as `load_image` would give them, from the file's header alone."""
    header = photo_header(path, path)
    return header.height, header.width


def encoded_size(content: bytes, name: str) -> tuple[int, int]:
    """`image_size` of an image file's content; `name` is what errors call it."""
    header = photo_header(content, name)
    return header.height, header.width


def _rgb(photo: PhotoFile) -> Tensor:
    """uint8 `[3, H, W]`, RGB, on white where the photo is transparent."""
    colour = photo.pixels.on_white().shallow().colour
    return torch.from_numpy(colour.copy()).permute(2, 0, 1)


def decode_pixels(content: bytes, name: str) -> Tensor:
    """uint8 `[3, H, W]`, RGB, of an image file's content; `name` is what errors call it."""
    return _rgb(decode_photo(content, name)).contiguous()


def load_image(path: str | Path) -> Tensor:
    """float32 `[3, H, W]` in [0, 1] of an image file at its own depth; gray, palette and alpha images become RGB, on
    white where they are transparent."""
    return read_photo(path).pixels.on_white().crop()


class PixelCache:
    """The last used decoded photos, up to `limit` bytes in all, for crops that revisit photos."""

    def __init__(self, limit: int):
        self.limit, self.size = limit, 0
        self._photos: OrderedDict[Path, Tensor] = OrderedDict()

    def __call__(self, path: Path) -> Tensor:
        """The decoded photo, uint8 `[3, H, W]`."""
        if path in self._photos:
            self._photos.move_to_end(path)
            return self._photos[path]
        photo = _rgb(read_photo(path)).contiguous()
        self._photos[path] = photo
        self.size += photo.nbytes
        while self.size > self.limit:
            self.size -= self._photos.popitem(last=False)[1].nbytes
        return photo


cached_pixels = PixelCache(512 * 2**20)


def to_pil(image: Tensor) -> Image.Image:
    """Round `[3, H, W]` in [0, 1] to an 8-bit RGB picture; values outside are clipped."""
    pixels = image.detach().float().clamp(0, 1).mul(255).round().byte().cpu()
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def save_image(image: Tensor | Image.Image, path: str | Path) -> None:
    """Write `[3, H, W]` in [0, 1], or a Pillow image, as `write_photo` does."""
    picture = to_pil(image) if isinstance(image, Tensor) else image
    write_photo(PhotoFile(Pixels.from_pil(picture)), path)
