"""Exams for networks that are trained already: given ones, or fresh phantoms; and that no run has seen them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from rich.console import Console

from mtmd_core.config import RunConfig
from mtmd_core.config_files import named_words
from mtmd_core.data.dataset import load_dataset, load_image
from mtmd_core.data.identity import voxel_digest
from mtmd_core.errors import ConfigurationError

from .data import make_phantoms
from .found_runs import FoundRun
from .run_exams import noted_exams


def unseen_exams(config: RunConfig, words: Sequence[str], runs: Sequence[FoundRun], console: Console) -> dict[str, str]:
    """Site → folder of exams: those given, or phantoms of the runs' own resolution, unless ``words`` name another.

    Raises:
        ConfigurationError: if a run has an exam with the very same image among its own, however it is stored, or none are given
            where the runs' exams are no phantoms of one resolution.
        DataError: for a folder or an image that cannot be read.
    """
    sites = config.sites
    if not sites:
        scale = config.phantoms.scale if "phantoms.scale" in named_words(words) else _scale(runs)
        sites = make_phantoms(replace(config, phantoms=replace(config.phantoms, scale=scale)), console)
    given = {
        digest: f"{site}'s {exam}"
        for site, folder in sites.items()
        for exam, digest in _digests(_place(folder)).items()
    }
    _refuse_seen(given, runs, console)
    return sites


def _refuse_seen(given: Mapping[str, str], runs: Sequence[FoundRun], console: Console) -> None:
    """Refuse images, digest → what they are called, that a run has among its own."""
    unknown: dict[Path, FoundRun] = {}
    for run in runs:
        for place, exams in _seen_by(run).items():
            if exams is None:
                unknown.setdefault(place, run)
            for exam, digest in (exams or {}).items():
                if digest in given:
                    raise ConfigurationError(
                        f"{given[digest]} is {exam} of {place}, which {run} has seen: give others with sites= or phantoms.seed=."
                    )
    for place, run in unknown.items():
        console.print(f"{place} is not here: whether {run} saw these exams cannot be told", markup=False)


def _seen_by(run: FoundRun) -> dict[Path, Mapping[str, str] | None]:
    """Folder → exam → digest of its image: as the run noted them, or else as they lie there; None where neither is known."""
    noted, seen = noted_exams(run.folder), {}
    for site, folder in run.config.sites.items():
        place = _place(folder)
        if site in noted:
            seen[place] = {exam: str(entry["image"]) for exam, entry in noted[site].items()}
        else:
            seen[place] = _digests(place) if place.is_dir() else None
    return seen


def _place(folder: str) -> Path:
    return Path(folder).resolve()


def _scale(runs: Sequence[FoundRun]) -> float:
    """The resolution of the phantoms that all runs were trained on."""
    scales: dict[float | None, FoundRun] = {}
    for run in runs:
        for folder in run.config.sites.values():
            if not Path(folder).is_dir():
                raise ConfigurationError(
                    f"{folder}, which {run} was trained on, is not here, so that phantoms like those in it cannot be made: give "
                    "sites=, or phantoms.scale=."
                )
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
    """Exam → digest of its image's voxels, for programs pack the same image into other bytes."""
    return {case.name: voxel_digest(load_image(case.image_path)[0]) for case in load_dataset(folder).cases}
