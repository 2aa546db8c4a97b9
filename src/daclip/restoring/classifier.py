"""The classifier, which is stage 1 alone."""

from pathlib import Path
from typing import Any

import torch

from daclip.arithmetic import autocast, device_by_name
from daclip.artifacts import PRETRAINED, Artifact, artifact_folder, load_daclip
from daclip.decoding import read_paths
from daclip.pixels import Pixels, unpack
from daclip.types import Conditioning


class Classifier:
    """Names what is wrong with photos, by an artifact of either stage; `device` and `precision` are those of
    `Restorer`."""

    def __init__(self, artifact: str | Path, device: str = "auto", precision: str = "auto"):
        stage_1 = Artifact(artifact)
        if stage_1.config["kind"] == "restorer":
            stage_1 = Artifact(stage_1.folder / "daclip")
        self.device = device_by_name(device)
        self.precision = precision
        self.daclip = load_daclip(stage_1.folder).to(self.device)
        self.vocabulary = stage_1.classes

    @classmethod
    def from_pretrained(cls, source: str | Path = PRETRAINED, **options: Any) -> "Classifier":
        """A classifier from an artifact folder, a model of the Hugging Face hub, or, by default, the package."""
        return cls(artifact_folder(source), **options)

    def classify(self, photos: Any) -> list[dict[str, float]]:
        """Probabilities of the classes of each photo, most likely first; see `Restorer.restore` for kinds of photos."""
        return [self.recognise(photo)[1] for photo in unpack(read_paths(photos))[0]]

    def recognise(self, photo: Pixels) -> tuple[Conditioning, dict[str, float]]:
        """Embeddings of one photo, by itself so that they do not depend on others, and its classes."""
        # The whole photo, unless it is a thread that CLIP's resize would blow up.
        longest = 32 * max(min(photo.height, photo.width), 64)
        top, left = max(photo.height - longest, 0) // 2, max(photo.width - longest, 0) // 2
        view = photo.crop(top, top + longest, left, left + longest)
        with torch.inference_mode(), autocast(self.device, self.precision):
            conditioning: Conditioning = self.daclip(view[None].to(self.device))
            assert conditioning.degradation is not None
            row = self.daclip.classify(conditioning.degradation, self.vocabulary)[0].cpu()
        order = row.argsort(descending=True).tolist()
        return conditioning, {self.vocabulary[i]: float(row[i]) for i in order}
