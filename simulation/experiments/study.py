"""``experiment=study``, and Tables 2 and 3 of the paper, which are studies of certain networks and strategies."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from mtmd_core.config import RunConfig
from mtmd_core.durable import write_csv

from ..comparison import methods_of, print_comparison, rows_3d
from ..study import Outcome, conduct


def run_study(config: RunConfig, words: Sequence[str], folder: Path, console: Console) -> dict:
    """Run the study, print its methods side by side, and write ``study.csv``, or ``table2.csv`` and ``table3.csv``.

    Tables of the paper have its column ``table`` first. A table of a study that is not finished says how many folds it has.
    """
    outcome = conduct(config, words, folder, console)
    methods, name = methods_of(outcome), config.experiment
    table = {} if name == "study" else {"table": int(name.removeprefix("table"))}
    rows = [table | row for row in rows_3d(methods)]
    write_csv(folder / f"{name}.csv", rows)
    print_comparison(methods, console)
    console.print(f"all metrics: {folder / f'{name}.csv'}", markup=False)
    return {"experiment": name, "rows": rows} | account_of(outcome)


def account_of(outcome: Outcome) -> dict:
    """What a study's summary says of its runs; their own summaries stay in their folders."""
    folders = {run.key: run.folder for run in outcome.planned}
    return {
        "runs": {
            str(key): {
                "folder": str(folders[key]),
                "seconds": summary["seconds"],
                "mean": summary["mean"],
                "worst_site": summary["worst_site"],
                "sites": {site: values["foreground_mean"] for site, values in summary["sites"].items()},
            }
            for key, summary in outcome.summaries.items()
        },
        "failures": {str(key): reason for key, reason in outcome.failures.items()},
    }
