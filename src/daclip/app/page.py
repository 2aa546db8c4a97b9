"""The page as Gradio components."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import gradio as gr

from daclip.app.handlers import Handlers, Parts
from daclip.app.service import AS_TRAINED, IN_TURN, ONCE, Service
from daclip.files import FORMATS

FILE_TYPES = ["image", *FORMATS]

TITLE = "# Restore photos\nDrop photos, see what is recognised, and let them be repaired as far as this model can."

# Options of the page's own events: Gradio would else publish them, and name the programs' endpoints something_1.
PRIVATE: dict[str, Any] = {"api_name": "page", "api_visibility": "private", "show_progress": "hidden"}

# How long, in seconds, results stay on the server for download.
KEPT = 3600


def build_page(service: Service, seed: int, examples: Mapping[str, str] | None = None) -> gr.Blocks:
    """The page as Gradio blocks, not yet served; `seed` is what its settings start with, `examples` are photos to try
    by their captions."""
    examples = examples or {}
    limits = service.limits
    with gr.Blocks(title="Restore photos", analytics_enabled=False, delete_cache=(600, KEPT)) as page:
        gr.Markdown(TITLE)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                photos = gr.File(
                    label=f"One photo, or up to {limits.files}", file_count="multiple", file_types=FILE_TYPES,
                    elem_id="photos", height=140,
                )  # fmt: skip
                with gr.Row():
                    restore = gr.Button("Restore", variant="primary", interactive=False, min_width=120)
                    stop = gr.Button("Stop", variant="stop", interactive=False, min_width=80)
                status = gr.HTML(elem_id="status")
                bars = gr.Label(
                    label="What is wrong with it", num_top_classes=4, show_heading=False, visible=False, elem_id="bars"
                )
                download = gr.DownloadButton("Download", variant="primary", visible=False, elem_id="download")
                table = gr.HTML(elem_id="table")
            with gr.Column(scale=3, min_width=300):
                tries = gr.Gallery(
                    [(path, word) for word, path in examples.items()], label="Or try one of these", columns=3,
                    allow_preview=False, interactive=False, visible=bool(examples), elem_id="examples", buttons=[],
                    height="auto", object_fit="cover",
                )  # fmt: skip
                slider = gr.ImageSlider(
                    label="Before and after", type="filepath", format="png", interactive=False, max_height=560,
                    buttons=["fullscreen"], visible=False, elem_id="slider",
                )  # fmt: skip
                # The picture's own divider takes no keys.
                divider = gr.Slider(0, 100, 50, step=1, label="Divider", visible=False, elem_id="divider")
                gallery = gr.Gallery(
                    label="Choose one to compare", visible=False, format="png", columns=3, allow_preview=False,
                    interactive=False, elem_id="gallery", buttons=[], height="auto",
                )  # fmt: skip
                files = gr.File(
                    label="One by one", file_count="multiple", visible=False, interactive=False, elem_id="files"
                )
        with gr.Accordion("Paint over what is missing", open=False, visible=False) as brush:
            editor = gr.ImageEditor(
                type="pil", sources=(), transforms=(), layers=False, format="png", show_label=False, interactive=True,
                brush=gr.Brush(colors=["#ff2d55"], color_mode="fixed"), buttons=["fullscreen"], elem_id="editor",
            )  # fmt: skip
        choices = _settings(service, seed)
        parts = Parts(
            photos, tries, restore, stop, status, slider, divider, bars, download, table, gallery, files, gr.State([]),
            brush, editor,
        )  # fmt: skip
        handlers = Handlers(service, parts, list(examples.values()))
        _connect(handlers, parts, choices)
        page.unload(handlers.forget)
        _programs(handlers)
    return page


def _settings(service: Service, seed: int) -> list[gr.components.Component]:
    """The choices, in the order of the handlers' arguments."""
    limits, restorer = service.limits, service.restorer
    with gr.Row():
        instruction = gr.Textbox(
            label="Say what you want", placeholder="remove the rain but keep the fog", max_length=limits.classes,
            lines=1, min_width=240,
        )  # fmt: skip
        classes = gr.Dropdown(
            [("what is recognised", ""), *restorer.classes], value="", label="Repair", allow_custom_value=True,
            info="Or a word, or a mix such as rainy:0.7,hazy:0.3", min_width=240,
        )  # fmt: skip
        strength = gr.Slider(0, 1, 1, step=0.05, label="Strength", info="0 leaves the photo as it is.")
        passes = gr.Radio([("once", ONCE), ("several faults in turn", IN_TURN)], value=ONCE, label="Repair faults")
    with gr.Accordion("More settings", open=False), gr.Row():
        samples = gr.Slider(1, limits.samples, 1, step=1, label="Samples", info="Several also show where they differ.")
        sampler = gr.Dropdown([AS_TRAINED, *limits.samplers], value=AS_TRAINED, label="Sampler", min_width=140)
        # Without limits of their own, which Gradio would enforce in words of its own.
        own = f"0: its own ({restorer.sampler.steps} as trained)"
        steps = gr.Number(0, label="Steps", info=own, precision=0, min_width=140)
        number = gr.Number(seed, label="Seed", precision=0, min_width=140)
    return [classes, strength, passes, samples, sampler, steps, number, instruction]


