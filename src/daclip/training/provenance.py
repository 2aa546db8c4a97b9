"""Provenance of a run (versions, commit, hardware, timings) and the removal of keys and tokens from all records."""

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
import yaml

from daclip.files import write_text
from daclip.trust import YAML_LOADER

STRUCK_OUT = "[secret]"
SHORTEST = 8  # characters of a value in the environment; shorter ones would strike out ordinary words
# Ends of names of secrets: api_key, hf_token, WANDB_API_KEY, AWS_SECRET_ACCESS_KEY.
SECRET = r"(?:api_?key|access_?key|secret|token|password|passwd|credentials?)"
NAME = re.compile(rf"(?:^|[._-]){SECRET}$", re.IGNORECASE)
ASSIGNMENT = re.compile(rf"\b((?:[\w.-]*[._-])?{SECRET})=(?!\$)[^\s,]+", re.IGNORECASE)
# Formats of well-known services: Hugging Face, Weights & Biases, OpenAI and alike, GitHub, AWS.
VALUE = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|wandb_v\d_\w{16,}|sk-[\w-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|AKIA[A-Z0-9]{16})"
)


def redact(text: str) -> str:
    """The text without secrets.

    >>> redact("using hf_abcdefghijklmnopqrstuvwx with logger.wandb.api_key=1234 now")
    'using [secret] with logger.wandb.api_key=[secret] now'
    """
    secrets = [v for name, v in os.environ.items() if NAME.search(name) and len(v) >= SHORTEST]
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, STRUCK_OUT)
    return VALUE.sub(STRUCK_OUT, ASSIGNMENT.sub(rf"\1={STRUCK_OUT}", text))


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
        named = NAME.search(name) and node and not node.startswith("${")
        return STRUCK_OUT if named else redact(node)
    return node


def _without_secrets(record: logging.LogRecord) -> bool:
    record.msg, record.args = redact(record.getMessage()), ()
    return True


def hide_secrets(run_folder: str | Path) -> None:
    """Keep secrets out of this run's log and of what Hydra has written about its configuration."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(_without_secrets)  # a second time changes nothing
    for path in Path(run_folder, ".hydra").glob("*.yaml"):
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=YAML_LOADER)
        clean = redacted(content)
        if clean != content:
            write_text(path, yaml.safe_dump(clean, sort_keys=False, allow_unicode=True, width=1000))


PACKAGES = (
    "daclip", "torch", "torchvision", "lightning", "hydra-core", "open_clip_torch", "kornia", "torchmetrics",
    "omegaconf", "numpy", "pillow", "scikit-image", "safetensors", "datasets", "wandb",
)  # fmt: skip


def _git(*arguments: str) -> str | None:
    command = ["git", *arguments]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=10
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
    """Versions, commit, hardware, seed and timings (named `seconds`) of a run, without secrets. `config` is the
    resolved configuration where no file beside the record holds it, `data` the fingerprint of the photos; `run_folder`
    how the configuration's paths into the run's folder begin."""
    status = _git("status", "--porcelain")
    facts = {"run_folder": None if run_folder is None else str(run_folder), "data": data, "config": config}
    record: dict[str, Any] = redacted(
        {
            "command": command,
            "seed": seed,
            "seconds": seconds,
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
    )
    return record
