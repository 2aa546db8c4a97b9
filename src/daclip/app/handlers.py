"""The functions behind the page's buttons."""

import html
import json
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from daclip.app.service import Service, Settings, Watched, pack, painted, preview, shown
from daclip.decoding import read_photo
from daclip.errors import DaclipError
from daclip.restoring.batch import Outcome
from daclip.restoring.restorer import Stopped

# Longest sides of what is painted on, and of the pictures of the gallery.
PAINTED, SMALL = 1024, 480

Files = Sequence[str] | None
Editor = Mapping[str, Any] | None
Update = dict[Any, Any]
"""New values of the page's parts."""


@dataclass(frozen=True)
class Parts:
    """The components of the page that change."""

    photos: gr.File  # the upload
    examples: gr.Gallery  # photos to try
    restore: gr.Button
    stop: gr.Button
    status: gr.HTML  # progress, remarks and errors
    slider: gr.ImageSlider  # the photo before and after
    divider: gr.Slider  # moves what divides them
    bars: gr.Label  # recognised degradations
    download: gr.DownloadButton  # the result, or all as a zip
    table: gr.HTML  # what came of each of several photos
    gallery: gr.Gallery  # several results
    files: gr.File  # the same as files
    sources: gr.State  # the photo of each result that is shown, as a path
    brush: gr.Accordion  # holds the editor
    editor: gr.ImageEditor  # the photo, to be painted on


@dataclass
class Visit:
    """What a visitor has under way."""

    stop: threading.Event
    running: int = 0
    chosen: Settings | None = None  # for the latest


def _message(text: str) -> str:
    return f'<div role="status">{html.escape(text)}</div>'


def _progress_bar(what: str, share: float, seconds: float, before: int) -> str:
    """A progress bar with the time left after so many seconds of work, or the place in the queue, as HTML that screen
    readers announce."""
    if before:
        left = f"waiting: {before} before you"
    else:
        left = f"about {seconds * (1 - share) / share:.0f} s left" if share > 0 else "working"
    value = "" if before or not share else f' value="{share:.3f}"'
    return (
        f'<div role="status"><label>{html.escape(what)} · {left}<br>'
        f'<progress max="1"{value} style="width: 100%"></progress></label></div>'
    )


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


def _refused(reason: object) -> gr.Error:
    """The error that a program gets."""
    return gr.Error(str(reason), print_exception=False)


