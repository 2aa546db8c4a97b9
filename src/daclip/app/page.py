"""The page as Gradio components, and its server: no telemetry, no network, no file but what the page gives out."""

from collections.abc import Iterable, Sequence
from typing import Any

import gradio as gr
from gradio_client import utils as client_utils
from starlette.formparsers import MultiPartException

from daclip.app.handlers import Handlers, Parts
from daclip.app.service import AS_TRAINED, Limits, Service
from daclip.artifacts import find_artifact
from daclip.decoding import FORMATS
from daclip.errors import DaclipError
from daclip.restoring.restorer import Restorer

FILE_TYPES = ["image", *FORMATS]

TITLE = "# Restore photos\nBlur, haze, rain, snow, noise, darkness, holes: drop a photo, and get it back clean."

# Everything that uses the network for long goes through one queue, one request after the other.
QUEUE: dict[str, Any] = {"concurrency_id": "restorer", "concurrency_limit": 1}

# Options of the page's own events: Gradio would else publish them, and name the programs' endpoints something_1.
PRIVATE: dict[str, Any] = {"api_name": "page", "api_visibility": "private", "show_progress": "hidden"}

# How long, in seconds, results stay on the server for download.
KEPT = 3600

# The method by which Gradio fetches whatever a request names into its own folder.
FETCH = "async_move_resource_to_block_cache"


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
                        label="Before and after", type="pil", format="png", interactive=False, max_height=640
                    )
                    bars = gr.Label(label="What is wrong with it", num_top_classes=4, show_heading=False)
                    gallery = gr.Gallery(label="Samples and their uncertainty", visible=False, format="png", columns=3)
                    files = gr.File(
                        label="Full size", file_count="multiple", visible=False, interactive=False, elem_id="files"
                    )
                with gr.Column(visible=False) as many_results:
                    table = gr.HTML(elem_id="table")
                    archive = gr.DownloadButton("Download all (zip)", interactive=False, elem_id="archive")
        parts = Parts(
            restore, stop, status, slider, bars, gallery, files, mask,
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
    _stay_local(page)
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
            steps = gr.Number(
                0, label="Steps", info=f"0: its own ({own.steps} as trained)", precision=0, minimum=0,
                maximum=limits.steps, min_width=140,
            )  # fmt: skip
            number = gr.Number(seed, label="Seed", precision=0, minimum=0, min_width=140)
    return [classes, strength, samples, sampler, steps, number, instruction]


def _connect(
    handlers: Handlers, parts: Parts, photo: gr.File, photos: gr.File, settings: Sequence[gr.components.Component]
) -> None:
    one = [parts.restore, parts.stop, parts.status, parts.slider, parts.bars, parts.gallery, parts.files, parts.mask]
    several = [parts.restore_all, parts.stop_all, parts.batch_status, parts.table, parts.archive]
    gr.on([photo.upload, photo.clear], handlers.look, photo, one, concurrency_limit=2, **PRIVATE)
    parts.restore.click(handlers.begin, None, [parts.restore, parts.stop], queue=False, **PRIVATE).then(
        handlers.restore, [photo, parts.mask, *settings], one, **QUEUE, **PRIVATE
    )
    parts.stop.click(handlers.stop, None, parts.status, queue=False, **PRIVATE)
    parts.restore_all.click(handlers.begin_all, None, [parts.restore_all, parts.stop_all], queue=False, **PRIVATE).then(
        handlers.restore_all, [photos, *settings], several, **QUEUE, **PRIVATE
    )
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
    start.click(handlers.restore_for_programs, inputs, [files, report], api_name="restore", **QUEUE)
    name.click(handlers.classify_for_programs, photo, probabilities, api_name="classify", concurrency_limit=2)


def _stay_local(page: gr.Blocks) -> None:
    """Refuse addresses where files are expected: this server fetches nothing from elsewhere."""

    def guarded(move: Any) -> Any:
        async def only_files(path: Any) -> Any:
            if path is not None and client_utils.is_http_url_like(str(path)):
                raise gr.Error("give a file and no address: this server fetches nothing", print_exception=False)
            return await move(path)

        return only_files

    for block in page.blocks.values():
        if hasattr(block, FETCH):
            # An instance's own: Gradio has no setting for it, and a subclass would be no part that its page knows.
            setattr(block, FETCH, guarded(getattr(block, FETCH)))


class NoOtherServers:
    """ASGI middleware that refuses Gradio's routes for fetching files from other servers."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        path = str(scope.get("path", "")).lower()
        if scope["type"] == "http" and ("/proxy=" in path or "file=http" in path):
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"this server fetches nothing from elsewhere\n"})
            return
        await self.app(scope, receive, send)


# What begins each file of an upload.
FILE_PART = b'content-disposition: form-data; name="files"'


class FewFiles:
    """ASGI middleware that refuses an upload of more files than a batch may have, before the rest of it arrives."""

    def __init__(self, app: Any, most: int):
        self.app = app
        self.most = most

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        found, seen = 0, b""

        async def counted() -> Any:
            nonlocal found, seen
            message = await receive()
            seen += message.get("body", b"").lower()
            found += seen.count(FILE_PART)
            seen = seen[1 - len(FILE_PART) :]
            if found > self.most:
                # The error by which Gradio's own limits end an upload: what has arrived is deleted.
                raise MultiPartException(f"at most {self.most} photos at a time here")
            return message

        upload = scope["type"] == "http" and str(scope.get("path", "")).endswith("/upload")
        await self.app(scope, counted if upload else receive, send)


def page_of(
    artifact: str | None,
    limits: Limits,
    queue: int = 32,
    seed: int = 0,
    networks: Iterable[tuple[str, str | None]] = (),
    **options: Any,
) -> Any:
    """Gradio page of a restorer (folder or hub name, default `outputs/restorer/latest`); `options` as `Restorer`'s,
    `networks` arguments of `Restorer.with_network`."""
    folder = find_artifact(artifact, "outputs/restorer", "make train-restorer")
    restorer = Restorer.from_pretrained(folder, seed=seed, **options)
    for path, class_name in networks:
        restorer = restorer.with_network(path, class_name)
    page: Any = build_page(Service(restorer, limits), seed).queue(max_size=queue, default_concurrency_limit=1)
    page.most_files = limits.files
    return page


def launch(page: Any, host: str, port: int, max_upload_mb: int) -> str:
    """Serve the page in the background; returns its address."""
    from starlette.middleware import Middleware

    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            max_file_size=f"{max_upload_mb}mb",
            app_kwargs={"middleware": [Middleware(NoOtherServers), Middleware(FewFiles, most=page.most_files)]},
            prevent_thread_lock=True,
            share=False,
            ssr_mode=False,
            run_history=False,
            enable_monitoring=False,
            footer_links=["api"],
            show_error=False,  # of the page's own errors the text is shown all the same
            quiet=True,
        )
    except OSError as error:
        raise DaclipError(f"{host}:{port} cannot be served ({error}); choose another --port") from None
    return str(address)
