"""A finished run in the coordinator's folder: nothing is begun over it. It is set aside when somebody asks for another run.

Light on purpose: whether a run is finished must be known before anything heavy is imported.
"""

import json
from pathlib import Path

from mtmd_core.durable import move
from mtmd_core.errors import ConfigurationError

FOLDER = "finished"
"""Inside the coordinator's own folder: a folder a run that was set aside, by the run's name."""
_RUN = "run.json"
_FILES = (
    "run.yaml",
    "config.yaml",
    "*round_metrics.jsonl",
    "checkpoints",
    "progress.json",
    "standing.json",
    "readmit",
    "audit.jsonl*",
    "summary.json",
    "report.html",
    "outcome.json",
    _RUN,  # last: as long as it is there, the run is known to be finished
)
"""What a run leaves. Certificates, sites, settings and logs are the federation's own and stay."""


def finished_run(state: Path) -> str | None:
    """The name of the run that a coordinator's folder holds, if that is finished and nobody has begun to set it aside."""
    name = _finished_name(state)
    return None if name is None or _is_begun(state / FOLDER / name) else name


def set_aside(state: Path) -> Path | None:
    """Move all files of a finished run to ``finished/<its name>`` in the same folder; that place, or None without such a run.

    File by file, so that each is in the one or the other place at any moment; where a crash came in between, the next call
    moves what is left. For whoever holds the folder.

    Raises:
        ConfigurationError: if a run of this name lies there already.
    """
    name = _finished_name(state)
    if name is None:
        return None
    place = state / FOLDER / name
    if (place / _RUN).exists():
        raise ConfigurationError(
            f"{place} and {state} hold the same run, {name}: remove one of the two (of the latter {', '.join(_FILES)})."
        )
    place.mkdir(parents=True, exist_ok=True)  # from now on another run is wanted, whatever happens
    for pattern in _FILES:
        for path in sorted(state.glob(pattern)):
            move(path, place)
    return place


def told(state: Path, run: str, command: str) -> str:
    """What to say to somebody who gives ``command`` where a run is finished: where its files lie, and how to begin another."""
    files = {
        "summary": state / "summary.json",
        "page": state / "report.html",
        "model": state / "checkpoints" / "chosen.safetensors",
    }
    lines = [f"run {run} is finished, and nothing is begun over it"]
    lines += [f"  {what:<8} {path}" for what, path in files.items() if path.exists()]
    lines.append(
        f"`{command} --new` keeps all of it in {state / FOLDER / run} and begins another run with the same certificates and sites"
    )
    return "\n".join(lines)


def _is_begun(place: Path) -> bool:
    """Whether a run was on its way to a place when something cut that off."""
    return place.is_dir() and not (place / _RUN).exists()


def _finished_name(state: Path) -> str | None:
    try:
        facts = json.loads((state / _RUN).read_text(encoding="utf-8"))
    except (
        FileNotFoundError,
        ValueError,
    ):  # a damaged one: the store tells from checkpoints which run it was, and goes on
        return None
    return str(facts["name"]) if facts.get("finished") and "name" in facts else None
