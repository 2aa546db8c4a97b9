"""Artifacts of checkpoints: of a run in progress, and of the best of one that is over."""
