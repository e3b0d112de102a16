"""The drill's command line."""

import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from mtmd_core.arguments import CommandParser
from mtmd_core.processes import Interrupted, signals_as_exceptions
from mtmd_core.words import nearest

from . import absences, crashes, interrupted, late, replies, strangers
from .premises import Premises
from .stage import Drill, Stage
from .table import as_json, print_events, print_verdicts
from .verdict import Event, StuckError, Verdict, stuck

STAGES: tuple[Stage, ...] = (
    late.STAGE,
    strangers.STAGE,
    absences.STAGE,
    crashes.STAGE,
    interrupted.STAGE,
    replies.STAGE,
)
_EPILOG = """\
Three sites on tiny exams of their own making, with certificates and keys as in production, on this machine's loopback
alone; the federation of your own folder is not touched. Some ten minutes for everything on two cores.

exit codes: 0 every event passed, 1 one did not, 2 usage, 130 and 143 ended by Ctrl-C and SIGTERM"""


def main(words: Sequence[str]) -> int:
    """Run the drill; the exit code."""
    parser = CommandParser(
        prog="mtmd-server drill",
        description="Break a federation of three sites on purpose, one thing at a time, and say what came of it.",
        epilog=_EPILOG,
    )
    names = [event.name for stage in STAGES for event in stage.events]
    parser.add_argument("--list", action="store_true", help="say which events there are, and do nothing")
    parser.add_argument(
        "--only", action="append", default=[], metavar="EVENT", help="this event alone; may be given several times"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="for people or for programs")
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="keep all files there (default: kept only where an event failed)"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="WORD=VALUE", help="words of the run's configuration, to try them in a drill"
    )
    given = parser.parse(words)
    for word in given.overrides:
        if "=" not in word:
            parser.unknown(word)
    for name in given.only:
        if name not in names:
            parser.error(f"there is no event '{name}'; {nearest(name, names)}")
    if given.folder is not None and given.folder.exists() and any(given.folder.iterdir()):
        parser.error(f"{given.folder} is not empty; give a folder that is, or a new one")
    if given.list:
        print_events([(stage.name, stage.events) for stage in STAGES], Console())
        return 0
    wanted = [event for stage in STAGES for event in stage.events if not given.only or event.name in given.only]
    try:
        with signals_as_exceptions():
            return _drill(wanted, given.overrides, given.folder, given.format == "json")
    except Interrupted as ended:
        print(f"mtmd-server drill: ended by {ended}", file=sys.stderr)
        return ended.exit_code


def _drill(wanted: Sequence[Event], words: Sequence[str], kept: Path | None, for_programs: bool) -> int:
    began = time.monotonic()
    folder = (kept or Path(tempfile.mkdtemp(prefix="mtmd-drill-"))).absolute()
    passed = False
    try:
        verdicts = break_all(wanted, words, folder)
        passed = all(verdict.passed for verdict in verdicts)
    finally:
        if kept is None and passed:
            shutil.rmtree(folder)
        else:
            _say(f"all files are in {folder}")
    seconds = time.monotonic() - began
    if for_programs:
        print(as_json(verdicts, seconds))
    else:
        print_verdicts(verdicts, seconds, Console())
    return 0 if passed else 1


def break_all(wanted: Sequence[Event], words: Sequence[str], folder: Path) -> list[Verdict]:
    """Verdicts on all wanted events; where not even the premises could be made, every event has failed."""
    _say("making exams, certificates and keys")
    try:
        premises = Premises.make(folder / "premises")
    except StuckError as error:
        return [stuck(event, error) for event in wanted]
    drill = Drill(premises, folder, words, _say)
    return [verdict for stage in STAGES for verdict in stage.verdicts(drill, wanted)]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
