"""What the top level of each primary configuration may hold; `daclip.config.validated` checks against it."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class SamplerReportConfig:
    """Top level of `sampler_report.yaml`."""

    artifact: str | None = None
    output: str = MISSING
    paths: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] | None = None
    degradation: dict[str, Any] | None = None
    metric: dict[str, Any] = field(default_factory=dict)
    samplers: list[str] | None = None
    grids: list[str] = MISSING
    options: dict[str, Any] = field(default_factory=dict)
    nfe: list[int] = MISSING
    reference: dict[str, Any] = field(default_factory=dict)
    few: int = MISSING
    margin: dict[str, float] = field(default_factory=dict)
    correct_epsilon_shift: bool | None = None
    photos: int | None = None
    batch_size: int = MISSING
    precision: str = MISSING
    device: str = MISSING
    seed: int = MISSING
