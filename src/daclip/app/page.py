"""The page as Gradio components."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from daclip.app.handlers import Handlers, Parts
from daclip.app.service import AS_TRAINED, Service
from daclip.decoding import FORMATS

FILE_TYPES = ["image", *FORMATS]

TITLE = "# Restore photos\nDrop a photo, see what is recognised, and let it be repaired as far as this model can."

# Options of the page's own events: Gradio would else publish them, and name the programs' endpoints something_1.
PRIVATE: dict[str, Any] = {"api_name": "page", "api_visibility": "private", "show_progress": "hidden"}

# How long, in seconds, results stay on the server for download.
KEPT = 3600


def build_page(service: Service, seed: int) -> gr.Blocks:
    """The page as Gradio blocks, not yet served; `seed` is what its settings start with."""
    with gr.Blocks(title="Restore photos", analytics_enabled=False, delete_cache=(600, KEPT)) as page:
        gr.Markdown(TITLE)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                with gr.Tabs():
                    with gr.Tab("One photo") as one:
                        photo = gr.File(label="Photo", file_types=FILE_TYPES, elem_id="photo", height=140)
                        with gr.Row():
                            restore = gr.Button("Restore", variant="primary", interactive=False, min_width=120)
                            stop = gr.Button("Stop", variant="stop", interactive=False, min_width=80)
                        status = gr.HTML(elem_id="status")
                        with gr.Accordion("Fill what is missing", open=False):
                            mask = gr.File(
                                label="Mask: white is filled", file_types=FILE_TYPES, elem_id="mask", height=140
                            )
                    with gr.Tab("Many photos") as many:
                        photos = gr.File(
                            label=f"Photos (up to {service.limits.files})",
                            file_count="multiple",
                            file_types=FILE_TYPES,
                            elem_id="photos",
                            height=200,
                        )
                        with gr.Row():
                            restore_all = gr.Button("Restore all", variant="primary", min_width=120)
                            stop_all = gr.Button("Stop", variant="stop", interactive=False, min_width=80)
                        batch_status = gr.HTML(elem_id="batch-status")
                settings = _settings(service, seed)
            with gr.Column(scale=3, min_width=300):
                with gr.Column() as one_result:
                    slider = gr.ImageSlider(
                        label="Before and after", type="filepath", format="png", interactive=False, max_height=640,
                        buttons=["fullscreen"], elem_id="slider",
                    )  # fmt: skip
                    # The picture's own divider takes no keys.
                    divider = gr.Slider(0, 100, 50, step=1, label="Divider", visible=False, elem_id="divider")
                    bars = gr.Label(label="What is wrong with it", num_top_classes=4, show_heading=False)
                    gallery = gr.Gallery(label="Samples and their uncertainty", visible=False, format="png", columns=3)
                    files = gr.File(
                        label="Full size", file_count="multiple", visible=False, interactive=False, elem_id="files"
                    )
                with gr.Column(visible=False) as many_results:
                    table = gr.HTML(elem_id="table")
                    archive = gr.DownloadButton("Download all (zip)", interactive=False, elem_id="archive")
        parts = Parts(
            restore, stop, status, slider, divider, bars, gallery, files, mask,
            restore_all, stop_all, batch_status, table, archive,
        )  # fmt: skip
        handlers = Handlers(service, parts)
        _connect(handlers, parts, photo, photos, settings)
        for tab, single in ((one, True), (many, False)):
            tab.select(
                lambda single=single: (gr.Column(visible=single), gr.Column(visible=not single)),
                None,
                [one_result, many_results],
                **PRIVATE,
            )
        page.unload(handlers.forget)
        _programs(handlers, service)
    return page


def _settings(service: Service, seed: int) -> list[gr.components.Component]:
    """The choices that both tabs share, in the order of the handlers' arguments."""
    limits, restorer = service.limits, service.restorer
    own = restorer.sampler
    instruction = gr.Textbox(
        label="Say what you want", placeholder="remove the rain but keep the fog", max_length=limits.classes, lines=1
    )
    # Closed, since on a phone it stands between the button and the result.
    with gr.Accordion("Settings", open=False):
        classes = gr.Dropdown(
            ["", *restorer.classes],
            value="",
            label="Repair",
            info="Empty: what is recognised. Or a word, a mix such as rainy:0.7,hazy:0.3, or any text.",
            allow_custom_value=True,
        )
        strength = gr.Slider(0, 1, 1, step=0.05, label="Strength", info="0 leaves the photo as it is.")
        samples = gr.Slider(1, limits.samples, 1, step=1, label="Samples", info="Several also show where they differ.")
        with gr.Row():
            sampler = gr.Dropdown([AS_TRAINED, *limits.samplers], value=AS_TRAINED, label="Sampler", min_width=140)
            # Without limits of their own, which Gradio would enforce in words of its own.
            own_steps = f"0: its own ({own.steps} as trained)"
            steps = gr.Number(0, label="Steps", info=own_steps, precision=0, min_width=140)
            number = gr.Number(seed, label="Seed", precision=0, min_width=140)
    return [classes, strength, samples, sampler, steps, number, instruction]


def _connect(
    handlers: Handlers, parts: Parts, photo: gr.File, photos: gr.File, settings: Sequence[gr.components.Component]
) -> None:
    one = [
        parts.restore,
        parts.stop,
        parts.status,
        parts.slider,
        parts.divider,
        parts.bars,
        parts.gallery,
        parts.files,
        parts.mask,
    ]
    several = [parts.restore_all, parts.stop_all, parts.batch_status, parts.table, parts.archive]
    gr.on([photo.upload, photo.clear], handlers.look, photo, one, concurrency_limit=2, **PRIVATE)
    parts.restore.click(handlers.begin, None, [parts.restore, parts.stop], queue=False, **PRIVATE).then(
        handlers.restore, [photo, parts.mask, *settings], one, **PRIVATE
    ).then(handlers.ready, photo, [parts.restore, parts.stop], queue=False, **PRIVATE)
    move = "position => ({__type__: 'update', slider_position: position})"
    parts.divider.input(None, parts.divider, parts.slider, js=move, **PRIVATE)
    parts.stop.click(handlers.stop, None, parts.status, queue=False, **PRIVATE)
    parts.restore_all.click(handlers.begin_all, None, [parts.restore_all, parts.stop_all], queue=False, **PRIVATE).then(
        handlers.restore_all, [photos, *settings], several, **PRIVATE
    ).then(handlers.ready_all, None, [parts.restore_all, parts.stop_all], queue=False, **PRIVATE)
    parts.stop_all.click(handlers.stop, None, parts.batch_status, queue=False, **PRIVATE)


def _programs(handlers: Handlers, service: Service) -> None:
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
        files = gr.File(file_count="multiple", label="files")
        report = gr.JSON(label="report")
        probabilities = gr.JSON(label="probabilities")
        start, name = gr.Button(), gr.Button()
    inputs = [photo, degradation, strength, samples, sampler, steps, seed, mask, instruction]
    start.click(handlers.restore_for_programs, inputs, [files, report], api_name="restore")
    name.click(handlers.classify_for_programs, photo, probabilities, api_name="classify", concurrency_limit=2)