class Handlers:
    """The functions behind the page's buttons."""

    def __init__(self, service: Service, parts: Parts, examples: Sequence[str] = ()):
        self.service = service
        self.parts = parts
        self.examples = examples
        self._visits: dict[str, Visit] = {}

    def example(self, chosen: gr.SelectData) -> list[str]:
        """Take an example as the upload."""
        return [self.examples[chosen.index]]

    def look(self, photos: Files) -> Iterator[Update]:
        """Show uploaded photos with what is recognised."""
        parts = self.parts
        yield {
            parts.examples: gr.Gallery(visible=not photos and bool(self.examples)),
            parts.slider: gr.ImageSlider(value=None, visible=False),
            parts.bars: gr.Label(value=None, visible=False),
            parts.brush: gr.Accordion(open=False, visible=photos is not None and len(photos) == 1),
            parts.editor: None,  # of another photo
            parts.divider: gr.Slider(visible=False),
            parts.download: gr.DownloadButton(visible=False),
            parts.table: "",
            parts.gallery: gr.Gallery(value=None, visible=False),
            parts.files: gr.File(value=None, visible=False),
            parts.sources: [],
            parts.status: "",
            parts.restore: gr.Button(interactive=False),
        }
        if not photos:
            return
        if len(photos) > self.service.limits.files:
            yield {parts.status: _message(self._too_many(photos))}
        elif len(photos) == 1:
            yield self._look_at(Path(photos[0]))
        else:
            outcomes: list[Outcome] = []
            for photo in map(Path, photos):
                outcomes.append(self.service.look(photo))
                text = _message(f"{len(photos)} photos, {len(outcomes)} looked at")
                yield {parts.table: _table(outcomes), parts.status: text, parts.restore: gr.Button(interactive=True)}

    def _look_at(self, photo: Path) -> Update:
        parts = self.parts
        seen = self.service.look(photo)
        if seen.error is not None:
            return {parts.status: _message(seen.error), parts.brush: gr.Accordion(visible=False)}
        width, height = seen.size or (0, 0)
        text = " · ".join((f"{photo.name}: {width} × {height} pixels", *seen.notes))
        return {
            parts.slider: gr.ImageSlider(value=(shown(photo),) * 2, visible=True),
            parts.bars: gr.Label(value=seen.probabilities, visible=True),
            parts.status: _message(text),
            parts.restore: gr.Button(interactive=True),
        }

    def paint(self, photos: Files) -> Update:
        """Give the editor the photo."""
        background = preview(read_photo(photos[0]), PAINTED) if photos else None
        return {self.parts.editor: background and {"background": background, "layers": [], "composite": None}}

    def begin(self, request: gr.Request) -> Update:
        """Let the page stop what now begins; it ends what the visitor had begun before."""
        visit = self._visits.setdefault(str(request.session_hash), Visit(threading.Event()))
        visit.stop.set()
        visit.stop = threading.Event()
        visit.running += 1
        return {self.parts.restore: gr.Button(interactive=False), self.parts.stop: gr.Button(interactive=True)}

    def ready(self, photos: Files, request: gr.Request) -> Update:
        """Let the page begin again: this follows on every end, also on one that Gradio itself has made."""
        if visit := self._visits.get(str(request.session_hash)):
            visit.running -= 1
            if visit.running > 0:
                return {self.parts.stop: gr.skip()}
        return {
            self.parts.restore: gr.Button(interactive=bool(photos)),
            self.parts.stop: gr.Button(interactive=False),
        }

    def stop(self, request: gr.Request) -> str:
        """Stop what this visitor has begun."""
        if visit := self._visits.get(str(request.session_hash)):
            visit.stop.set()
        return _message("stopping …")

    def forget(self, request: gr.Request) -> None:
        """Stop what a visitor who has left has begun."""
        self.stop(request)
        self._visits.pop(str(request.session_hash), None)

    def again(
        self, request: gr.Request, photos: Files, sources: Sequence[str], editor: Editor, *choices: Any
    ) -> Iterator[Update]:
        """Restore a single photo whose result is shown once more, if a choice has changed since."""
        visit = self._visits.get(str(request.session_hash))
        if visit is None or not photos or len(photos) > 1 or not sources or visit.chosen == Settings.of(*choices):
            yield {self.parts.status: gr.skip()}
            return
        yield self.begin(request)
        try:
            yield from self.restore(request, photos, editor, *choices)
        finally:
            ready = self.ready(photos, request)
        yield ready

    def restore(self, request: gr.Request, photos: Files, editor: Editor, *choices: Any) -> Iterator[Update]:
        """Restore the photos and tell how far it is; one that fails costs only itself. What the visitor has begun
        later takes its place on the page."""
        parts = self.parts
        if not photos or len(photos) > self.service.limits.files:
            yield {parts.status: _message(self._too_many(photos) if photos else "choose a photo first")}
            return
        visit = self._visits.get(str(request.session_hash)) or Visit(threading.Event())
        stop = visit.stop
        outcomes: list[Outcome] = []
        end = None
        with tempfile.TemporaryDirectory(prefix="daclip-") as folder:
            try:
                chosen = visit.chosen = Settings.of(*choices)
                self.service.check(chosen)
                mask = painted(editor, Path(photos[0]), Path(folder)) if len(photos) == 1 else None
                for number, photo in enumerate(map(Path, photos)):
                    with self._work(photo, chosen, Path(folder) / f"{number}", mask) as work:
                        for share in work.shares():
                            if stop.is_set():
                                work.stop()
                            if visit.stop is not stop:
                                continue
                            what = photo.name if len(photos) == 1 else f"photo {number + 1} of {len(photos)}"
                            worked = work.seconds + sum(outcome.seconds or 0 for outcome in outcomes)
                            bar = _progress_bar(what, (number + share) / len(photos), worked, work.before)
                            yield {parts.status: bar}
                    outcomes.append(work.result())
                    if len(photos) > 1:
                        yield {parts.table: _table(outcomes)}
            except Stopped:
                end = "stopped"
            except DaclipError as error:
                end = str(error)
            if visit.stop is stop:
                yield self._results(photos, outcomes, end, Path(folder))

    def _results(self, photos: Sequence[str], outcomes: Sequence[Outcome], end: str | None, folder: Path) -> Update:
        """What came of the photos; `end` says what ended the work early."""
        parts = self.parts
        told = [end] if end else []
        if len(photos) > 1 and outcomes:
            done = sum(outcome.status == "restored" for outcome in outcomes)
            seconds = sum(outcome.seconds or 0 for outcome in outcomes)
            told.append(f"{done} of {len(outcomes)} photos restored in {seconds:.1f} s")
        elif outcomes:
            (outcome,) = outcomes
            told += [outcome.error or f"done in {outcome.seconds:.1f} s", *outcome.changes, *outcome.notes]
        update: Update = {parts.status: _message(" · ".join(told))}
        pairs = [(photo, path) for photo, outcome in zip(photos, outcomes, strict=False) for path in outcome.files]
        if len(photos) > 1:
            update[parts.table] = _table(outcomes)
        if not pairs:
            return update
        files = [path for _, path in pairs]
        if len(files) > 1:
            whole, label = str(pack(outcomes, folder / "restored.zip")), "Download all (zip)"
            small = [(preview(read_photo(path), SMALL), Path(path).name) for path in files]
            update[parts.gallery] = gr.Gallery(value=small, visible=True)
            update[parts.files] = gr.File(value=files, visible=True)
        else:
            whole, label = files[0], "Download"
        return {
            **update,
            parts.download: gr.DownloadButton(label, value=whole, visible=True),
            parts.sources: [photo for photo, _ in pairs],
            **self._compared(*pairs[0]),
            **({parts.bars: gr.Label(value=outcomes[0].probabilities)} if len(photos) == 1 else {}),
        }

    def compare(self, photos: Sequence[str], files: Files, chosen: gr.SelectData) -> Update:
        """Show a picture of the gallery against its photo."""
        if not files or not photos:
            return {self.parts.slider: gr.skip()}
        return self._compared(photos[chosen.index], files[chosen.index])

    def _compared(self, photo: str, result: str) -> Update:
        both = shown(Path(photo)), shown(Path(result))
        return {
            self.parts.slider: gr.ImageSlider(value=both, slider_position=50, visible=True),
            self.parts.divider: gr.Slider(value=50, visible=True),
        }

    def _too_many(self, photos: Sequence[str]) -> str:
        return f"{len(photos)} photos; here at most {self.service.limits.files} at a time"

    def classify_for_programs(self, photo: str) -> dict[str, float]:
        """Classes of a photo with probabilities, most likely first."""
        seen = self.service.look(Path(photo))
        if seen.error is not None:
            raise _refused(seen.error)
        return seen.probabilities

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
        passes: str = "1",
    ) -> Iterator[tuple[list[str] | None, dict[str, Any]]]:
        """Restore a photo: yields no files and the finished share until its files (restoration first) and report."""
        with tempfile.TemporaryDirectory(prefix="daclip-") as folder:
            try:
                chosen = Settings.of(degradation, strength, passes, samples, sampler, steps, seed, instruction)
                with self._work(Path(photo), chosen, Path(folder), Path(mask) if mask else None) as work:
                    for share in work.shares():
                        yield None, {"progress": round(share, 3), "before": work.before}
                outcome = work.result()
            except DaclipError as error:
                raise _refused(error) from None
            if outcome.error is not None:
                raise _refused(outcome.error)
            report = json.loads(outcome.line())
            report["results"] = [Path(path).name for path in outcome.files]
            yield outcome.files, report

    def _work(self, photo: Path, settings: Settings, folder: Path, mask: Path | None) -> Watched[Outcome]:
        return Watched(partial(self.service.restore, photo, settings, folder, mask=mask), self.service.turns)
