"""Photos, captions and LQ/HQ pairs."""
