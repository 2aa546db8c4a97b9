"""A job of a sweep: what it is worth, and how it goes on where an interrupted sweep stopped."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from daclip.build import resolved
from daclip.checkpoints import read_metrics
from daclip.records import write_text
from daclip.reliability.resume import checkpoint_to_resume

__all__ = ["continue_job", "objective"]

log = logging.getLogger("daclip.jobs")

JOB = "job.yaml"  # the configuration that a job's folder belongs to


def objective(metrics: Mapping[str, Any]) -> float:
    """What a sweep maximises: stage 1's accuracy, stage 2's mean PSNR."""
    return float(metrics["degradation_accuracy"] if "degradation_accuracy" in metrics else metrics["mean"]["psnr"])


def continue_job(cfg: DictConfig, run_folder: Path) -> tuple[DictConfig, dict[str, Any] | None]:
    """What is left to do of a job whose folder may hold an earlier attempt.

    An attempt counts only if its configuration was the same; otherwise the job starts anew.

    Args:
        cfg: The job's configuration, validated.
        run_folder: The job's folder.

    Returns:
        The configuration, with `resume` set where a checkpoint is there; and the scores, if the job is finished.
    """
    text = yaml.safe_dump(resolved(cfg), sort_keys=True, allow_unicode=True)
    job = run_folder / JOB
    if job.is_file() and job.read_text(encoding="utf-8") == text:
        if (run_folder / "artifact" / "record.json").is_file():
            log.info("finished before: %s", run_folder)
            return cfg, read_metrics(run_folder / "artifact")
        checkpoint = checkpoint_to_resume("auto", cfg.output, run_folder)
        if checkpoint is not None and cfg.resume is None:
            log.info("goes on from %s", checkpoint)
            resumed = OmegaConf.merge(cfg, {"resume": str(checkpoint)})
            assert isinstance(resumed, DictConfig)
            return resumed, None
    write_text(job, text)
    return cfg, None
