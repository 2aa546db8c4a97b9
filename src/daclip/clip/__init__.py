"""Stage 1: the frozen CLIP model, its controller and their training."""
