"""Scores: image fidelity and degradation recognition."""
