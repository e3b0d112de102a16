"""The coordinator's page on its run: what the sites released and nothing more. Structures are numbered, exams have no names."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtmd_core.config import AUTOENCODER, IMAGENET, NO_WEIGHTS, RunConfig
from mtmd_core.config_files import load_config, words_of
from mtmd_core.durable import read_json_lines, write_json, write_text
from mtmd_core.errors import ConfigurationError
from mtmd_core.page.configuration import versions, versions_table, words
from mtmd_core.page.document import Section, document
from mtmd_core.page.html import Html, element
from mtmd_core.page.numbers import number, score
from mtmd_core.page.rounds import last_round, refusals, refusals_table, rounds, totals
from mtmd_core.page.scores import site_table, structure_table
from mtmd_core.page.similarities import from_prototypes
from mtmd_core.page.tables import facts, table
from mtmd_core.strategies import Contrast, strategy_named

REPORT = "report.html"
_PLACES = ("sites", "data.cache_dir", "autoencoder.model")
"""Words of the configuration that hold paths."""


def write_report(state: Path) -> Path:
    """Write ``report.html`` on the run that the coordinator's folder holds, finished or not; returns its path.

    ``summary.json``, if the run has come that far, gets every number of the page.
    """
    content = told_by(state)
    if content["finished"]:
        write_json(state / "summary.json", content)
    write_text(state / REPORT, run_page(content))
    return state / REPORT


def told_by(state: Path) -> dict[str, Any]:
    """What the coordinator's folder tells of its run: sites, lines of all rounds, replies left out, released test scores.

    The configuration comes without the words that hold paths. Whatever is not there yet is empty.
    """
    run, progress, outcome = (_read(state / f"{name}.json") for name in ("run", "progress", "outcome"))
    content = {
        "finished": bool(run.get("finished")),
        "message": outcome.get("message") or progress.get("message") or "starting",
        "failed": outcome.get("exit_code", 0) != 0,
        "structures": run.get("sites", {}),
        "configuration": _configuration(state),
        "versions": versions(),
    }
    for name, prefix in (("", ""), ("autoencoder_", f"{AUTOENCODER}_")):
        lines = read_json_lines(state / f"{prefix}round_metrics.jsonl")
        content |= {f"{name}round_metrics": lines, f"{name}round_metrics_totals": totals(lines)}
    content["refusals"] = refusals(state / "audit.jsonl", run.get("name"))
    known = content["configuration"]
    content["prototypes"] = _prototypes(state, run.get("name"), known["strategy"]) if known else {}
    summary = _read(state / "summary.json") if content["finished"] else {}
    return content | {name: summary[name] for name in ("mean", "deviation", "worst_site", "sites") if name in summary}


def _prototypes(state: Path, run: str | None, strategy: str) -> dict[str, Any]:
    if strategy_named(strategy).contrast is Contrast.NONE:
        return {}
    from .released_prototypes import told_by_prototypes  # imports PyTorch

    return told_by_prototypes(state, run, strategy)


def run_page(content: Mapping[str, Any], refresh_seconds: int | None = None) -> str:
    """The page.

    Args:
        content: from :func:`told_by`.
        refresh_seconds: for a page that is looked at while the run goes on.
    """
    known = content["configuration"]
    result = Html(site_table(content) + structure_table(content)) if "sites" in content else Html()
    sections = [
        Section("result", "Result", result),
        Section("rounds", "Rounds", rounds(content["round_metrics"], content["round_metrics_totals"])),
        Section(
            "autoencoder",
            "Rounds of the auto-encoder",
            rounds(content["autoencoder_round_metrics"], content["autoencoder_round_metrics_totals"]),
        ),
        Section("representations", "Representations", from_prototypes(content["prototypes"], within=True)),
        Section("refusals", "Replies that were left out", refusals_table(content["refusals"])),
        Section("sites", "Sites", _sites(content["structures"])),
        Section("configuration", "Configuration", words(known, words_of(RunConfig()))),
        Section("versions", "Versions", versions_table(content["versions"])),
    ]
    title = f"Federation: {known.get('strategy', 'no run yet')}"
    return document(title, _lead(content), sections, _notice(content, refresh_seconds is not None), refresh_seconds)


def _lead(content: Mapping[str, Any]) -> Html:
    known, mean, worst = content["configuration"], content.get("mean") or {}, content.get("worst_site")
    done = element("span", number(last_round(content["round_metrics"])), " of ", number(known.get("federation.rounds")))
    return facts(
        {
            "State": content["message"],
            "Rounds": done,
            "Sites": number(len(content["structures"])),
            "Network": known.get("network.name"),
            "Seed": number(known.get("seed")),
            "Mean Dice of sites, %": score("dice", mean["dice"]) if "dice" in mean else None,
            "Worst site": element("span", f"{worst['name']} ", score("dice", worst["foreground_mean"]["dice"]))
            if worst
            else None,
            "Left out": number(len(content["refusals"])),
        }
    )


def _notice(content: Mapping[str, Any], live: bool) -> str | None:
    if content["failed"]:
        return f"This run failed: {content['message']}"
    if content["finished"] or live:
        return None
    return "This run is not finished: what follows is what it had reached. `mtmd-server` goes on with it."


def _sites(structures: Mapping[str, int]) -> Html:
    return table("Who takes part", ["Site", "Structures"], ([site, number(n)] for site, n in structures.items()))


def _configuration(state: Path) -> dict[str, Any]:
    try:
        known = words_of(load_config(state / "run.yaml"))
    except ConfigurationError:  # nothing was begun here
        return {}
    known = {word: value for word, value in known.items() if word not in _PLACES}
    if known["network.encoder_weights"] not in (NO_WEIGHTS, IMAGENET):
        known["network.encoder_weights"] = "a file"
    return known


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
