"""The functions behind the page's buttons."""

import html
import json
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from daclip.app.service import Service, Settings, shown
from daclip.app.work import Watched, progress_bar
from daclip.errors import DaclipError
from daclip.restoring.batch import Outcome
from daclip.restoring.restorer import Stopped

Update = dict[Any, Any]
"""New values of the page's parts."""


@dataclass(frozen=True)
class Parts:
    """The components of the page that change."""

    restore: gr.Button  # starts with one photo
    stop: gr.Button  # stops it
    status: gr.HTML  # progress, remarks and errors
    slider: gr.ImageSlider  # the photo before and after
    divider: gr.Slider  # moves what divides them
    bars: gr.Label  # recognised degradations
    gallery: gr.Gallery  # several samples and their differences
    files: gr.File  # results in full size
    mask: gr.File  # the upload of the photo's missing parts
    restore_all: gr.Button  # starts with several photos
    stop_all: gr.Button  # stops them
    batch_status: gr.HTML  # progress of several photos
    table: gr.HTML  # the outcome of each photo
    archive: gr.DownloadButton  # all results as a zip


def _message(text: str) -> str:
    return f'<div role="status">{html.escape(text)}</div>'


class Handlers:
    """The functions behind the page's buttons."""

    def __init__(self, service: Service, parts: Parts):
        self.service = service
        self.parts = parts
        self._stops: dict[str, threading.Event] = {}

    def look(self, photo: str | None) -> Update:
        """Show an uploaded photo with what is recognised."""
        parts = self.parts
        cleared = {
            parts.slider: None,
            parts.divider: gr.Slider(visible=False),
            parts.bars: None,
            parts.gallery: gr.Gallery(value=None, visible=False),
            parts.files: gr.File(value=None, visible=False),
            parts.mask: None,  # of another photo
            parts.status: "",
            parts.restore: gr.Button(interactive=False),
        }
        if photo is None:
            return cleared
        try:
            look = self.service.look(Path(photo))
        except DaclipError as error:
            gr.Warning(html.escape(str(error)))
            return {**cleared, parts.status: _message(str(error))}
        text = " · ".join((f"{Path(photo).name}: {look.size[0]} × {look.size[1]} pixels", *look.notes))
        return {
            **cleared,
            parts.slider: (look.shown, look.shown),
            parts.bars: look.probabilities,
            parts.status: _message(text),
            parts.restore: gr.Button(interactive=True),
        }

    def begin(self, request: gr.Request) -> Update:
        """Let the page stop what now begins."""
        self._stops[str(request.session_hash)] = threading.Event()
        return {self.parts.restore: gr.Button(interactive=False), self.parts.stop: gr.Button(interactive=True)}

    def ready(self, photo: str | None) -> Update:
        """Let the page begin again: this follows on every end, also on one that Gradio itself has made."""
        return {
            self.parts.restore: gr.Button(interactive=photo is not None),
            self.parts.stop: gr.Button(interactive=False),
        }

    def ready_all(self) -> Update:
        """As `ready`, for the batch."""
        return {self.parts.restore_all: gr.Button(interactive=True), self.parts.stop_all: gr.Button(interactive=False)}

    def stop(self, request: gr.Request) -> str:
        """Stop what this visitor has begun."""
        if event := self._stops.get(str(request.session_hash)):
            event.set()
        return _message("stopping …")

    def restore(
        self,
        photo: str | None,
        mask: str | None,
        classes: str | None,
        strength: float,
        samples: float,
        sampler: str,
        steps: float,
        seed: float,
        instruction: str | None,
        request: gr.Request,
    ) -> Iterator[Update]:
        """Restore one photo and tell how far it is."""
        parts = self.parts
        if photo is None:
            yield {parts.status: _message("choose a photo first")}
            return
        with tempfile.TemporaryDirectory(prefix="daclip-") as folder:
            try:
                chosen = _settings(classes, strength, samples, sampler, steps, seed, instruction)
                with self._watched(Path(photo), chosen, Path(folder), mask) as work:
                    for share in work.shares():
                        if self._stopped(request):
                            work.stop()
                        yield {parts.status: progress_bar(Path(photo).name, share, work.seconds, work.before)}
                outcome = work.result()
            except Stopped:
                failure: str | None = "stopped"
            except DaclipError as error:
                failure = str(error)
            else:
                failure = outcome.error
            if failure is not None:
                yield {parts.status: _message(failure)}
                return
            paths = [Path(path) for path in outcome.results]
            paths = [*paths[-1:], *paths[:-1]]
            titles = ["restored", *(f"sample {i}" for i in range(2, chosen.samples + 1)), "uncertainty"]
            captioned = [*zip(map(shown, paths), titles, strict=True)] if len(paths) > 1 else None
            remarks = (f"done in {outcome.seconds:.1f} s", *outcome.changes, *outcome.notes)
            yield {
                parts.slider: gr.ImageSlider(value=(shown(Path(photo)), shown(paths[0])), slider_position=50),
                parts.divider: gr.Slider(value=50, visible=True),
                parts.bars: outcome.probabilities,
                parts.gallery: gr.Gallery(value=captioned, visible=captioned is not None),
                parts.files: gr.File(value=[*map(str, paths)], visible=True),
                parts.status: _message(" · ".join(remarks)),
            }

    def restore_all(
        self,
        photos: Sequence[str] | None,
        classes: str | None,
        strength: float,
        samples: float,
        sampler: str,
        steps: float,
        seed: float,
        instruction: str | None,
        request: gr.Request,
    ) -> Iterator[Update]:
        """Restore several photos into a zip; a photo that fails costs only itself."""
        parts = self.parts
        most = self.service.limits.files
        if not photos or len(photos) > most:
            text = "choose photos first" if not photos else f"{len(photos)} photos; here at most {most} at a time"
            yield {parts.batch_status: _message(text)}
            return
        started = time.monotonic()
        outcomes: list[Outcome] = []
        with tempfile.TemporaryDirectory(prefix="daclip-") as folder:
            try:
                chosen = _settings(classes, strength, samples, sampler, steps, seed, instruction)
                for number, photo in enumerate(photos):
                    with self._watched(Path(photo), chosen, Path(folder) / f"{number}") as work:
                        for share in work.shares():
                            if self._stopped(request):
                                work.stop()
                            what, whole = f"photo {number + 1} of {len(photos)}", (number + share) / len(photos)
                            worked = work.seconds + sum(outcome.seconds or 0 for outcome in outcomes)
                            bar = progress_bar(what, whole, worked, work.before)
                            yield {parts.batch_status: bar, parts.table: _table(outcomes)}
                    outcomes.append(work.result())
                text = f"{_count(outcomes)} in {time.monotonic() - started:.1f} s"
            except Stopped:
                text = f"stopped: {_count(outcomes)}"
            except DaclipError as error:
                text = str(error)
            archive = Path(folder) / "restored.zip"
            _zip(outcomes, archive)
            button = gr.DownloadButton(value=str(archive), interactive=any(outcome.results for outcome in outcomes))
            yield {parts.table: _table(outcomes), parts.archive: button, parts.batch_status: _message(text)}

    def begin_all(self, request: gr.Request) -> Update:
        """As `begin`, for the batch."""
        self.begin(request)
        return {self.parts.restore_all: gr.Button(interactive=False), self.parts.stop_all: gr.Button(interactive=True)}

    def classify_for_programs(self, photo: str) -> dict[str, float]:
        """Classes of a photo with probabilities, most likely first."""
        try:
            return self.service.look(Path(photo)).probabilities
        except DaclipError as error:
            raise gr.Error(str(error), print_exception=False) from None

    def restore_for_programs(
        self,
        photo: str,
        degradation: str = "",
        strength: float = 1.0,
        samples: float = 1,
        sampler: str = "as trained",
        steps: float = 0,
        seed: float = 0,
        mask: str | None = None,
        instruction: str = "",
    ) -> Iterator[tuple[list[str] | None, dict[str, Any]]]:
        """Restore a photo: yields no files and the finished share until its files (restoration first) and report."""
        with tempfile.TemporaryDirectory(prefix="daclip-") as folder:
            try:
                chosen = _settings(degradation, strength, samples, sampler, steps, seed, instruction)
                with self._watched(Path(photo), chosen, Path(folder), mask) as work:
                    for share in work.shares():
                        yield None, {"progress": round(share, 3)}
                outcome = work.result()
            except DaclipError as error:
                raise gr.Error(str(error), print_exception=False) from None
            if outcome.error is not None:
                raise gr.Error(outcome.error, print_exception=False)
            report = json.loads(outcome.line())
            files = [*outcome.results[-1:], *outcome.results[:-1]]
            report["results"] = [Path(path).name for path in files]
            yield files, report

    def _watched(self, photo: Path, settings: Settings, folder: Path, mask: str | None = None) -> Watched[Outcome]:
        def run(on_progress: Callable[[float], None]) -> Outcome:
            return self.service.restore(photo, settings, folder, on_progress, Path(mask) if mask else None)

        return Watched(run, self.service.turns)

    def _stopped(self, request: gr.Request) -> bool:
        event = self._stops.get(str(request.session_hash))
        return event is not None and event.is_set()

    def forget(self, request: gr.Request) -> None:
        """Stop what a visitor who has left has begun."""
        self.stop(request)
        self._stops.pop(str(request.session_hash), None)


