"""``mtmd-server``: the coordinator's command."""

import argparse
import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtmd_core.arguments import CommandParser, exit_code_of
from mtmd_core.errors import RunFailedError
from mtmd_core.page.best_effort import best_effort
from mtmd_core.processes import Interrupted, exclusive, free_port, signals_as_exceptions

from .admission import Admission
from .admission_commands import admit, revoke, sites
from .drill import drill
from .finished import finished_run, set_aside, told
from .init import init
from .settings import OWN_FILE, ServerSettings, differing, load_settings, parse_sites, remember

if TYPE_CHECKING:
    from mtmd_core.config import RunConfig

    from .door_process import DoorProcess
    from .progress import RunDisplay
    from .superlink import SuperLink

_EPILOG = """\
other commands (each has its own --help):
  init      make the federation's certificates, and say what each hospital gets
  admit     let a site take part, from the card that it sent
  revoke    refuse a site from now on
  sites     list the sites that were admitted
  status    how the run is: rounds, sites, refusals, time left; while it runs and after
  readmit   let a site that was set aside take part again
  drill     break a federation of three sites on purpose, on this machine, and say what came of it

Words of the run's configuration follow without dashes: federation.rounds=20 network.width=16 data.slice_size=64.

What the first run was given is kept in the coordinator's own folder (--state, by default federation), in server.yaml, and
from then on `mtmd-server` is enough. Words given later count for that run only. Where a run is finished nothing more is done;
--new sets it aside, in finished/ of that folder, and begins another with the same sites.

exit codes: 0 done, 1 run failed, 2 usage or configuration, 3 not reachable in time,
130 and 143 ended by Ctrl-C and SIGTERM"""

_LOOK_SECONDS = 0.25
_LEAVE_SECONDS = 15.0
_LEAST_FREE_BYTES = 2**16


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = words[0] if words and words[0] in _COMMANDS else ""
    return exit_code_of("mtmd-server", lambda: _COMMANDS.get(command, _serve)(words[1:] if command else words))


def _serve(words: Sequence[str]) -> int:
    parser = CommandParser(
        prog="mtmd-server",
        description="Coordinate a federation: wait for the sites, run all rounds, keep the shared model.",
        epilog=_EPILOG,
        commands=_COMMANDS,
    )
    parser.add_argument("--sites", metavar="N|NAMES", help="how many sites take part, or their names: 3, or ankle,knee")
    parser.add_argument("--port", type=int, metavar="P", help="the port that hospitals reach (default: 9092)")
    parser.add_argument(
        "--page-port", type=int, metavar="P", help="port of the run's page on 127.0.0.1 (default: 9093; 0: none)"
    )
    _add_state(parser)
    parser.add_argument("--new", action="store_true", help="set a finished run aside and begin another")
    parser.add_argument("--insecure", action="store_const", const=True, help="plain HTTP for trials, loopback only")
    parser.add_argument("overrides", nargs="*", metavar="WORD=VALUE", help="words of the run's configuration")
    given = vars(parser.parse(words))
    for word in given["overrides"]:
        if "=" not in word:
            parser.unknown(word)
    given["sites"] = None if given["sites"] is None else parse_sites(given["sites"])
    new = given.pop("new")
    settings = load_settings(given)
    if not new and (run := finished_run(settings.state)) is not None:
        print(told(settings.state, run, f"mtmd-server{_place(given)}"))
        return 0
    return serve(settings, given, new)


def _status(words: Sequence[str]) -> int:
    parser = CommandParser(prog="mtmd-server status", description="Say how the run is; it is not disturbed.")
    _add_state(parser)
    parser.add_argument("--format", choices=("text", "json"), default="text", help="for people or for programs")
    given = parser.parse(words)

    from .status import status

    return status(_state_folder(given.state), given.format == "json")


