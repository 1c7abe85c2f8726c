"""Judges runs: the same judge for lessons, tests and whoever wants to know."""
