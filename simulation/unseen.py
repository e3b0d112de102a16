"""Exams for networks that are trained already: given ones, or fresh phantoms; and that no run has seen them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from rich.console import Console

from mtmd_core.config import RunConfig
from mtmd_core.data.dataset import load_dataset
from mtmd_core.errors import ConfigurationError

from .data import make_phantoms
from .found_runs import FoundRun


def unseen_exams(config: RunConfig, words: Sequence[str], runs: Sequence[FoundRun], console: Console) -> dict[str, str]:
    """Site → folder of exams: those given, or phantoms of the runs' own resolution, unless ``words`` name another.

    Raises:
        ConfigurationError: if a run has an exam of the same bytes among its own, or none are given where the runs' exams are no
            phantoms of one resolution.
        DataError: for a folder that cannot be read.
    """
    sites = config.sites
    if not sites:
        scale = config.phantoms.scale if any(word.startswith("phantoms.scale=") for word in words) else _scale(runs)
        sites = make_phantoms(replace(config, phantoms=replace(config.phantoms, scale=scale)), console)
    given = {
        digest: f"{site}'s {exam}"
        for site, folder in sites.items()
        for exam, digest in _digests(_place(folder)).items()
    }
    trained = {_place(folder): run for run in runs for folder in run.config.sites.values()}
    for folder, run in trained.items():
        if not folder.is_dir():
            console.print(f"{folder} is not here: whether {run} saw these exams cannot be told", markup=False)
            continue
        for exam, digest in _digests(folder).items():
            if digest in given:
                raise ConfigurationError(
                    f"{given[digest]} is {exam} of {folder}, which {run} has seen: give others with sites= or phantoms.seed=."
                )
    return sites


def _place(folder: str) -> Path:
    return Path(folder).resolve()


def _scale(runs: Sequence[FoundRun]) -> float:
    """The resolution of the phantoms that all runs were trained on."""
    scales: dict[float | None, FoundRun] = {}
    for run in runs:
        for folder in run.config.sites.values():
            scales.setdefault(_phantom_of(Path(folder)).get("scale"), run)
    if len(scales) > 1 or None in scales:
        raise ConfigurationError(
            f"{scales.get(None, runs[0])} was trained on other exams than phantoms of one resolution, so that none can be made "
            "that are like them: give sites=, or phantoms.scale=."
        )
    return next(iter(scales))


def _phantom_of(folder: Path) -> Mapping:
    """How the phantoms in a folder were made; nothing if they are none or not there."""
    path = folder / "dataset.json"
    return json.loads(path.read_text(encoding="utf-8")).get("phantom", {}) if path.is_file() else {}


@cache
def _digests(folder: Path) -> Mapping[str, str]:
    """Exam → digest of its image's file."""
    return {case.name: hashlib.blake2b(case.image_path.read_bytes()).hexdigest() for case in load_dataset(folder).cases}
