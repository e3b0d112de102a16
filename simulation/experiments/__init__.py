"""Runs that belong together: each module is one ``experiment=NAME``."""

from .demo import run_demo
from .phantoms import run_phantoms

EXPERIMENTS = {"demo": run_demo, "phantoms": run_phantoms}
"""``experiment=NAME`` → function of configuration, sites, folder and console that returns the summary."""
