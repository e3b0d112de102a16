"""One run on a page, and in numbers: what its folder tells, finished or not."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mtmd_core.config import AUTOENCODER, RunConfig
from mtmd_core.config_files import load_config, words_of
from mtmd_core.data.site_data import SiteData
from mtmd_core.data.split import leave_one_out
from mtmd_core.durable import read_json_lines, write_json, write_text
from mtmd_core.page.configuration import versions, versions_table, words
from mtmd_core.page.document import Section, document
from mtmd_core.page.exams import describe, exams
from mtmd_core.page.figures import figures
from mtmd_core.page.html import Html, element, join
from mtmd_core.page.numbers import duration, number, score
from mtmd_core.page.rounds import last_round, refusals, refusals_table, rounds, totals
from mtmd_core.page.scores import scores
from mtmd_core.page.similarities import from_prototypes, sampled
from mtmd_core.page.tables import facts
from server.released_prototypes import told_by_prototypes

REPORT = "report.html"
FACTS = "facts.json"
"""What a run notes before it begins: its exams, the versions, the time."""
_ROUNDS = {"round_metrics": "round_metrics.jsonl", "autoencoder_round_metrics": f"{AUTOENCODER}_round_metrics.jsonl"}
_INTERRUPTED = "This run is not finished: what follows is what it had reached. The same command goes on with it."


def note_facts(config: RunConfig, sites: Mapping[str, SiteData], folder: Path) -> None:
    """Write ``facts.json``; a run that goes on keeps when it was begun."""
    data = {
        site: describe(own, leave_one_out(list(own.exams), config.fold)) for site, own in sites.items()
    }  # as every strategy splits them
    begun = _read(folder / FACTS).get("begun") or datetime.now(UTC).isoformat(timespec="seconds")
    write_json(folder / FACTS, {"begun": begun, "versions": versions(), "data": data})


def told_by(folder: Path) -> dict[str, Any]:
    """What a run's folder tells beside its scores: facts, ``configuration``, lines of its rounds, their sums, refusals.

    What is not there is left out, so that any folder with a ``config.yaml`` can be read.
    """
    config = load_config(folder / "config.yaml")
    content = _read(folder / FACTS)
    content |= {word: getattr(config, word) for word in ("mode", "strategy", "fold", "seed")}
    content |= {"network": config.network.name, "configuration": words_of(config)}
    for name, file in _ROUNDS.items():
        content[name] = read_json_lines(folder / file)
    if config.mode == "centralised":  # one file, in which the auto-encoder is a network among others
        own = content["round_metrics"]
        content["autoencoder_round_metrics"] = [line for line in own if line["network"] == AUTOENCODER]
        content["round_metrics"] = [line for line in own if line["network"] != AUTOENCODER]
    for name in _ROUNDS:
        content[f"{name}_totals"] = totals(content[name])
    name = _read(folder / "run.json").get("name")
    content["refusals"] = refusals(folder / "audit.jsonl", name)
    if config.mode == "federated":
        content["prototypes"] = told_by_prototypes(folder, name, config.strategy)
    return content


def write_run_page(folder: Path, content: Mapping[str, Any]) -> None:
    """Write ``report.html``."""
    write_text(folder / REPORT, run_page(folder, content))


def run_page(folder: Path, content: Mapping[str, Any]) -> str:
    """The page of one run; one without test scores says that it is not finished.

    Args:
        folder: of the run, for its pictures.
        content: its summary, or what :func:`told_by` found of one that is not finished.
    """
    finished = "sites" in content
    result = scores(content) if finished else Html()
    sections = [
        Section("result", "Result", result),
        Section("representations", "Representations", _representations(content)),
        Section("rounds", "Rounds", rounds(content.get("round_metrics", []), content.get("round_metrics_totals", {}))),
        Section("autoencoder", "Rounds of the auto-encoder", _autoencoder_rounds(content)),
        Section("refusals", "Replies that were left out", refusals_table(content.get("refusals", []))),
        Section("exams", "Exams", exams(content.get("data", {}))),
        Section("pictures", "Pictures", figures(folder)),
        *made_with(content),
    ]
    title = f"{content['strategy']}, {content['mode']}, fold {content['fold']}"
    return document(title, lead(content), sections, None if finished else _INTERRUPTED)


def lead(content: Mapping[str, Any]) -> Html:
    """What a run is, at a glance."""
    worst, mean = content.get("worst_site"), content.get("mean", {})
    words_known = content.get("configuration", {})
    planned = words_known.get("federation.rounds") if content["mode"] == "federated" else None
    return facts(
        {
            "Strategy": content["strategy"],
            "Mode": content["mode"],
            "Network": content["network"],
            "Encoder": content.get("encoder_weights") if content.get("encoder_weights") != "none" else None,
            "Fold": number(content["fold"]),
            "Seed": Html(content["seed"]),
            "Mean Dice of sites, %": score("dice", mean.get("dice")) if mean else None,
            "Worst site": element("span", f"{worst['name']} ", score("dice", worst["foreground_mean"]["dice"]))
            if worst
            else None,
            "Rounds": element("span", number(last_round(content.get("round_metrics", []))), " of ", number(planned))
            if planned
            else None,
            "Round that was chosen": number(content["chosen_round"]) if "chosen_round" in content else None,
            "Duration": duration(content["seconds"]) if "seconds" in content else None,
            "Begun": _moment(content.get("begun")),
        }
    )


def _moment(iso: str | None) -> str | None:
    """A time in UTC, to the minute."""
    return None if iso is None else f"{datetime.fromisoformat(iso).astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def made_with(content: Mapping[str, Any]) -> list[Section]:
    """The last sections of a page: every word of the configuration, and the versions."""
    known = content.get("configuration", {})
    return [
        Section("configuration", "Configuration", words(known, words_of(RunConfig()))),
        Section("versions", "Versions", versions_table(content.get("versions", {}))),
    ]


def _representations(content: Mapping[str, Any]) -> Html:
    told = from_prototypes(content.get("prototypes", {}), within=False)
    return join([sampled(content.get("similarities", [])), told])


def _autoencoder_rounds(content: Mapping[str, Any]) -> Html:
    return rounds(content.get("autoencoder_round_metrics", []), content.get("autoencoder_round_metrics_totals", {}))


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
