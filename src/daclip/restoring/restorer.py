"""The restorer: photos in, restored photos out; and its first stage alone, the classifier."""

import copy
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from daclip.arithmetic import autocast, device_by_name
from daclip.artifacts import PRETRAINED, Artifact, artifact_folder, load_daclip, load_denoiser
from daclip.decoding import read_paths
from daclip.degradations.base import CLEAN
from daclip.errors import DaclipError
from daclip.pixels import Header, Pixels, unpack
from daclip.restoring.control import (
    HOLES,
    Passes,
    Plan,
    Recognised,
    Uncertainty,
    blend_,
    check_settings,
    class_meant,
    holes_of,
    in_turn,
    parse_classes,
    remark,
    steer,
    unknown_classes,
    unsampled,
    without_holes,
)
from daclip.restoring.instruction import Wish, understand
from daclip.restoring.memory import (
    Budget,
    Cost,
    check_pieces,
    choose_pieces,
    measured_costs,
    memory_errors,
    return_freed_memory,
    tensor_bytes,
)
from daclip.restoring.networks import Other, load_other, unmet
from daclip.restoring.sampling import Progress, batches, part_of, sample_photos, sampler_of
from daclip.rng import NoiseField
from daclip.samplers.base import Sampler
from daclip.types import Conditioning, Restoration, Restored


class Stopped(Exception):  # noqa: N818  it is no error
    """Raised by a caller's `on_progress` to end work whose result nobody needs any more."""


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
        self.fill = stage_1.fill  # of holes; None: they are drawn from around before the network

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


