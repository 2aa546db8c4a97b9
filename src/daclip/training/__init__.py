"""Training: optimisers, callbacks, checkpoints, loggers and the record of a run."""
