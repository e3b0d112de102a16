"""The runs that a folder holds, read without knowing how they were asked for."""

import json
from dataclasses import dataclass
from pathlib import Path

from mtmd_core.config import RunConfig
from mtmd_core.config_files import load_config
from mtmd_core.errors import ConfigurationError

from .runs import CONFIG, SUMMARY
from .study import RunKey


@dataclass(frozen=True)
class FoundRun:
    """A finished run: which one, its configuration, where it lies, and its summary."""

    key: RunKey
    config: RunConfig
    folder: Path
    summary: dict

    def dice(self, site: str) -> dict[str, float]:
        """Test exam of a site → mean Dice over its structures; none where the run did not test the site."""
        found = {}
        for case in self.summary["sites"].get(site, {}).get("metric_per_case", []):
            values = [scores["dice"] for scores in case["metrics"].values() if scores["dice"] is not None]
            if values:
                found[case["case"]] = sum(values) / len(values)
        return found


@dataclass(frozen=True)
class FoundRuns:
    """What a folder holds: finished runs, and those that were begun and are not finished."""

    finished: list[FoundRun]
    unfinished: list[RunKey]


def find_runs(folder: Path) -> FoundRuns:
    """The runs in a study's folder, or the one run that the folder is; centralised and federated alike.

    They come network by network, strategy by strategy, in the order of names, then of folds.

    Raises:
        ConfigurationError: if it holds no finished run.
    """
    places = sorted(folder.glob(f"runs/*/*/fold_*/{CONFIG}")) or sorted(folder.glob(CONFIG))
    finished, unfinished = [], []
    for config_file in places:
        config, place = load_config(config_file), config_file.parent
        key = RunKey(config.network.name, config.strategy, config.fold)
        if (place / SUMMARY).is_file() and config.experiment is None:
            summary = json.loads((place / SUMMARY).read_text(encoding="utf-8"))
            finished.append(FoundRun(key, config, place, summary))
        else:
            unfinished.append(key)
    if not finished:
        begun = f"; begun, but not finished: {', '.join(map(str, unfinished))}" if unfinished else ""
        raise ConfigurationError(
            f"{folder} holds no finished run{begun}. It must be the folder (hydra.run.dir) of a study or of a run that has ended."
        )
    return FoundRuns(sorted(finished, key=lambda run: run.key), sorted(unfinished))
