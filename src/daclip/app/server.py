"""The page's server: no telemetry, no network, no file but what the page gives out."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch
from gradio_client import utils as client_utils
from PIL import Image
from skimage import data
from starlette.formparsers import MultiPartException

from daclip.app.page import build_page
from daclip.app.service import Limits, Service
from daclip.degradations.base import CLEAN, Degradation
from daclip.errors import DaclipError
from daclip.images import save_image
from daclip.pixels import Pixels
from daclip.restoring.restorer import Restorer

# Gradio cuts a caption off where it is wider than its picture, as names of files are on a phone.
WHOLE_CAPTIONS = "#gallery .caption-label, #examples .caption-label { white-space: normal; max-width: 100% }"

# Side and severity of the photos to try.
SIZE = (480, 320)
SEVERITY = 0.6

# The method by which Gradio fetches whatever a request names into its own folder.
FETCH = "async_move_resource_to_block_cache"


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


def make_examples(degradations: Mapping[str, Degradation], folder: Path) -> dict[str, str]:
    """Photos to try: a file for each class in a folder, degraded from a photo of scikit-image."""
    photo = Pixels.from_pil(Image.fromarray(np.asarray(data.coffee())).resize(SIZE)).crop()[None]
    files = {}
    for word, degradation in degradations.items():
        if word != CLEAN:
            files[word] = str(folder / f"{word}.png")
            save_image(degradation(photo, [torch.Generator().manual_seed(0)], SEVERITY)[0], files[word])
    return files


def page_of(
    artifact: str,
    limits: Limits,
    queue: int = 32,
    seed: int = 0,
    networks: Iterable[tuple[str, str | None]] = (),
    examples: Mapping[str, str] | None = None,
    **options: Any,
) -> Any:
    """Gradio page of a restorer (folder, hub name or `pretrained`); `options` as `Restorer`'s, `networks` arguments of
    `Restorer.with_network`, `examples` photos to try by their captions."""
    restorer = Restorer.from_pretrained(artifact, seed=seed, **options)
    for path, class_name in networks:
        restorer = restorer.with_network(path, class_name)
    gr.set_static_paths([*(examples or {}).values()])  # else they would go with old results
    page: Any = build_page(Service(restorer, limits, queue), seed, examples).queue(default_concurrency_limit=None)
    _stay_local(page)
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
            css=WHOLE_CAPTIONS,
            show_error=False,  # of the page's own errors the text is shown all the same
            quiet=True,
        )
    except OSError as error:
        raise DaclipError(f"{host}:{port} cannot be served ({error}); choose another --port") from None
    return str(address)
