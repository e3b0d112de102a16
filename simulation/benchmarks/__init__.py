"""Measurements of speed. They are no tests: run one with ``python -m simulation.benchmarks.NAME``."""
