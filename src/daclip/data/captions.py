"""A file of JSON lines that only ever grows, and survives being killed at any moment."""

import csv
import hashlib
import io
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from daclip.data.photos import Photo
from daclip.errors import DaclipError
from daclip.files import one_line
from daclip.images import load_image, to_pil


class Journal:
    """Records appended one line each, for work that must not be done twice.

    A batch of records goes out in one write, so that processes may append to one journal at the same time. A
    line that was cut short by a crash is no JSON and is passed over when reading: its work is done again.

    Args:
        path: The file, made with its folders at the first append.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """All whole records, oldest first; none if there is no file yet."""
        if not self.path.is_file():
            return
        try:
            with self.path.open(encoding="utf-8", errors="replace", newline="\n") as lines:
                for line in lines:
                    try:
                        record = json.loads(line)
                    except json.JSONDecodeError:
                        continue
                    if isinstance(record, dict):
                        yield record
        except OSError as error:
            raise DaclipError(f"{self.path}: cannot be read ({error.strerror or error})") from None

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Add records behind the others; they are on the disk when this returns.

        Raises:
            DaclipError: The file cannot be written.
        """
        if not records:
            return
        # ASCII: no line separator of Unicode can end a line early.
        text = "".join(json.dumps(record) + "\n" for record in records)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                # A torn last line must not swallow the first new record; an empty line is passed over.
                file.write(b"\n" + text.encode() if self._torn() else text.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise DaclipError(f"{self.path}: cannot be written ({error.strerror or error})") from None

    def _torn(self) -> bool:
        if self.path.stat().st_size == 0:
            return False
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"


if TYPE_CHECKING:
    from daclip.data.photos import Photo


def embedded_captions() -> dict[str, str]:
    """Captions written for the embedded photos: file name to text."""
    path = Path(__file__).with_name("embedded_captions.json")
    captions: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return captions


def read_table(path: str | Path, columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """Texts by photo name from a csv with a header or a jsonl of the same keys, both UTF-8.

    Args:
        path: The file; each row has `name`, a photo's path relative to its folder.
        columns: Further columns that must be there; a missing value is an empty text.

    Returns:
        Name to the row's values of `columns`.

    Raises:
        DaclipError: The file is missing, unreadable, lacks a column, or names a photo twice with different texts.
    """
    path = Path(path)
    if not path.is_file():
        raise DaclipError(f"{path}: no such file; check the path")
    needed = " and ".join(["name", *columns])
    table: dict[str, dict[str, str]] = {}
    try:
        text = path.read_text(encoding="utf-8-sig")
        # Not splitlines(): quoted csv fields and JSON strings may hold any line separator of Unicode.
        rows: Sequence[Mapping[str, str | None]] = (
            [json.loads(line) for line in text.split("\n") if line.strip()]
            if path.suffix == ".jsonl"
            else list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
        )
        for row in rows:
            values = {column: str(row[column] or "").strip() for column in columns}
            name = str(row["name"])
            if table.setdefault(name, values) != values:
                raise DaclipError(f"{path}: names {name} twice with different texts; keep one of the rows")
    except (json.JSONDecodeError, KeyError, TypeError, csv.Error) as error:
        raise DaclipError(f"{path}: needs the columns {needed} in every row ({error})") from None
    except (UnicodeDecodeError, OSError) as error:
        raise DaclipError(f"{path}: cannot be read as UTF-8 text ({error})") from None
    return table


class Captioner(ABC):
    """Says what photos show.

    Attributes:
        identity: Names everything that decides the texts, for the cache of captions. None for a captioner
            that only looks texts up: they cost nothing, and the user may edit them.
        batch_size: Photos that are best handed over together.
    """

    identity: str | None = None
    batch_size: int = 64

    @abstractmethod
    def describe(self, photos: Sequence["Photo"]) -> list[str]:
        """One text a photo, in their order; empty where none is known."""


class NoCaptions(Captioner):
    """Leaves every caption empty; clean-photo distillation learns without captions."""

    def describe(self, photos: Sequence["Photo"]) -> list[str]:
        """An empty text a photo."""
        return [""] * len(photos)


class SidecarCaptions(Captioner):
    """The text of `photo.txt` beside `photo.png`."""

    def describe(self, photos: Sequence["Photo"]) -> list[str]:
        """The texts beside the photos."""
        return [CaptionFile.sidecar(photo.path) for photo in photos]


class CaptionFile(Captioner):
    """Captions by file name, from a csv with a header (`name,caption`) or a jsonl of the same keys.

    Args:
        path: The file; UTF-8. Names are paths relative to the photo folder. Colons, commas and line breaks
            are fine in quoted csv fields.

    Raises:
        DaclipError: The file is missing or lacks a column.
    """

    def __init__(self, path: str | Path | None):
        if path is None:
            raise DaclipError("no caption file is given; name a csv or jsonl with the columns name and caption")
        self._captions = {name: row["caption"] for name, row in read_table(path, ["caption"]).items()}

    def get(self, name: str) -> str:
        """The caption of a photo; empty if the file has none for it."""
        return self._captions.get(name, "")

    def describe(self, photos: Sequence["Photo"]) -> list[str]:
        """The file's texts."""
        return [self.get(photo.name) for photo in photos]

    @staticmethod
    def sidecar(path: Path) -> str:
        """The text of `photo.txt` beside `photo.png`; empty if there is none.

        Raises:
            DaclipError: The text is not UTF-8.
        """
        beside = path.with_suffix(".txt")
        try:
            return beside.read_text(encoding="utf-8-sig").strip() if beside.is_file() else ""
        except (UnicodeDecodeError, OSError) as error:
            raise DaclipError(f"{beside}: cannot be read as UTF-8 text ({error})") from None


class CaptionCache:
    """What captioners have said before, by content: a photo that moves or is copied keeps its caption.

    Args:
        path: A jsonl of `sha256, captioner, caption`; made at the first caption.
    """

    def __init__(self, path: str | Path):
        self._journal = Journal(path)

    def captions(
        self,
        captioner: Captioner,
        photos: Sequence["Photo"],
        hashes: Sequence[str],
        progress: Callable[[int], None] | None = None,
    ) -> list[str]:
        """Describe photos, asking the captioner only for those that it has not described before.

        Captions are kept batch by batch, so that an interruption costs at most one batch.

        Args:
            captioner: Who describes.
            photos: What to describe.
            hashes: Each photo's content hash.
            progress: Told the number of photos done after each batch.
        """
        known = self._known(captioner.identity)
        found: list[str] = []
        for start in range(0, len(photos), captioner.batch_size):
            batch = slice(start, start + captioner.batch_size)
            if captioner.identity is None:
                found += captioner.describe(photos[batch])
            else:
                keys = hashes[batch]
                fresh = {key: photo for key, photo in zip(keys, photos[batch], strict=True) if key not in known}
                texts = dict(zip(fresh, captioner.describe(list(fresh.values())), strict=True)) if fresh else {}
                self._journal.append(
                    [{"sha256": key, "captioner": captioner.identity, "caption": text} for key, text in texts.items()]
                )
                known |= texts
                found += [known[key] for key in keys]
            if progress:
                progress(len(found))
        return found

    def _known(self, identity: str | None) -> dict[str, str]:
        if identity is None:
            return {}
        return {
            str(record["sha256"]): str(record["caption"])
            for record in self._journal
            if record.get("captioner") == identity and {"sha256", "caption"} <= record.keys()
        }


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
            raise DaclipError(
                f"captioner.model={self.model} cannot be loaded ({one_line(error)}); "
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
