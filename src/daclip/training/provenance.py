"""Keys and tokens stay in the environment: refused on the command line, struck out of what is written."""

import logging
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

STRUCK_OUT = "[secret]"
# What the last part of a name says when its value is a secret: api_key, hf_token, WANDB_API_KEY, AWS_SECRET_ACCESS_KEY.
NAME = re.compile(r"(^|[._-])(api_?key|access_?key|secret|token|password|passwd|credentials?)$", re.IGNORECASE)
# Formats of well-known services: Hugging Face, Weights & Biases, OpenAI and alike, GitHub, AWS.
VALUE = re.compile(
    r"\b(hf_[A-Za-z0-9]{16,}|wandb_v\d_[A-Za-z0-9_]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|AKIA[A-Z0-9]{16})"
)
SHORTEST = 8  # characters; shorter values of such names are settings and would strike out ordinary words


def _known() -> list[str]:
    """Values of the environment that are secrets by their name, longest first."""
    found = {value for name, value in os.environ.items() if NAME.search(name) and len(value) >= SHORTEST}
    return sorted(found, key=len, reverse=True)


def redact(text: str) -> str:
    """The text without secrets.

    >>> redact("using hf_abcdefghijklmnopqrstuvwx now")
    'using [secret] now'
    """
    for value in _known():
        text = text.replace(value, STRUCK_OUT)
    return VALUE.sub(STRUCK_OUT, text)


def redacted(node: Any, name: str = "") -> Any:
    """Plain containers without secrets, by the names and by the values.

    >>> redacted({"wandb": {"api_key": "0123456789", "project": "daclip"}})
    {'wandb': {'api_key': '[secret]', 'project': 'daclip'}}
    """
    if isinstance(node, Mapping):
        return {key: redacted(value, str(key)) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [redacted(value, name) for value in node]
    if isinstance(node, str):
        return STRUCK_OUT if node and NAME.search(name) and not node.startswith("${") else redact(node)
    return node


class _Filter(logging.Filter):
    """Strikes secrets out of log records."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        clean = redact(message)
        if clean != message:
            record.msg, record.args = clean, ()
        return True


def hide_secrets(run_folder: str | Path) -> None:
    """Keep secrets out of this run's log, and strike them out of what Hydra has written about its configuration."""
    for handler in logging.getLogger().handlers:
        if not any(isinstance(known, _Filter) for known in handler.filters):
            handler.addFilter(_Filter())
    for path in Path(run_folder, ".hydra").glob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        clean = re.sub(
            r"^(\s*)([\w.-]+):[ \t]+(\S.*)$",
            lambda found: (
                found[0]
                if not NAME.search(found[2]) or found[3] in ("null", "''") or found[3].startswith("${")
                else f"{found[1]}{found[2]}: '{STRUCK_OUT}'"
            ),
            redact(text),
            flags=re.MULTILINE,
        )
        if clean != text:
            path.write_text(clean, encoding="utf-8")


PACKAGES = (
    "daclip",
    "torch",
    "torchvision",
    "lightning",
    "hydra-core",
    "open_clip_torch",
    "kornia",
    "torchmetrics",
    "omegaconf",
    "numpy",
    "pillow",
    "scikit-image",
    "safetensors",
    "datasets",
    "wandb",
)


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def provenance(
    seed: int,
    command: list[str],
    seconds: Mapping[str, float],
    config: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    run_folder: Path | None = None,
) -> dict[str, Any]:
    """Versions, commit, hardware, seed and timings of a run.

    Args:
        seed: The run's seed.
        command: The command line.
        seconds: Named durations.
        config: The resolved configuration, where no file beside the record holds it.
        data: Fingerprint of the photos.
        run_folder: What the configuration's paths into the run's own folder begin with.
    """
    status = _git("status", "--porcelain")
    facts = {"run_folder": None if run_folder is None else str(run_folder), "data": data, "config": config}
    return {
        "command": command,
        "seed": seed,
        "seconds": dict(seconds),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "hardware": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
        **{name: value for name, value in facts.items() if value is not None},
    }
