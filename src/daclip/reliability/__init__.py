"""Runs that survive: checkpoints, signals, numerical trouble, many processes."""
