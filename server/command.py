"""``mtmd-server``: the coordinator's command."""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtmd_core.arguments import CommandParser
from mtmd_core.errors import ConfigurationError, MtmdError, RunFailedError
from mtmd_core.processes import Interrupted, exclusive, signals_as_exceptions

from .settings import OWN_FILE, ServerSettings, differing, load_settings, parse_sites, remember

if TYPE_CHECKING:
    from .progress import RunDisplay
    from .superlink import SuperLink

_EPILOG = """\
other commands (each has its own --help):
  status    how the run is: rounds, sites, refusals, time left; works at any time
  readmit   let a site that was set aside take part again

Words of the run's configuration follow without dashes: federation.rounds=20 network.width=16 data.slice_size=64.

What the first run was given is kept in the coordinator's own folder (--state, by default federation), in server.yaml, and
from then on `mtmd-server` is enough. Words given later count for that run only.

exit codes: 0 done, 1 run failed, 2 usage or configuration, 3 not reachable in time,
130 and 143 ended by Ctrl-C and SIGTERM"""

_LOOK_SECONDS = 0.25
_LEAVE_SECONDS = 15.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = words[0] if words and words[0] in _COMMANDS else ""
    try:
        return _COMMANDS.get(command, _serve)(words[1:] if command else words)
    except Interrupted as ended:
        print(f"mtmd-server: ended by {ended}", file=sys.stderr)
        return ended.exit_code
    except MtmdError as error:
        print(f"mtmd-server: {error}", file=sys.stderr)
        return error.exit_code


def _serve(words: Sequence[str]) -> int:
    parser = CommandParser(
        prog="mtmd-server",
        description="Coordinate a federation: wait for the sites, run all rounds, keep the shared model.",
        epilog=_EPILOG,
        commands=_COMMANDS,
    )
    parser.add_argument("--sites", metavar="N|NAMES", help="how many sites take part, or their names: 3, or ankle,knee")
    parser.add_argument("--port", type=int, metavar="P", help="port on 127.0.0.1 (default: 9092)")
    _add_state(parser)
    parser.add_argument("--insecure", action="store_const", const=True, help="plain HTTP, loopback only")
    parser.add_argument("overrides", nargs="*", metavar="WORD=VALUE", help="words of the run's configuration")
    given = vars(parser.parse(words))
    given["sites"] = None if given["sites"] is None else parse_sites(given["sites"])
    return serve(load_settings(given), given)


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


_COMMANDS = {"status": _status, "readmit": _readmit}


def _add_state(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--state", type=Path, metavar="DIR", help="the coordinator's own folder (default: federation)")


def _state_folder(given: Path | None) -> Path:
    return (given or Path("federation")).expanduser().absolute()


def serve(settings: ServerSettings, given: Mapping[str, Any]) -> int:
    """Run one federation from beginning to end; the exit code that the run itself states.

    ``given`` is what of the settings came from the command line: kept for next time once Flower has accepted the run.

    Raises:
        ConfigurationError: if the settings or the run's configuration cannot be used, or the state folder or the port is
            taken.
        RunFailedError: if the run ends without stating an outcome.
        UnreachableError: if Flower's SuperLink does not answer in time.
        Interrupted: on SIGINT, SIGTERM or SIGHUP, after all children have ended.
    """
    if not settings.insecure:
        raise ConfigurationError(
            "encrypted connections are not available yet, because there are no certificates to show: "
            "give --insecure to use plain HTTP, which works on loopback only."
        )
    from mtmd_core.config_files import compose, save_config  # imports PyTorch

    from .progress import RunDisplay
    from .superlink import HOST, SuperLink

    config = compose("federation", settings.run_overrides())
    with exclusive(settings.state, "mtmd-server"), signals_as_exceptions():
        save_config(config, settings.state / "run.yaml")
        for name in ("outcome.json", "progress.json"):
            (settings.state / name).unlink(missing_ok=True)
        superlink, run_id = SuperLink(settings.state, settings.port), None
        try:
            with RunDisplay() as display:
                display.say(f"starting on {HOST}:{settings.port}, state in {settings.state}")
                if line := differing(settings, given):
                    display.say(line)
                if given.get("insecure") is None:
                    display.say(f"plain HTTP, nothing is encrypted: {settings.state / OWN_FILE} says 'insecure: true'")
                superlink.start(settings.start_timeout_seconds)
                run_id = superlink.submit()
                if (written := remember(settings, given)) is not None:
                    place = f" --state {given['state']}" if given.get("state") is not None else ""
                    display.say(f"settings kept in {written}; next time `mtmd-server{place}` is enough")
                code = _follow(superlink, run_id, settings.state, display)
                run_id = None
                return code
        finally:
            if run_id is not None:
                superlink.stop_run(run_id)
            superlink.end(settings.grace_seconds)


def _follow(superlink: "SuperLink", run_id: str, state: Path, display: "RunDisplay") -> int:
    """Show the run until it states its outcome; the outcome's exit code.

    Raises:
        RunFailedError: if the run or the SuperLink ends without an outcome.
    """
    outcome = _await_outcome(superlink, run_id, state, display)
    display.say(str(outcome["message"]))
    deadline = time.monotonic() + _LEAVE_SECONDS
    while superlink.app_runs() and time.monotonic() < deadline:  # it tells Flower that it is done
        time.sleep(_LOOK_SECONDS)
    return int(outcome["exit_code"])


def _await_outcome(superlink: "SuperLink", run_id: str, state: Path, display: "RunDisplay") -> dict[str, Any]:
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
        if ending:
            raise RunFailedError(
                f"the run ended without stating an outcome ({ending}); its output is in "
                f"{state / 'logs' / 'superlink.log'}."
            )
        time.sleep(_LOOK_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
