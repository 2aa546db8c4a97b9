"""Serving the page: no telemetry, no network, no file of the server but what the page itself gives out."""

import os
from typing import Any

from daclip.app.service import Limits, Service
from daclip.artifacts import find_artifact
from daclip.errors import DaclipError
from daclip.restoring.restorer import Restorer

# Gradio reads these when it is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


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


def page_of(artifact: str | None, limits: Limits, queue: int = 32, seed: int = 0, **options: Any) -> Any:
    """Gradio page of a restorer (folder or hub name, default `outputs/restorer/latest`); `options` as `Restorer`'s."""
    try:
        from daclip.app.page import build_page
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("gradio", "gradio_client"):
            raise
        raise DaclipError("the web app needs Gradio; install it with pip install 'daclip[app]'") from None
    folder = find_artifact(artifact, "outputs/restorer", "make train-restorer")
    restorer = Restorer.from_pretrained(folder, seed=seed, **options)
    return build_page(Service(restorer, limits), seed).queue(max_size=queue, default_concurrency_limit=1)


def launch(page: Any, host: str, port: int, max_upload_mb: int) -> str:
    """Serve the page in the background; returns its address."""
    from starlette.middleware import Middleware

    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            max_file_size=f"{max_upload_mb}mb",
            app_kwargs={"middleware": [Middleware(NoOtherServers)]},
            prevent_thread_lock=True,
            share=False,
            ssr_mode=False,
            run_history=False,
            enable_monitoring=False,
            footer_links=["api"],
            show_error=True,
            quiet=True,
        )
    except OSError as error:
        raise DaclipError(f"{host}:{port} cannot be served ({error}); choose another --port") from None
    return str(address)
