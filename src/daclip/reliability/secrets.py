"""Keys and tokens stay in the environment: refused on the command line, struck out of what is written."""

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["hide_secrets", "redact", "redacted"]

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
