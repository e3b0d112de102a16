"""``mtmd-server``: the coordinator's command."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mtmd_core.errors import ConfigurationError, MtmdError, RunFailedError
from mtmd_core.processes import Interrupted, exclusive, signals_as_exceptions

from .settings import ServerSettings, load_settings, parse_sites

if TYPE_CHECKING:
    from .progress import RunDisplay
    from .superlink import SuperLink

_EPILOG = """\
Words of the run's configuration follow without dashes: federation.rounds=20 network.width=16 data.slice_size=64.
Defaults come from configs/server.yaml and the coordinator's own folder (--state, server.yaml in it).

exit codes: 0 done, 1 run failed, 2 usage or configuration, 3 not reachable in time,
130 and 143 ended by Ctrl-C and SIGTERM"""

_LOOK_SECONDS = 0.25
_STATUS_SECONDS = 10.0
_LEAVE_SECONDS = 15.0


class _Parser(argparse.ArgumentParser):
    """Names the nearest known option for one that it does not know."""

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        for word in words:
            option = word.split("=")[0]
            if option.startswith("-") and option not in self._option_string_actions:
                from mtmd_core.config import nearest  # slow to import, and not needed otherwise

                self.error(f"unknown word '{option}'; {nearest(option, [*self._option_string_actions])}")
        return self.parse_args(words)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\nsee {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    parser = _Parser(
        prog="mtmd-server",
        allow_abbrev=False,
        description="Coordinate a federation: wait for the sites, run all rounds, keep the shared model.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sites", metavar="N|NAMES", help="how many sites take part, or their names: 3, or ankle,knee")
    parser.add_argument("--port", type=int, metavar="P", help="port on 127.0.0.1 (default: 9092)")
    parser.add_argument("--state", type=Path, metavar="DIR", help="the coordinator's own folder (default: federation)")
    parser.add_argument("--insecure", action="store_const", const=True, help="plain HTTP, loopback only")
    parser.add_argument("overrides", nargs="*", metavar="WORD=VALUE", help="words of the run's configuration")
    given = vars(parser.parse(list(sys.argv[1:] if arguments is None else arguments)))
    try:
        given["sites"] = None if given["sites"] is None else parse_sites(given["sites"])
        return serve(load_settings(given))
    except Interrupted as ended:
        print(f"mtmd-server: ended by {ended}", file=sys.stderr)
        return ended.exit_code
    except MtmdError as error:
        print(f"mtmd-server: {error}", file=sys.stderr)
        return error.exit_code


def serve(settings: ServerSettings) -> int:
    """Run one federation from beginning to end; the exit code that the run itself states.

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
    from mtmd_core.config import compose, save_config  # imports PyTorch

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
                superlink.start(settings.start_timeout_seconds)
                run_id = superlink.submit()
                code = _follow(superlink, run_id, settings.state, display)
                run_id = None
                return code
        finally:
            if run_id is not None:
                superlink.stop_run(run_id)
            superlink.end(settings.grace_seconds)


def _follow(superlink: "SuperLink", run_id: str, state: Path, display: "RunDisplay") -> int:
    """Show the run until it states its outcome; the outcome's exit code."""
    from .progress import read_json

    status_at = time.monotonic() + _STATUS_SECONDS
    while True:
        superlink.require_alive()
        if (progress := read_json(state / "progress.json")) is not None:
            display.show(progress)
        if (outcome := read_json(state / "outcome.json")) is not None:
            break
        if time.monotonic() > status_at:
            status, details = superlink.status(run_id)
            if status.startswith("finished") and (outcome := read_json(state / "outcome.json")) is None:
                raise RunFailedError(
                    f"the run ended without stating an outcome ({status} {details}); its output is in "
                    f"{state / 'logs' / 'superlink.log'}."
                )
            status_at = time.monotonic() + _STATUS_SECONDS
        time.sleep(_LOOK_SECONDS)
    display.say(str(outcome["message"]))
    deadline = time.monotonic() + _LEAVE_SECONDS
    while not superlink.status(run_id)[0].startswith("finished") and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
    return int(outcome["exit_code"])


if __name__ == "__main__":
    sys.exit(main())
