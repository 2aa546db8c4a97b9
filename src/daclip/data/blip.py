"""Captions by BLIP (Li et al. 2022, https://arxiv.org/abs/2201.12086), through transformers."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from daclip.data.captions import Captioner
from daclip.data.images import load_image, to_pil
from daclip.data.photos import Photo
from daclip.errors import DaclipError

__all__ = ["BlipCaptioner"]


class BlipCaptioner(Captioner):
    """Describes photos with BLIP, as the original's captions were made.

    Nothing is loaded before the first photo that is not in the cache of captions. Decoding is greedy or by
    beams, never sampled, so that a photo's caption does not depend on when it is made.

    Args:
        model: Name on the hub, or a folder with the weights, tokeniser and configuration.
        revision: Branch, tag or commit on the hub; of no meaning for a folder.
        beams: Beams of the search; 1 is greedy.
        max_tokens: Longest caption in tokens.
        batch_size: Photos captioned together.
        device: `auto` takes a GPU if there is one; or `cpu`, `cuda`, `mps`.

    Raises:
        DaclipError: transformers is not installed, or the weights cannot be loaded.
    """

    def __init__(self, model: str, revision: str, beams: int, max_tokens: int, batch_size: int, device: str):
        for name, value in {"beams": beams, "max_tokens": max_tokens, "batch_size": batch_size}.items():
            if value < 1:
                raise DaclipError(f"captioner.{name} must be at least 1, got {value}")
        self.model, self.revision = model, revision
        self.beams, self.max_tokens, self.batch_size = beams, max_tokens, batch_size
        self.device = device

    @cached_property
    def identity(self) -> str:  # type: ignore[override]
        """Model, weights and decoding; a local folder is known by its weights, wherever it lies."""
        folder = Path(self.model)
        weights = _hash_of_weights(folder) if folder.is_dir() else f"{self.model}@{self.revision}"
        return f"blip:{weights}:beams={self.beams}:max_tokens={self.max_tokens}"

    @cached_property
    def _parts(self) -> tuple[Any, Any, torch.device]:
        """Processor, model and device."""
        try:
            from transformers import AutoProcessor, BlipForConditionalGeneration
        except ImportError:
            raise DaclipError(
                "BLIP captions need transformers; install it with `pip install 'daclip[captions]'` "
                "(in a checkout: `.venv/bin/uv pip install transformers`), or choose captioner=sidecar"
            ) from None
        device = torch.device(
            ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device
        )
        try:
            processor = AutoProcessor.from_pretrained(self.model, revision=self.revision)
            # safetensors only: a pickle can run code when it is read.
            model = BlipForConditionalGeneration.from_pretrained(
                self.model, revision=self.revision, use_safetensors=True
            )
            return processor, model.eval().to(device), device
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise DaclipError(
                f"captioner.model={self.model} cannot be loaded ({reason}); "
                "check the name and the network, or give a local folder"
            ) from None

    @torch.inference_mode()
    def describe(self, photos: Sequence[Photo]) -> list[str]:
        """One sentence a photo, in lower case as BLIP writes it."""
        processor, model, device = self._parts
        # EXIF orientation is applied here; the processor resizes to the model's own square.
        pictures = [to_pil(load_image(photo.path)) for photo in photos]
        inputs = processor(images=pictures, return_tensors="pt").to(device)
        tokens = model.generate(**inputs, num_beams=self.beams, max_new_tokens=self.max_tokens, do_sample=False)
        texts: list[str] = processor.batch_decode(tokens, skip_special_tokens=True)
        return [text.strip() for text in texts]


def _hash_of_weights(folder: Path) -> str:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise DaclipError(f"captioner.model={folder}: the folder holds no .safetensors file; download the whole model")
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]