class Restorer(Classifier):
    """Restores degraded photos with a stage-2 artifact.

    A result depends on the photo, the settings, the seed and the photo's number (noise is drawn from both), not on the
    photos beside it nor on `batch_size` (on a GPU up to rounding). `device` is `auto`, `cpu` or `cuda`, `precision`
    `auto`, `bf16` or `fp32`. `max_memory` is GiB of the whole process, on a GPU of the GPU's memory; larger photos are
    restored in overlapping pieces on the same noise and under the same conditioning. `tile` is the largest side of what
    the network sees at once (None: by `max_memory`), `overlap` what pieces share at least, both in pixels, multiples of
    64. `batch_size` is the pieces in one call of the network on a GPU (None: 8); a CPU takes them one by one."""

    def __init__(
        self,
        artifact: str | Path,
        sampler: Sampler | None = None,
        device: str = "auto",
        precision: str = "auto",
        seed: int = 0,
        max_memory: float = 2.0,
        tile: int | None = None,
        overlap: int = 128,
        batch_size: int | None = None,
    ):
        self.artifact = Artifact(artifact)
        self.artifact.require("restorer")
        wanted = 8 if batch_size is None else batch_size
        check_pieces(tile, overlap, wanted)
        super().__init__(artifact, device, precision)
        self.seed, self.max_memory, self.tile, self.overlap = seed, max_memory, tile, overlap
        # On a CPU one piece keeps all cores busy, and several round differently, which bfloat16 makes visible.
        self.batch_size: int = 1 if self.device.type == "cpu" else wanted
        # The words of recognition, and those that only the network of stage 2 was trained on.
        self.classes = list(dict.fromkeys([*self.vocabulary, *self.artifact.classes]))
        self.denoiser = load_denoiser(self.artifact, self.daclip.embed_dim).to(self.device)
        self.sampler: Sampler = sampler or self.artifact.build("sampler")
        self.temperature: float = self.artifact.config["stage"].get("temperature", 1.0)
        self.network: str | None = None  # of others, in place of the denoiser
        self.others: dict[str, Other] = {}  # networks of others by class
        self._loaded: tuple[torch.nn.Module, ...] = ()  # beside the denoiser
        self._costs: dict[torch.nn.Module, tuple[Cost, Cost]] = {}

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path = PRETRAINED,
        *,
        sampler: str | Sampler | None = None,
        steps: int | None = None,
        revision: str | None = None,
        **options: Any,
    ) -> "Restorer":
        """A restorer from an artifact folder, from `owner/name` on the Hugging Face hub at a `revision`, or, by
        default, from the package. `sampler` is one, or the name of one of `conf/sampler/`; it and `steps` default to
        the artifact's; `options`: `Restorer`'s."""
        folder = artifact_folder(source, revision)
        return cls(folder, sampler_of(Artifact(folder), sampler, steps), **options)

    def using(
        self, *, sampler: str | Sampler | None = None, steps: int | None = None, seed: int | None = None
    ) -> "Restorer":
        """The same networks with another sampler (see `from_pretrained`) or seed (None keeps this restorer's)."""
        other = copy.copy(self)
        if self.network is None:
            other.sampler = sampler_of(self.artifact, sampler, steps)
        elif sampler is not None or steps is not None:
            raise DaclipError(f"{self.network} restores in one call; leave out the sampler and its steps")
        other.seed = self.seed if seed is None else seed
        other._costs = {}
        return other

    def with_network(self, path: str | Path, class_name: str | None = None) -> "Restorer":
        """The same recognition with a network of others, from a file that spandrel knows, for the photos of one class;
        without a class for all that have no network of their own."""
        if class_name is not None and class_name not in self.classes:
            raise DaclipError(f"{path}: there is no class '{class_name}'; choose from {', '.join(self.classes)}")
        found = load_other(path, self.device, self.precision)
        if class_name is None:
            return self._by(found)
        other = copy.copy(self)
        other.others = {**self.others, class_name: found}
        other._loaded = (*self._loaded, self.denoiser, found.denoiser)
        return other

    def _by(self, found: Other) -> "Restorer":
        other = copy.copy(self)
        other.network, other.denoiser, other.sampler = found.name, found.denoiser, found.sampler
        return other

    def restore(
        self,
        photos: Any,
        numbers: Sequence[int] | None = None,
        *,
        degradation: Any = None,
        instruction: str | None = None,
        strength: float = 1.0,
        samples: int = 1,
        mask: Any = None,
        passes: Passes = 1,
        on_progress: Progress | None = None,
    ) -> Any:
        """Restore one photo or several: a `Restoration` for a single photo, else `Restored`, a sequence of them.

        A photo is a path, a Pillow image, an array `[H, W]`, `[H, W, C]` or `[B, H, W, C]`, or a tensor `[C, H, W]` or
        `[B, C, H, W]` (uint8, uint16, or float in [0, 1]; C is 1, 3 or 4); several are also a list. `numbers` choose
        each photo's draw of noise; by default its place. `degradation` replaces the recognised one: a class, any text,
        or several with weights as a mapping or as `rainy:0.7,hazy:0.3`; `instruction` says in plain English what to
        repair, what to leave and how strongly. `strength` in [0, 1] is the share of the change that is made; several
        `samples` also give the uncertainty. `mask` `[H, W]` is true where a single photo is missing: only that part is
        restored, as `uncompleted` unless one of the two says otherwise. Up to so many `passes`, or `auto`, repair one
        degradation after the other, as long as recognition is sure of one more. `on_progress` gets the finished share
        and may raise `Stopped` to end the work."""
        most = check_settings(strength, samples, passes, degradation=degradation, mask=mask is not None)
        unpacked, packs, single = unpack(read_paths(photos))
        numbers = list(range(len(unpacked))) if numbers is None else list(numbers)
        if len(numbers) != len(unpacked):
            raise ValueError(f"expected one number a photo, got {len(numbers)} for {len(unpacked)} photos")
        if samples > 1 and (self.network or self.others):
            raise DaclipError("a network of others has one result for a photo; leave out samples")
        if self.network and instruction is not None:
            raise DaclipError(f"{self.network} cannot be told what to repair; leave out the instruction")
        holes = None if mask is None else holes_of(mask, unpacked)
        if holes is not None and not self.network:
            unpacked = [photo.filled(holes, self.fill) for photo in unpacked]
            if degradation is None and instruction is None and HOLES in self.classes:
                degradation = HOLES
        classes = None if degradation is None else parse_classes(degradation, self.classes)
        wish = None if instruction is None else self.understand(instruction)
        if classes is not None and wish is not None:
            raise DaclipError("give a degradation or an instruction, not both")
        notes = tuple(unknown_classes(classes or {}, self.classes)) + (wish.remarks if wish else ())
        done: list[Restoration] = []
        size = 1 if self.others or most > 1 else self.batch_size
        chunks = list(batches(range(len(unpacked)), lambda i: unpacked[i].colour.shape, size))
        for part, chunk in enumerate(chunks):
            told = on_progress and part_of(on_progress, part, len(chunks))
            lq, drawn = [unpacked[i] for i in chunk], [numbers[i] for i in chunk]
            if most > 1:
                found = [self._in_turn(lq[0], drawn[0], most, wish, strength, told)]
            else:
                found = self._once(lq, drawn, classes, wish, strength, samples, holes, told)
            for i, one in zip(chunk, found, strict=True):
                left = unmet(wish, one.left, self.others) if wish and most == 1 else ()
                done.append(replace(one.packed(packs[i]), notes=(*notes, *one.notes, *left)))
        return done[0] if single else Restored(done)

    def _once(
        self,
        photos: Sequence[Pixels],
        numbers: Sequence[int],
        classes: dict[str, float] | None,
        wish: Wish | None,
        strength: float,
        samples: int = 1,
        holes: np.ndarray | None = None,
        on_progress: Progress | None = None,
        recognised: Sequence[Recognised] = (),
        named: bool = True,
    ) -> list[Restoration]:
        """Photos of one size in one pass, with results as `Pixels`; `recognised` are theirs where they are known.
        Classes that are not `named` by the user are repaired as far as recognition is sure."""
        started = time.perf_counter()
        with torch.inference_mode(), memory_errors():
            recognised = recognised or [self.recognise(photo) for photo in photos]
            plans = [Plan.of(found, classes, wish, self.others, strength, named) for _, found in recognised]
            # Where there are networks for classes, it is one photo.
            other = self.others.get(plans[0].foremost(recognised[0][1]))
            by = self._by(other) if other else self
            given = list(zip(photos, recognised, plans, strict=True))
            if holes is None and self.fill is None and not by.network:
                given = [without_holes(*one, super(Restorer, self).recognise) for one in given]  # no frame of a clip
            seen, plans = [photo for photo, _, _ in given], [plan for _, _, plan in given]
            conditioning = Conditioning.stacked([self._steered(found[0], plan) for _, found, plan in given])
            restored = by._samples(photos, seen, conditioning, numbers, plans, samples, holes, on_progress)
        seconds = (time.perf_counter() - started) / len(photos)
        done = []
        for (_, probabilities), plan, (images, spread, share) in zip(recognised, plans, restored, strict=True):
            done.append(
                Restoration(
                    images[0],
                    probabilities,
                    self.seed,
                    seconds,
                    samples=tuple(images) if samples > 1 else (),
                    uncertainty=spread,
                    notes=(*plan.notes, *remark(probabilities, share)),
                    repaired=plan.repaired,
                    left=plan.left,
                    shares=plan.shares,
                    network=by.network if plan.strength * share else None,
                    share=share,
                )
            )
        return done

    def _in_turn(
        self, photo: Pixels, number: int, most: int, wish: Wish | None, strength: float, on_progress: Progress | None
    ) -> Restoration:
        """One photo in several passes; an instruction chooses the first, and what later ones may repair."""
        turn = count()

        def repair(image: Pixels, class_name: str | None, recognised: Recognised) -> Restoration:
            told = on_progress and part_of(on_progress, next(turn), most)
            asked: tuple[dict[str, float] | None, Wish | None, float] = None, wish, strength
            if class_name is not None:
                asked = {class_name: 1.0}, None, strength * wish.share(class_name) if wish else strength
            known: dict[str, Any] = {"recognised": [recognised], "named": False}
            return self._once([image], [number], *asked, on_progress=told, **known)[0]

        with memory_errors():
            return in_turn(repair, self.recognise, photo, most, wish)

    def _samples(
        self,
        photos: Sequence[Pixels],
        seen: Sequence[Pixels],
        conditioning: Conditioning,
        numbers: Sequence[int],
        plans: Sequence[Plan],
        samples: int,
        holes: np.ndarray | None,
        on_progress: Progress | None,
    ) -> list[tuple[list[Pixels], np.ndarray | None, float]]:
        """For each photo its restorations, the standard deviation of several, and the share of the change that
        certainty allowed in the first; the network gets what is `seen`, the photos or these without holes."""
        height, width = photos[0].height, photos[0].width
        if samples == 1 and not any(plan.acts for plan in plans):
            return list(unsampled(photos, seen, plans))
        header = Header(width, height, photos[0].colour.itemsize)
        alone = self.sampler.nfe == 1 and self.device.type == "cpu"
        pieces = choose_pieces(self.budget, header, len(photos), self._measured, self.batch_size, self.tile, alone)
        if len(photos) > 1 and pieces.tile < max(height, width):
            # Large ones one by one, each in the pieces that it gets when it comes alone.
            found: list[tuple[list[Pixels], np.ndarray | None, float]] = []
            for i, photo in enumerate(photos):
                told = on_progress and part_of(on_progress, i, len(photos))
                row = [photo], [seen[i]], conditioning.rows([i]), [numbers[i]], [plans[i]]
                found += self._samples(*row, samples, holes, told)
            return found
        images: list[list[Pixels]] = [[] for _ in photos]
        shares = [0.0 for _ in photos]  # of the first sample
        spreads = [Uncertainty() for _ in photos]
        for sample in range(samples):
            # The first sample is what a single one would be.
            fields = [NoiseField((self.seed, number, sample), height, width) for number in numbers]
            share = on_progress and part_of(on_progress, sample, samples)
            given = (seen, conditioning, fields, pieces)
            return_freed_memory()
            restored = sample_photos(self.sampler, self.denoiser, *given, self.overlap, self.precision, share)
            return_freed_memory()
            for i, (photo, lq, image, plan) in enumerate(zip(photos, seen, restored, plans, strict=True)):
                if bool(image.sum().isnan()):  # without a copy; it was clamped, so nothing else is left of infinity
                    raise DaclipError(
                        "the network's result is not a number, so nothing is written; "
                        "try --precision fp32, else this photo or these weights are beyond it"
                    )
                allowed = plan.share(image, lq)
                if sample == 0:
                    shares[i] = plan.share_of(allowed, lq is not photo)
                blend_(image, lq, allowed, holes)
                blend_(image, photo, plan.strength)
                images[i].append(photo.recoloured(image))
                if samples > 1:
                    spreads[i].add(image)
        deviations = [spread.map().numpy() if samples > 1 else None for spread in spreads]
        return list(zip(images, deviations, shares, strict=True))

    def understand(self, instruction: str) -> Wish:
        """The wish of an instruction in plain English; one that cannot be met is a `DaclipError`."""
        classes = [name for name in self.classes if name != CLEAN]
        return understand(instruction, classes, lambda phrase: class_meant(phrase, classes, self.daclip.clip))

    def _steered(self, conditioning: Conditioning, plan: Plan) -> Conditioning:
        """The embeddings that the network gets for one photo."""
        decided = self.decided(conditioning)
        return decided if plan.classes is None else steer(decided, self.daclip, plan.classes, self.vocabulary)

    def decided(self, conditioning: Conditioning) -> Conditioning:
        """The embeddings that the network was trained on: with a temperature below 1, as if recognition were surer."""
        if self.temperature >= 1:
            return conditioning
        assert conditioning.degradation is not None
        surer = self.daclip.decided(conditioning.degradation, self.vocabulary, self.temperature)
        return replace(conditioning, degradation=surer)

    def _measured(self) -> tuple[Cost, Cost]:
        if self.denoiser not in self._costs:
            # Past `SteadyRestorer`, which would take it for a frame.
            conditioning, _ = super().recognise(Pixels(np.full((64, 64, 3), 128, np.uint8)))
            self._costs[self.denoiser] = measured_costs(self.sampler, self.denoiser, conditioning, self.precision)
        return self._costs[self.denoiser]

    @property
    def budget(self) -> Budget:
        """The memory that there is."""
        weights = sum(map(tensor_bytes, {self.daclip, self.denoiser, *self._loaded}))
        return Budget(self.max_memory, weights, self.device.type == "cpu")

    def needed_bytes(self, header: Header) -> int:
        """Bytes of the budget that restoring a photo takes, all of it and more for one that is restored in pieces."""
        if self.others or self.tile is not None:
            return int(self.budget.left)
        network, sampling = self._measured()
        pixels = header.height * header.width
        return int(self.budget.photo_bytes(header) + network.bytes(pixels) + sampling.bytes(pixels))
