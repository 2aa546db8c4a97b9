"""What the top level of each primary configuration may hold; `daclip.config.validated` checks against it."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class TrainConfig:
    """Top level of `train_daclip.yaml` and `train_restorer.yaml`; a key that is not here is refused."""

    seed: int = MISSING
    output: str = MISSING
    monitor: str = MISSING
    resume: str | None = None
    daclip: str | None = None
    stage: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    degradation: dict[str, Any] = field(default_factory=dict)
    clip: dict[str, Any] = field(default_factory=dict)
    backbone: dict[str, Any] = field(default_factory=dict)
    process: dict[str, Any] = field(default_factory=dict)
    sampler: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)
    init: str | None = None


@dataclass
class EvaluateConfig:
    """Top level of `evaluate.yaml`."""

    artifact: str | None = None
    output: str = MISSING
    data: dict[str, Any] | None = None
    degradation: dict[str, Any] | None = None
    sampler: dict[str, Any] | None = None
    batch_size: int = MISSING
    precision: str = MISSING
    device: str = MISSING
    seed: int = MISSING
    pred: str | None = None
    gt: str | None = None
    lq: str | None = None
    protocol: dict[str, Any] = field(default_factory=dict)
    metric: dict[str, Any] = field(default_factory=dict)
    bootstrap: dict[str, Any] = field(default_factory=dict)
    pictures: int = MISSING


@dataclass
class SheetConfig:
    """Top level of `degradations.yaml`."""

    output: str = MISSING
    size: int = MISSING
    severities: list[float] = MISSING
    photos: dict[str, Any] = field(default_factory=dict)
    degradation: dict[str, Any] = field(default_factory=dict)
    seed: int = MISSING


@dataclass
class SamplerReportConfig:
    """Top level of `sampler_report.yaml`."""

    artifact: str | None = None
    output: str = MISSING
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


@dataclass
class EvaluateDaclipConfig:
    """Top level of `evaluate_daclip.yaml`."""

    artifact: str | None = None
    output: str = MISSING
    data: dict[str, Any] | None = None
    degradation: dict[str, Any] | None = None
    templates: list[str] = MISSING
    bins: int = MISSING
    batch_size: int = MISSING
    precision: str = MISSING
    device: str = MISSING
    seed: int = MISSING


@dataclass
class SweepConfig:
    """Top level of `sweep.yaml`."""

    sweep: dict[str, Any] | None = None
    output: str = MISSING
    launcher: str | None = None
    launcher_options: dict[str, Any] = field(default_factory=dict)
    job: dict[str, Any] = field(default_factory=dict)