def _settings(
    classes: str | None,
    strength: float | None,
    samples: float | None,
    sampler: str,
    steps: float | None,
    seed: float | None,
    instruction: str | None,
) -> Settings:
    """The choices of the page; one whose field is empty is as it is at the beginning."""
    numbers = (int(samples or 1), sampler, int(steps or 0), int(seed or 0))
    return Settings(classes or "", 1.0 if strength is None else strength, *numbers, instruction or "")


def _count(outcomes: Sequence[Outcome]) -> str:
    done = sum(outcome.status == "restored" for outcome in outcomes)
    return f"{done} of {len(outcomes)} photos restored"


def _table(outcomes: Sequence[Outcome]) -> str:
    """A row for each photo, as an HTML table whose texts wrap on a phone."""
    rows = []
    for outcome in outcomes:
        found = ", ".join(f"{class_name} {share:.0%}" for class_name, share in list(outcome.probabilities.items())[:2])
        text = outcome.error or " · ".join((outcome.status, found, *outcome.changes, *outcome.notes))
        cells = (outcome.photo, text.removeprefix(f"{outcome.photo}: "))
        style = "text-align: left; vertical-align: top; padding: 0.3em; min-width: 7em; overflow-wrap: anywhere"
        rows.append("".join(f'<td style="{style}">{html.escape(cell)}</td>' for cell in cells))
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>" if rows else ""


def _zip(outcomes: Sequence[Outcome], path: Path) -> None:
    """All results, and a line for each photo; names that occur twice are numbered."""
    taken: set[str] = set()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for outcome in outcomes:
            names = []
            for result in map(Path, outcome.results):
                name, number = result.name, 2
                while name.lower() in taken:
                    name, number = f"{result.stem}-{number}{result.suffix}", number + 1
                taken.add(name.lower())
                archive.write(result, name)
                names.append(name)
            outcome.results = names
        archive.writestr("summary.jsonl", "".join(outcome.line() + "\n" for outcome in outcomes))
