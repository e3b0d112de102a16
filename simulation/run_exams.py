"""Which exams a run was made with: noted in its folder, and held against those that are there when it is looked at again."""

import json
from collections.abc import Mapping
from pathlib import Path

from mtmd_core.data.identity import ExamRecord, differences
from mtmd_core.data.site_data import SiteData
from mtmd_core.durable import write_json
from mtmd_core.errors import ConfigurationError

EXAMS = "exams.json"
"""Site → what tells its exams from others; folders of earlier versions have none."""


def note_exams(sites: Mapping[str, SiteData], folder: Path) -> None:
    """Write ``exams.json``."""
    write_json(folder / EXAMS, {site: data.exam_record() for site, data in sites.items()})


def noted_exams(folder: Path) -> dict[str, ExamRecord]:
    """Site → the exams that a run was begun with; nothing if its folder does not say."""
    path = folder / EXAMS
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def check_exams(sites: Mapping[str, SiteData], folder: Path) -> None:
    """That a run which was begun in a folder, if any, had these exams.

    Raises:
        ConfigurationError: naming the site and the exams that differ.
    """
    begun = noted_exams(folder)
    for site, data in sites.items():
        changed = differences(begun[site], data.exam_record()) if site in begun else ""
        if changed:
            raise ConfigurationError(
                f"{folder} holds a run with other exams of {site} ({changed}): put them back as they were to go on with it, "
                "give another folder (hydra.run.dir=), or remove this one to make the run again."
            )
