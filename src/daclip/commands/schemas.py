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
class RestoreConfig:
    """Top level of `restore.yaml`."""

    input: Any = None
    output: str = MISSING
    artifact: str | None = None
    sampler: dict[str, Any] | None = None
    steps: int | None = None
    classes: Any = None
    strength: float = MISSING
    samples: int = MISSING
    mask: str | None = None
    dry_run: bool = MISSING
    overwrite: bool = MISSING
    recursive: bool = MISSING
    format: str | None = None
    summary: str | None = None
    max_memory: float = MISSING
    tile: int | None = None
    overlap: int = MISSING
    batch_size: int | None = None
    precision: str = MISSING
    device: str = MISSING
    seed: int = MISSING


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
class BenchmarkConfig:
    """Top level of `benchmark.yaml`."""

    output: str = MISSING
    repeats: int = MISSING
    vit: list[str] = field(default_factory=list)
    stage_1: list[str] = field(default_factory=list)
    restorer: list[str] = field(default_factory=list)
    stage_2: list[str] = field(default_factory=list)
    samples: int = MISSING
    photos: int = MISSING
    steps: int = MISSING
    sides: list[int] = MISSING


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
class DatasetConfig:
    """Top level of `dataset.yaml`."""

    source: str | None = None
    output: str = MISSING
    overwrite: bool = MISSING
    captioner: dict[str, Any] = field(default_factory=dict)
    validation: float = MISSING
    source_name: str | None = None
    license: str = MISSING
    attribution: str | None = None
    skip_unreadable: bool = MISSING
    cache: str = MISSING
    num_workers: int = MISSING
    shard_megabytes: float = MISSING
    push_to_hub: str | None = None
    private: bool = MISSING


@dataclass
class CheckDatasetConfig:
    """Top level of `check_dataset.yaml`."""

    source: str | None = None
    report: str = MISSING
    smallest_side: int = MISSING
    validation: float = MISSING
    captions: str = MISSING
    captioner: dict[str, Any] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    cache: str = MISSING
    num_workers: int = MISSING


@dataclass
class ExportConfig:
    """Top level of `export.yaml`."""

    artifact: str | None = None
    format: str = MISSING
    output: str = MISSING
    overwrite: bool = MISSING
    tolerance: float = MISSING


@dataclass
class AppConfig:
    """Top level of `app.yaml`."""

    artifact: str | None = None
    host: str = MISSING
    port: int = MISSING
    max_upload_mb: int = MISSING
    max_megapixels: float = MISSING
    max_files: int = MISSING
    max_samples: int = MISSING
    max_steps: int = MISSING
    max_words: int = MISSING
    queue: int = MISSING
    max_memory: float = MISSING
    precision: str = MISSING
    device: str = MISSING
    seed: int = MISSING


@dataclass
class ImportDaclipConfig:
    """Top level of `import_daclip.yaml`."""

    checkpoint: str | None = None
    output: str = MISSING
    overwrite: bool = MISSING
    clip: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    degradation: dict[str, Any] = field(default_factory=dict)
    seed: int = MISSING


@dataclass
class ExportDaclipConfig:
    """Top level of `export_daclip.yaml`."""

    artifact: str | None = None
    output: str | None = None
    overwrite: bool = MISSING


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
class ImportRestorerConfig:
    """Top level of `import_restorer.yaml`."""

    ckpt: str | None = None
    daclip: str | None = None
    variant: str = MISSING
    output: str = MISSING
    name: str = MISSING
    overwrite: bool = MISSING
    seed: int = MISSING
    stage: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    degradation: dict[str, Any] = field(default_factory=dict)
    clip: dict[str, Any] = field(default_factory=dict)
    backbone: dict[str, Any] = field(default_factory=dict)
    process: dict[str, Any] = field(default_factory=dict)
    sampler: dict[str, Any] = field(default_factory=dict)


@dataclass
class ExportRestorerConfig:
    """Top level of `export_restorer.yaml`."""

    artifact: str | None = None
    output: str | None = None
    overwrite: bool = MISSING


@dataclass
class SweepConfig:
    """Top level of `sweep.yaml`."""

    sweep: dict[str, Any] | None = None
    output: str = MISSING
    launcher: str | None = None
    launcher_options: dict[str, Any] = field(default_factory=dict)
    job: dict[str, Any] = field(default_factory=dict)


@dataclass
class ReportConfig:
    """Top level of `report.yaml`."""

    runs: list[str] = field(default_factory=list)
    output: str = MISSING
    title: str = MISSING
    pictures: int = MISSING
    zoom: int = MISSING
    draws: int = MISSING
    confidence: float = MISSING
    seed: int = MISSING


@dataclass
class DashboardConfig:
    """Top level of `dashboard.yaml`."""

    entity: str | None = None
    project: str = MISSING
    name: str = MISSING
    output: str = MISSING
