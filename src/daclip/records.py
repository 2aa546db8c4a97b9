"""What a run writes about itself."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from daclip.errors import DaclipError

__all__ = ["provenance", "write_json", "write_text"]

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


def write_text(path: str | Path, text: str) -> None:
    """Write a text file so that a reader sees the whole file or the old one.

    Raises:
        DaclipError: The disk is full or the folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        reason = error.strerror or error
        raise DaclipError(f"{path}: cannot be written ({reason}); free space or fix the folder") from None


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON; content that is no JSON leaves nothing behind."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


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
