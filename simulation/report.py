"""``mtmd-simulate report``, and the page that every run, study and experiment ends with: ``report.html`` in its folder."""

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from mtmd_core.arguments import CommandParser
from mtmd_core.config import RunConfig
from mtmd_core.config_files import decisive, load_config, words_of
from mtmd_core.durable import write_json, write_text
from mtmd_core.errors import ConfigurationError
from mtmd_core.page.configuration import versions

from .contenders import Contender, compare
from .contenders_page import contenders_page
from .experiment_page import experiment_page
from .found_runs import name_in_study, run_folders
from .run_page import REPORT, run_page, told_by
from .runs import CONFIG, SUMMARY, read_summary
from .study import strategies_of


def main(words: Sequence[str]) -> None:
    """The command ``mtmd-simulate report``.

    Raises:
        ConfigurationError: if a folder holds no run.
    """
    parser = CommandParser(
        prog="mtmd-simulate report",
        description="Write report.html: of one run or study, finished or not, anew; of several, side by side.",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="folder of a run or of a study")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="DIR",
        help="where the page goes (one: its own folder; several: outputs/report)",
    )
    given = parser.parse(words)
    output = given.output
    if output is None and len(given.folders) > 1:
        output = Path("outputs", "report", f"{datetime.now():%Y-%m-%d_%H-%M-%S}")
    print(report(given.folders, output))


def report(folders: Sequence[Path], output: Path | None = None) -> Path:
    """Write one page on one folder, or on several side by side; returns its path.

    With ``output`` the numbers go there too, as ``summary.json``. In a run's own folder that file says that the run is
    finished, so nothing but the run itself writes it there.

    Raises:
        ConfigurationError: if a folder holds no run, ``output`` is a run's own, or it is missing where there are several folders.
    """
    if len(folders) > 1:
        content, page_of, place = side_by_side(folders), contenders_page, output
    else:
        content, page_of = content_of(folders[0], beside=output)
        place = folders[0]
    if output is not None:
        if (output / CONFIG).is_file():
            raise ConfigurationError(
                f"{output} is the folder of a run or of a study, whose own results must stay: give another one with --output, or "
                "leave that out for the page of this one alone."
            )
        write_json(output / SUMMARY, content)
    elif place is None:
        raise ConfigurationError("several folders share one page: say with --output where it goes.")
    write_text((output or place) / REPORT, page_of(place, content))
    return (output or place) / REPORT


def write_report(folder: Path, summary: Mapping[str, Any], console: Console) -> dict[str, Any]:
    """The page of an experiment that has just ended; returns its summary with all numbers of the page."""
    content, page_of = content_of(folder, summary)
    write_text(folder / REPORT, page_of(folder, content))
    console.print(f"for reading: {folder / REPORT}", markup=False)
    return content


def content_of(
    folder: Path, summary: Mapping[str, Any] | None = None, beside: Path | None = None
) -> tuple[dict[str, Any], Any]:
    """What a folder's page shows, and the function that makes it a page: of a run, a study, or another experiment.

    Args:
        folder: with a ``config.yaml``.
        summary: of the run or experiment; by default what ``summary.json`` holds, if it is there.
        beside: where the page goes, whose links begin there; by default ``folder``.

    Raises:
        ConfigurationError: if the folder holds no run.
    """
    config = _config(folder)
    if summary is None and (folder / SUMMARY).is_file():
        summary = read_summary(folder)
    if config.experiment is None:
        return told_by(folder) | (summary or {}), run_page
    content = {"title": config.experiment, "interrupted": summary is None}
    content |= {"configuration": words_of(config), "versions": versions()} | (summary or {})
    runs = sorted(run_folders(folder), key=lambda place: _place_in_study(place, config, content.get("rows", ())))
    if not runs:
        return content, experiment_page
    contents = {place: content_of(place)[0] for place in runs}
    account: dict[str, Any] = compare(_contenders(contents))
    account["accounts"] = _accounts(folder, contents, beside or folder)
    account["data"] = next((each["data"] for each in contents.values() if "data" in each), {})
    if config.experiment == "demo" or "failures" in content or content["interrupted"]:
        return content | account, contenders_page
    return content | account, experiment_page