def _connect(handlers: Handlers, parts: Parts, choices: Sequence[Any]) -> None:
    everything = [getattr(parts, field.name) for field in fields(parts) if field.name != "photos"]
    buttons = [parts.restore, parts.stop]
    classes, strength, *_, instruction = choices
    upload = [parts.photos.upload, parts.photos.clear, parts.photos.delete]
    looking = gr.on(upload, handlers.look, parts.photos, everything, **PRIVATE)
    trying = parts.examples.select(handlers.example, None, parts.photos, **PRIVATE).then(
        handlers.look, parts.photos, everything, **PRIVATE
    )
    parts.restore.click(handlers.begin, None, buttons, queue=False, cancels=[looking, trying], **PRIVATE).then(
        handlers.restore, [parts.photos, parts.editor, *choices], everything, **PRIVATE
    ).then(handlers.ready, parts.photos, buttons, queue=False, **PRIVATE)
    live = [classes.input, strength.release, instruction.submit]
    given = [parts.photos, parts.sources, parts.editor, *choices]
    gr.on(live, handlers.again, given, everything, trigger_mode="multiple", **PRIVATE)
    parts.stop.click(handlers.stop, None, parts.status, queue=False, **PRIVATE)
    parts.brush.expand(handlers.paint, parts.photos, parts.editor, **PRIVATE)
    parts.gallery.select(handlers.compare, [parts.sources, parts.files], [parts.slider, parts.divider], **PRIVATE)
    move = "position => ({__type__: 'update', slider_position: position})"
    parts.divider.input(None, parts.divider, parts.slider, js=move, **PRIVATE)


def _programs(handlers: Handlers) -> None:
    """The two endpoints for programs; their parts are not shown."""
    with gr.Row(visible=False):
        photo = gr.File(file_types=FILE_TYPES, label="photo")
        degradation = gr.Textbox("", label="degradation")
        strength = gr.Number(1.0, label="strength")
        samples = gr.Number(1, label="samples", precision=0)
        sampler = gr.Textbox(AS_TRAINED, label="sampler")
        steps = gr.Number(0, label="steps", precision=0)
        seed = gr.Number(0, label="seed", precision=0)
        mask = gr.File(file_types=FILE_TYPES, label="mask")
        instruction = gr.Textbox("", label="instruction")
        passes = gr.Textbox(ONCE, label="passes")
        files = gr.File(file_count="multiple", label="files")
        report = gr.JSON(label="report")
        probabilities = gr.JSON(label="probabilities")
        start, name = gr.Button(), gr.Button()
    inputs = [photo, degradation, strength, samples, sampler, steps, seed, mask, instruction, passes]
    start.click(handlers.restore_for_programs, inputs, [files, report], api_name="restore")
    name.click(handlers.classify_for_programs, photo, probabilities, api_name="classify", concurrency_limit=2)
