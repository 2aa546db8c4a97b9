"""Which checkpoint a run goes on from."""

from pathlib import Path

from daclip.errors import DaclipError
from daclip.reliability.checkpoint_io import SUFFIX, newest_complete

__all__ = ["checkpoint_to_resume", "keep_logs"]

FOLDER = "checkpoints"


def checkpoint_to_resume(resume: str | None, output: str | Path, run_folder: str | Path) -> Path | None:
    """The training state to go on from; None begins anew.

    Args:
        resume: A checkpoint file; `last`, the newest complete state of all runs below `output`; or `auto`, that of
            this very run folder where there is one, which a job that is queued again needs.
        output: Folder of the stage's runs.
        run_folder: Folder of this run.

    Raises:
        DaclipError: There is no such file, or with `last` no complete checkpoint.
    """
    if resume is None:
        return None
    if resume == "auto":
        return newest_complete(Path(run_folder, FOLDER).glob(f"*{SUFFIX}"))
    if resume != "last":
        path = Path(resume)
        if not path.is_file():
            raise DaclipError(f"resume={path}: no such checkpoint file")
        return path
    found = list(Path(output).glob(f"*/{FOLDER}/*{SUFFIX}"))
    if not found:
        raise DaclipError(f"resume=last: no run below {output} has a checkpoint yet")
    newest = newest_complete(found)
    if newest is None:
        raise DaclipError(f"resume=last: none of the {len(found)} checkpoints below {output} is complete; train anew")
    return newest


def keep_logs(run_folder: str | Path) -> None:
    """Set the curves of a run that goes on in its own folder aside, because a new logger begins its file anew."""
    path = Path(run_folder, "logs", "metrics.csv")
    if path.is_file():
        earlier = len(list(path.parent.glob("metrics_*.csv")))
        path.rename(path.with_name(f"metrics_{earlier + 1}.csv"))
