"""Captions: tables and sidecar files, and the captioners that say what a photo shows."""

import csv
import hashlib
import io
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import torch

from daclip.data.pairing import by_rule
from daclip.data.photos import Photo, Progress, digest_of
from daclip.errors import DaclipError
from daclip.files import one_line, write_json
from daclip.images import load_image, to_pil

TABLES = ("daclip_train.csv", "daclip_val.csv")


def embedded_captions() -> dict[str, str]:
    """Captions written for the embedded photos: file name to text."""
    return dict(json.loads(Path(__file__).with_name("embedded_captions.json").read_text(encoding="utf-8")))


def read_table(path: str | Path, columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """Texts by photo name from a csv with a header or a jsonl, both UTF-8. Rows have `name`, a path relative to the
    photos' folder, and `columns`, where a missing value is an empty text."""
    path = Path(path)
    if not path.is_file():
        raise DaclipError(f"{path}: no such file; check the path")
    table: dict[str, dict[str, str]] = {}
    text = _text(path)
    try:
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
        needed = " and ".join(["name", *columns])
        raise DaclipError(f"{path}: needs the columns {needed} in every row ({error})") from None
    return table


def _text(path: Path) -> str:
    """Content of a text file, empty where there is none."""
    try:
        return path.read_text(encoding="utf-8-sig") if path.is_file() else ""
    except (UnicodeDecodeError, OSError) as error:
        raise DaclipError(f"{path}: cannot be read as UTF-8 text ({error})") from None


def find_texts(names: Iterable[str], rows: Mapping[str, str]) -> tuple[dict[str, str], Counter[str]]:
    """Texts of photos from rows by name, and how many were found by which rule: the same path, also where one side
    begins in another folder; else the same file name; else the same stem. The last two must fit one photo and one text.

    >>> find_texts(["a/0.png", "b/1.jpg"], {"photos/a/0.png": "a cat", "1.png": "a dog"})
    ({'a/0.png': 'a cat', 'b/1.jpg': 'a dog'}, Counter({'path': 1, 'stem': 1}))
    """
    paths = {name: PurePosixPath(name) for name in names}
    others = {PurePosixPath(name.replace(chr(92), "/")): text for name, text in rows.items()}
    texts = {name: rows[name] for name in paths if name in rows}
    rules = Counter({"path": len(texts)} if texts else {})
    depths = max((len(path.parts) for path in paths.values()), default=1)
    ways = [("path", depth, False) for depth in range(depths, 1, -1)]
    for rule, depth, stem in [*ways, ("file name", 1, False), ("stem", 1, True)]:
        if len(texts) == len(paths):
            break

        def end(path: PurePosixPath, depth: int = depth, stem: bool = stem) -> tuple[str, ...]:
            return (path.with_suffix("") if stem else path).parts[-depth:]

        known: dict[tuple[str, ...], set[str]] = {}
        for path, text in others.items():
            known.setdefault(end(path), set()).add(text)
        sharing = Counter(map(end, paths.values()))
        for name, path in paths.items():
            if name not in texts and sharing[end(path)] == 1 and len(known.get(end(path), ())) == 1:
                (texts[name],) = known[end(path)]
                rules[rule] += 1
    return texts, rules


def official_captions(path: Path) -> dict[str, dict[str, str]]:
    """Captions by type and file path from a table (tabs or commas) with `filepath` and `title`, which is `caption:
    type` (the last colon counts)."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            delimiter = "\t" if "\t" in file.readline() else ","
            file.seek(0)
            rows = list(csv.DictReader(file, delimiter=delimiter))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DaclipError(f"{path}: the caption table cannot be read ({error})") from None
    captions: dict[str, dict[str, str]] = {}
    for number, row in enumerate(rows, start=2):
        file_path, title = row.get("filepath"), row.get("title")
        if not file_path or title is None:
            raise DaclipError(f"{path}: row {number} lacks filepath or title; the columns are {list(row)}")
        caption, colon, class_name = title.rpartition(":")
        if not colon:
            raise DaclipError(f"{path}: the title in row {number} is not `caption: type`: {title!r}")
        captions.setdefault(class_name.strip(), {}).setdefault(file_path, caption.strip())
    return captions


class OfficialCaptions:
    """Captions of pairs from tables as `official_captions` reads them: the one that is given, else `daclip_train.csv`
    and `daclip_val.csv` of the pairs' folder where present."""

    def __init__(self, root: Path, table: str | Path | None):
        tables = [Path(table)] if table else [root / name for name in TABLES if (root / name).is_file()]
        self.rows = {path: official_captions(path) for path in tables}

    def describe(self, pairs: Sequence[tuple[str, str, str]]) -> list[str]:
        """The texts of pairs (type, name of LQ, name of GT), names being paths below the folder of pairs; empty where
        none is known. Tables that name no photo are refused."""
        texts: list[str] = [""] * len(pairs)
        for by_class in self.rows.values():
            for class_name, rows in by_class.items():
                places = [i for i, pair in enumerate(pairs) if pair[0] == class_name and not texts[i]]
                for side in (1, 2):
                    found, _ = find_texts({pairs[i][side] for i in places}, rows)
                    for i in places:
                        texts[i] = texts[i] or found.get(pairs[i][side], "")
        for path, by_class in self.rows.items():
            if not any(texts):
                _refuse_table(path, [row for rows in by_class.values() for row in rows], [pairs[0][1]])
        return texts


def _refuse_table(path: Path, rows: Sequence[str], photos: Sequence[str]) -> NoReturn:
    row, photo = next(iter(rows), "nothing"), next(iter(photos), "nothing")
    raise DaclipError(
        f"{path}: its {len(rows)} rows name none of the photos (the first row is {row}, the first photo {photo}); "
        "the names must be paths below the photos' folder, file names or stems"
    )


def caption_account(texts: Sequence[str], rules: Mapping[str, int] | None = None) -> str:
    """How many photos have captions, and by which rule.

    >>> caption_account(["a cat", ""], {"stem": 1})
    '1 of 2 captioned (1 by stem)'
    """
    return f"{sum(map(bool, texts))} of {len(texts)} captioned{by_rule(rules or {})}"


class Captioner(ABC):
    """Base class of captioners, which say what photos show. `identity` names all that decides the texts, for the cache;
    None where texts are only looked up, which costs nothing, and the user may edit them."""

    identity: str | None = None
    batch_size: int = 64  # photos handed over together
    rules: Mapping[str, int] = {}  # how many texts were found by which rule, where there are several

    @abstractmethod
    def describe(self, photos: Sequence[Photo]) -> list[str]:
        """One text a photo, in their order; empty where none is known."""


def cached_captions(
    captioner: Captioner,
    photos: Sequence[Photo],
    hashes: Sequence[str],
    cache: str | Path,
    progress: Progress | None = None,
) -> list[str]:
    """Describe photos, each content (by `hashes`) once per captioner; an interruption costs one batch at most. Several
    folders may share `cache`. A captioner without `identity` is asked anew each time."""
    if captioner.identity is None:
        return captioner.describe(photos)
    folder = Path(cache) / "captions" / digest_of(captioner.identity)[:16]
    known: dict[str, str] = {}
    for part in folder.glob("*.json"):
        known |= json.loads(part.read_text(encoding="utf-8"))
    fresh = list({key: photo for key, photo in zip(hashes, photos, strict=True) if key not in known}.items())
    for start in range(0, len(fresh), captioner.batch_size):
        batch = dict(fresh[start : start + captioner.batch_size])
        texts = dict(zip(batch, captioner.describe(list(batch.values())), strict=True))
        write_json(folder / f"{digest_of(list(batch))[:32]}.json", texts)
        known |= texts
        if progress:
            progress("captioning", len(photos) - len(fresh) + start + len(batch), len(photos))
    return [known[key] for key in hashes]


class NoCaptions(Captioner):
    """Leaves every caption empty; clean-photo distillation learns without captions."""

    def describe(self, photos: Sequence[Photo]) -> list[str]:
        """An empty text a photo."""
        return [""] * len(photos)


class SidecarCaptions(Captioner):
    """The text of `photo.txt` beside `photo.png`, empty where there is none."""

    def describe(self, photos: Sequence[Photo]) -> list[str]:
        """The texts beside the photos."""
        return [_text(photo.path.with_suffix(".txt")).strip() for photo in photos]


class CaptionFile(Captioner):
    """Captions from a table, see `read_table` and `find_texts`; one that names no photo is refused."""

    def __init__(self, path: str | Path | None):
        if path is None:
            raise DaclipError("no caption file is given; name a csv or jsonl with the columns name and caption")
        self.path = Path(path)
        self._captions = {name: row["caption"] for name, row in read_table(path, ["caption"]).items()}
        self.rules: Mapping[str, int] = {}

    def describe(self, photos: Sequence[Photo]) -> list[str]:
        """The file's texts."""
        names = [photo.name for photo in photos]
        texts, self.rules = find_texts(names, self._captions)
        if not texts:
            _refuse_table(self.path, list(self._captions), names)
        return [texts.get(name, "") for name in names]


class BlipCaptioner(Captioner):
    """Describes photos with BLIP, as the original's captions were made; loads it at the first photo that is not cached.
    Decoding is greedy or by beams, never sampled: a photo's caption does not depend on when it is made."""

    def __init__(
        self,
        model: str,  # name on the hub, or a folder with the weights, tokeniser and configuration
        revision: str,  # branch, tag or commit on the hub
        beams: int,  # 1 is greedy
        max_tokens: int,
        batch_size: int,
        device: str,  # `auto` takes a GPU if there is one; or `cpu`, `cuda`, `mps`
    ):
        for name, value in {"beams": beams, "max_tokens": max_tokens, "batch_size": batch_size}.items():
            if value < 1:
                raise DaclipError(f"captioner.{name} must be at least 1, got {value}")
        self.model, self.revision = model, revision
        self.beams, self.max_tokens, self.batch_size, self.device = beams, max_tokens, batch_size, device

    @cached_property
    def identity(self) -> str:  # type: ignore[override]
        """Model, weights and decoding; a local folder is known by its weights, wherever it lies."""
        weights = f"{self.model}@{self.revision}"
        if (folder := Path(self.model)).is_dir():
            files = sorted(folder.glob("*.safetensors"))
            if not files:
                raise DaclipError(f"captioner.model={folder}: holds no .safetensors file; download the whole model")
            total = hashlib.sha256()
            for path in files:
                with path.open("rb") as file:
                    total.update(hashlib.file_digest(file, "sha256").digest())
            weights = total.hexdigest()[:16]
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
        automatic = "cuda" if torch.cuda.is_available() else "cpu"
        device = torch.device(automatic if self.device == "auto" else self.device)
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
