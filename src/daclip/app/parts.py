"""The parts of the page that change."""

from dataclasses import dataclass

import gradio as gr


@dataclass(frozen=True)
class Parts:
    """Components by their purpose.

    Attributes:
        restore: Starts with one photo.
        stop: Stops it.
        status: Progress, remarks and errors.
        slider: The photo before and after.
        bars: Recognised degradations.
        gallery: Several samples and their differences.
        files: Results in full size.
        mask: The upload of the photo's missing parts.
        restore_all: Starts with several photos.
        stop_all: Stops them.
        batch_status: Progress of several photos.
        table: What came of each photo.
        archive: All results as a zip.
    """

    restore: gr.Button
    stop: gr.Button
    status: gr.HTML
    slider: gr.ImageSlider
    bars: gr.Label
    gallery: gr.Gallery
    files: gr.File
    mask: gr.File
    restore_all: gr.Button
    stop_all: gr.Button
    batch_status: gr.HTML
    table: gr.HTML
    archive: gr.DownloadButton
