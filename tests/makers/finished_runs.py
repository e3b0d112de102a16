"""Folders of finished runs, without training: what a study finds when it looks at runs that it need not make."""

from pathlib import Path

import numpy as np

from mtmd_core.config_files import save_config
from mtmd_core.durable import write_json
from mtmd_core.scores import METRICS_3D, summarise_run
from mtmd_core.strategies import strategy_named
from simulation.runs import CONFIG, SLICE_SCORES, SUMMARY
from simulation.study import PlannedRun

SLICES = 12
"""Slices with a structure in every test exam."""


def finish(planned: PlannedRun, dice: float = 0.5) -> dict:
    """Write a run whose sites all have this Dice of their one test exam, and 2D scores around it; returns its summary."""
    tested = [site for site in sorted(planned.config.sites) if site != strategy_named(planned.config.strategy).source]
    scores = dict.fromkeys(METRICS_3D, dice)
    per_site = {
        site: {
            "foreground_mean": dict(scores),
            "metric_per_case": [{"case": f"{site}_exam", "metrics": {"bone": dict(scores)}}],
        }
        for site in tested
    }
    summary = summarise_run(per_site) | {"seconds": 1.0}
    save_config(planned.config, planned.folder / CONFIG)
    write_json(planned.folder / SLICE_SCORES, {site: {f"{site}_exam": slices(dice)} for site in tested})
    write_json(planned.folder / SUMMARY, summary)
    return summary


def slices(dice: float) -> dict[str, list]:
    """2D scores of an exam: a ramp around ``dice``; the first slice has no sensitivity."""
    ramp = dice + np.linspace(-0.1, 0.1, SLICES)
    return {
        "index": list(range(SLICES)),
        "dice": ramp.tolist(),
        "sensitivity": [None, *ramp[1:].tolist()],
        "specificity": [1.0] * SLICES,
    }


def run_folders(folder: Path) -> list[str]:
    """The runs that a study's folder holds, as ``network/strategy/fold``."""
    return sorted("/".join(path.parts[-4:-1]) for path in folder.glob(f"runs/*/*/*/{SUMMARY}"))