def _readmit(words: Sequence[str]) -> int:
    parser = CommandParser(
        prog="mtmd-server readmit",
        description="Let a site that was set aside take part again, whether mtmd-server runs or not.",
    )
    parser.add_argument("site", metavar="SITE", help="the site's name")
    _add_state(parser)
    given = parser.parse(words)

    from .readmit import readmit

    print(readmit(_state_folder(given.state), given.site))
    return 0


_COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "init": init,
    "admit": admit,
    "revoke": revoke,
    "sites": sites,
    "status": _status,
    "readmit": _readmit,
    "drill": drill,
}
"""Commands beside the federation itself: called with their words, they return the exit code."""


def _add_state(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--state", type=Path, metavar="DIR", help="the coordinator's own folder (default: federation)")


def _state_folder(given: Path | None) -> Path:
    return (given or Path("federation")).expanduser().absolute()


def _place(given: Mapping[str, Any]) -> str:
    """The word of the command line that names the coordinator's folder, if it was given."""
    return f" --state {given['state']}" if given.get("state") is not None else ""


def serve(settings: ServerSettings, given: Mapping[str, Any], new: bool = False) -> int:
    """Run one federation from beginning to end; the exit code that the run itself states.

    ``given`` is what of the settings came from the command line: kept for next time once Flower has accepted the run. ``new``:
    whether a run of its own was asked for. A finished run in the folder is set aside first.

    Raises:
        ConfigurationError: if the settings or the run's configuration cannot be used, or the state folder or the port is
            taken.
        RunFailedError: if the run ends without stating an outcome.
        UnreachableError: if Flower's SuperLink does not answer in time.
        Interrupted: on SIGINT, SIGTERM or SIGHUP, after all children have ended.
    """
    from mtmd_core.config_files import compose, save_config

    from .door_process import DoorProcess
    from .progress import RunDisplay
    from .report import write_report
    from .superlink import SuperLink

    config = compose("federation", settings.run_overrides())
    if not settings.insecure:
        from .authority import require_certificates

        require_certificates(settings.state)
    with exclusive(settings.state, "mtmd-server"), signals_as_exceptions():
        kept = set_aside(settings.state)
        save_config(config, settings.state / "run.yaml")
        for name in ("outcome.json", "progress.json"):
            (settings.state / name).unlink(missing_ok=True)
        door = None if settings.insecure else DoorProcess(settings.state, settings.listen, settings.port)
        superlink_port = settings.port if door is None else free_port()
        superlink = SuperLink(settings.state, superlink_port, admission=door is not None)
        run_id, submitted = None, None
        try:
            with RunDisplay() as display, live_page(settings, display.say):
                for line in _beginning(settings, given, config, kept, new):
                    display.say(line)
                if door is not None:
                    door.require_free()
                superlink.start(settings.start_timeout_seconds)
                if door is not None:
                    door.start(superlink_port, settings.start_timeout_seconds)
                run_id = submitted = superlink.submit()
                if (written := remember(settings, given)) is not None:
                    display.say(f"settings kept in {written}; next time `mtmd-server{_place(given)}` is enough")
                code = _follow(superlink, run_id, settings.state, display, door)
                run_id = None
                return code
        except Interrupted as ended:
            goes_on = "the same command goes on from the last finished round"
            print(f"mtmd-server: {ended}: ending all that it started; {goes_on}", file=sys.stderr, flush=True)
            raise
        finally:
            if run_id is not None:
                superlink.stop_run(run_id)
            if door is not None:
                door.end(settings.grace_seconds)
            superlink.end(settings.grace_seconds)
            if submitted is not None:
                with best_effort("the run's page"):
                    print(f"the run's page: {write_report(settings.state)}")


def _beginning(
    settings: ServerSettings, given: Mapping[str, Any], config: "RunConfig", kept: Path | None, new: bool
) -> Iterator[str]:
    """What to say before a run begins; ``kept``: where a finished one lies that was set aside."""
    from .foreseen import updates_of_few_slices
    from .superlink import HOST

    host = HOST if settings.insecure else settings.listen
    yield f"starting on {host}:{settings.port}, state in {settings.state}"
    if kept is not None:
        yield f"the finished run is kept in {kept}"
    elif new:
        yield "there is no finished run to set aside; one that was stopped goes on"
    if line := differing(settings, given):
        yield line
    if not settings.insecure and isinstance(settings.sites, Sequence):
        entries = Admission(settings.state).entries()
        admitted = [name for name, entry in entries.items() if entry.revoked is None]
        for name in settings.sites:
            if name not in admitted:
                how = "revoked" if name in entries else "not admitted here yet"
                yield f"{name} is {how}; those that are admitted: {', '.join(admitted) or 'none'}"
    yield from updates_of_few_slices(config)
    if settings.insecure:
        why = "--insecure" if given.get("insecure") else f"{settings.state / OWN_FILE} says 'insecure: true'"
        yield f"PLAIN HTTP, nothing is encrypted and nobody shows who they are, for trials only: {why}"


@contextlib.contextmanager
def live_page(settings: ServerSettings, say: Callable[[str], None]) -> Iterator[None]:
    """Serve the run's page, if it is wanted; a port that cannot be used costs the page and never the run."""
    from .live import REFRESH_SECONDS, LivePage
    from .report import run_page, told_by

    if settings.page_port == 0:
        yield
        return
    try:
        page = LivePage(settings.page_port, lambda: run_page(told_by(settings.state), REFRESH_SECONDS))
    except OSError as error:
        say(
            f"there is no page of the run: port {settings.page_port} cannot be used ({error.strerror}); see --page-port"
        )
        yield
        return
    with page:
        say(f"the run in a browser: {page.address}")
        yield


def _follow(
    superlink: "SuperLink", run_id: str, state: Path, display: "RunDisplay", door: "DoorProcess | None" = None
) -> int:
    """Show the run until it states its outcome; the outcome's exit code.

    Raises:
        RunFailedError: if the run, the SuperLink or the open port ends without an outcome.
    """
    outcome = _await_outcome(superlink, run_id, state, display, door)
    display.say(str(outcome["message"]))
    deadline = time.monotonic() + _LEAVE_SECONDS
    while superlink.app_runs() and time.monotonic() < deadline:  # it tells Flower that it is done
        time.sleep(_LOOK_SECONDS)
    return int(outcome["exit_code"])


def _await_outcome(
    superlink: "SuperLink", run_id: str, state: Path, display: "RunDisplay", door: "DoorProcess | None"
) -> dict[str, Any]:
    from .progress import read_json
    from .superlink import StatusWatch

    watch = StatusWatch(lambda: superlink.status(run_id), time.monotonic())
    while True:
        # Whether everything lives is asked first: what was written before an end is still read below.
        alive, progress = superlink.is_alive(), read_json(state / "progress.json")
        ending = watch.ending(time.monotonic()) if alive else ""
        if progress is not None:  # written by the app itself, so its process is there to be found
            display.show(progress)
            if alive and not superlink.app_runs():
                ending = ending or "its process is gone"
        if (outcome := read_json(state / "outcome.json")) is not None:
            return outcome
        if not alive:
            superlink.require_alive()
        if door is not None:
            door.require_alive()
        if ending:
            raise RunFailedError(
                f"the run ended without stating an outcome ({ending}){_full_disk(state)}; its output is in "
                f"{state / 'logs' / 'superlink.log'}."
            )
        time.sleep(_LOOK_SECONDS)


def _full_disk(state: Path) -> str:
    """What is to be said of a disk on which a run could not even write down why it ended; empty if there is space left."""
    if shutil.disk_usage(state).free >= _LEAST_FREE_BYTES:
        return ""
    return f", and the disk of {state} is full: No space left on device. Make space and give the same command again"


if __name__ == "__main__":
    sys.exit(main())
