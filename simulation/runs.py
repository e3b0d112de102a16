"""One run: data that are ready, a configuration, and the files that the run leaves."""

import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mtmd_core.config import RunConfig, save_config
from mtmd_core.data.site_data import SiteData
from mtmd_core.durable import write_json

from .centralised import groups, run_centralised, steps_of
from .federated import run_federated
from .progress import RunDisplay


def run(config: RunConfig, sites: dict[str, SiteData], folder: Path, console: Console) -> dict:
    """One run over sites that are ready."""
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    save_config(config, folder / "config.yaml")
    federation = config.federation
    if config.mode == "federated":
        train, steps = run_federated, federation.rounds * federation.local_steps * len(sites)
    else:
        train, steps = run_centralised, sum(steps_of(config, group) for group in groups(config, sites))
    with RunDisplay(steps, console) as display:
        summary = train(config, sites, folder, display)
    facts = {"mode": config.mode, "strategy": config.strategy, "network": config.network.name, "fold": config.fold}
    summary = facts | {"seed": config.seed, "seconds": round(time.monotonic() - started, 1)} | summary
    write_json(folder / "summary.json", summary)
    _print_scores(summary, folder, console)
    return summary


def _print_scores(summary: dict, folder: Path, console: Console) -> None:
    columns = {
        "dice": "Dice",
        "sensitivity": "sensitivity",
        "mssd_mm": "MSSD mm",
        "assd_mm": "ASSD mm",
        "ravd": "RAVD",
    }
    table = Table("test exams of", *columns.values(), title=f"{summary['mode']} {summary['strategy']}")
    rows = {site: values["foreground_mean"] for site, values in summary["sites"].items()}
    for name, values in (rows | {"mean of sites": summary["mean"]}).items():
        cells = ["–" if values.get(key) is None else f"{values[key]:.3f}" for key in columns]
        table.add_row(name, *cells)
    console.print(table)
    worst = summary["worst_site"]
    if worst is not None:
        console.print(f"worst site: {worst['name']}, Dice {worst['foreground_mean']['dice']:.3f}")
    console.print(f"{summary['seconds']:.0f} s; all files are in {folder}", markup=False)
