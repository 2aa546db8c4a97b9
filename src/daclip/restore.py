"""Restore photos: `python -m daclip.restore input=FILE_OR_FOLDER output=FOLDER`."""

from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.progress import Progress

from daclip.build import make
from daclip.checkpoints import find_artifact
from daclip.config import RestoreConfig, run_entry, validated
from daclip.data.photos import find_images, load_image, save_image
from daclip.errors import DaclipError
from daclip.pipeline import Restorer

__all__ = ["main", "plan", "restore"]


def plan(source: Path, output: Path) -> dict[Path, Path]:
    """Which file is written for which photo; names and subfolders are kept.

    Raises:
        DaclipError: The input is missing, holds no images, or a photo would be overwritten by its result.
    """
    if source.is_file():
        photos = {source: output / source.name}
    elif source.is_dir():
        results = output.resolve()
        found = [path for path in find_images(source) if not path.resolve().is_relative_to(results)]
        photos = {path: output / path.relative_to(source) for path in found}
        if source.resolve() == results:
            raise DaclipError(f"output={output} is the input folder; choose another, your photos would be lost")
    else:
        raise DaclipError(f"input={source}: no such file or folder; check the path")
    for photo, result in photos.items():
        if photo.resolve() == result.resolve():
            raise DaclipError(f"{photo} would be overwritten by its result; choose another output folder")
    return photos


def restore(cfg: DictConfig) -> dict[Path, str]:
    """Restore every photo of the input.

    A photo that cannot be read is reported and the others are still restored.

    Returns:
        Each written file with the degradation that was recognised.

    Raises:
        DaclipError: Nothing to do, or some photos failed.
    """
    if cfg.input is None:
        raise DaclipError("give a photo or a folder, as in input=photo.png (make restore INPUT=photo.png)")
    photos = plan(Path(cfg.input), Path(cfg.output))
    folder = find_artifact(cfg.artifact, "outputs/restorer", "make train-restorer")
    restorer = Restorer(folder, make(cfg.sampler) if cfg.sampler else None, cfg.device, cfg.precision, cfg.seed)
    console = Console(soft_wrap=True)
    done: dict[Path, str] = {}
    failed: list[str] = []
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("restoring", total=len(photos))
        for source, target in photos.items():
            try:
                restored = restorer.restore(load_image(source)[None])
                save_image(restored.images[0], target)
            except DaclipError as error:
                failed.append(str(error))
                progress.console.print(f"[red]{error}[/red]")
            else:
                (best, share), *_ = restored.probabilities[0].items()
                done[target] = best
                progress.console.print(f"{source} → {target}  {best} ({share:.0%})")
            progress.advance(bar)
    if failed:
        hint = failed[0] if len(photos) == 1 else "see the lines above"
        raise DaclipError(f"{len(failed)} of {len(photos)} photos could not be restored: {hint}")
    return done


def main() -> None:
    """Entry point."""
    run_entry(lambda cfg: restore(validated(cfg, RestoreConfig)), "restore")


if __name__ == "__main__":
    main()
