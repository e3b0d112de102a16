"""Runs that belong together: each module is one ``experiment=NAME``, or several of a kind."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from mtmd_core.config import RunConfig

from .demo import run_demo
from .external import run_external
from .ladder import run_ladder
from .lockstep import run_lockstep
from .msc_fidelity import run_msc_fidelity
from .phantoms import run_phantoms
from .privacy import run_privacy
from .study import run_study
from .table1 import run_table1
from .table4 import run_table4
from .table5 import run_table5


def _run_figures(config: RunConfig, words: Sequence[str], folder: Path, console: Console) -> dict:
    from .figures import run_figures  # matplotlib is slow to import

    return run_figures(config, words, folder, console)


EXPERIMENTS = {
    "demo": run_demo,
    "lockstep": run_lockstep,
    "msc_fidelity": run_msc_fidelity,
    "phantoms": run_phantoms,
    "privacy": run_privacy,
}
"""``experiment=NAME`` → function of configuration, sites, folder and console that returns the summary."""

STUDIES = {
    "external": run_external,
    "ladder": run_ladder,
    "study": run_study,
    "table1": run_table1,
    "table2": run_study,
    "table3": run_study,
    "table4": run_table4,
    "table5": run_table5,
    "figures": _run_figures,
}
"""The same for experiments that compose runs themselves: functions of configuration, the words that it was composed with,
folder and console. They read no exams before they know which are needed, and write nothing, their configuration neither, before
they know that all of it can be made in that folder. ``failures`` in their summary (run → reason) ends
the command with exit code 1."""
