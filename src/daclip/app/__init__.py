"""The web page `daclip app`: restore photos in a browser, on the machine that it runs on."""

import os

# Gradio reads these when it is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
