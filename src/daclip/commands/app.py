"""Serve the page: `python -m daclip.app [overrides]`."""

from omegaconf import DictConfig
from rich.console import Console

from daclip.app.server import launch, page_of
from daclip.commands.schemas import AppConfig
from daclip.config import run_entry, validated


def app(cfg: DictConfig) -> None:
    """Serve until interrupted."""
    page = page_of(cfg)
    address = launch(page, cfg, block=False)
    Console().print(f"the page is at {address}  (Ctrl+C ends it)", highlight=False)
    page.block_thread()


def main() -> None:
    """Entry point."""
    run_entry(lambda cfg: app(validated(cfg, AppConfig)), "app")


if __name__ == "__main__":
    main()