def side_by_side(folders: Sequence[Path]) -> dict[str, Any]:
    """Runs of several folders, those of one method together; of a study's folder, all its runs.

    Raises:
        ConfigurationError: if a folder holds no run.
    """
    contents = {}
    for folder in {folder.resolve(): folder for folder in folders}.values():
        _config(folder)
        for place in run_folders(folder):
            contents[place] = content_of(place)[0]
    if not contents:
        raise ConfigurationError(
            f"there is no run in {', '.join(map(str, folders))}: give the folder of a run or a study."
        )
    contenders = _contenders(contents)
    strategies = dict.fromkeys(each.about["strategy"] for each in contenders)
    modes = dict.fromkeys(each.about["mode"] for each in contenders)
    words = [content["configuration"] for content in contents.values()]
    common = {word: value for word, value in words[0].items() if all(each.get(word) == value for each in words)}
    return {
        "title": f"{', '.join(strategies)}: {' and '.join(modes)}",
        **compare(contenders),
        "accounts": {str(place): _account(content) for place, content in contents.items()},
        "data": next((each["data"] for each in contents.values() if "data" in each), {}),
        "configuration": common,
        "varying": {
            word: {str(place): content["configuration"].get(word) for place, content in contents.items()}
            for word in words[0]
            if word not in common
        },
        "versions": next((each["versions"] for each in contents.values() if "versions" in each), {}),
    }


def _place_in_study(place: Path, config: RunConfig, rows: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    """Sorts a study's runs as its tables sort them: by network, then by strategy, or a ladder's by rung, then by fold."""
    own = load_config(place / CONFIG)
    rungs = [row["rung"] for row in rows if "rung" in row]
    methods = rungs or strategies_of(config.study, set(own.sites))
    order = (
        (config.study.networks, own.network.name),
        (methods, name_in_study(place) if rungs else own.strategy),
    )
    return *(names.index(name) if name in names else len(names) for names, name in order), own.fold


def _config(folder: Path) -> Any:
    if not (folder / CONFIG).is_file():
        raise ConfigurationError(f"{folder} holds no run ({CONFIG} is missing): give the folder of a run or a study.")
    return load_config(folder / CONFIG)


def _contenders(contents: Mapping[Path, Mapping[str, Any]]) -> list[Contender]:
    """Runs that differ in their fold alone are one method; what tells methods apart is in their titles."""
    grouped: list[tuple[dict[str, str], dict[int, tuple[Path, Mapping[str, Any]]]]] = []
    for place, content in contents.items():
        words = decisive(content["configuration"])
        del words["fold"]
        same = (runs for known, runs in grouped if known == words and content["fold"] not in runs)
        runs = next(same, None)
        if runs is None:
            runs = {}
            grouped.append((words, runs))
        runs[content["fold"]] = (place, content)
    titles = _titles([(words, next(iter(runs.values()))[0]) for words, runs in grouped])
    return [Contender(title, runs) for title, (_, runs) in zip(titles, grouped, strict=True)]


def _titles(methods: Sequence[tuple[Mapping[str, Any], Path]]) -> list[str]:
    """The strategy, and of mode and network what is not the same for all; where that is not enough, what a study calls its
    methods (a ladder its rungs), or else the folder: the part of its path by which they differ, or all that is not common.
    """
    telling = [word for word in ("mode", "network.name") if len({words[word] for words, _ in methods}) > 1]
    titles = [", ".join([words["strategy"], *(words[word] for word in telling)]) for words, _ in methods]
    names = [name_in_study(place) for _, place in methods]
    if len(set(titles)) < len(titles) == len(set(names) - {None}):
        return [name for name in names if name]
    for parts in (slice(0, 1), slice(-1, None), slice(None)):
        apart = [
            title if titles.count(title) == 1 else f"{title} ({place})"
            for title, place in zip(titles, _below(methods, parts), strict=True)
        ]
        if len(set(apart)) == len(apart):
            break
    return apart


def _below(methods: Sequence[tuple[Mapping[str, Any], Path]], parts: slice) -> list[str]:
    """Parts of the paths of runs below the folder that they have in common."""
    places = [place.resolve() for _, place in methods]
    common = os.path.commonpath([place.parent for place in places])
    return ["/".join(place.relative_to(common).parts[parts]) for place in places]


def _accounts(folder: Path, contents: Mapping[Path, Mapping[str, Any]], beside: Path) -> dict[str, dict[str, Any]]:
    """Runs of a study or an experiment by the names that its summary gives them, with the way from ``beside`` to its page."""
    accounts = {}
    for place, content in contents.items():
        relative = place.relative_to(folder)
        method = name_in_study(place)
        name = f"{content['network']} {method} fold {content['fold']}" if method else str(relative)
        page = os.path.relpath(place / REPORT, beside) if (place / REPORT).is_file() else None
        accounts[name] = _account(content) | {"folder": str(place), "page": page}
    return accounts


def _account(content: Mapping[str, Any]) -> dict[str, Any]:
    account = {name: content[name] for name in ("seconds", "mean", "worst_site") if name in content}
    sites: Iterable[tuple[str, Any]] = content.get("sites", {}).items()
    return account | {"sites": {site: own.get("foreground_mean") for site, own in sites}}
