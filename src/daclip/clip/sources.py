"""Sources of an open_clip model's parts: tokenisers, and for artifacts descriptions without outside sources."""

import contextlib
import functools
import importlib.util
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor

from daclip.errors import DaclipError
from daclip.files import one_line
from daclip.trust import entries

SCHEMES = ("hf-hub:", "local-dir:")  # names of models that open_clip does not list itself
TOKENIZER = "tokenizer.json"  # in an artifact whose tokeniser is not open_clip's own
TOKENIZER_OPTIONS = {"clean", "reduction_mask"}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without open_clip's log lines: random weights are meant, and failures are reported by the caller."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        root.setLevel(level)


@contextlib.contextmanager
def hub() -> Iterator[None]:
    """The model hub; where it does not answer only its cache, at once and not after a minute of attempts."""
    import requests
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    try:
        requests.head(constants.ENDPOINT, timeout=5)
    except requests.RequestException:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def plain(value: Any) -> Any:
    """Nested mappings as dictionaries."""
    return {key: plain(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def described(architecture: str | Mapping[str, Any]) -> str | dict[str, Any]:
    """An architecture without an outside source: of a name with a scheme what is in its `open_clip_config.json`."""
    if not isinstance(architecture, str):
        return dict(plain(architecture))
    if not architecture.startswith(SCHEMES):
        return architecture
    scheme, _, name = architecture.partition(":")
    try:
        if scheme == "local-dir":
            content = json.loads((Path(name) / "open_clip_config.json").read_text(encoding="utf-8"))
        else:
            content = open_clip.factory._get_hf_config(name)
        found: dict[str, Any] = {"model_cfg": content["model_cfg"]}
        preprocess = content.get("preprocess_cfg") or {}
        found["preprocess_cfg"] = {key: list(preprocess[key]) for key in ("mean", "std") if preprocess.get(key)}
    except Exception as error:  # the hub client's, the operating system's, or the file is another one
        raise DaclipError(
            f"the CLIP {architecture} could not be loaded ({one_line(error)}); check the name and the network"
        ) from error
    return found


def model_settings(architecture: str | Mapping[str, Any]) -> dict[str, Any]:
    """What open_clip builds the model of a described architecture from."""
    if isinstance(architecture, str):
        return dict(open_clip.get_model_config(architecture) or {})
    return dict(plain(architecture.get("model_cfg", architecture)))


def refuse_outside(architecture: Any, has_tokenizer: bool, where: str) -> None:
    """Refuse an artifact's architecture, from the file `where`, that names anything outside open_clip and itself."""
    if isinstance(architecture, str):
        found = [] if architecture in open_clip.list_models() else [architecture]
    elif isinstance(architecture, Mapping):
        found = [
            value
            for key, value in entries(architecture)
            if isinstance(value, str) and (":" in value or "/" in value) and key != "hf_tokenizer_name"
        ]
    else:
        raise DaclipError(f"{where}: clip.architecture is damaged; copy the artifact again")
    text = {} if found else model_settings(architecture).get("text_cfg") or {}
    if not isinstance(text, Mapping):
        raise DaclipError(f"{where}: clip.architecture is damaged; copy the artifact again")
    if text.get("hf_model_name"):
        found.append(str(text["hf_model_name"]))
    if text.get("hf_tokenizer_name") and not has_tokenizer:
        found.append(f"{text['hf_tokenizer_name']} in place of its own {TOKENIZER}")
    if not isinstance(architecture, str):
        found += [str(option) for option in set(text.get("tokenizer_kwargs") or {}) - TOKENIZER_OPTIONS]
    if found:
        raise DaclipError(f"{where}: refuses {found[0]:.100}; an artifact names no model, file or code outside itself")


def check_name(architecture: str, pretrained: str | None) -> None:
    """Refuse names of models and weights that open_clip does not know, and weights of another activation."""
    if architecture not in open_clip.list_models():
        raise DaclipError(
            f"clip.architecture={architecture} is no open_clip model; see open_clip.list_models() "
            "(for example ViT-B-32, ViT-L-14)"
        )
    if pretrained is None:
        return
    tag = open_clip.get_pretrained_cfg(architecture, pretrained)
    if not tag and not Path(pretrained).is_file():
        known = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none"
        raise DaclipError(
            f"clip.pretrained={pretrained} is neither a weight tag of {architecture} ({known}) nor a weight file"
        )
    quick = bool(tag.get("quick_gelu", False))
    if tag and quick != bool(model_settings(architecture).get("quick_gelu", False)):
        base = architecture.removesuffix("-quickgelu")
        raise DaclipError(
            f"the weights {pretrained} were trained with {'QuickGELU' if quick else 'GELU'}, which {architecture} "
            f"does not use; set clip.architecture={base}{'-quickgelu' if quick else ''}"
        )


class CarriedTokenizer:
    """A tokeniser of the `tokenizers` library from the text of its file, padding and truncation included. The text is
    data: unlike a folder of the hub it names no class of transformers and no code."""

    def __init__(self, text: str, clean: str):
        from tokenizers import Tokenizer

        self.text = text
        self.fast = Tokenizer.from_str(text)
        self.clean: Callable[[str], str] = open_clip.tokenizer.get_clean_fn(clean)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Token ids `[N, L]` of texts."""
        return torch.tensor([found.ids for found in self.fast.encode_batch([self.clean(text) for text in texts])])


def check_tokenizer(architecture: str | Mapping[str, Any], name: str) -> None:
    """Refuse a model whose text side needs what is not installed or not supported, before its weights are fetched."""
    text = model_settings(architecture).get("text_cfg") or {}
    if text.get("hf_model_name"):
        raise DaclipError(f"the text tower of {name} is one of transformers ({text['hf_model_name']}); choose another")
    if text.get("hf_tokenizer_name") and importlib.util.find_spec("transformers") is None:
        raise DaclipError(f"the tokeniser of {name} needs transformers; install it with pip install 'daclip[siglip]'")


# It takes a tenth of a second to make one.
_simple_tokenizer: Any = functools.cache(open_clip.SimpleTokenizer)


def tokenizer_of(architecture: str | Mapping[str, Any], name: str | None, length: int, file: str | None) -> Any:
    """The tokeniser of a described architecture: an artifact's own `file` where it has one, else that which open_clip
    has, or fetches, for a model called `name`."""
    options = (model_settings(architecture).get("text_cfg") or {}).get("tokenizer_kwargs") or {}
    clean = options.get("clean", "whitespace")
    try:
        if file is not None:
            return CarriedTokenizer(Path(file).read_text(encoding="utf-8"), clean)
        if name is None:
            return _simple_tokenizer(context_length=length, **options)
        with quiet():
            found = open_clip.get_tokenizer(name, context_length=length)
        if not isinstance(found, open_clip.tokenizer.HFTokenizer):
            return found
        if found.tokenizer_mode or found.strip_sep_token or not found.tokenizer.is_fast:
            raise DaclipError(f"the tokeniser of {name} is of a kind that artifacts cannot hold; choose another model")
        found([""])  # sets padding and truncation of the fast tokeniser inside
        return CarriedTokenizer(found.tokenizer.backend_tokenizer.to_str(), clean)
    except DaclipError:
        raise
    except Exception as error:  # the hub client's, transformers' and the file's errors have no common class
        raise DaclipError(
            f"the tokeniser of {name or file} could not be loaded ({one_line(error)}); check the network, or give a "
            "folder with model and tokeniser as clip.architecture=local-dir:FOLDER"
        ) from error
